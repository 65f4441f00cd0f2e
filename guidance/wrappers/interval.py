"""Guidance in a limited interval of noise levels (Kynkäänniemi et al., arXiv 2404.07724)."""

import math

from ...core.pytrees import pytree, replaced, static
from ...core.registry import register
from ..protocol import Rule, Unguided
from ..structure import along


@pytree
class Between:
    """A rule inside ``(low, high]``, the plain conditional prediction outside."""

    inside: Rule
    low: float = static()
    high: float = static()

    def init(self, x):
        return self.inside.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        raise TypeError(
            "guidance.between decides per step which rule holds: call rule.at(sigma).apply(...), "
            "as guidance.combine and samplers.sample do"
        )

    def holds_at(self, sigma: float) -> bool:
        """Return whether the rule inside holds at a noise level."""
        return bool(self.low < sigma <= self.high)

    def at(self, sigma):
        if self.holds_at(sigma):
            return self.inside.at(sigma)
        # The inner rule's state passes through untouched while it rests.
        return Unguided()

    def along(self, sigmas):
        """Return this interval around the rule inside, which knows its own steps alone."""
        inside = along(self.inside, tuple(filter(self.holds_at, sigmas)))
        return self if inside is self.inside else replaced(self, inside=inside)


@register("rule", "2404.07724")
def between(rule: Rule, low: float, high: float) -> Between:
    r"""Apply ``rule`` where ``low < sigma <= high`` and nothing elsewhere.

    The ends are structure: they decide which evaluations exist, and outside them the reference
    is never evaluated. A sampler decides once per step, from the step's starting sigma.

    Equation:
        w(\sigma) = w \text{ for } \sigma_\text{low} < \sigma \le \sigma_\text{high}, \quad 1
        \text{ elsewhere}

    When to use: Around nearly any rule: at the highest noise levels guidance costs variety, at
    the lowest it does nothing. It also costs less, since the reference is not evaluated
    outside.

    Args:
        rule: what holds inside.
        low, high: noise levels in sigma; ``low`` itself is outside, ``high`` inside.
            ``low = 0`` and ``high = math.inf`` leave an end open.

    Raises:
        ValueError: ends that are not numbers, negative, or leave nothing between them.

    Source: arXiv 2404.07724, eq. 4 (there in terms of sigma as well).
    """
    remedy = "use guidance.unguided() for no guidance at all"
    return Between(rule, *ends("between", low, high, remedy))


def ends(owner: str, low: float, high: float, remedy: str) -> tuple[float, float]:
    """Return the ends of a half-open interval of noise levels as plain numbers.

    Raises:
        ValueError: not numbers, negative, or nothing between them, in the name of
            ``guidance.owner``.
    """
    try:
        low, high = float(low), float(high)
    except Exception as error:
        raise ValueError(
            f"guidance.{owner}: low and high must be plain numbers, not traced arrays: they decide "
            f"which evaluations exist"
        ) from error
    if math.isnan(low) or math.isnan(high) or low < 0 or low >= high:
        raise ValueError(
            f"guidance.{owner}: need 0 <= low < high, got low={low}, high={high}; {remedy}"
        )
    return low, high
