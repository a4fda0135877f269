"""TurboQuant for least squared error (paper algorithm 1)."""

from tq_core.scalar_quantizer import ScalarQuantizer
from tq_core.spec import validated


class TurboQuantMSE(ScalarQuantizer):
    """Unit vectors to 1..8 bits a coordinate: random rotation, then Lloyd-Max on each coordinate (algorithm 1).

    `bits` may also be 2.25, 2.5, 3.25 or 3.5: neighbouring coordinates of 4 to 11 levels share one mixed-radix word.
    The codebook is optimal for the exact law of a rotated coordinate. Estimated inner products shrink by
    `1 - expected_mse` (the paper's scale); VectorCodec removes that bias for free.
    """

    KIND = "mse"

    def __init__(
        self, dim: int, bits: int | float, *, seed: int = 0, rotation: str = "hadamard", backend: str = "auto"
    ) -> None:
        spec = validated({"kind": "mse", "dim": dim, "bits": bits, "seed": seed, "rotation": rotation})
        super().__init__(spec, spec["bits"], None, backend)

    @property
    def expected_mse(self) -> float:
        """E|x - x_hat|^2 of a unit vector under a Haar rotation: the codebook's distortion (paper theorem 1)."""
        return self.plan.codebook.distortion
