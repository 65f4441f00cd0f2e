"""Consistency functions in continuous time (sCM): the tangent along the flow instead of two levels.

Lu and Song, arXiv 2410.11081. In TrigFlow's angle a, with ``y = cos(a) x``, the network F of
``f = cos(a) y - sin(a) sigma_data F`` is moved along ``g = -cos^2(a) (sigma_data F - v) -
r cos(a) sin(a) (y + sigma_data dF/da)``, which vanishes where f is constant along the flow of the
velocity v: a teacher's under any rule, or the data's own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.checks import count, positive, require_choice, require_ranges
from ...core.errors import UserError
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.preconditioning import TrigFlow
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Roles, column, over_elements
from ..noise.corruption import DROPOUT, NOISE, SIGMA, condition_of
from ..noise.levels import WHOLE, Noise, draw
from .curricula import warm_up
from .scales import NAME, drawn, scale_of
from .tangents import value_and_tangent
from .teacher import Teacher, teacher_of

NORMS = ("norm", "rms", "none")


@dataclasses.dataclass(frozen=True, eq=False)
class ContinuousConsistency:
    """``|F - sg(F + g)|^2``, mean over a sample's elements, g the normalised tangent.

    Attributes:
        preconditioner: of the network.
        levels: distribution of noise levels.
        roles: the networks that take part.
        teacher: whose velocity is followed; None for that of the data.
        warm_up: steps in which r goes from 0 to 1.
        normalise: ``norm``, g by ``|g| + c``; ``rms``, by its root mean square and c; ``none``.
        c: of these.
        learned_weight: divide by ``exp(u)`` and add u, u the network's own ``log_variance``.
        by_sigma: count each sample by ``1 / sigma``.
        scale: an input of the network; None for none.
        dropout: give the network keys for its dropout.
    """

    preconditioner: TrigFlow
    levels: Noise
    roles: tuple[str, ...] = (MAIN,)
    teacher: Teacher | None = None
    warm_up: int = 10_000
    normalise: str = "norm"
    c: float = 0.1
    learned_weight: bool = False
    by_sigma: bool = False
    scale: ScalarInput | None = None
    dropout: bool = False

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the mean square of its tangent; see `losses.Loss`."""
        main, clean = roles[MAIN], batch["x"]
        made = self.preconditioner
        sigma = draw(self.levels, fold_each(keys, SIGMA), span).astype(clean.dtype)
        angle = made.angle(sigma)
        cos, sin = (column(of(angle), clean) for of in (jnp.cos, jnp.sin))
        noise = made.sigma_data * normal_like(fold_each(keys, NOISE), clean)
        y = cos * clean + sin * noise
        condition = condition_of(main.network, batch)
        inputs: dict[str, Any] = drawn(self.scale, keys)
        if self.teacher is None:
            velocity = cos * noise - sin * clean
        else:
            field = self.teacher.field(roles, condition, scale=inputs.get(NAME))
            velocity = (cos * y - field.denoise(y / cos, sigma)) / sin
        if self.dropout:
            inputs["dropout_key"] = fold_each(keys, DROPOUT)

        def network(y, angle):
            time = made.network_time(angle)
            raw = main.network(main.params, y / made.sigma_data, time, condition, **inputs)
            return made.sign * raw[..., : y.shape[-1]]

        both = jnp.cos(angle) * jnp.sin(angle)
        # The factor goes into the derivative: alone it would be large at both ends.
        output, slope = value_and_tangent(network, (y, angle), (cos * sin * velocity, both))
        held = jax.lax.stop_gradient(output)
        ramp = warm_up(main.step, self.warm_up)
        tangent = -(cos**2) * (made.sigma_data * held - velocity)
        tangent -= ramp * (cos * sin * y + made.sigma_data * slope)
        square = over_elements(jnp.mean, tangent**2)
        target = held + jax.lax.stop_gradient(self._normalised(tangent))
        error = over_elements(jnp.mean, (output - target) ** 2)
        if self.by_sigma:
            error = error / sigma
        if self.learned_weight:
            time = made.network_time(angle)
            log_variance = main.network.module(main.params).log_variance(time)
            error = jnp.exp(-log_variance) * error + log_variance
        return error, {"tangent": square}

    def _normalised(self, tangent: Array) -> Array:
        if self.normalise == "none":
            return tangent
        reduce = jnp.sum if self.normalise == "norm" else jnp.mean
        size = jnp.sqrt(over_elements(reduce, tangent**2))
        return tangent / column(size + self.c, tangent)


@register("loss", "2410.11081")
def scm(
    spec: Spec,
    levels: Noise,
    specs: Mapping[str, Spec],
    /,
    rule: Mapping[str, Any] | None = None,
    warm_up: int = 10_000,
    normalise: str = "norm",
    c: float = 0.1,
    learned_weight: bool = False,
    by_sigma: bool = False,
) -> ContinuousConsistency:
    """Train a consistency function in continuous time, from a frozen teacher's field or from data.

    The network has the preconditioner ``trigflow``. The published noise levels are ``log_normal``
    with mean -1.0 and std 1.4 (CIFAR-10). One derivative in forward mode takes the place of a
    second noise level, so that there are no nodes to choose; a warm-up that ends early, or never,
    ends at another function.

    Args:
        rule: a guidance rule's section of the teacher's field; with ``model.inputs.scale`` the
            student takes its scale. None is training on data.
        warm_up: steps of training in which the tangent's derivative comes to count. At 0 of it the
            loss is that of the velocity alone.
        normalise: ``norm``, as published; ``rms``, which does not depend on the resolution; or
            ``none``.
        c: added to that norm.
        learned_weight: weigh noise levels by what the network's own ``log_variance`` learns, as
            published; EDM2's networks have one.
        by_sigma: count each sample by ``1 / sigma``.

    Raises:
        UserError: a network without the preconditioner ``trigflow`` or without a log_variance that
            is asked for, a rule that is no field, a teacher that does not fit, or a number out of
            range.

    Source: Lu & Song, arXiv 2410.11081, algorithm 1.
    """
    if not isinstance(spec.preconditioner, TrigFlow):
        raise UserError(
            "training.loss: scm trains a consistency function in an angle: set "
            "model.preconditioner to {'name': 'trigflow', 'sigma_data': ...}, with network='edm' "
            "to begin from a pretrained network of EDM's"
        )
    given = {"warm_up": warm_up, "c": c}
    require_ranges(
        "training.loss", given, {"warm_up": count(0, "0 is none"), "c": positive("0.1 is usual")}
    )
    require_choice("training.loss.normalise", normalise, NORMS)
    if learned_weight and not hasattr(spec.module, "log_variance"):
        raise UserError(
            "training.loss.learned_weight: the network learns no log_variance(c_noise): leave it "
            "False, or use model.name edm2_unet"
        )
    scale, teacher, roles = scale_of(spec), None, (MAIN,)
    if rule is not None:
        teacher = teacher_of(rule, specs=specs, scaled=scale is not None)
        roles = (MAIN, *teacher.roles(spec.shape))
    elif scale is not None:
        raise UserError(
            "training.loss: scm learns from data, which have no guidance scale: leave "
            "model.inputs.scale out, or set training.loss.rule, the teacher's"
        )
    return ContinuousConsistency(
        spec.preconditioner,
        levels,
        roles,
        teacher,
        warm_up,
        normalise,
        c,
        learned_weight,
        by_sigma,
        scale,
        spec.takes("dropout_key"),
    )
