"""Measurements and judged claims as tables, of Markdown and of HTML."""

from collections.abc import Mapping, Sequence
from html import escape
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
# Which way a metric is better; others have no better.
LOWER = ("frechet_distance", "kernel_distance")
HIGHER = (
    *("precision", "recall", "density", "coverage"),
    *("inception_score", "vendi_score", "agreement"),
)
CLAIMS = ("claim", "found", "against", "")
VERDICTS = {True: "holds", False: "does not hold here", None: "not measured"}


def line(cells: Sequence[str]) -> str:
    """Return one line of a table; what would end a cell or the line is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def shown(metric: str, value: float | None) -> str:
    """Return a number as tables write it; nothing where it was not measured."""
    return "" if value is None else COLUMNS.get(metric, (metric, "{:.4g}"))[1].format(value)


def title_of(metric: str) -> str:
    """Return what tables call a metric."""
    return COLUMNS.get(metric, (metric,))[0]


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are text: whatever is in them is escaped."""

    def cells(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return (
        f"<table><caption>{escape(caption)}</caption><thead>{cells(head, 'th')}</thead>"
        f"<tbody>{body}</tbody></table>"
    )


def measured_table(
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str],
    costs: Mapping[str, str],
    what: str = "row",
) -> list[str]:
    """Return the lines of a table of rows against metrics.

    Args:
        rows: title and measured numbers, by name; of repeated seeds their ``spread``, too.
        metrics: the columns, in their order.
        costs: of one image, in words, by name: its evaluations and their multiply-adds.
        what: a row is.
    """
    titles = [title_of(metric) for metric in metrics]
    head = [what, *titles, "evaluations an image (multiply-adds)"]
    lines = [line(head), line(["---"] * len(head))]
    for name, row in rows.items():
        spreads = row.get("spread", {})
        cells = [_cell(metric, row.get(metric), spreads.get(metric)) for metric in metrics]
        lines.append(line([str(row["title"]), *cells, costs[name]]))
    return lines


def _cell(metric: str, value: float | None, spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return shown(metric, value)
    deviation, lowest = (shown(metric, spread[name]) for name in ("deviation", "minimum"))
    return f"{shown(metric, value)} ± {deviation} (lowest {lowest} of {spread['count']})"


def gains_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of what each row gains over the first in Frechet distance.

    A gain is taken again with both rows weighted to the real set's histogram of classes; what it
    lost by that was the histogram's (arXiv 2203.06026).
    """
    first, *others = rows.values()
    head = ["row", f"nearer than {first['title']}", "with classes matched", "due to classes"]
    lines = [line(head), line(["---"] * len(head))]
    for row in others:
        gain, left = (
            first[metric] - row[metric]
            for metric in ("frechet_distance", "resampled_frechet_distance")
        )
        # Of no gain there is no share, nor of one by rounding.
        known = gain > 1e-6 * first["frechet_distance"]
        share = f"{1 - left / gain:.0%}" if known else ""
        cells = [shown("frechet_distance", one) for one in (gain, left)]
        lines.append(line([str(row["title"]), *cells, share]))
    return lines


def claims_cells(claims: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of a table of claims as `claims.judge` judged them, without its head."""
    rows = []
    for claim in claims:
        known = claim["holds"] is not None
        values = [
            shown(claim["metric"], claim[name]) if known else "" for name in ("found", "against")
        ]
        rows.append([claim["title"], *values, VERDICTS[claim["holds"]]])
    return rows


def claims_table(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of claims."""
    return [line(CLAIMS), line(["---"] * 4), *map(line, claims_cells(claims))]
