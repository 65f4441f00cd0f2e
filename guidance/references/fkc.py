"""Feynman-Kac corrected guidance: CFG that knows how its samples must be weighted (2503.02819)."""

from jaxtyping import Array

from ...core.pytrees import pytree
from ...core.registry import register
from ..protocol import MAIN, Guided, per_sample, require_finite
from ..pushes import Reference, inner, norm
from .cfg import null


@pytree
class FeynmanKac:
    """A scaled push, with the rate at which the weight of a sample grows along its path."""

    scale: float | Array
    reference: Reference

    def init(self, x):
        del x
        return ()

    def apply(self, evaluate, x, sigma, state, key):
        main, reference = self.reference.predictions(evaluate, x, sigma, key)
        scale = per_sample("scale", self.scale, main)
        push = (scale - 1) * (main - reference)
        # The difference of the two scores: its square is in range where sigma^4 need not be.
        scores = (main - reference) / sigma**2
        rate = scale * (scale - 1) / 2 * inner(scores, scores)
        info = {"push_norm": norm(push).reshape(-1), "log_weight_rate": rate.reshape(-1)}
        return Guided(main + push, None, info), state

    def at(self, sigma):
        del sigma
        return self


@register("rule", "2503.02819")
def fkc(scale: float | Array, *, network: str = MAIN) -> FeynmanKac:
    r"""Return classifier-free guidance with the weights that make it sample what it names.

    ``D = D_null + scale * (D_given - D_null)`` follows the score of
    ``p_given^scale p_null^(1 - scale)`` at every noise level, but does not arrive at that
    distribution. It does with samples weighted by

    ``d log W = scale (scale - 1) / 2 |D_given - D_null|^2 / sigma^4 (sigma^2 - sigma'^2)``.

    ``info["log_weight_rate"]`` carries the factor before the parenthesis, which
    `samplers.feynman_kac` integrates and resamples by. Other solvers leave the weights aside: the
    rule is `cfg` there.

    Equation:
        d \log W = \tfrac12 w (w - 1) \lVert D_y - D_\varnothing \rVert^2 \sigma^{-4} d\sigma^2

    When to use: To sample the distribution that CFG's formula names, where few dimensions and
    many particles make that possible. Particles of a group depend on each other.

    Args:
        scale: 1 and 0 need no weights: they are the plain prediction and the reference.
        network: which network gives the unconditional prediction.

    Raises:
        ValueError: scale not finite.

    Source: Skreta et al., arXiv 2503.02819, the proposition on classifier-free guidance.
    """
    require_finite("fkc", scale=scale)
    return FeynmanKac(scale, null(network))
