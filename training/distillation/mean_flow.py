"""MeanFlow: average velocities from the identity ``u + (t - r) du/dt = v`` along the flow.

Geng et al., arXiv 2505.13447, and its improved form, arXiv 2512.02012. The velocity v is the data's
own, guided by the network's own predictions where wanted, or a teacher's under any rule. The
student is a flow map, sampled by `samplers.ctm` in any number of jumps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.checks import Range, at_least_0, positive, require_choice, require_ranges, share
from ...core.errors import UserError
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.conditions import Label
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Role, Roles, column, over_elements
from ..noise.corruption import DROPOUT, NOISE, SIGMA, condition_of
from ..noise.levels import WHOLE, Noise
from .distances import adaptive
from .pairs import any_two
from .scales import NAME, OWN, drawn, scale_of
from .tangents import value_and_tangent
from .teacher import Teacher, teacher_of
from .velocities import average_velocity, clipped, flow_map_of, latest, teacher_velocity

LAWS = ("uniform", "log")
TANGENTS = ("target", "own")
# Inputs of a student that takes the interval in which it is guided, ends in flow time.
LOW, HIGH = "interval_low", "interval_high"


@dataclasses.dataclass(frozen=True, eq=False)
class Guide:
    """Guidance by the network's own velocities, ``omega v + kappa u(c) + (1 - omega - kappa) u()``.

    Attributes:
        omega, kappa: their optimum is guidance at the scale ``omega / (1 - kappa)``. Where the
            network takes a scale w, they are 1 and ``1 - 1/w``.
    """

    omega: float = 1.0
    kappa: float = 0.0

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return (self.omega, self.kappa) != (1.0, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanFlow:
    """``|u - sg(v - (t - r) du/dt)|^2``, summed, over its own power.

    Attributes:
        levels: distribution of both noise levels.
        equal: share of the samples with ``r = t``.
        latest: flow time of the highest noise level.
        roles: the networks that take part.
        teacher: whose velocity is learnt; None for that of the data.
        guide: guidance of the data's velocity.
        interval: flow times ``(low, high]`` between which velocities are guided.
        tangent: the velocity that the derivative is along: ``target``, v; ``own``, the network's.
        power, c: of `distances.adaptive`.
        scale: an input of the network; None for none.
        law: of the scale.
        ends: inputs of the network, the interval's; empty for none.
        dropout: give the network keys for its dropout.
    """

    levels: Noise
    equal: float
    latest: float
    roles: tuple[str, ...] = (MAIN,)
    teacher: Teacher | None = None
    guide: Guide = Guide()
    interval: tuple[float, float] = (0.0, 1.0)
    tangent: str = "target"
    power: float = 1.0
    c: float = 0.01
    scale: ScalarInput | None = None
    law: str = "uniform"
    ends: tuple[tuple[str, ScalarInput], ...] = ()
    dropout: bool = False

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the mean square of its error; see `losses.Loss`."""
        main, clean = roles[MAIN], batch["x"]
        pair = any_two(self.levels, fold_each(keys, SIGMA), self.equal, span)
        time, end = (clipped(one.astype(clean.dtype), self.latest) for one in pair)
        noise = normal_like(fold_each(keys, NOISE), clean)
        z = column(1 - time, clean) * clean + column(time, clean) * noise
        condition = condition_of(main.network, batch)
        inputs: dict[str, Any] = drawn(self.scale, keys, self.law) | self._ends(keys, time == end)
        scale, low, high = inputs.get(NAME), *self.interval
        if self.ends:
            low, high = inputs[LOW], inputs[HIGH]
        inside = (time > low) & (time <= high)
        if self.dropout:
            inputs["dropout_key"] = fold_each(keys, DROPOUT)
        held, zero = main.held, jnp.zeros_like(time)
        if self.teacher is None:
            velocity = self._guided(held, z, time, noise - clean, condition, inputs, inside)
        else:
            if scale is not None:
                scale = jnp.where(inside, scale, 1.0)
            field = self.teacher.field(roles, condition, scale=scale)
            velocity = teacher_velocity(field, z, time)
        way = velocity
        if self.tangent == "own":
            way = average_velocity(held, z, time, zero, condition, **inputs)

        def average(z, time):
            return average_velocity(main, z, time, time - end, condition, **inputs)

        made, slope = value_and_tangent(average, (z, time), (way, jnp.ones_like(time)))
        # Held: neither a velocity nor a tangent carries a gradient.
        target = velocity - column(time - end, clean) * slope
        square = (made - target) ** 2
        error = adaptive(over_elements(jnp.sum, square), self.c, self.power)
        return error, {"velocity_error": over_elements(jnp.mean, square)}

    def _ends(self, keys: Key[Array, " batch"], same: Array) -> dict[str, Array]:
        """Draw the interval's ends; all times where a sample has no interval of its own."""
        found = {}
        for number, (name, one) in enumerate(self.ends):
            own = fold_each(fold_each(keys, OWN), number)
            value = one.at(jax.vmap(jax.random.uniform)(own))
            found[name] = jnp.where(same, one.low if name == LOW else one.high, value)
        return found

    def _guided(
        self,
        held: Role,
        z: Array,
        time: Array,
        velocity: Array,
        condition: Any,
        inputs: Mapping[str, Any],
        inside: Array,
    ) -> Array:
        """Return the data's velocity, guided by the network's own ones inside the interval."""
        scale = inputs.get(NAME)
        if scale is None and not self.guide.active:
            return velocity
        nulls = held.denoiser.nulls(len(z))
        if isinstance(nulls, Mapping):
            # Parts that the null condition lacks stay as given.
            nulls = {**condition, **nulls}
        zero = jnp.zeros_like(time)
        main, reference = (
            average_velocity(held, z, time, zero, one, **inputs) for one in (condition, nulls)
        )
        omega, kappa = (jnp.full_like(time, one) for one in (self.guide.omega, self.guide.kappa))
        if scale is not None:
            kappa = (1 - 1 / scale).astype(time.dtype)
        omega, kappa = (column(one, z) for one in (omega, kappa))
        guided = omega * velocity + kappa * main + (1 - omega - kappa) * reference
        return jnp.where(column(inside, z), guided, velocity)


