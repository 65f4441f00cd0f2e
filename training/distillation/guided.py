"""Guidance distillation, stage one: a guided prediction in one evaluation, at any scale of a range.

Meng et al., arXiv 2210.03142. Any rule that is a field can be the teacher; its scale is an input of
the student, ``model.inputs.scale``, whose range says which scales are drawn. The student stays a
denoiser: every solver takes it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Roles, over_elements
from ..noise.corruption import Corruption
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting
from .scales import NAME, drawn, scale_of
from .teacher import Teacher, teacher_of


@dataclasses.dataclass(frozen=True, eq=False)
class GuidedDistillation:
    """``w(sigma) |D(x; sigma, c, scale) - D_rule(x; sigma, c)|^2``, mean over a sample's elements.

    Its optimum is the rule's prediction, at every noise level and scale.

    Attributes:
        preconditioner: of the network that is trained.
        corruption: noise levels and noise; without augmentation, which no teacher is told of.
        weighting: w, of the error in x0.
        teacher: the rule.
        roles: the networks that take part.
        scale: the student's input; None where the rule's scale is fixed.

    Raises:
        ValueError: augmentation.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting
    teacher: Teacher
    roles: tuple[str, ...]
    scale: ScalarInput | None = None

    def __post_init__(self):
        if self.corruption.augment is not None:
            raise ValueError("a teacher is not told of augmentation: set augmentation.name none")

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and how far from the data the teacher is; `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        inputs = drawn(self.scale, keys)
        field = self.teacher.field(roles, given.condition, scale=inputs.get(NAME))
        target = field.denoise(given.noisy, given.sigma)
        made = main.denoiser(
            given.noisy, given.sigma, given.condition, given.modes, **given.inputs, **inputs
        )
        weight = self.weighting(given.column, self.preconditioner)
        error = over_elements(jnp.mean, weight * (made - target) ** 2)
        of_data = over_elements(jnp.mean, weight * (target - given.clean) ** 2)
        return error, {"teacher_error": of_data}


@register("loss", "2210.03142")
def guided_distillation(
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    specs: Mapping[str, Spec],
    /,
    rule: Mapping[str, Any] = {"name": "cfg"},
) -> GuidedDistillation:
    """Minimise the distance to what a guidance rule predicts with frozen networks.

    With ``model.inputs.scale=(1.0, 5.0)`` one student serves all scales of that range, each drawn
    equally often, and the rule's own is left out. The published weighting is ``truncated_snr``, and
    the student begins as its teacher (``training.init_from``).

    Args:
        rule: a guidance rule's section; autoguidance asks the role ``guide`` beside ``teacher``.

    Raises:
        UserError: a rule that is no field or has no scale to leave open, a teacher that does not
            fit the student.

    Source: Meng et al., arXiv 2210.03142, eq. 2.
    """
    main = specs[MAIN]
    scale = scale_of(main)
    teacher = teacher_of(rule, specs=specs, scaled=scale is not None)
    roles = (MAIN, *teacher.roles(main.shape))
    return GuidedDistillation(preconditioner, corruption, weighting, teacher, roles, scale)
