"""Autoguidance: a weaker network as the reference (Karras et al., arXiv 2406.02507)."""

from jaxtyping import Array

from .protocol import GUIDE, Branch, require_finite
from .push import Push, Scale


def autoguidance(scale: float | Array) -> Push:
    """Return autoguidance, ``D_guide + scale * (D_main - D_guide)``, both on the condition given.

    Args:
        scale: 1 is the main network, 0 the guide: a smaller or less trained network, given to
            the sampler under the name ``guide``.

    Raises:
        ValueError: scale not finite.

    Source: Karras et al., arXiv 2406.02507, eq. 3.
    """
    require_finite("autoguidance", scale=scale)
    return Push(Scale(scale), Branch(network=GUIDE))
