"""The shim with arrays as strict as cupy's (tq_core.strict_device): what runs upon it makes no hidden transfer."""

from shim_device import ShimDevice

from tq_core.strict_device import StrictArray, StrictDevice


class _Module:
    """Launches with what is behind strict arrays."""

    def __init__(self, module):
        self._module = module

    def launch(self, kernel, grid, block, args, *, shared=0):
        """As device.Module."""
        held = [arg._held if isinstance(arg, StrictArray) else arg for arg in args]
        self._module.launch(kernel, grid, block, held, shared=shared)


class StrictShim(ShimDevice):
    """A ShimDevice of strict arrays."""

    def __init__(self, **options):
        super().__init__(**options)
        self.strict = StrictDevice()
        self.xp = self.strict.xp
        self.asarray, self.to_host, self.adopt = self.strict.asarray, self.strict.to_host, self.strict.adopt

    @property
    def downloads(self):
        """Calls of `to_host`."""
        return self.strict.downloads

    def module(self, name):
        """As device.Device."""
        return _Module(super().module(name))
