"""TurboQuant for unbiased inner products (paper algorithm 2)."""

from tq_core.scalar_quantizer import ScalarQuantizer
from tq_core.sketch import Sketch
from tq_core.spec import validated


class TurboQuantProd(ScalarQuantizer):
    """Unit vectors to 2..8 bits a coordinate: `bits - 1` for TurboQuantMSE, one for a sign sketch of the residual.

    Inner products are unbiased over the sketch; the factor is sqrt(pi/2)/dim (algorithm 2). One float16 residual
    norm is stored a row. At equal bits `VectorCodec(TurboQuantMSE(...))` is unbiased too, with less variance.
    `sketch="hadamard"` replaces the dense Gaussian matrix by a structured one with its own constant.
    """

    KIND = "prod"

    def __init__(
        self,
        dim: int,
        bits: int,
        *,
        seed: int = 0,
        rotation: str = "hadamard",
        sketch: str = "gaussian",
        backend: str = "auto",
    ) -> None:
        spec = validated(
            {"kind": "prod", "dim": dim, "bits": bits, "seed": seed, "rotation": rotation, "sketch": sketch}
        )
        plan = Sketch(spec["dim"], spec["dim"], spec["sketch"], spec["seed"])
        super().__init__(spec, spec["bits"] - 1, plan, backend)

    @property
    def expected_mse(self) -> float:
        """E|x - x_hat|^2 of a unit vector: the first stage's distortion times that of the sketch."""
        assert self.plan.sketch is not None
        return self.plan.codebook.distortion * self.plan.sketch.expected_mse
