"""Several pushes at once, each with its own reference, scale and interval."""

from typing import Any

from jaxtyping import Array

from ...core.pytrees import pytree, replaced
from ...core.random import folded
from ...core.registry import register
from ..protocol import Around, Branch, Guided, Rule, Unguided, require_finite
from ..references.autoguidance import autoguidance
from ..references.cfg import cfg


class Shared(Around):
    """An ``evaluate`` that asks for each prediction once."""

    def __init__(self, evaluate):
        super().__init__(evaluate)
        self._known, self._kept = {}, []
        self._level = _trace()

    def __call__(self, branches, x=None, sigma=None):
        # What a rule evaluates inside a conditional or derivative of its own is no use outside.
        if x is not None or sigma is not None or _trace() != self._level:
            return self._evaluate(branches, x, sigma)
        self._kept.append(branches)  # what is kept alive keeps its identity
        new = {_identity(b): b for b in branches if _identity(b) not in self._known}
        if new:
            self._known |= dict(zip(new, self._evaluate(tuple(new.values())), strict=True))
        return tuple(self._known[_identity(branch)] for branch in branches)


def _trace() -> Any:
    """Return what tells the trace at hand from others."""
    # Imported when it is needed: it takes a fifth of the time that jax itself takes.
    from jax.extend.core import get_opaque_trace_state

    return get_opaque_trace_state()


def _identity(branch: Branch):
    condition = branch.condition if isinstance(branch.condition, str) else id(branch.condition)
    return branch.network, condition, tuple(map(id, branch.modes))


@pytree
class Together:
    """Add up what several rules do to the same prediction."""

    rules: tuple[Rule, ...]

    def init(self, x):
        return tuple(rule.init(x) for rule in self.rules)

    def apply(self, evaluate, x, sigma, state, key):
        evaluate = Shared(evaluate)
        (main,) = evaluate((Branch(),))
        total, info, states, sources = main, {}, [], []
        for number, (rule, own) in enumerate(zip(self.rules, state, strict=True)):
            guided, own = rule.apply(evaluate, x, sigma, own, folded(key, number))
            total = total + (guided.denoised - main)
            info |= {f"{name}_{number}": value for name, value in guided.info.items()}
            states.append(own)
            sources.append(guided.renoise_from)
        renoise_from = next((source for source in sources if source is not None), None)
        return Guided(total, renoise_from, info), tuple(states)

    def at(self, sigma):
        rules = tuple(rule.at(sigma) for rule in self.rules)
        if all(new is old for new, old in zip(rules, self.rules, strict=True)):
            return self
        if all(isinstance(rule, Unguided) for rule in rules):
            return Unguided()
        return replaced(self, rules=rules)


@register("rule")
def together(*rules: Rule) -> Together:
    r"""Return ``D_main + sum_i (D_i - D_main)``, where ``D_i`` is what rule i makes of it alone.

    ``together(cfg(2.0), between(autoguidance(1.5), 0.3, 3.0))`` pushes away from the null
    condition and from a weak network, each with its own scale and interval. Predictions that
    several rules ask for are evaluated once.

    Equation:
        D = D_y + \sum_i (D_i - D_y)

    When to use: To add up pushes with different references, each with its own scale and
    interval. What several of them evaluate is evaluated once.

    Raises:
        ValueError: no rules.
        TypeError: something that is no rule.
    """
    if not rules:
        raise ValueError("guidance.together: give at least one rule")
    return Together(rules)


@register("rule", "2406.02507")
def cfg_and_autoguidance(scale: float | Array, mix: float | Array = 0.5) -> Together:
    r"""Return autoguidance and CFG at once, sharing one scale.

    ``D_given + (1 - mix) (scale - 1) (D_given - D_null) + mix (scale - 1) (D_given - D_guide)``.

    Equation:
        D = D_y + (w - 1) \left((1 - m) (D_y - D_\varnothing) + m (D_y - D_\text{guide})\right)

    When to use: Where a condition is followed too loosely under autoguidance alone, as with
    texts: one scale, and a number that mixes the two.

    Args:
        scale: 1 is off.
        mix: 0 is CFG, 1 autoguidance.

    Raises:
        ValueError: an argument that is not finite.

    Source: Karras et al., arXiv 2406.02507, appendix on text-conditional guidance.
    """
    require_finite("cfg_and_autoguidance", scale=scale, mix=mix)
    return together(
        cfg((1 - mix) * (scale - 1) + 1),
        autoguidance(mix * (scale - 1) + 1),
    )
