"""The scalar primitives: numpy-free, compiled by mypyc in wheels, the same source readable and runnable without it."""
