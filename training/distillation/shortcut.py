"""Shortcut models: one network for all step sizes, longer steps learnt from two shorter ones.

Frans et al., arXiv 2410.12557. The network is a flow map, sampled by `samplers.ctm` in a power of
two of equal steps of flow time.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.checks import count, require_ranges
from ...core.checks import share as between_0_and_1
from ...core.errors import UserError
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..averages.ema import constant
from ..losses.loss import MAIN, Batch, Roles, column, over_elements
from ..noise.corruption import DROPOUT, NOISE, condition_of
from ..noise.levels import WHOLE, shares
from .scales import NAME, OWN, drawn, scale_of
from .teacher import Teacher, teacher_of
from .velocities import average_velocity, flow_map_of, latest, teacher_velocity


@dataclasses.dataclass(frozen=True, eq=False)
class Shortcut:
    """``|s(z, t, 2d) - sg((s(z, t, d) + s(z - d s, t - d, d)) / 2)|^2``, or flow matching.

    Attributes:
        levels: the shortest step is ``2^-levels`` of the way.
        share: of the samples that learn from two shorter steps; others are flow matching at the
            shortest.
        latest: flow time of the highest noise level: the whole way.
        roles: the networks that take part.
        teacher: whose velocity the shortest steps are; None for that of the data.
        target_average: schedule of the average that makes the shorter steps; None for the student.
        scale: an input of the network; None for none.
        dropout: give the network keys for its dropout.
    """

    levels: int
    share: float
    latest: float
    roles: tuple[str, ...] = (MAIN,)
    teacher: Teacher | None = None
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
        """Return each sample's loss; see `losses.Loss`."""
        main, clean = roles[MAIN], batch["x"]
        halvings, time = self._steps(keys, span, clean.dtype)
        shortest = halvings == self.levels
        length = self.latest * 2.0 ** -halvings.astype(clean.dtype)
        noise = normal_like(fold_each(keys, NOISE), clean)
        z = column(1 - time, clean) * clean + column(time, clean) * noise
        condition = condition_of(main.network, batch)
        inputs: dict[str, Any] = drawn(self.scale, keys)
        if self.teacher is None:
            velocity = noise - clean
        else:
            field = self.teacher.field(roles, condition, scale=inputs.get(NAME))
            velocity = teacher_velocity(field, z, time)
        # Held, as is all that is made by it.
        target, half = main.target_role, length / 2
        if self.dropout:
            inputs["dropout_key"] = fold_each(keys, DROPOUT)
        first = average_velocity(target, z, time, half, condition, **inputs)
        middle = z - column(half, z) * first
        second = average_velocity(target, middle, time - half, half, condition, **inputs)
        aim = jnp.where(column(shortest, z), velocity, (first + second) / 2)
        made = average_velocity(main, z, time, length, condition, **inputs)
        error = over_elements(jnp.mean, (made - aim) ** 2)
        return error, {}

    def _steps(
        self, keys: Key[Array, " batch"], span: tuple, dtype
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """Draw a number of halvings a sample, and the time that such a step begins at."""
        choose, place, along = (fold_each(fold_each(keys, OWN), n) for n in range(3))
        uniform = jax.vmap(jax.random.uniform)
        longer = jnp.floor(uniform(place) * self.levels).astype(jnp.int32)
        longer = jnp.clip(longer, 0, self.levels - 1)
        halvings = jnp.where(uniform(choose) < self.share, longer, self.levels)
        steps = 2**halvings
        index = jnp.clip((shares(along, span) * steps).astype(jnp.int32), 0, steps - 1) + 1
        return halvings, self.latest * index.astype(dtype) / steps.astype(dtype)


@register("loss", "2410.12557")
def shortcut(
    spec: Spec,
    specs: Mapping[str, Spec],
    /,
    steps: int = 128,
    share: float = 0.125,
    target_decay: float = 0.999,
    rule: Mapping[str, Any] | None = None,
) -> Shortcut:
    """Train a flow map for every power of two of steps, from data or a frozen teacher's field.

    The network has the preconditioner ``flow_map``, with an ``interval_scale`` that tells the
    shortest steps apart (1000). Its longest step is at best Euler's method in ``steps``. Guidance
    enters by the shortest steps alone, and reaches the others through them.

    Args:
        steps: of the shortest, a power of two.
        share: of the samples that learn from two shorter steps. All of a batch computes both kinds
            of target.
        target_decay: of the average that makes the shorter steps; 0 is the student itself.
        rule: a guidance rule's section of the teacher's field, with ``model.inputs.scale`` open in
            its scale. None is training on data, unguided.

    Raises:
        UserError: a network that is no flow map, a number out of range, a rule that is no field, or
            a teacher that does not fit.

    Source: Frans et al., arXiv 2410.12557, algorithm 1.
    """
    flow_map_of(spec, "shortcut")
    given = {"steps": steps, "share": share, "target_decay": target_decay}
    ranges = {
        "steps": count(2),
        "share": between_0_and_1(),
        "target_decay": between_0_and_1(open_high=True, hint="0 is the student"),
    }
    require_ranges("training.loss", given, ranges)
    if steps & (steps - 1):
        raise UserError(f"training.loss.steps is a power of two, got {steps}")
    scale, teacher, roles = scale_of(spec), None, (MAIN,)
    if rule is not None:
        teacher = teacher_of(rule, specs=specs, scaled=scale is not None)
        roles = (MAIN, *teacher.roles(spec.shape))
    elif scale is not None:
        raise UserError(
            "training.loss: shortcut learns from data, which have no guidance scale: leave "
            "model.inputs.scale out, or set training.loss.rule, the teacher's"
        )
    return Shortcut(
        int(math.log2(steps)),
        share,
        latest(spec),
        roles,
        teacher,
        constant(target_decay) if target_decay else None,
        scale,
        spec.takes("dropout_key"),
    )
