"""Distribution matching distillation: a generator descends along ``D_fake - D_real``.

Luo et al., arXiv 2305.18455 (Diff-Instruct); Yin et al., arXiv 2311.18828 (DMD), 2405.14867 (DMD2).
At one noise level its gradient is ``sigma^2`` times that of the divergence KL(q_sigma | p_sigma) of
generated from real samples, both with noise.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxtyping import Array, Float

from ... import samplers
from ...core.checks import count, require_ranges
from ...core.registry import register
from ...models.spec import Spec
from ..noise.corruption import Corruption
from ..noise.weightings import Weighting
from .distances import distance_of
from .fake import direction
from .matching import (
    DistributionMatching,
    Judged,
    Regression,
    along,
    checked_weight,
    matching_of,
)


def descent(judged: Judged, *, normalised: bool) -> Float[Array, " batch"]:
    """Return what moves samples along ``D_real - D_fake``."""
    way = direction(judged.fake, judged.real, judged.made, normalised=normalised)
    return along(judged.made, way)


@register("loss", "2311.18828", "2405.14867")
def dmd(
    spec: Spec,
    specs: Mapping[str, Spec],
    corruption: Corruption,
    weighting: Weighting,
    /,
    rule: Mapping[str, Any] = {"name": "unguided"},
    levels: Mapping[str, Any] = {"name": "karras_times"},
    sigma: float = 80.0,
    ratio: int = 5,
    normalised: bool = True,
    regression: float = 0.0,
    distance: str | Mapping[str, Any] = "squared",
    steps: int = 18,
    solver: Mapping[str, Any] = {"name": "heun"},
    adversarial: float = 0.0,
) -> DistributionMatching:
    """Train a one-step generator whose law is a frozen teacher's.

    The defaults are DMD2's. DMD is ``ratio=1`` with ``regression`` and a perceptual ``distance``.
    The generator begins as the teacher (``training.init_from``), and so does ``roles.fake``, which
    is trained: ``frozen=False``. `distillation.generators` says how the generator is sampled. With
    a guided teacher the fake denoiser stays unguided, and the law at the optimum depends on
    ``levels``: see `distillation.matching`.

    Args:
        rule: a guidance rule's section; with ``model.inputs.scale`` of the generator and of
            ``roles.fake`` its scale is an input.
        levels: distribution of the noise levels at which samples are judged, a section as
            ``training.noise``, which is the fake denoiser's.
        sigma: the generator's noise level.
        ratio: updates of the fake denoiser for one of the generator, in one step.
        normalised: divide a sample's direction by the mean of ``|g - D_real|``, as published.
        regression: weight of the distance to where the teacher's flow leads from the same noise;
            0 is none. It is found anew in every step, by ``steps`` of ``solver``.
        distance: as of `consistency_distillation`.
        steps, solver: of the regression's flow: Karras' schedule from ``sigma``, ``heun`` or
            ``euler``.
        adversarial: weight of the logistic loss of the role ``discriminator``, a network of images
            that is trained on data and samples with the noise of ``training.noise``; 0 is none.
            DMD2's is a head on the fake denoiser's features, with the weight 3e-3 on ImageNet.

    Raises:
        UserError: a network that is no generator, a rule that is no field, networks that do not
            fit one another, or a number out of range.

    Source: Yin et al., arXiv 2311.18828, eq. 7 and 8; arXiv 2405.14867.
    """
    weight = checked_weight("regression", regression)
    require_ranges("training.loss", {"steps": steps}, {"steps": count(2)})

    def regressed(generator):
        schedule = samplers.karras(steps, sigma_max=generator.sigma)
        return Regression(weight, distance_of(distance, spec), tuple(schedule.tolist()))

    return matching_of(
        "dmd",
        specs,
        corruption,
        weighting,
        partial(descent, normalised=normalised),
        rule=rule,
        solver=solver,
        levels=levels,
        sigma=sigma,
        ratio=ratio,
        regression=regressed if weight else None,
        adversarial=adversarial,
    )


@register("loss", "2305.18455")
def diff_instruct(
    specs: Mapping[str, Spec],
    corruption: Corruption,
    weighting: Weighting,
    /,
    rule: Mapping[str, Any] = {"name": "unguided"},
    levels: Mapping[str, Any] = {"name": "log_normal"},
    sigma: float = 2.5,
) -> DistributionMatching:
    """Train a one-step generator by the integral of KL(q_sigma | p_sigma) over noise levels.

    It is `dmd` without its normalisation, with one update of the fake denoiser for one of the
    generator, and a lower noise level for the generator. A noise level counts by
    ``w(sigma) = sigma^2``, which makes the direction a difference of denoised samples.

    Args:
        rule, levels, sigma: as of `dmd`.

    Raises:
        UserError: as `dmd`.

    Source: Luo et al., arXiv 2305.18455.
    """
    return matching_of(
        "diff_instruct",
        specs,
        corruption,
        weighting,
        partial(descent, normalised=False),
        rule=rule,
        levels=levels,
        sigma=sigma,
        ratio=1,
    )
