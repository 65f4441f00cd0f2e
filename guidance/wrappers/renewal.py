"""A reference renewed at some steps alone, and reused between (FasterCache's CFG-Cache)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.constructors import name_of
from ...core.errors import WrongType
from ...core.pytrees import pytree, replaced, static
from ...core.registry import register
from ..protocol import Around, Branch
from ..pushes import Push
from .interval import ends
from .training_free import checked_count
from .wrapper import Wrapper

NOISE, DIFFERENCE, PREDICTION = "noise", "difference", "prediction"
KINDS = (NOISE, DIFFERENCE, PREDICTION)


class Renewed(NamedTuple):
    """The state of `reuse`.

    Attributes:
        inner: the state of the rule inside.
        moved: ``D_main - D_plain`` when the reference was last evaluated; 0 for nearly all
            references, whose main prediction is the plain one.
        reference: ``D_main - D_ref`` then, or ``D_ref`` itself; NaN before the first time.
    Differences are divided by sigma where those of noise are reused.
    """

    inner: Any
    moved: Float[Array, " batch *shape"]
    reference: Float[Array, " batch *shape"]


class Plain(Around):
    """An ``evaluate`` that remembers the plain prediction it was asked for.

    Attributes:
        plain: the prediction; None before.
    """

    plain: Array | None = None

    def __call__(self, branches, x=None, sigma=None):
        answers = self._evaluate(branches, x, sigma)
        if x is None and sigma is None:
            for branch, answer in zip(branches, answers, strict=True):
                self.plain = answer if branch.plain else self.plain
        return answers


@pytree
class Renewing(Wrapper):
    """A push whose reference is evaluated, and kept for the steps to come."""

    rule: Push
    of: str = static()

    def init(self, x):
        return _init(self.rule, x)

    def apply(self, evaluate, x, sigma, state, key):
        seen = Plain(evaluate)
        main, reference = self.rule.reference.predictions(seen, x, sigma, key)
        if seen.plain is None:
            raise WrongType(
                f"guidance.reuse: the reference {name_of(self.rule.reference)} asks for no plain "
                f"prediction, which is all that is evaluated where it is reused: choose a push "
                f"such as cfg or autoguidance"
            )
        guided, inner = self.rule.guided(main, reference, x, sigma, state.inner)
        unit = _unit(self.of, sigma)
        kept = reference if self.of == PREDICTION else (main - reference) / unit
        return guided, Renewed(inner, (main - seen.plain) / unit, kept)


@pytree
class Reusing(Wrapper):
    """A push whose reference is what it was when it was last evaluated."""

    rule: Push
    of: str = static()

    def init(self, x):
        return _init(self.rule, x)

    def apply(self, evaluate, x, sigma, state, key):
        del key
        (plain,) = evaluate((Branch(),))
        unit = _unit(self.of, sigma)
        main = plain + unit * state.moved
        kept = state.reference
        reference = kept if self.of == PREDICTION else main - unit * kept
        guided, inner = self.rule.guided(main, reference, x, sigma, state.inner)
        return guided, state._replace(inner=inner)


def _init(rule: Push, x) -> Renewed:
    # NaN, not 0, which would pass for a push: nothing may be reused before it was evaluated.
    return Renewed(rule.init(x), jnp.zeros_like(x), jnp.full_like(x, jnp.nan))


def _unit(of: str, sigma):
    """Return what differences are measured in: those of noise predictions are in sigma."""
    return sigma if of == NOISE else 1


@pytree
class Reuse:
    """`Renewing` at some steps of a schedule, `Reusing` at the others.

    Attributes:
        rule: the push.
        every: how many steps a reference holds for, or the noise levels at which it is renewed.
        low, high: noise levels between which it may be reused.
        of: what is.
        reused: the noise levels at which steps that reuse start; none until `along` has decided.
    """

    rule: Push
    every: int | tuple[float, ...] = static()
    low: float = static()
    high: float = static()
    of: str = static()
    reused: tuple[float, ...] = static(default=())

    def init(self, x):
        return _init(self.rule, x)

    def apply(self, evaluate, x, sigma, state, key):
        raise TypeError(
            "guidance.reuse decides per step whether the reference is evaluated: call "
            "rule.at(sigma).apply(...), as guidance.combine and samplers.sample do"
        )

    def holds_at(self, sigma: float) -> bool:
        """Return whether a reference may be reused at a noise level."""
        return bool(self.low < sigma <= self.high)

    def at(self, sigma):
        kind = Reusing if sigma in self.reused else Renewing
        return kind(self.rule, self.of)

    def along(self, sigmas):
        """Return this rule with its steps decided, given those at which it is asked."""
        reused: list[float] = []
        last: int | None = None
        for step, sigma in enumerate(sigmas):
            # The first step renews, whatever the window: there is nothing to reuse.
            if last is None or not self.holds_at(sigma) or self._due(sigmas, last, step):
                last = step
            else:
                reused.append(sigma)
        return replaced(self, reused=tuple(reused))

    def _due(self, sigmas, last: int, step: int) -> bool:
        """Return whether a step renews what an earlier one did."""
        if isinstance(self.every, int):
            return step - last >= self.every
        # Steps go down, or up where samples are inverted.
        low, high = sorted((sigmas[last], sigmas[step]))
        return any(low <= level < high for level in self.every)


@register("rule", "2410.19355")
def reuse(
    rule: Push,
    every: int | Sequence[float] = 2,
    low: float = 0.0,
    high: float = math.inf,
    *,
    of: str = NOISE,
) -> Reuse:
    r"""Return a push whose reference is evaluated at some steps, and reused at the others.

    Where it is reused, the plain prediction is all that is evaluated: of CFG's two evaluations
    one. Which steps these are is decided before anything is compiled, from the schedule, so that
    what is saved is in no program; `samplers.plan` and `cost` say what is left. The first step at
    which the rule is asked always evaluates the reference, and so does every step outside
    ``(low, high]``. Solvers that ask several times a step renew, or reuse, in all of the step's
    evaluations; what is reused is the last one. Transforms act at every step, and keep their
    states. References that draw (`icg`, `tsg`, `tpg`) draw when they are renewed.

    Intervals, thresholds and sums go around: ``between(reuse(cfg(3.0)), 0.3, 10.0)``, where the
    steps inside are counted. Asked at one noise level without a schedule it renews:
    `guidance.along` tells it one in a sampler of your own. Inside `stitched` what one network
    answered is reused with the next.

    Equation:
        D_\text{ref}(x_k) = D_y(x_k) - \frac{\sigma_k}{\sigma_j} \left(D_y -
        D_\text{ref}\right)(x_j), \quad j \text{ the last step that renewed}

    When to use: To save up to half of CFG's evaluations where steps are short enough for the push
    to change little from one to the next; below the noise levels that decide the layout first.

    Args:
        rule: a push, `cfg`, `autoguidance`, `apg`, `pag`, ...
        every: steps from one evaluation of the reference to the next; 1 is the rule itself, and
            more than there are steps evaluates it once. Or noise levels, in any order: it is
            evaluated at the first step that starts at or below each of them.
            `samplers.tuning.renewals` finds those at which least is lost.
        low, high: noise levels in sigma between which a reference may be reused; ``low`` itself is
            outside, ``high`` inside.
        of: what is reused: the difference between the two predictions of the ``noise``, ``(D_main -
            D_ref) / sigma``; the ``difference`` of those of the clean image; or the reference's
            ``prediction`` as it was, which knows nothing of the steps since.

    Raises:
        ValueError: an ``every`` that is no whole number from 1, and no noise levels; ends that
            are not numbers, negative, or leave nothing between them; another ``of``.
        TypeError: no push; when traced, one that never asks for the plain prediction.

    Source: Lv et al., arXiv 2410.19355, section on CFG-Cache, there of the network's own output and
    with the difference's low and high frequencies weighted apart; here it is taken as it was.
    """
    if isinstance(every, (Sequence, np.ndarray)) and not isinstance(every, str):
        every = _levels(every)
    else:
        every = checked_count("reuse", "every", every, 1)
    low, high = ends("reuse", low, high, "leave the wrapper out to reuse nothing")
    if of not in KINDS:
        raise ValueError(f"guidance.reuse: of is {NOISE}, {DIFFERENCE} or {PREDICTION}, got {of!r}")
    return Reuse(rule, every, low, high, of)


def _levels(levels: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    each = np.asarray(levels)
    numbers = each.ndim == 1 and each.size > 0 and each.dtype.kind in "fiu"
    if not (numbers and np.isfinite(each).all() and (each > 0).all()):
        raise ValueError(
            f"guidance.reuse: every, where it is no number of steps, is a list of noise levels "
            f"above 0, such as (80.0, 5.0, 1.0), got {list(levels)}"
        )
    return tuple(sorted(each.tolist(), reverse=True))
