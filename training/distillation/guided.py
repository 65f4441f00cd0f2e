"""Guidance distillation, stage one: a guided prediction in one evaluation, at any scale of a range.

Meng et al., arXiv 2210.03142. Any rule that is a field can be the teacher; its scale is an input of
the student, ``model.inputs.scale``, whose range says which scales are drawn. The student stays a
denoiser: every solver takes it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, Key

from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Roles
from ..noise.corruption import Corruption
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting
from .output import ToTeacher
from .scales import NAME, drawn, scale_of
from .teacher import Teacher, teacher_of


@dataclasses.dataclass(frozen=True, eq=False)
class GuidedDistillation(ToTeacher):
    """`ToTeacher` with a rule's prediction, which is the optimum at every noise level and scale.

    Attributes:
        teacher: the rule.
        roles: the networks that take part.
        scale: the student's input; None where the rule's scale is fixed.
    """

    teacher: Teacher
    roles: tuple[str, ...]
    scale: ScalarInput | None = None

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
        return self.compared(main, given, target, **inputs)


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
