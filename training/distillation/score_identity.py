"""Score identity distillation (SiD) and score implicit matching (SIM).

Zhou et al., arXiv 2404.04057; Luo et al., arXiv 2410.16794. Both measure how far the scores of
generated and real samples are apart, ``E |s_fake - s_real|^2`` or a bounded distance of them, in a
form whose gradient does not need the derivative of the fake score by the generator: it passes
through both denoisers to the samples. With the squared distance SIM is SiD at ``alpha = 1``.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.checks import positive, require_choice, require_ranges
from ...core.registry import register
from ...models.spec import Spec
from ..losses.loss import column, over_elements
from ..noise.corruption import Corruption
from ..noise.weightings import Weighting
from .matching import DistributionMatching, Judged, matching_of

DISTANCES = ("pseudo_huber", "squared")


def identity(judged: Judged, *, alpha: float, normalised: bool) -> Float[Array, " batch"]:
    """Return ``(D_real - D_fake)^T ((D_real - y) - alpha (D_real - D_fake))``, mean of elements.

    Args:
        judged: y, the samples, and what both denoisers make of them.
        alpha: at 1 its value is 0 in expectation, above 1 negative: it is no measure of progress.
        normalised: divide by the mean of ``|y - D_real|``, held.
    """
    gap = judged.real - judged.fake
    value = over_elements(jnp.mean, gap * (judged.real - judged.made - alpha * gap))
    if not normalised:
        return value
    size = over_elements(jnp.mean, jnp.abs(judged.made - judged.real))
    return value / jax.lax.stop_gradient(jnp.maximum(size, jnp.finfo(size.dtype).tiny ** 0.5))


def implicit(judged: Judged, *, distance: str, c: float) -> Float[Array, " batch"]:
    """Return ``-sigma^2 d'(s_fake - s_real)^T (s_fake - grad log q(x | y))``, sum of elements.

    Args:
        judged: y, the samples, and what both denoisers make of them.
        distance: d, ``squared`` or ``pseudo_huber``, ``sqrt(|s|^2 + c^2) - c``.
        c: of the latter.
    """
    gap = (judged.fake - judged.real) / judged.sigma**2
    if distance == "squared":
        slope = 2 * gap
    else:
        square = column(over_elements(jnp.sum, gap**2), gap)
        slope = gap / jnp.sqrt(square + c**2)
    # sigma^2 (s_fake - grad log q(x | y)) is D_fake - y.
    return over_elements(jnp.sum, -slope * (judged.fake - judged.made))


@register("loss", "2404.04057")
def sid(
    specs: Mapping[str, Spec],
    corruption: Corruption,
    weighting: Weighting,
    /,
    rule: Mapping[str, Any] = {"name": "unguided"},
    levels: Mapping[str, Any] = {"name": "karras_times", "low": 0.0, "high": 0.8},
    sigma: float = 2.5,
    ratio: int = 1,
    alpha: float = 1.0,
    normalised: bool = True,
) -> DistributionMatching:
    """Train a one-step generator by score identity distillation.

    An ``alpha`` above 1 (1.2 is published) speeds up a generator that is too narrow and *diverges*
    from one that is too wide: for data of variance C and a wide one of variance a^2 the gradient
    tends to ``2 a (1 - k)^2 (1 - alpha)``, k = C / (C + sigma^2), whose sign is then wrong. Take it
    only for a generator that begins as its teacher (``training.init_from``). 1 is the default
    here. The loss is no measure of progress, and negative for an ``alpha`` above 1.

    Args:
        rule, levels, sigma: as of `dmd`.
        ratio: updates of the fake denoiser for one of the generator.
        alpha: of the identity.
        normalised: divide a sample's loss by the mean of ``|g - D_real|``, as published.

    Raises:
        UserError: as `dmd`; an alpha that is not above 0.

    Source: Zhou et al., arXiv 2404.04057.
    """
    require_ranges("training.loss", {"alpha": alpha}, {"alpha": positive("1 is safe")})
    return matching_of(
        "sid",
        specs,
        corruption,
        weighting,
        partial(identity, alpha=float(alpha), normalised=normalised),
        rule=rule,
        levels=levels,
        sigma=sigma,
        ratio=ratio,
        through=True,
    )


@register("loss", "2410.16794")
def sim(
    specs: Mapping[str, Spec],
    corruption: Corruption,
    weighting: Weighting,
    /,
    rule: Mapping[str, Any] = {"name": "unguided"},
    levels: Mapping[str, Any] = {"name": "karras_times", "low": 0.0, "high": 0.8},
    sigma: float = 2.5,
    ratio: int = 1,
    distance: str = "pseudo_huber",
    c: float = 0.1,
) -> DistributionMatching:
    """Train a one-step generator by score implicit matching.

    A bounded slope, ``pseudo_huber``, keeps it from following the largest differences of scores
    alone. With ``squared`` it is `sid` at ``alpha=1``, ``normalised=False``, a noise level counted
    ``2 / sigma^2`` times and summed over the elements.

    Args:
        rule, levels, sigma: as of `dmd`.
        ratio: updates of the fake denoiser for one of the generator.
        distance: ``pseudo_huber`` or ``squared``, of the difference of the scores.
        c: where the former turns from a square into a norm; the paper's is not known to us.

    Raises:
        UserError: as `dmd`; another distance, or a c that is not above 0.

    Source: Luo et al., arXiv 2410.16794.
    """
    require_choice("training.loss.distance", distance, DISTANCES)
    require_ranges("training.loss", {"c": c}, {"c": positive()})
    return matching_of(
        "sim",
        specs,
        corruption,
        weighting,
        partial(implicit, distance=distance, c=float(c)),
        rule=rule,
        levels=levels,
        sigma=sigma,
        ratio=ratio,
        through=True,
    )
