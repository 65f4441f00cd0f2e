"""Consistency models on discrete noise levels: distillation and training, one loss in parts.

``w d(f(x, sigma), sg f'(x', to))``: the pair of noise levels, how x' is reached from x (a step of a
frozen teacher, or the sample's own noise at the lower level), whose parameters f' has (an average
or the student's own), the distance d and the weight w are what the methods differ in.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.checks import count, require_ranges, share
from ...core.errors import UserError
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..averages.ema import constant
from ..losses.loss import MAIN, Batch, Roles, column
from ..noise.corruption import DROPOUT, NOISE, SIGMA, condition_of
from ..noise.levels import WHOLE, Noise, draw
from .curricula import doubling_intervals, ect_end, growing_intervals, stage, target_decay
from .distances import Distance, distance_of
from .pairs import Grid, Pair, log_normal_neighbours, neighbours
from .scales import NAME, drawn, scale_of
from .teacher import Teacher, teacher_of

Pairs = Callable[[Any, Key[Array, " batch"], tuple], Pair]


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteConsistency:
    """``w d(f(x, sigma), sg f'(x', to))`` on pairs of noise levels of one trajectory.

    Attributes:
        pairs: ``(step, keys, span) -> Pair``.
        sigma_min: at and below it the target is x' itself.
        distance: d.
        roles: the networks that take part.
        teacher: whose step leads to x'; None for the sample's own noise.
        weight: of a pair; None for 1.
        target_average: schedule of the average that f' is; None for the student itself.
        scale: an input of the network; None for none.
        dropout: give the network keys for its dropout, the same at both levels.
    """

    pairs: Pairs
    sigma_min: float
    distance: Distance
    roles: tuple[str, ...] = (MAIN,)
    teacher: Teacher | None = None
    weight: Callable[[Pair], Float[Array, " batch"]] | None = None
    target_average: Callable | None = None
    scale: ScalarInput | None = None
    dropout: bool = False

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the distance without its weight; see `losses.Loss`."""
        main, clean = roles[MAIN], batch["x"]
        pair = self.pairs(main.step, fold_each(keys, SIGMA), span)
        noise = normal_like(fold_each(keys, NOISE), clean)
        noisy = clean + column(pair.sigma, clean) * noise
        condition = condition_of(main.network, batch)
        inputs: dict[str, Any] = drawn(self.scale, keys)
        if self.teacher is None:
            below = clean + column(pair.to, clean) * noise
        else:
            field = self.teacher.field(roles, condition, scale=inputs.get(NAME))
            below = field.step(noisy, pair.sigma, pair.to)
        if self.dropout:
            inputs["dropout_key"] = fold_each(keys, DROPOUT)
        made = main.denoiser(noisy, pair.sigma, condition, **inputs)
        ended = pair.to <= self.sigma_min
        # Asked at a level that it knows; where the boundary is, its answer is left out.
        level = jnp.where(ended, pair.sigma, pair.to)
        answer = main.target_role.denoiser(below, level, condition, **inputs)
        target = jax.lax.stop_gradient(jnp.where(column(ended, clean), below, answer))
        found = self.distance(made, target)
        weight = 1.0 if self.weight is None else self.weight(pair)
        return weight * found, {"distance": found}


