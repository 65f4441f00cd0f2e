"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) and its relative on another base."""

from jaxtyping import Array

from ...core.registry import register
from ..protocol import GUIDE, MAIN, NULL, Branch, require_finite
from ..pushes import At, Push, Scale, Transform, push


@register("reference")
def null(network: str = MAIN) -> At:
    """Return the reference of classifier-free guidance: the null condition's prediction.

    Args:
        network: which network gives it.
    """
    return At(Branch(network=network, condition=NULL))


@register("rule", "2207.12598")
def cfg(scale: float | Array, *, network: str = MAIN) -> Push:
    r"""Return classifier-free guidance, ``D_null + scale * (D_given - D_null)``.

    Equation:
        D = D_\varnothing + w (D_y - D_\varnothing)

    When to use: The first thing to try with any network trained on a null condition. Raise the
    scale until samples are typical enough; too much of it costs variety and burns contrast.

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
    return Push(Scale(scale), null(network))


@register("rule", "2504.01521")
def domain(scale: float | Array = 1.5, *, network: str = GUIDE) -> Push:
    r"""Return domain guidance, ``D_base(null) + scale * (D_fine-tuned(given) - D_base(null))``.

    Equation:
        D = D^\text{base}_\varnothing + w (D^\text{tuned}_y - D^\text{base}_\varnothing)

    When to use: For a fine-tuned network whose base is still at hand: the base knows the
    general domain better than a null class learnt while fine-tuning.

    Args:
        scale: 1 is the fine-tuned network, 0 the base; about 1.5 in the paper.
        network: name of the network from before the fine-tuning.

    Raises:
        ValueError: scale not finite.

    Source: Zhong et al., arXiv 2504.01521.
    """
    require_finite("domain", scale=scale)
    return Push(Scale(scale), null(network))


def from_null(*transforms: Transform) -> Push:
    """Return a push away from the null condition's prediction through ``transforms``."""
    return push(null(), *transforms)
