"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

from jaxtyping import Array

from .protocol import MAIN, NULL, Branch, require_finite
from .push import Push, Scale, Transform, chain


def cfg(scale: float | Array, *, network: str = MAIN) -> Push:
    """Return classifier-free guidance, ``D_null + scale * (D_given - D_null)``.

    Args:
        scale: 1 is the conditional prediction, 0 the unconditional one, more than 1 guides.
            (The original paper's ``w`` is ``scale - 1``.)
        network: which network gives the unconditional prediction; another than ``main`` where an
            unconditional network of its own was trained (EDM2 guides every size with its XS).

    Raises:
        ValueError: scale not finite.

    Source: Ho & Salimans, arXiv 2207.12598, eq. 6.
    """
    require_finite("cfg", scale=scale)
    return Push(Scale(scale), Branch(network=network, condition=NULL))


def from_null(*transforms: Transform) -> Push:
    """Return a push away from the null condition's prediction through ``transforms``."""
    return Push(chain(*transforms), Branch(condition=NULL))