@register("loss", "2303.01469")
def consistency_distillation(
    spec: Spec,
    specs: Mapping[str, Spec],
    /,
    nodes: int = 40,
    rule: Mapping[str, Any] = {"name": "unguided"},
    solver: Mapping[str, Any] = {"name": "heun"},
    distance: str | Mapping[str, Any] = "squared",
    target_decay: float = 0.95,
) -> DiscreteConsistency:
    """Train a consistency function along a frozen teacher's trajectories.

    The teacher is any denoiser under any rule that is a field, moved by one step of ``solver``;
    with ``model.inputs.scale`` the student takes the rule's scale as an input.

    Args:
        nodes: noise levels, Karras' with rho 7 between ``sigma_min`` of the preconditioner and the
            network's highest. Heun's step wants 18 and more.
        rule: a guidance rule's section.
        solver: ``heun`` or ``euler``.
        distance: ``squared``, ``pseudo_huber``, ``norm`` or ``perceptual`` (see
            `distillation.distances`).
        target_decay: of the average that targets are made by; 0 is the student itself.

    Raises:
        UserError: a network that is no consistency function, a rule that is no field, a solver
            without a step of its own, a teacher that does not fit, or a number out of range.

    Source: Song et al., arXiv 2303.01469, algorithm 2.
    """
    grid = _grid_of(spec, "consistency_distillation")
    given = {"nodes": nodes, "target_decay": target_decay}
    ranges = {"nodes": count(2), "target_decay": share(open_high=True, hint="0 is the student")}
    require_ranges("training.loss", given, ranges)
    scale = scale_of(spec)
    teacher = teacher_of(rule, solver, specs=specs, scaled=scale is not None)
    return DiscreteConsistency(
        lambda step, keys, span: neighbours(grid, nodes - 1, keys, span),
        grid.low,
        distance_of(distance, spec),
        (MAIN, *teacher.roles(spec.shape)),
        teacher,
        target_average=constant(target_decay) if target_decay else None,
        scale=scale,
        dropout=spec.takes("dropout_key"),
    )


@register("loss", "2303.01469")
def consistency_training(
    spec: Spec,
    /,
    steps: int,
    start: int = 2,
    end: int = 150,
    decay: float = 0.9,
    distance: str | Mapping[str, Any] = "squared",
) -> DiscreteConsistency:
    """Train a consistency function from data alone, as first published.

    Args:
        steps: of training, over which the intervals between noise levels grow.
        start, end: s0 and s1 of their number.
        decay: of the target's average at the start; it grows with the intervals.
        distance: as of `consistency_distillation`; it is part of what the function becomes.

    Raises:
        UserError: a network that is no consistency function, or a number out of range.

    Source: Song et al., arXiv 2303.01469, algorithm 3.
    """
    grid = _grid_of(spec, "consistency_training")
    _require_growth(steps, start, end)
    require_ranges("training.loss", {"decay": decay}, {"decay": share(open_low=True)})

    def intervals(step):
        return growing_intervals(step, steps, start, end)

    return DiscreteConsistency(
        lambda step, keys, span: neighbours(grid, intervals(step), keys, span),
        grid.low,
        distance_of(distance, spec),
        target_average=lambda step: target_decay(intervals(step - 1), start, decay),
        scale=_no_scale(spec, "consistency_training"),
        dropout=spec.takes("dropout_key"),
    )


@register("loss", "2310.14189")
def ict(
    spec: Spec,
    /,
    steps: int,
    start: int = 10,
    end: int = 1280,
    mean: float = -1.1,
    std: float = 2.0,
    distance: str | Mapping[str, Any] = "pseudo_huber",
) -> DiscreteConsistency:
    """Train a consistency function from data alone, with the improved techniques (iCT).

    The student is its own target, pairs are drawn by a log-normal law, each counts by the inverse
    of its distance, and their number doubles in equal stages.

    Args:
        steps: of training.
        start, end: intervals between noise levels in the first and the last stage.
        mean, std: of ``ln(sigma)``.
        distance: as of `consistency_distillation`.

    Raises:
        UserError: a network that is no consistency function, or a number out of range.

    Source: Song & Dhariwal, arXiv 2310.14189.
    """
    grid = _grid_of(spec, "ict")
    _require_growth(steps, start, end)
    if not std > 0:
        raise UserError(f"training.loss.std is above 0, got {std}")

    def pairs(step, keys, span):
        number = doubling_intervals(step, steps, start, end)
        return log_normal_neighbours(grid, number, keys, mean, std, span)

    return DiscreteConsistency(
        pairs,
        grid.low,
        distance_of(distance, spec),
        weight=_by_gap,
        scale=_no_scale(spec, "ict"),
        dropout=spec.takes("dropout_key"),
    )


