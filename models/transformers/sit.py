"""SiT: the network of DiT trained to predict the velocity of a flow (Ma et al., arXiv 2401.08740).

Its output channels are doubled as DiT's are; the second half is trained for nothing and dropped.
Time is 1 at the data and enters the embedding as it is, between 0 and 1.
"""

from collections.abc import Mapping
from typing import Any

from ...core.registry import register
from ..preconditioning import from_config
from ..spec import Spec, class_conditional
from .dit import DiT


class SiT(DiT):
    """Scalable interpolant transformer: a `DiT` by architecture, with the same fields and sizes."""


@register("network", "2401.08740", name="sit")
def sit_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool | None = None,
    preconditioner: str | Mapping[str, Any] = "flow",
    **fields: Any,
) -> Spec:
    """Read the model section of a SiT: fields of `DiT`, and four of this function.

    ``size`` is a published one, "XL/2"; ``preconditioner`` is "flow" (the linear path), or names
    its path and direction: ``{"name": "flow", "path": "gvp", "time": "to_data"}``.
    """
    chosen = from_config(preconditioner)
    return class_conditional(
        SiT, "sit", chosen, size=size, dtype=dtype, latent=latent, fields=fields
    )
