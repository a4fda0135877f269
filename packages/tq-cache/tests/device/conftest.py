"""A device for the tests of this folder."""

import sys
from pathlib import Path

import pytest

from tq_core.strict_device import HostGpu, installed

# --import-mode=importlib leaves sys.path alone; device_pair is found wherever the tests were copied to
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def gpu():
    """A backend `gpu` whose arrays are as strict as cupy's."""
    with installed(HostGpu()) as backend:
        yield backend