@register("loss", "2406.14548")
def ect(
    spec: Spec,
    levels: Noise,
    specs: Mapping[str, Spec],
    /,
    every: int,
    stages: int = 8,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    distance: str | Mapping[str, Any] = "norm",
    rule: Mapping[str, Any] | None = None,
) -> DiscreteConsistency:
    """Tune a pretrained denoiser into a consistency function (ECT).

    The first stage is nearly denoising; stage by stage the two levels of a pair draw together. The
    published noise levels are ``log_normal`` with mean -1.1 and std 2.0, and the network begins as
    an EDM one, with the preconditioner ``consistency``.

    Args:
        every: steps of training a stage (3.2 M images in the paper).
        stages: their number; the last lasts.
        q, k, b: of `curricula.ect_end`.
        distance: as of `consistency_distillation`; ``norm`` is the published one (c = 0).
        rule: a guidance rule's section: then a frozen teacher's Heun step leads to the lower level,
            and with ``model.inputs.scale`` the student takes the scale. None is training on data.

    Raises:
        UserError: a network that is no consistency function, a number out of range, a rule that is
            no field, or a teacher that does not fit.

    Source: Geng et al., arXiv 2406.14548.
    """
    sigma_min = _require_consistency(spec, "ect").sigma_min
    require_ranges(
        "training.loss", {"every": every, "stages": stages}, {"every": count(1), "stages": count(1)}
    )
    if not (q > 1 and k >= 0 and b >= 0):
        raise UserError(f"training.loss: need q > 1 and k, b of 0 or more, got {q}, {k}, {b}")

    def pairs(step, keys, span):
        sigma = jnp.maximum(draw(levels, keys, span), sigma_min)
        return Pair(sigma, ect_end(sigma, stage(step, every, stages - 1), q, k, b))

    if rule is None:
        teacher, scale, roles = None, _no_scale(spec, "ect"), (MAIN,)
    else:
        scale = scale_of(spec)
        teacher = teacher_of(rule, specs=specs, scaled=scale is not None)
        roles = (MAIN, *teacher.roles(spec.shape))
    return DiscreteConsistency(
        pairs,
        sigma_min,
        distance_of(distance, spec),
        roles,
        teacher,
        weight=_by_gap,
        scale=scale,
        dropout=spec.takes("dropout_key"),
    )


def _by_gap(pair: Pair) -> Float[Array, " batch"]:
    return 1 / (pair.sigma - pair.to)


def _require_consistency(spec: Spec, name: str) -> Any:
    """Return the preconditioner of a network that is a consistency function."""
    if getattr(spec.preconditioner, "estimate", "x0") != "consistency":
        raise UserError(
            f"training.loss: {name} trains a consistency function: set model.preconditioner to "
            f"{{'name': 'consistency', 'sigma_data': ..., 'sigma_min': 0.002}}"
        )
    return spec.preconditioner


def _grid_of(spec: Spec, name: str) -> Grid:
    """Return Karras' levels between the boundary of a consistency function and its highest."""
    low = _require_consistency(spec, name).sigma_min
    if not low > 0:
        raise UserError(
            f"training.loss: {name} ends its trajectories at the boundary, which is above 0: set "
            f"model.preconditioner.sigma_min=0.002"
        )
    return Grid(low, spec.sigma_range[1])


def _require_growth(steps: int, start: int, end: int) -> None:
    ranges = {"steps": count(1), "start": count(1), "end": count(1)}
    require_ranges("training.loss", {"steps": steps, "start": start, "end": end}, ranges)
    if end < start:
        raise UserError(f"training.loss: intervals grow from start {start} to end {end}")


def _no_scale(spec: Spec, name: str) -> None:
    if scale_of(spec) is not None:
        raise UserError(
            f"training.loss: {name} learns from data, which have no guidance scale: leave "
            f"model.inputs.scale out, or distil a guided teacher"
        )
