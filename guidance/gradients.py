"""Gradients through a guided prediction: one vector-Jacobian product for all rules that climb.

``pull`` evaluates a rule once and returns the map ``g -> J^T g``, J the Jacobian of its prediction
in x, so that a rule around it can differentiate several things for one forward pass. Backward
passes are counted beside the evaluations of their network, ``main+grad``.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Key

from .protocol import Around, Branch, Evaluate, Guided, Rule

# What backward passes are counted by, behind the name of their network, and rewards.
GRADIENT = "+grad"
REWARD = "reward"


class Moved(Around):
    """An ``evaluate`` at another point, through which is differentiated."""

    def __init__(self, evaluate: Evaluate, x: Array):
        super().__init__(evaluate)
        self._x = x

    def __call__(self, branches, x=None, sigma=None):
        self.note(Counter(branch.network + GRADIENT for branch in branches))
        return self._evaluate(branches, self._x if x is None else x, sigma)


class Pulled(NamedTuple):
    """A guided prediction, and the way back through it.

    Attributes:
        guided: the rule's prediction.
        state: the rule's next one.
        back: ``g -> J^T g``, arrays like x.
    """

    guided: Guided
    state: Any
    back: Callable[[Array], Array]


def pull(
    evaluate: Evaluate,
    rule: Rule,
    x: Float[Array, " batch *shape"],
    sigma: Float[Array, ""],
    state: Any,
    key: Key[Array, " batch"] | None,
    *,
    remat: bool = False,
) -> Pulled:
    """Apply a rule and keep the way back through its prediction; one forward pass of each branch.

    Args:
        evaluate, x, sigma, state, key: as `Rule.apply` takes them.
        rule: whose prediction is differentiated; what it draws and remembers is held fixed.
        remat: compute the forward pass again on the way back instead of keeping what is inside.
    """

    def predict(at):
        guided, after = rule.apply(Moved(evaluate, at), at, sigma, state, key)
        return guided.denoised, (guided, after)

    predict = jax.checkpoint(predict) if remat else predict
    denoised, pullback, (guided, after) = jax.vjp(predict, x, has_aux=True)
    return Pulled(guided._replace(denoised=denoised), after, lambda g: pullback(g)[0])


def note(evaluate: Any, counts: dict[str, int]) -> None:
    """Tell whoever counts of work beside forward passes; most evaluates have nobody who does."""
    if hasattr(evaluate, "note"):
        evaluate.note(counts)


def note_gradient(evaluate: Any, *branches: Branch) -> None:
    """Tell whoever counts that some branches are differentiated once."""
    note(evaluate, Counter(branch.network + GRADIENT for branch in branches))


def end_of_step(owner: str, evaluate: Any) -> Float[Array, ""]:
    """Return the noise level at which the solver's step ends.

    Raises:
        ValueError: that is not known, in the name of ``owner``.
    """
    end = getattr(evaluate, "end", None)
    if end is None:
        raise ValueError(
            f"guidance.{owner}: what it does depends on the noise level that a step leads to, and "
            f"here is no step: run it in samplers.sample, or give guidance.combine its end"
        )
    return end
