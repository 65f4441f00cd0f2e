"""What a rule is made of, what it costs and whom to cite, as text."""

import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.constructors import Origin, origin
from ..core.errors import UserError
from ..core.text import shown
from .citations import PAPERS, bibtex
from .evaluations import SHAPE, evaluations
from .protocol import Branch
from .pushes import Chain
from .structure import along, levels_in, spans

INDENT = "  "


def describe(rule: Any) -> str:
    """Describe a rule: its parts with their numbers, its cost, and BibTeX of the papers in it.

    >>> from guidestar import guidance
    >>> print(guidance.describe(guidance.between(guidance.apg(4.0), 0.2, 5.0)))
    between(low=0.2, high=5.0)  [arXiv 2404.07724]
      inside: apg(scale=4.0, eta=0.0, norm=2.5, momentum=-0.75)  [arXiv 2410.02416]
        reference: null(network='main')
        1. momentum(momentum=-0.75)
        2. clip_norm(norm=2.5)
        3. project(eta=0.0)
        4. scale(scale=4.0)
    <BLANKLINE>
    network evaluations of one prediction:
      sigma <= 0.2: main 1
      0.2 < sigma <= 5: main 2
      5 < sigma: main 1
    <BLANKLINE>
    @misc{kynkaanniemi2024interval,
    ...
    @misc{sadat2024apg,
    ...

    Args:
        rule: any rule, or a part of one (then without a cost). Arrays are shown by their shape.

    Raises:
        UserError: something else, such as a constructor itself.
    """
    if not _is_part(rule):
        called = ": call it" if inspect.isroutine(rule) else ""
        raise UserError(
            f"guidance.describe: takes a rule or a part of one, got {shown(rule)}{called}"
        )
    paragraphs = ["\n".join(_tree(rule, "", 0))]
    if cost := _cost(rule):
        paragraphs.append(cost)
    known = itertools.chain(*map(_calls, _parts(rule)))
    sources = dict.fromkeys(itertools.chain(*(one.constructor.sources for one in known)))
    # A rule from outside may implement a paper that no rule here does.
    cited = (bibtex(one) if one in PAPERS else f"arXiv:{one}" for one in sources)
    return "\n\n".join([*paragraphs, *cited])


def _tree(made: Any, label: str, depth: int) -> Iterator[str]:
    """Yield one line for an object and, further in, those of its parts."""
    yield INDENT * depth + label + _headline(made)
    known = origin(made)
    for name, value in _fields(made):
        if known and isinstance(value, Branch):
            continue  # said by the name and the arguments of the reference
        for label_of_part, part in _labelled(name, value):
            if not known or _call(part) != _call(made):
                yield from _tree(part, label_of_part, depth + 1)
        if not known or _has_parts(value) or name in _arguments(made):
            continue
        if not _is_default(made, name, value):
            yield f"{INDENT * (depth + 1)}{name}: {shown(value)}"


def _labelled(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the parts in a field, each with its label in the tree."""
    several = value.transforms if isinstance(value, Chain) else value
    if isinstance(several, tuple) and any(map(_is_part, several)):
        return [(f"{number}. ", one) for number, one in enumerate(several, 1)]
    return [(f"{name}: ", value)] if _is_part(several) else []


def _headline(made: Any) -> str:
    known = origin(made)
    sources = known.constructor.sources if known else ()
    return _call(made) + (f"  [arXiv {', '.join(sources)}]" if sources else "")


def _call(made: Any) -> str:
    known = origin(made)
    values = _arguments(made) if known else dict(_fields(made))
    name = known.constructor.name if known else _snake_case(type(made).__name__)
    simple = (f"{key}={shown(value)}" for key, value in values.items() if not _has_parts(value))
    return f"{name}({', '.join(simple)})"


def _arguments(made: Any) -> dict[str, Any]:
    """Return all arguments of the call that made an object, defaults included."""
    known = origin(made)
    if known is None:
        return {}
    parameters = inspect.signature(known.constructor.build).parameters.values()
    return {
        one.name: known.arguments.get(one.name, one.default)
        for one in parameters
        if one.kind is not one.VAR_POSITIONAL
    }


def _fields(made: Any) -> list[tuple[str, Any]]:
    if isinstance(made, Branch):
        return [("network", made.network), ("condition", made.condition), ("modes", made.modes)]
    # References and wrapped rules first: transforms are read as what is done to them.
    fields = [(field.name, getattr(made, field.name)) for field in dataclasses.fields(made)]
    return sorted(fields, key=lambda field: isinstance(field[1], Chain) or field[0] == "transform")


def _is_part(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _has_parts(value: Any) -> bool:
    return _is_part(value) or (isinstance(value, tuple) and any(map(_is_part, value)))


def _is_default(made: Any, name: str, value: Any) -> bool:
    default = next(f.default for f in dataclasses.fields(made) if f.name == name)
    return value is default or (isinstance(value, type(default)) and value == default)


def _calls(made: Any) -> Iterator[Origin]:
    """Yield the calls that made an object, the one that it is named by first."""
    known = origin(made)
    while known is not None:
        yield known
        known = known.within


def _parts(made: Any) -> Iterator[Any]:
    """Yield an object and all its parts, outermost first, those it was made from included."""
    yield made
    known = origin(made)
    # A constructor may change a part it is given, and the copy does not know where it is from.
    given = list(known.arguments.values()) if known else []
    for value in given + [value for _, value in _fields(made)]:
        for one in value if isinstance(value, tuple) else (value,):
            if _is_part(one):
                yield from _parts(one)


def _cost(rule: Any) -> str:
    """Return the network evaluations at all noise levels; empty for what cannot be counted."""
    x = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
    found: list[tuple[float, float, str]] = []
    for low, high in spans(rule):
        levels = levels_in((low, high))
        try:
            steps = along(rule, levels)
            each = [_counts(evaluations(steps.at(level), x)) for level in levels]
        except Exception:  # anything a rule may ask for that a plain image does not offer
            return ""
        # Of two steps in a row the second may find something to reuse.
        counts = f"{each[0]}; where reused {each[1]}" if each[0] != each[1] else each[0]
        if found and found[-1][2] == counts:
            low = found.pop()[0]
        found.append((low, high, counts))
    if len(found) == 1:
        return f"network evaluations of one prediction: {found[0][2]}"
    lines = [f"{INDENT}{_span(low, high)}: {counts}" for low, high, counts in found]
    return "\n".join(["network evaluations of one prediction:", *lines])


def _span(low: float, high: float) -> str:
    below = f"{low:g} < " if low > 0 else ""
    return f"{below}sigma" + (f" <= {high:g}" if high < np.inf else "")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
