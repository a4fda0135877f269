"""The operations on arrays of a device, one module each."""
