"""SiT: the network of DiT trained to predict the velocity of a flow (Ma et al., arXiv 2401.08740).

Its output channels are doubled as DiT's are; the second half is trained for nothing and dropped.
Time is 1 at the data and enters the embedding as it is, between 0 and 1.
"""

from ..preconditioning import from_config
from ..spec import Blueprint
from .dit import DiT, planned


class SiT(DiT):
    """Scalable interpolant transformer: a `DiT` by architecture, with the same fields and sizes."""


def blueprint(
    size=None, dtype="float32", latent=None, preconditioner="flow", **fields
) -> Blueprint:
    """Read the model section of a SiT: fields of `DiT`, and four of this function.

    ``size`` is a published one, "XL/2"; ``preconditioner`` is "flow" (the linear path), or names
    its path and direction: ``{"name": "flow", "path": "gvp", "time": "to_data"}``.
    """
    chosen = from_config(preconditioner)
    return planned(SiT, chosen, size=size, dtype=dtype, latent=latent, fields=fields)
