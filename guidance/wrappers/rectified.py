"""Rectified gradient guidance, REG: the push times the network's gradient (arXiv 2501.18865)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.constructors import name_of
from ...core.pytrees import pytree, replaced
from ...core.registry import register
from ..gradients import pull
from ..protocol import Unguided
from ..pushes import Chain, Push, Stateless
from .known import Known
from .wrapper import Wrapper


@pytree
class Multiply(Stateless):
    """Multiply the push element by element."""

    by: Float[Array, " batch *shape"]

    def push_of(self, push, context):
        del context
        return push * self.by


@pytree
class Rectified(Wrapper):
    """A push multiplied by the sensitivity of the plain prediction, before its transforms."""

    rule: Push

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        plain, _, back = pull(evaluate, Unguided(), x, sigma, (), key)
        main = plain.denoised
        sensitivity = back(jnp.ones_like(main))
        transform = Chain((Multiply(sensitivity), self.rule.transform))
        known = Known(evaluate, main)
        rule = replaced(self.rule, transform=transform)
        guided, (_, state) = rule.apply(known, x, sigma, ((), state), key)
        if not known.used:
            raise TypeError(
                f"guidance.reg: {name_of(self.rule)} does not push the plain prediction, whose "
                f"gradient this needs: put it around a push such as cfg or autoguidance"
            )
        return guided, state


@register("rule", "2501.18865")
def reg(rule: Push) -> Rectified:
    r"""Return a push rectified by the network's gradient, ``J * (D_main - D_ref)``.

    ``J = d(sum of D_main)/dx``, an array like x: the prediction's sensitivity to each input. It
    multiplies the push element by element before the push's transforms, so ``reg(cfg(scale))`` is
    ``D_given + (scale - 1) J * (D_given - D_null)``, and scale 0 need not be the reference. It
    costs no further forward pass, but a backward pass through the plain one. (The paper's weight
    is ``scale - 1``.)

    Equation:
        D = D_y + (w - 1) J \odot \Delta, \quad J = \nabla_x \textstyle\sum D_y

    When to use: To bring CFG closer to the guidance that its theory asks for, where memory and
    time allow a backward pass at every evaluation.

    Args:
        rule: a push, `cfg`, `autoguidance`, `apg`, ...; intervals and condition edits go around:
            ``between(reg(cfg(2.0)), 0.3, 3.0)``.

    Raises:
        TypeError: no push; when traced, one whose main prediction is not the plain one.

    Source: Gao et al., arXiv 2501.18865 (there for the noise prediction, and in EDM's
    coordinates as here).
    """
    return Rectified(rule)
