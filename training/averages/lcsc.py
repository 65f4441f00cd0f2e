"""LCSC: the linear combination of saved weights that a metric likes best, by evolution.

Liu et al., arXiv 2404.02241. An average (EMA) is a combination whose coefficients are positive
and sum to 1; nothing says that the best one does either.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...core.checks import count, positive, require_ranges
from ...core.errors import UserError
from ...core.files import write_text
from .ema import exponent_of_std

RANGES = {
    "images": count(1),
    "evaluations": count(1),
    "population": count(2, "two parents"),
    "spread": positive(),
}
# Relative widths of the averages that a search starts from.
STARTS = (0.05, 0.1, 0.15, 0.2, 0.25)
Coefficients = Float[np.ndarray, " file"]


def ema_coefficients(count: int, std: float) -> Coefficients:
    """Return the coefficients of a power-function average of evenly spaced weights.

    Args:
        count: number of them, in the order of time.
        std: relative width.

    Raises:
        UserError: a width that no profile has.
    """
    return np.diff((np.arange(count + 1) / count) ** (exponent_of_std(std) + 1))


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        coefficients: the best ones.
        score: theirs.
        start: the best score among those it started from.
        evaluations: how many candidates were scored.
    """

    coefficients: Coefficients
    score: float
    start: float
    evaluations: int


def evolve(
    score: Callable[[Coefficients], float],
    starts: Sequence[Coefficients],
    *,
    evaluations: int,
    population: int = 20,
    spread: float = 0.1,
    seed: int = 0,
    record: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Found:
    """Search for the coefficients of the lowest score.

    A child is made of two parents, better ones more often: each coefficient from one of them, or
    all from the line through both; then noise is added to some. Its sum is that of a parent, or
    near it: it may wander from 1, but not jump. The best ``population`` stay.

    Args:
        score: of coefficients; lower is better. Not finite counts as worst.
        starts: scored first.
        evaluations: candidates in all.
        population: how many are kept.
        spread: largest steps, relative to the root mean square coefficient and to the sum.
        seed: of the search, which repeats itself exactly.
        record: JSON lines of all scores; those already there are not computed again, so that an
            interrupted search goes on.
        about: what the search is made of, JSON data: the record's first line.

    Raises:
        UserError: fewer evaluations than starts, no room for two parents, or a record of another
            search.
    """
    if evaluations < len(starts) or population < 2 or not starts:
        raise UserError(
            f"a search of {evaluations} evaluations from {len(starts)} starts with a population of "
            f"{population}: allow one evaluation a start at least, and two parents"
        )
    given = dict(evaluations=evaluations, population=population, spread=spread)
    require_ranges("lcsc", given, RANGES)
    known = _read(record, json.loads(json.dumps(about)))
    random, kept, start = np.random.default_rng(seed), [], np.inf
    for number in range(evaluations):
        if number < len(starts):
            candidate = np.asarray(starts[number], np.float64)
        else:
            candidate = _child(kept, random, spread)
        value = _scored(score, candidate, number, known, record)
        if number < len(starts):
            start = min(start, value)
        kept = sorted([*kept, (value, number, candidate)], key=lambda one: one[:2])[:population]
    best, _, coefficients = kept[0]
    return Found(coefficients, best, start, evaluations)


def _child(kept: list, random: np.random.Generator, spread: float) -> Coefficients:
    # The better of two drawn at random, twice.
    first, second = (kept[random.integers(len(kept), size=2).min()][2] for _ in range(2))
    if random.random() < 0.5:
        child = first + random.uniform(-0.5, 1.5) * (second - first)
    else:
        child = np.where(random.random(first.size) < 0.5, first, second)
    touched = random.random(child.size) < random.uniform(1 / child.size, 1)
    noise = touched * random.normal(size=child.size)
    # Steps of all sizes up to `spread`: what is fine enough is not known beforehand.
    child = child + spread * 10 ** random.uniform(-2, 0) * np.sqrt(np.mean(child**2)) * noise
    # The sum scales the network as a whole, to which it is far more sensitive than to the rest.
    wanted = first.sum() if random.random() < 0.5 else second.sum()
    if random.random() < 0.5:
        wanted *= 1 + spread * 10 ** random.uniform(-3, 0) * random.normal()
    return child + (wanted - child.sum()) / child.size


def _read(record: Path | None, about: Any) -> list[dict]:
    if record is None:
        return []
    head = [{"about": about}] if about is not None else []
    if not record.exists():
        write_text(record, "".join(json.dumps(one) + "\n" for one in head))
        return []
    known = []
    for line in record.read_text().splitlines():
        try:
            known.append(json.loads(line))
        except json.JSONDecodeError:
            break  # cut short by a kill: it and what would follow are computed again
    write_text(record, "".join(json.dumps(one) + "\n" for one in known))
    began = [known.pop(0)] if known and "about" in known[0] else []
    if (began or known) and began != head:
        raise UserError(
            f"{record} is of a search in other weights or data, or with other settings: remove it "
            f"to search anew, or give the settings that it was begun with"
        )
    if head and not began:
        write_text(record, "".join(json.dumps(one) + "\n" for one in head))
    return known


def _scored(score, candidate: Coefficients, number: int, known: list, record: Path | None) -> float:
    if number < len(known):
        if not np.allclose(known[number]["coefficients"], candidate, rtol=1e-9, atol=1e-12):
            raise UserError(
                f"{record} is of another search (evaluation {number}): remove it, or search with "
                f"the settings it was begun with"
            )
        return known[number]["score"]
    value = float(score(candidate))
    value = value if np.isfinite(value) else float(np.finfo(np.float64).max)
    if record is not None:
        line = json.dumps({"coefficients": candidate.tolist(), "score": value})
        with record.open("a") as file:
            file.write(line + "\n")
    return value
