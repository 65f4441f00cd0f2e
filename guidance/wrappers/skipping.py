"""Adaptive guidance: no reference once it agrees (Castillo et al., arXiv 2312.12487)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...core.constructors import name_of
from ...core.pytrees import pytree, replaced
from ...core.registry import register
from ..protocol import Branch, Guided, per_sample, require_finite
from ..pushes import At, Chain, Perturbed, Push, inner, norm, ratio
from .known import Known
from .wrapper import Wrapper


@pytree
class Drop:
    """No push for the samples whose two predictions have once been aligned."""

    threshold: float | Array

    def init(self, x):
        return jnp.zeros(x.shape[0], bool)

    def apply(self, push, context, state):
        main, reference = context.main, context.reference
        cosine = ratio(inner(main, reference), norm(main) * norm(reference))
        # Rounding must not lift parallel predictions above a threshold of 1.
        cosine = jnp.minimum(cosine, 1)
        aligned = cosine > per_sample("threshold", self.threshold, push)
        return jnp.where(_like(state, push), 0, push), state | aligned.reshape(-1)


@pytree
class SkipAligned(Wrapper):
    """A push whose reference is evaluated until every sample has dropped it."""

    rule: Push
    threshold: float | Array

    def init(self, x):
        return self._dropping().init(x)

    def apply(self, evaluate, x, sigma, state, key):
        (main,) = evaluate((Branch(),))
        _, dropped = state

        def pushed(state):
            guided, state = self._dropping().apply(Known(evaluate, main), x, sigma, state, key)
            if self.rule.renoise:
                kept = jnp.where(_like(dropped, main), main, guided.renoise_from)
                guided = guided._replace(renoise_from=kept)
            return guided, state

        def plain(state):
            info = {"push_norm": jnp.zeros(x.shape[0], main.dtype)}
            return Guided(main, main if self.rule.renoise else None, info), state

        guided, state = jax.lax.cond(jnp.all(dropped), plain, pushed, state)
        return guided._replace(info=guided.info | {"skipped": dropped.astype(main.dtype)}), state

    def _dropping(self):
        transform = Chain((self.rule.transform, Drop(self.threshold)))
        return replaced(self.rule, transform=transform)


@register("rule", "2312.12487")
def skip_aligned(rule: Push, threshold: float | Array = 0.991) -> SkipAligned:
    r"""Return a push that a sample drops for good once ``cos(D_main, D_ref) > threshold``.

    The evaluation that finds a sample aligned is still pushed; from the next one on the sample
    keeps the plain prediction. Once all samples of the batch have dropped the reference it is no
    longer evaluated; what a sample becomes never depends on the others. The main prediction and
    the reference are evaluated one after the other, never in one stacked call.

    Equation:
        \cos(D_y, D_\varnothing) > c \implies D = D_y \text{ from then on}

    When to use: To save the reference's evaluations once it agrees with the plain prediction,
    with nearly the same samples. Choose the threshold for the network.

    Args:
        rule: a push away from one branch: `cfg`, `autoguidance`, `apg`, ...; intervals go around.
        threshold: cosine of the angle between the two x0 predictions; 1 never skips. The default
            is the paper's, for the noise predictions of its own model, so choose it anew.

    Raises:
        TypeError: no push, or one whose reference is more than one branch.
        ValueError: threshold not finite.

    Source: Castillo et al., arXiv 2312.12487, section 5.
    """
    require_finite("skip_aligned", threshold=threshold)
    if not isinstance(rule.reference, (At, Perturbed)):
        raise TypeError(
            f"guidance.skip_aligned: the reference {name_of(rule.reference)} takes more than one "
            f"branch: choose one of a single branch, such as null or weak"
        )
    return SkipAligned(rule, threshold)


def _like(flags, samples):
    return flags.reshape((-1,) + (1,) * (samples.ndim - 1))
