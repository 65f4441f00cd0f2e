"""Stored evidence as a Markdown page."""

from collections.abc import Mapping
from typing import Any

from ..guidance.evaluations import counts_text

COLUMNS = {
    "frechet_distance": ("Frechet distance", "{:.2f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "agreement": ("classifier agrees", "{:.1%}"),
    "contrast": ("contrast", "{:.3f}"),
    "white": ("white pixels", "{:.1%}"),
}
VERDICTS = {True: "holds", False: "does not hold here", None: "not measured"}


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _value(row: Mapping[str, Any], metric: str) -> str:
    return COLUMNS[metric][1].format(row[metric]) if row.get(metric) is not None else ""


def render(evidence: Mapping[str, Any]) -> str:
    """Return the page of what `evaluate` measured.

    Args:
        evidence: the contents of an ``evidence.json``.
    """
    sampler, real = evidence["sampler"], evidence["real"]
    head = ["rule", *(title for title, _ in COLUMNS.values()), "evaluations an image"]
    lines = [
        "# Evidence",
        "",
        "What guidance does. How networks train, and CIFAR-10 by EDM's recipe: "
        "[training.md](training.md).",
        "",
        f"Written by `{evidence['command']}` ({evidence['date']}, {evidence['device']}).",
        "",
        f"{evidence['images']} images a row, the same noise in every row, "
        f"{sampler['schedule']['steps']} {sampler['solver']['name']} steps, against the "
        f"{real['images']} images of {real['data']} ({real['split']}) in the features of the "
        f"shipped classifier `{real['classifier']}`. Contrast is the standard deviation of an "
        f"image's gray levels, white the share of pixels at the top of the range: the gray "
        f"counterparts of oversaturation. The real images have contrast {real['contrast']:.3f} "
        f"and {real['white']:.1%} white pixels.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for row in evidence["rows"].values():
        cells = [f"{row['title']}", *(_value(row, metric) for metric in COLUMNS)]
        lines.append(_line([*cells, counts_text(row["evaluations"])]))
    lines += ["", "## What the papers claim", "", _line(["claim", "found", "against", ""])]
    lines.append(_line(["---"] * 4))
    for claim in evidence["claims"]:
        known = claim["holds"] is not None
        shown = COLUMNS[claim["metric"]][1] if known else "{}"
        values = [shown.format(claim[name]) if known else "" for name in ("found", "against")]
        lines.append(_line([claim["title"], *values, VERDICTS[claim["holds"]]]))
    lines += ["", "## The rules, and a command for each", ""]
    for row in evidence["rows"].values():
        lines += [f"**{row['title']}**", "", "```", row["rule"], row["command"], "```", ""]
    return "\n".join(lines)
