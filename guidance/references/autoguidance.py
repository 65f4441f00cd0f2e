"""Autoguidance: a weaker network as the reference (Karras et al., arXiv 2406.02507)."""

from jaxtyping import Array

from ...core.registry import register
from ..protocol import GUIDE, Branch, require_finite
from ..pushes import At, Push, Scale


@register("reference")
def weak(network: str = GUIDE) -> At:
    """Return the reference of autoguidance: another network's prediction for the same condition.

    Args:
        network: its name; a smaller or less trained one.
    """
    return At(Branch(network=network))


@register("rule", "2406.02507")
def autoguidance(scale: float | Array, *, network: str = GUIDE) -> Push:
    r"""Return autoguidance, ``D_guide + scale * (D_main - D_guide)``, both on the condition given.

    Equation:
        D = D_\text{guide} + w (D_y - D_\text{guide})

    When to use: When a smaller or less trained copy of the network is at hand. It removes
    outliers without drawing samples towards the middle of their class, and works without
    classes.

    Args:
        scale: 1 is the main network, 0 the guide.
        network: the guide's name: a smaller or less trained network.

    Raises:
        ValueError: scale not finite.

    Source: Karras et al., arXiv 2406.02507, eq. 3.
    """
    require_finite("autoguidance", scale=scale)
    return Push(Scale(scale), weak(network))
