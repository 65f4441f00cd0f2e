"""Distillation of a denoiser's output: the student learns what a frozen teacher would answer.

What the teacher predicts at the same noise level has the same mean as the data and less variance,
so that a small student learns from it in fewer steps (Hinton et al., arXiv 1503.02531, of classes).
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Role, Roles, over_elements
from ..noise.corruption import Corrupted, Corruption
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting
from .teacher import TEACHER, require_same_samples


@dataclasses.dataclass(frozen=True)
class ToTeacher:
    """``w(sigma) |D(x; sigma, c) - target|^2``, mean over a sample's elements.

    Attributes:
        preconditioner: of the network that is trained.
        corruption: noise levels and noise; without augmentation, which no teacher is told of.
        weighting: w, of the error in x0.

    Raises:
        ValueError: augmentation.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting

    def __post_init__(self):
        if self.corruption.augment is not None:
            raise ValueError("a teacher is not told of augmentation: set augmentation.name none")

    def compared(
        self, main: Role, given: Corrupted, target: Array, **inputs: Array
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's error against a target that is held, and the target's own."""
        made = main.denoiser(
            given.noisy, given.sigma, given.condition, given.modes, **given.inputs, **inputs
        )
        weight = self.weighting(given.column, self.preconditioner)
        error = over_elements(jnp.mean, weight * (made - target) ** 2)
        of_data = over_elements(jnp.mean, weight * (target - given.clean) ** 2)
        return error, {"teacher_error": of_data}


@dataclasses.dataclass(frozen=True)
class DenoisingToTeacher(ToTeacher):
    """`ToTeacher` with what the teacher predicts itself."""

    roles: ClassVar[tuple[str, ...]] = (MAIN, TEACHER)

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the teacher's own error; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        of_teacher = roles[TEACHER].denoiser(given.noisy, given.sigma, given.condition)
        return self.compared(main, given, jax.lax.stop_gradient(of_teacher))


@register("loss", name="denoising_to_teacher")
def denoising_to_teacher(
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    specs: Mapping[str, Spec],
    /,
) -> DenoisingToTeacher:
    """Minimise the distance to what a frozen teacher predicts.

    Raises:
        UserError: a teacher of other samples or conditions, or one that is no denoiser.
    """
    main, teacher = specs[MAIN], specs.get(TEACHER)
    if teacher is not None:
        require_same_samples(main, teacher, TEACHER)
    return DenoisingToTeacher(preconditioner, corruption, weighting)
