"""Condition contrastive alignment (CCA): right labels are made likelier than wrong ones.

Chen et al., arXiv 2410.09347. A frozen network is the reference, the role ``teacher``, which is
what the training begins from; only its classes are compared, so that no prediction without a label
is needed.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.checks import positive, require_ranges
from ...core.random import fold_each
from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ...models.spec import Spec
from ..losses.denoising import weighted_error
from ..losses.loss import MAIN, Batch, Roles
from ..noise.corruption import Corruption, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting
from .guidance_free import evaluated, null_of
from .scales import OWN
from .teacher import TEACHER, require_alike


@dataclasses.dataclass(frozen=True, eq=False)
class Contrastive:
    """``-log s(b r(x, c)) - l log s(-b r(x, c'))``, divided by max(l, 1); s the logistic function.

    ``r = (|D_ref - x0|^2 - |D - x0|^2) w(sigma) / 2``, summed over the elements, is the logarithm
    of the ratio of two Gaussian densities of x0 around the predictions, of variance ``1 / w``; c'
    is a class drawn at random. Samples without a label are left out.

    Attributes:
        preconditioner, corruption, weighting: as of `losses.Denoising`.
        classes: their number, which stands for no label too.
        beta: b.
        negatives: l.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting
    classes: int
    beta: float
    negatives: float

    roles = (MAIN, TEACHER)
    trained = ()

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and r of its own and of another class; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        given = self.corruption(main.network, batch, keys, span)
        own = fold_each(keys, OWN)
        other = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.classes))(own)
        reference = roles[TEACHER].held

        def ratio(labels):
            at = given._replace(condition=labels)
            size = given.clean[0].size
            # One weight for both, whatever the reference's own preconditioner is.
            learnt, fixed = (
                size * weighted_error(self.weighting, self.preconditioner, given.column, found)
                for found in (
                    outcome(main.denoiser, at),
                    outcome(reference.denoiser, evaluated(at)),
                )
            )
            return (fixed - learnt) / 2

        right, wrong = ratio(given.condition), ratio(other.astype(given.condition.dtype))
        value = -jax.nn.log_sigmoid(self.beta * right)
        value = value - self.negatives * jax.nn.log_sigmoid(-self.beta * wrong)
        value = value / max(self.negatives, 1.0)
        value = jnp.where(given.condition == self.classes, 0.0, value)
        return value, {"ratio": right, "ratio_of_another": wrong}


@register("loss", "2410.09347")
def cca(
    spec: Spec,
    specs: Mapping[str, Spec],
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    /,
    beta: float = 1.0,
    negatives: float = 1.0,
) -> Contrastive:
    """Fine-tune a conditional denoiser by condition contrastive alignment.

    Of a model with a density the optimum is ``p_ref (p(x|c) / p(x))^(1/beta)``, the tilt at scale
    ``1 + 1/beta`` where the reference ``roles.teacher``, the network that the training begins from,
    is p(x|c). A denoiser has no density: here a Gaussian around its prediction stands for that of
    x0 given the noisy sample. Then the fixed point is the prediction guided at ``1 + 1/beta`` to
    first order in the distance of the classes, where ``1 / w(sigma)`` is the variance v of x0
    there: with the default weighting it is, for Gaussian data of std ``sigma_data`` under EDM's
    preconditioning. Otherwise it is guided at ``1 + 1 / (beta v w)``.

    Args:
        beta: the excess of the scale over 1 is its inverse.
        negatives: weight of the wrong classes; 1 is right to first order, more pushes on from
            every class (language models take 50 to 1000).

    Raises:
        UserError: a number that is not above 0, a network whose condition is no label with a null,
            or a reference that does not fit.

    Source: Chen et al., arXiv 2410.09347; the denoiser's form is ours, after Wallace et
    al., arXiv 2311.12908.
    """
    given = {"beta": beta, "negatives": negatives}
    require_ranges("training.loss", given, dict.fromkeys(given, positive()))
    classes = null_of(spec, "cca")
    if TEACHER in specs:
        require_alike(spec, specs[TEACHER], TEACHER)
    return Contrastive(
        preconditioner, corruption, weighting, classes, float(beta), float(negatives)
    )
