"""The page of the evidence: what was measured, what papers claim, and a command for each row."""

from collections.abc import Mapping
from typing import Any

from ...commands.measuring.rows import costs
from ...evaluation.table import claims_table, measured_table

METRICS = ("frechet_distance", "precision", "recall", "agreement", "contrast", "white")


def render(evidence: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        evidence: the contents of an ``evidence.json`` that the evidence mode wrote.
    """
    sampler, real = evidence["sampler"], evidence["real"]
    rows = evidence["rows"]
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
        *measured_table(rows, METRICS, costs(rows), "rule"),
        "",
        "## What the papers claim",
        "",
        *claims_table(evidence["claims"]),
        "",
        "## The rules, and a command for each",
        "",
    ]
    for row in rows.values():
        lines += [f"**{row['title']}**", "", "```", row["rule"], row["command"], "```", ""]
    return "\n".join(lines)
