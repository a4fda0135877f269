"""`python -m tq_trace` is `tq-trace`."""

from tq_trace.cli import main

if __name__ == "__main__":
    main(prog_name="tq-trace")
