"""Makes `calls`, `children` and `placed` importable, also where the tests were copied away from the repository."""

import sys
from pathlib import Path

# --import-mode=importlib leaves sys.path alone, but a test file that is run as a child's program finds its neighbours
sys.path.append(str(Path(__file__).parent))
