"""`python -m tq_onnx` is the command `tq-onnx`."""

import sys

from tq_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
