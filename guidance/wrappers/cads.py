"""Condition-annealed sampling: noise on the condition while sigma is large, for diversity.

Sadat et al., arXiv 2310.17347.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.noise_levels import TIMES, checked_time
from ...core.pytrees import pytree, replaced, static
from ...core.random import CONDITION_NOISE, folded, normal_like, require_keys
from ...core.registry import register
from ...core.sites import CONDITION_EMBEDDING
from ..protocol import CLASSIFIER, GIVEN, NULL, Around, Branch, Rule, require_finite, single
from ..pushes import Chain, Push, Stateless, ratio
from .wrapper import Wrapper

NAME = "annealed_condition"
PARTS = (
    "guidance.cads: a condition of several parts has no one embedding to anneal; condition the "
    "network on one array, of labels or of embeddings"
)


def annealing(sigma: Float[Array, ""], tau1, tau2, time: str) -> Float[Array, ""]:
    """Return gamma, the share of the condition that is left: 1 up to tau1, 0 from tau2 on."""
    t = jnp.asarray(TIMES[time](sigma))
    tau1, tau2 = single("tau1", tau1, t.dtype), single("tau2", tau2, t.dtype)
    return jnp.clip((tau2 - t) / (tau2 - tau1), 0, 1)


@pytree
class AnnealedCondition:
    """Replace a condition's embedding by a noisy one.

    ``y' = sqrt(gamma) y + noise sqrt(1 - gamma) n``, then moved and stretched to the mean and
    standard deviation of y (per sample, over everything in it), of which ``mixing`` is kept.

    Attributes:
        keys: one a sample; the same in every branch of one evaluation.
        gamma: share of the condition that is left; 1 returns the embedding bit for bit.
        noise: standard deviation of the noise at gamma 0.
        mixing: share of the restored statistics.
    """

    keys: Key[Array, " batch"]
    gamma: float | Array
    noise: float | Array
    mixing: float | Array

    name: ClassVar[str] = NAME
    site: ClassVar[str] = CONDITION_EMBEDDING
    layers: ClassVar[None] = None

    def condition_embedding(self, embedding, table=None):
        del table
        y = embedding.astype(jnp.promote_types(embedding.dtype, jnp.float32))
        gamma, noise, mixing = (
            jnp.asarray(number, y.dtype) for number in (self.gamma, self.noise, self.mixing)
        )

        def statistics(array):
            axes = tuple(range(1, array.ndim))
            return array.mean(axis=axes, keepdims=True), array.std(axis=axes, keepdims=True)

        noisy = jnp.sqrt(gamma) * y + noise * jnp.sqrt(1 - gamma) * normal_like(self.keys, y)
        (mean, spread), (noisy_mean, noisy_spread) = statistics(y), statistics(noisy)
        restored = (noisy - noisy_mean) * ratio(spread, noisy_spread) + mean
        mixed = mixing * restored + (1 - mixing) * noisy
        return jnp.where(gamma == 1, embedding, mixed.astype(embedding.dtype))


class Annealed(Around):
    """An ``evaluate`` whose given condition, and null one where asked, is annealed by a mode."""

    def __init__(self, evaluate, mode: AnnealedCondition, null_noised: bool):
        super().__init__(evaluate)
        self._mode, self._null_noised = mode, null_noised
        # A caller's own embedding is annealed as it stands: no site of the network is needed.
        self._array = None
        if not (self.condition is None or hasattr(self.condition, "dtype")):
            raise ValueError(PARTS)
        if self.condition is not None and jnp.issubdtype(self.condition.dtype, jnp.floating):
            if null_noised:
                raise ValueError(
                    "guidance.cads: null_noised needs labels as the condition: of a condition "
                    "that is an embedding already, the null one is known to the network alone"
                )
            self._array = mode.condition_embedding(jnp.asarray(self.condition))

    def __call__(self, branches, x=None, sigma=None):
        return self._evaluate(tuple(map(self._annealed, branches)), x, sigma)

    def _annealed(self, branch: Branch) -> Branch:
        if branch.network == CLASSIFIER:
            return branch
        conditions = (GIVEN, NULL) if self._null_noised else (GIVEN,)
        if isinstance(branch.condition, Mapping):
            raise ValueError(PARTS)
        if not isinstance(branch.condition, str) or branch.condition not in conditions:
            return branch
        name = f"{branch.name}_{NAME}"
        if self._array is not None:
            return dataclasses.replace(branch, condition=self._array, name=name)
        # Before the branch's own modes: one that replaces the embedding (`icg`) has the last word.
        return dataclasses.replace(branch, modes=(self._mode, *branch.modes), name=name)


@pytree
class DynamicWeight(Stateless):
    """Turn a push of ``(w - 1) (D_main - D_ref)`` into one of ``gamma w - 1`` times the same."""

    tau1: float | Array
    tau2: float | Array
    time: str = static()

    def push_of(self, push, context):
        sigma = jnp.asarray(context.sigma, push.dtype)
        gamma = annealing(sigma, self.tau1, self.tau2, self.time)
        # gamma (push + delta) - delta, in the form that is the push bit for bit at gamma 1.
        return push + (gamma - 1) * (push + (context.main - context.reference))


@pytree
class Cads(Wrapper):
    """A rule whose networks see an annealed condition."""

    rule: Rule
    tau1: float | Array
    tau2: float | Array
    noise: float | Array
    mixing: float | Array
    null_noised: bool = static()
    time: str = static()

    def init(self, x):
        return self.rule.init(x)

    def holds_at(self, sigma: float) -> bool:
        """Return whether the condition is annealed at a noise level; true of traced times."""
        return not _known(self.tau1) or bool(TIMES[self.time](sigma) > self.tau1)

    def apply(self, evaluate, x, sigma, state, key):
        gamma = annealing(jnp.asarray(sigma, x.dtype), self.tau1, self.tau2, self.time)
        keys = folded(require_keys("cads", key), CONDITION_NOISE)
        noise = single("noise", self.noise, x.dtype)
        mixing = single("mixing", self.mixing, x.dtype)
        mode = AnnealedCondition(keys, gamma, noise, mixing)
        return self.rule.apply(Annealed(evaluate, mode, self.null_noised), x, sigma, state, key)


@register("rule", "2310.17347")
def cads(
    rule: Rule,
    tau1: float | Array = 0.6,
    tau2: float | Array = 0.9,
    noise: float | Array = 0.25,
    mixing: float | Array = 1.0,
    *,
    null_noised: bool = False,
    dynamic: bool = False,
    time: str = "vp",
) -> Cads:
    r"""Return a rule whose given condition is drowned in noise early on, and clear at the end.

    The condition's embedding y becomes ``sqrt(gamma) y + noise sqrt(1 - gamma) n``, whose mean and
    standard deviation are then set to those of y; gamma is 1 up to the time tau1 and falls to 0 at
    tau2. n is drawn anew at every evaluation, and is the same in all branches of one sample;
    statistics are each branch's own. Costs no evaluation.

    A condition that is a floating-point array ``[batch, ...]`` is itself the embedding. Otherwise
    the network has to offer its ``condition_embedding``. Branches of a fixed label or array keep
    theirs. Rules on ready-made predictions cannot edit a condition: `combine` asks for
    predictions made with an annealed one, by the name ``given_annealed_condition``.

    Equation:
        \hat y = \sqrt{\gamma(t)} y + s \sqrt{1 - \gamma(t)} n

    When to use: When samples of one condition look too much alike. The condition is drowned in
    noise while the layout is decided; more noise or a lower tau1 gives more variety and less
    fidelity.

    Args:
        rule: any rule.
        tau1, tau2: times, ``0 <= tau1 < tau2 <= 1``; up to the first the condition is clear,
            from the second on there is noise alone. The defaults are the paper's for Stable
            Diffusion, as is that of ``noise``.
        noise: the paper's s; the paper's values on ImageNet are smaller, 0.1 to 0.15.
        mixing: the paper's psi: 1 restores y's mean and standard deviation, 0 leaves the noisy
            ones, which is more diverse and less faithful.
        null_noised: anneal the null condition too. (Ports do; the paper names the condition
            alone.)
        dynamic: multiply the whole weight of the push by gamma, so that scale 1 is not off any
            more. Needs a `push`-like rule.
        time: which time tau1 and tau2 are, ``vp`` or ``flow`` (see `samplers.convert`).

    Raises:
        ValueError: times out of order, a negative noise, mixing outside [0, 1], an unknown time.
        TypeError: no rule, or one without a push where ``dynamic`` is on.

    Source: Sadat et al., arXiv 2310.17347.
    """
    require_finite("cads", tau1=tau1, tau2=tau2, noise=noise, mixing=mixing)
    if _known(tau1, tau2) and not 0 <= tau1 < tau2 <= 1:
        raise ValueError(f"guidance.cads: need 0 <= tau1 < tau2 <= 1, got {tau1} and {tau2}")
    if _known(noise) and noise < 0:
        raise ValueError(f"guidance.cads: noise must not be negative, got {noise}")
    if _known(mixing) and not 0 <= mixing <= 1:
        raise ValueError(f"guidance.cads: mixing must lie in [0, 1], got {mixing}")
    time = checked_time("cads", time)
    if dynamic:
        rule = _dynamic(rule, tau1, tau2, time)
    return Cads(rule, tau1, tau2, noise, mixing, bool(null_noised), time)


def _dynamic(rule: Any, tau1, tau2, time: str) -> Push:
    if not isinstance(rule, Push):
        raise TypeError(
            f"guidance.cads: dynamic multiplies the weight of one push, and {type(rule).__name__} "
            f"is none: put cads inside, as in between(cads(cfg(4.0), dynamic=True), low, high)"
        )
    transform = Chain((rule.transform, DynamicWeight(tau1, tau2, time)))
    return replaced(rule, transform=transform)


def _known(*numbers: Any) -> bool:
    return all(isinstance(number, (int, float)) for number in numbers)