@register("loss", "2505.13447", "2512.02012")
def mean_flow(
    spec: Spec,
    levels: Noise,
    specs: Mapping[str, Spec],
    /,
    rule: Mapping[str, Any] | None = None,
    equal: float = 0.75,
    omega: float = 1.0,
    kappa: float = 0.0,
    low: float = 0.0,
    high: float = 1.0,
    tangent: str = "target",
    scales: str = "uniform",
    power: float = 1.0,
    c: float = 0.01,
) -> MeanFlow:
    """Train a flow map by MeanFlow's identity, from data or from a frozen teacher's field.

    The network has the preconditioner ``flow_map``. Published: noise levels ``log_normal`` with
    mean -0.4 and std 1.0 (a logit-normal flow time), ``equal`` 0.75, ``label_dropout`` 0.1.

    Guided in three ways: by a teacher's ``rule``; from data by ``omega`` and ``kappa``, at the
    scale ``omega / (1 - kappa)``; from data with ``model.inputs.scale``, improved MeanFlow's, at
    any scale of its range, where published ``equal`` is 0.5, ``tangent`` own, ``scales`` log and
    the range 1 to 8. With ``model.inputs`` ``interval_low=(0.0, 0.5)`` and
    ``interval_high=(0.5, 1.0)`` the interval of flow times in which it is guided is an input too:
    a network of one jump cannot change its rule on the way. Improved MeanFlow's auxiliary head is
    not part of this: the derivative is along the network's own velocity at ``r = t``.

    Args:
        rule: a guidance rule's section, of the teacher's field; with ``model.inputs.scale`` its
            scale is left out. None is training on data.
        equal: share of the samples with ``r = t``, on which it is flow matching.
        omega, kappa: shares of the data's velocity and the network's conditional one; the rest is
            its unconditional one.
        low, high: flow times ``(low, high]`` between which velocities are guided.
        tangent: the derivative is along the velocity that is learnt, ``target``, or the network's
            ``own``, which has no noise.
        scales: how scales are drawn: ``uniform``, or ``log``.
        power, c: errors are divided by ``(error + c)^power``, held fixed; 0 leaves them.

    Raises:
        UserError: a network that is no flow map or knows no null condition where it guides itself,
            guidance by two ways, an interval without guidance, a rule that is no field, a teacher
            that does not fit, or a number out of range.

    Source: Geng et al., arXiv 2505.13447, algorithm 1 and eq. 21; arXiv 2512.02012.
    """
    flow_map_of(spec, "mean_flow")
    given = dict(equal=equal, omega=omega, kappa=kappa, low=low, high=high, power=power, c=c)
    ranges = {
        "equal": share(),
        "omega": positive("1 with kappa 0 is none"),
        "kappa": Range(0, 1, open_high=True, hint="0 with omega 1 is none"),
        "low": share(),
        "high": share(),
        "power": at_least_0("0 is the squared error"),
        "c": positive(),
    }
    require_ranges("training.loss", given, ranges)
    require_choice("training.loss.tangent", tangent, TANGENTS)
    require_choice("training.loss.scales", scales, LAWS)
    scale, guide = scale_of(spec), Guide(float(omega), float(kappa))
    teacher, roles = None, (MAIN,)
    if guide.active and (scale is not None or rule is not None):
        raise UserError(
            "training.loss: omega and kappa are one fixed scale of training on data: leave them "
            "out, or leave model.inputs.scale and training.loss.rule out"
        )
    if rule is not None:
        teacher = teacher_of(rule, specs=specs, scaled=scale is not None)
        roles = (MAIN, *teacher.roles(spec.shape))
    elif scale is not None or guide.active:
        _require_null(spec)
    if scale is not None and scale.low <= 0 and (rule is None or scales == "log"):
        raise UserError(
            f"model.inputs.scale begins at {scale.low:g}: data's own guidance and scales='log' "
            f"want a scale above 0 (1 is off)"
        )
    ends = tuple((name, one) for name, one in spec.inputs if name in (LOW, HIGH))
    _require_interval(scale is not None, guide.active, (low, high), ends)
    return MeanFlow(
        levels,
        equal,
        latest(spec),
        roles,
        teacher,
        guide,
        (low, high),
        tangent,
        power,
        c,
        scale,
        scales,
        ends,
        spec.takes("dropout_key"),
    )


def _require_null(spec: Spec) -> None:
    """Refuse a network that could not guide itself."""
    condition = spec.condition
    known = condition.null if isinstance(condition, Label) else condition is not None
    if not known:
        raise UserError(
            "training.loss: mean_flow guides by the network's own prediction without a condition, "
            "and this one knows none: give the network a null class and training.label_dropout, "
            "or a teacher's training.loss.rule"
        )


def _require_interval(
    scaled: bool, guided: bool, interval: tuple[float, float], ends: tuple
) -> None:
    """Refuse an interval without anything to guide, or given twice."""
    names = [name for name, _ in ends]
    if interval[0] >= interval[1]:
        raise UserError(
            f"training.loss: need low < high, flow times, got {interval[0]} and {interval[1]}"
        )
    if names and (len(names) < 2 or not scaled):
        raise UserError(
            f"model.inputs: the interval is {LOW} and {HIGH}, both, beside scale; there is "
            f"{', '.join(names)}"
        )
    if interval != (0.0, 1.0) and (names or not (scaled or guided)):
        raise UserError(
            "training.loss: low and high bound guidance at model.inputs.scale, or by omega and "
            "kappa, where the interval is no input: leave them out (a rule has guidance.between)"
        )
