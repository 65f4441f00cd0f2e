"""Measurements and judged claims as Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

# What is known of a metric: what a table calls it, and how its numbers are written.
COLUMNS = {
    "frechet_distance": ("Frechet distance", "{:.2f}"),
    "frechet_bias": ("of a perfect set", "{:.3f}"),
    "frechet_infinity": ("Frechet distance, infinitely many", "{:.2f}"),
    "frechet_infinity_error": ("its standard error", "{:.3f}"),
    "resampled_frechet_distance": ("with classes matched", "{:.2f}"),
    "resampled_effective_share": ("images' worth", "{:.1%}"),
    "resampled_matched": ("classes found", "{:.1%}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "density": ("density", "{:.3f}"),
    "coverage": ("coverage", "{:.3f}"),
    "kernel_distance": ("kernel distance", "{:.5f}"),
    "kernel_distance_over_subsets": ("kernel distance over subsets", "{:.5f}"),
    "kernel_distance_error": ("its standard error", "{:.5f}"),
    "inception_score": ("Inception score", "{:.2f}"),
    "vendi_score": ("Vendi score", "{:.2f}"),
    "agreement": ("classifier agrees", "{:.1%}"),
    "authenticity": ("authentic", "{:.1%}"),
    "class_diversity": ("distance within a class", "{:.3f}"),
    "contrast": ("contrast", "{:.3f}"),
    "saturation": ("saturation", "{:.3f}"),
    "white": ("white pixels", "{:.1%}"),
}
VERDICTS = {True: "holds", False: "does not hold here", None: "not measured"}


def line(cells: Sequence[str]) -> str:
    """Return one line of a table; what would end a cell or the line is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def shown(metric: str, value: float | None) -> str:
    """Return a number as tables write it; nothing where it was not measured."""
    return "" if value is None else COLUMNS.get(metric, (metric, "{:.4g}"))[1].format(value)


def measured_table(
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str],
    costs: Mapping[str, str],
    what: str = "row",
) -> list[str]:
    """Return the lines of a table of rows against metrics.

    Args:
        rows: title and measured numbers, by name.
        metrics: the columns, in their order.
        costs: of one image, in words, by name: its evaluations and their multiply-adds.
        what: a row is.
    """
    titles = [COLUMNS.get(metric, (metric,))[0] for metric in metrics]
    head = [what, *titles, "evaluations an image (multiply-adds)"]
    lines = [line(head), line(["---"] * len(head))]
    for name, row in rows.items():
        cells = [shown(metric, row.get(metric)) for metric in metrics]
        lines.append(line([str(row["title"]), *cells, costs[name]]))
    return lines


def claims_table(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of claims as `claims.judge` judged them."""
    lines = [line(["claim", "found", "against", ""]), line(["---"] * 4)]
    for claim in claims:
        known = claim["holds"] is not None
        values = [
            shown(claim["metric"], claim[name]) if known else "" for name in ("found", "against")
        ]
        lines.append(line([claim["title"], *values, VERDICTS[claim["holds"]]]))
    return lines
