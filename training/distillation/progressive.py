"""Progressive distillation: two steps of the teacher become one of the student, again and again.

Salimans and Ho, arXiv 2202.00512; stage two of guidance distillation, arXiv 2210.03142. After every
so many updates the student becomes the teacher and the steps are halved, within one run: the
teacher is an average of the student that is copied at these steps and left alone between.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from ... import samplers
from ...core.errors import UserError
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...guidance import unguided
from ...models.preconditioning import Preconditioner
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Roles, column, over_elements
from ..noise.corruption import NOISE, SIGMA, condition_of
from ..noise.levels import WHOLE, shares
from ..noise.weightings import Weighting
from .curricula import halved_steps, stage
from .scales import drawn, scale_of
from .teacher import TEACHER, Teacher

# Ends of the published schedule in log-SNR, either sign.
LOG_SNR = 20.0
GRIDS = ("cosine", "karras")


@dataclasses.dataclass(frozen=True)
class StepGrid:
    """Noise levels of a sampler of any number of equal steps, in time from 0 to 1; 0 is the data.

    Attributes:
        name: ``cosine``, the published one: ``sigma = tan`` of an angle that grows evenly, between
            log-SNRs of 20 and -20; or ``karras``.
        low, high: lowest and highest noise level of ``karras``.
    """

    name: str = "cosine"
    low: float = 0.002
    high: float = 80.0

    def level(self, time: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Return sigma at a time in (0, 1]; exactly 0 at 0, where samplers end."""
        time = jnp.asarray(time)
        if self.name == "cosine":
            begin, end = math.atan(math.exp(-LOG_SNR / 2)), math.atan(math.exp(LOG_SNR / 2))
            inner = jnp.tan(begin + (end - begin) * time)
        else:
            bottom, top = (value ** (1 / 7) for value in (self.low, self.high))
            inner = (bottom + time * (top - bottom)) ** 7
        return jnp.where(time > 0, inner, 0.0)

    def levels(self, steps: int) -> np.ndarray:
        """Return the decreasing levels that a student of so many steps is sampled on, with 0."""
        return np.asarray(self.level(np.arange(steps, -1, -1) / steps), np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Progressive:
    """The student's prediction against the one whose single step lands where two steps do.

    ``x~ = (x'' - (s''/s) x) / (1 - s''/s)``, x'' two Euler steps of the teacher from s over the
    middle node to s''; ``w(sigma) |D(x; sigma) - x~|^2``, mean over a sample's elements.

    Attributes:
        preconditioner: of the network.
        weighting: w, of the error in x0.
        grid: of the noise levels.
        start: steps of the first teacher, a power of two.
        updates: steps of training between halvings.
        scale: an input of the network that both student and teacher are given; None for none.
    """

    preconditioner: Preconditioner
    weighting: Weighting
    grid: StepGrid
    start: int
    updates: int
    scale: ScalarInput | None = None

    roles: ClassVar[tuple[str, ...]] = (MAIN,)

    def target_average(self, step: Int[ArrayLike, ""]) -> Float[Array, ""]:
        """Return the weight that the teacher keeps: 0, a copy, after the last update of a stage."""
        last = int(math.log2(self.start)) - 1
        now, before = (stage(jnp.asarray(step) - n, self.updates, last) for n in (0, 1))
        return jnp.where(now > before, 0.0, 1.0)

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the number of the student's steps; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        steps = halved_steps(main.step, self.start, self.updates)
        clean, inputs = batch["x"], drawn(self.scale, keys)
        condition = condition_of(main.network, batch)
        share = shares(fold_each(keys, SIGMA), span)
        index = jnp.clip((share * steps).astype(jnp.int32), 0, steps - 1)
        # Of time: from the student's node over the teacher's to the student's next.
        nodes = (2 * (index + 1) - jnp.arange(3)[:, None]) / (2 * steps)
        levels = self.grid.level(nodes)
        begin, end = (column(levels[row], clean) for row in (0, 2))
        noisy = clean + begin * normal_like(fold_each(keys, NOISE), clean)
        teacher = Teacher(lambda _: unguided(), solver=samplers.euler())
        field = teacher.field({TEACHER: main.target_role}, condition, **inputs)
        landed = field.walk(noisy, levels)
        ratio = end / begin
        target = (landed - ratio * noisy) / (1 - ratio)
        made = main.denoiser(noisy, levels[0], condition, **inputs)
        weight = self.weighting(begin, self.preconditioner)
        error = over_elements(jnp.mean, weight * (made - target) ** 2)
        return error, {"steps": jnp.broadcast_to(steps.astype(jnp.float32), error.shape)}


@register("loss", "2202.00512", "2210.03142")
def progressive(
    spec: Spec,
    preconditioner: Preconditioner,
    weighting: Weighting,
    /,
    start: int = 64,
    updates: int = 50_000,
    grid: str = "cosine",
) -> Progressive:
    """Halve the steps of a sampler, again and again, down to one.

    The first teacher is what the network begins from (``training.init_from``), a denoiser; one that
    takes a scale keeps it. After ``updates`` steps of training the student has ``start / 2`` steps,
    and so on: train for ``log2(start) * updates``. Sample it by `samplers.euler` on the levels of
    its last stage (``StepGrid(grid).levels(steps)``, `samplers.explicit`): on others it is wrong.
    The published weighting is ``truncated_snr``; the published networks have no dropout.

    Args:
        start: steps of the first teacher, a power of two above 1.
        updates: steps of training a halving.
        grid: ``cosine``, or ``karras`` between the network's own noise levels.

    Raises:
        UserError: a number that is none of these, or a consistency function.

    Source: Salimans & Ho, arXiv 2202.00512, algorithm 2.
    """
    if start < 2 or start & (start - 1):
        raise UserError(f"training.loss.start is a power of two above 1, got {start}")
    if updates < 1:
        raise UserError(f"training.loss.updates counts steps from 1, got {updates}")
    if grid not in GRIDS:
        raise UserError(f"training.loss.grid {grid!r} is not one of {', '.join(GRIDS)}")
    if getattr(preconditioner, "estimate", "x0") != "x0":
        raise UserError(
            "training.loss: progressive halves the steps of a denoiser: set another "
            "model.preconditioner"
        )
    levels = StepGrid(grid, *spec.sigma_range)
    return Progressive(preconditioner, weighting, levels, start, updates, scale_of(spec))
