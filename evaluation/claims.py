"""Claims of papers as data, and whether measured rows bear them out."""

from collections.abc import Mapping
from typing import Any

RELATIONS = ("below", "above", "within")


def judge(claim: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Compare a row's metric with that of others.

    Args:
        claim: ``title``, ``metric``, ``row``, ``relation`` and ``than``, a list of rows. ``below``
            and ``above`` must hold against each of them; ``within`` against the first, to the
            fraction ``tolerance``.
        rows: measured values by row and metric.

    Returns:
        The claim's title and metric, whether it ``holds`` (None while a row is missing, or the
        metric was not measured), the row's value ``found`` and the value ``against``.

    Raises:
        ValueError: an unknown relation.
    """
    if claim["relation"] not in RELATIONS:
        raise ValueError(f"relation {claim['relation']!r} is not one of {', '.join(RELATIONS)}")
    values = [rows.get(name, {}).get(claim["metric"]) for name in (claim["row"], *claim["than"])]
    if None in values:
        return {"title": claim["title"], "metric": claim["metric"], "holds": None}
    found, *others = values
    if claim["relation"] == "below":
        against, holds = min(others), found < min(others)
    elif claim["relation"] == "above":
        against, holds = max(others), found > max(others)
    else:
        against = others[0]
        holds = abs(found - against) <= claim["tolerance"] * against
    return {
        "title": claim["title"],
        "metric": claim["metric"],
        "holds": bool(holds),
        "found": found,
        "against": against,
    }
