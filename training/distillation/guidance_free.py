"""Guidance-free training: a denoiser that learns from data to be a guided one, without a teacher.

What meets the data is a mixture of the network with its own prediction without a condition, which
is held. With T_c and T_u the plain predictions with and without the condition, its fixed point is
the guided prediction ``T_u + w (T_c - T_u)``, in one evaluation, under any solver. Samples whose
label was dropped learn T_u as ever: CFG at w' on top of a network of one scale is CFG at ``w w'``.
Where the scale is an input, they learn it at no guidance alone, and no rule belongs on top.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ...core.checks import count, require_ranges, share
from ...core.errors import UserError
from ...core.random import fold_each
from ...core.registry import register
from ...models.conditions import Label
from ...models.preconditioning import Preconditioner
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..averages.ema import constant
from ..losses.denoising import weighted_error
from ..losses.loss import MAIN, Batch, Roles, column
from ..noise.corruption import Corrupted, Corruption, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting
from .scales import NAME, SCALE, drawn, scale_of

BETA = "beta"


@dataclasses.dataclass(frozen=True, eq=False)
class GuidanceFree:
    """``w(sigma) |b D(x; c, b) + (1 - b) sg D(x; null, 1) - x0|^2``, mean over the elements.

    Its fixed point is guided at scale ``1 / b``. Samples without a label have b = 1.

    Attributes:
        preconditioner, corruption, weighting: as of `losses.Denoising`.
        beta: b as an input of the network.
        null: the label that stands for none.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting
    beta: ScalarInput
    null: int

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss and no further metrics; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        beta = self.beta.at(jax.vmap(jax.random.uniform)(fold_each(keys, SCALE)))
        beta = jnp.where(given.condition == self.null, 1.0, beta)
        found = outcome(main.denoiser, _with(given, **{BETA: beta}))
        free = outcome(main.held.denoiser, _unlabelled(given, self.null, **{BETA: 1.0}))
        share = column(beta, found.raw)
        mixed = found._replace(raw=share * found.raw + (1 - share) * free.raw)
        return weighted_error(self.weighting, self.preconditioner, given.column, mixed), {}


