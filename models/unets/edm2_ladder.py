"""The ladder of the EDM2 paper, from ADM (config A) to `EDM2UNet` (config G), arXiv 2312.02696.

====== ============================================ ================================== ==========
config what is new                                  trained with                       parameters
====== ============================================ ================================== ==========
A      ADM as in EDM, on latents                    batch 4096, rate 1e-4, dropout 0.1 295.9 M
B      no attention at 32x32, uncertainty weighting batch 2048, rate 2e-4, beta2 0.99  291.8 M
C      no biases, cosine attention, Fourier features                                   277.8 M
D      weights normalised in use                    rate 1e-2                          277.8 M
E      stored weights normalised after every step   decay from step 70000              277.8 M
F      pixel norm in the encoder, no group norm                                        280.2 M
G      magnitude-preserving functions, gains        no dropout (size S)                280.2 M
====== ============================================ ================================== ==========

The paper's FIDs on ImageNet-512 go from 8.00 (A) over 7.24, 6.96, 3.75, 3.02 and 2.71 to 2.56 (G).
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..layers.magnitude import Fourier, is_constant, normalise_weights
from ..layers.starts import UNIFORM
from ..preconditioning import from_config
from ..spec import Spec, checked_fields, compute_type, label_of, nothing, unchanged
from .blocks import linear
from .dhariwal import DhariwalUNet
from .edm2 import EDM2UNet, published
from .edm2_blocks import DESIGNS

# What the baselines have beside the fields of a published size (figures 16 and 17).
BASELINES: dict[str, dict[str, Any]] = {
    "A": dict(attn_resolutions=(32, 16, 8)),
    "B": dict(attn_resolutions=(16, 8)),
}
CONFIGS = (*BASELINES, *DESIGNS)
# Of configs A to F (figures 16 to 21); G drops what the size says.
DROPOUT = 0.1


class UncertainADM(DhariwalUNet):
    """Config B: ADM with a head that predicts the loss at a noise level (appendix B.2).

    Args:
        log_variance_features: Fourier features of the noise level in the head.
        fields: of `DhariwalUNet`.
    """

    def __init__(self, *, log_variance_features: int = 128, rngs: nnx.Rngs, **fields: Any):
        super().__init__(rngs=rngs, **fields)
        self.logvar_fourier = Fourier(log_variance_features, scale=1.0, rngs=rngs)
        self.logvar_linear = linear(log_variance_features, 1, UNIFORM, rngs=rngs)

    def log_variance(self, time: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Return u(sigma), as `EDM2UNet.log_variance` does."""
        return self.logvar_linear(self.logvar_fourier(time))[:, 0]


def rung(config: str) -> dict[str, Any]:
    """Return the fields by which a config of the ladder departs from a published network's.

    Raises:
        ValueError: an unknown config.
    """
    if config not in CONFIGS:
        raise ValueError(f"config {config!r} is not one of {', '.join(CONFIGS)}")
    if config == "G":
        return {}
    fields: dict[str, Any] = {"dropout": DROPOUT}
    return fields | BASELINES.get(config, {})


def network_class(config: str) -> type[nnx.Module]:
    """Return the class of a config of the ladder; that of C to G takes the config as well."""
    known: dict[str, type[nnx.Module]] = {"A": DhariwalUNet, "B": UncertainADM}
    return known.get(config, EDM2UNet)


def network(config: str, **fields: Any) -> nnx.Module:
    """Build a config of the ladder.

    Args:
        config: A to G.
        fields: of `network_class`.
    """
    own = {"config": config} if config in DESIGNS else {}
    return network_class(config)(**own, **fields)


@register("network", "2312.02696", name="edm2_unet")
def edm2_unet_spec(
    size: str | None = None,
    config: str = "G",
    dtype: str = "float32",
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "edm",
    latent: bool | None = None,
    **fields: Any,
) -> Spec:
    """Read the model section of a network of the ladder.

    Args:
        size: a published network's name, ``"S"`` or ``"img64-S"``, for the fields not given.
        config: A to G.
        dtype: compute type by name.
        sigma_data: of the preconditioner.
        preconditioner: a name, or a mapping with its numbers.
        latent: whether the data are latents; None for what the published network denoises, and
            for pixels where ``size`` names none.
        fields: of `network`.
    """
    fields = (published(size) if size else {}) | rung(config) | fields
    fields = checked_fields(network_class(config), "edm2_unet", fields)
    compute = compute_type(dtype)

    def build(rngs):
        return network(config, dtype=compute, rngs=rngs, **fields)

    side, channels = fields["image_size"], fields["channels"]
    forced = config in DESIGNS and DESIGNS[config].forced
    return Spec(
        build,
        label_of(fields),
        (side, side, channels),
        from_config(preconditioner, sigma_data=sigma_data),
        project=normalise_weights if forced else unchanged,
        frozen=nothing if config == "A" else is_constant,
        latent=bool(size) and channels == 4 if latent is None else latent,
    )