@dataclasses.dataclass(frozen=True, eq=False)
class ModelGuidance:
    """``w(sigma) |D(x; c) - x0 - (1 - 1/s) sg (D'(x; c) - D'(x; null))|^2``, mean of elements.

    D' is an average of the network, or itself. The fixed point is guided at scale s. Samples
    without a label have s = 1.

    Attributes:
        preconditioner, corruption, weighting: as of `losses.Denoising`.
        null: the label that stands for none.
        fixed: s; None where it is an input of the network.
        scale: that input.
        start: steps of plain training before the first with guidance.
        target_average: schedule of the average that D' is; None for the network itself.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting
    null: int
    fixed: float | None
    scale: ScalarInput | None
    start: int = 0
    target_average: Callable | None = None

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss and no further metrics; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        plain = given.condition == self.null
        if self.scale is None:
            scale, inputs, none = jnp.where(plain, 1.0, self.fixed), {}, {}
        else:
            scale = jnp.where(plain, 1.0, drawn(self.scale, keys)[NAME])
            inputs, none = {NAME: scale}, {NAME: 1.0}
        found = outcome(main.denoiser, _with(given, **inputs))
        star = main.target_role.denoiser
        labelled = outcome(star, evaluated(_with(given, **inputs)))
        free = outcome(star, _unlabelled(given, self.null, **none))
        pull = column(jnp.where(main.step < self.start, 0.0, 1 - 1 / scale), found.raw)
        mixed = found._replace(raw=found.raw - pull * (labelled.raw - free.raw))
        return weighted_error(self.weighting, self.preconditioner, given.column, mixed), {}


def _with(given: Corrupted, **inputs: Array) -> Corrupted:
    return given._replace(inputs={**given.inputs, **inputs})


def evaluated(given: Corrupted) -> Corrupted:
    """Return what a network is given that does not learn: no dropout, no perturbed condition."""
    inputs = {name: one for name, one in given.inputs.items() if name != "dropout_key"}
    return given._replace(modes=(), inputs=inputs)


def _unlabelled(given: Corrupted, null: int, **inputs: float) -> Corrupted:
    """Return the same without labels, at one value of each input."""
    labels: Int[Array, " batch"] = jnp.full_like(given.condition, null)
    every = {name: jnp.full(labels.shape, value) for name, value in inputs.items()}
    return _with(evaluated(given)._replace(condition=labels), **every)


@register("loss", "2501.15420")
def gft(
    spec: Spec,
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    /,
) -> GuidanceFree:
    """Train a denoiser that is guided at scale ``1 / beta``, beta an input of the network.

    The published range is ``model.inputs.beta=(0.0, 1.0)``, the input beginning at zero, which
    suits a fine-tuned network (``training.init_from``). Sampled as ``denoiser.bind(beta=1/3)`` it
    is CFG at scale 3 in one evaluation. The gradient of a sample carries a factor beta: scales far
    above those of most draws are learnt slowly.

    Raises:
        UserError: a network without that input, one whose range does not end at 1, or one whose
            condition is no label with a null.

    Source: Chen et al., arXiv 2501.15420.
    """
    beta = dict(spec.inputs).get(BETA)
    if beta is None:
        raise UserError(
            "training.loss: gft makes the inverse of the guidance scale an input of the network: "
            "set model.inputs.beta=(0.0, 1.0)"
        )
    if not (0 <= beta.low < beta.high == 1):
        raise UserError(
            f"model.inputs.beta is the inverse of a guidance scale, from 0 or above to 1, which is "
            f"no guidance: got {beta.low:g} to {beta.high:g}"
        )
    return GuidanceFree(preconditioner, corruption, weighting, beta, null_of(spec, "gft"))


@register("loss", "2502.12154")
def model_guidance(
    spec: Spec,
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    /,
    scale: float | None = None,
    start: int = 0,
    target_decay: float = 0.9999,
) -> ModelGuidance:
    """Train a denoiser that is guided at one scale, or at any of a range (MG).

    The paper's weight is ``w = 1 - 1 / scale``, which is below 1: no scale is out of reach, but
    each refresh of the average brings the network nearer by a factor w alone, so that a scale of 8
    takes several of the average's lengths.

    Args:
        scale: 1 is off; left out where ``model.inputs.scale`` is the range that is trained.
        start: steps of plain training first.
        target_decay: of the average that stands for the network in its own target; 0 is itself.

    Raises:
        UserError: no scale, two of them, one below 1, a range that leaves 1 out, or a network
            whose condition is no label with a null.

    Source: Tang et al., arXiv 2502.12154; of a range, Geng et al., arXiv 2512.02012.
    """
    taken = scale_of(spec)
    if (scale is None) == (taken is None):
        raise UserError(
            "training.loss: model_guidance takes one scale, as training.loss.scale=2.0, or a range "
            "of them as the network's input, model.inputs.scale=(1.0, 4.0)"
        )
    if taken is not None and taken.low != 1:
        raise UserError(
            f"model.inputs.scale begins at {taken.low:g}: a network that guides itself is trained "
            f"from 1, its plain prediction, upwards"
        )
    given: dict[str, Any] = {"start": start, "target_decay": target_decay}
    ranges = {
        "start": count(0, "0 is at once"),
        "target_decay": share(open_high=True, hint="0 is the network itself"),
    }
    require_ranges("training.loss", given, ranges)
    if scale is not None and scale < 1:
        raise UserError(f"training.loss.scale is {scale}: 1 is no guidance, give it or more")
    return ModelGuidance(
        preconditioner,
        corruption,
        weighting,
        null_of(spec, "model_guidance"),
        scale,
        taken,
        start,
        constant(target_decay) if target_decay else None,
    )


def null_of(spec: Spec, name: str) -> int:
    """Return the label that stands for none.

    Raises:
        UserError: a network whose condition is no label with a null.
    """
    condition = spec.condition
    if not (isinstance(condition, Label) and condition.null):
        raise UserError(
            f"training.loss: {name} compares predictions with and without a class label: take a "
            f"network of model.num_classes with a null class"
        )
    return condition.num_classes
