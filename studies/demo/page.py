"""The demo's page: one HTML file with its pictures inside, no scripts, nothing fetched."""

import base64
from html import escape
from pathlib import Path

from ...evaluation.table import html_table
from ...guidance.evaluations import counts_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
.rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-size: .9rem; }
img { width: 100%; border: 1px solid #d0d7de; image-rendering: pixelated; }
img.smooth { image-rendering: auto; border: 0; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; color: #57606a; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #d0d7de; text-align: right; }
th:first-child, td:first-child { text-align: left; } code { font-size: .9em; }
"""


def _picture(path: Path, alt: str, kind: str = "") -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def share(value: float | None) -> str:
    """Return a share as per cent; nothing of an unconditional run, which has no class."""
    return "" if value is None else f"{value:.1%}"


def _live(metrics: dict) -> str:
    return html_table(
        f"Measured just now on {metrics['device']}: {metrics['images']} images a row, "
        f"compilation excluded from the seconds",
        ["rule", "classifier agrees", "network evaluations", "G multiply-adds", "s an image"],
        [
            [
                row["title"],
                share(row["agreement"]),
                counts_text(row["evaluations"]),
                f"{row['multiply_adds'] / 1e9:.2f}",
                f"{row['seconds_per_image']:.3f}",
            ]
            for row in metrics["rows"].values()
        ],
    )


def _stored(evidence: dict | None) -> str:
    if evidence is None:
        return "<p>No stored evaluation: <code>make evidence</code> makes one.</p>"
    real = evidence["real"]
    return html_table(
        f"Stored result of {evidence['command']}, {evidence['date']}, on {evidence['device']}: "
        f"{evidence['images']} images a row against {real['images']} of {real['data']} "
        f"({real['split']}), in the features of a classifier",
        ["rule", "Frechet distance", "precision", "recall", "classifier agrees"],
        [
            [
                row["title"],
                f"{row['frechet_distance']:.2f}",
                f"{row['precision']:.3f}",
                f"{row['recall']:.3f}",
                share(row["agreement"]),
            ]
            for row in evidence["rows"].values()
        ],
    )


def _fractal(points: dict) -> str:
    return html_table(
        "Points drawn just now, measured against the exact density of class A; each counts as -20 "
        "nats at least, since one that diverged would decide the mean",
        ["rule", "mean log-density", "median", "outside the outline", "components reached"],
        [
            [
                name,
                f"{row['floored_mean_log_density']:.2f}",
                f"{row['median_log_density']:.2f}",
                f"{row['outside']:.1%}",
                f"{row['coverage']:.1%}",
            ]
            for name, row in points.items()
        ],
    )


def render(metrics: dict, evidence: dict | None, folder: Path) -> str:
    """Return the page.

    Args:
        metrics: what the report verb measured.
        evidence: the stored evaluation, or None.
        folder: where the pictures lie that ``metrics`` names, and ``fractal2d.png``.
    """
    figures = "".join(
        f"<figure>{_picture(folder / row['grid'], row['title'])}"
        f"<figcaption><b>{escape(row['title'])}</b>: classifier agrees {share(row['agreement'])}, "
        f"{escape(counts_text(row['evaluations']))} evaluations an image</figcaption></figure>"
        for row in metrics["rows"].values()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Guidestar demo</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>Guidestar</h1>
<p>The same seeds, sampled by one diffusion transformer trained on Fashion-MNIST, under different
guidance rules. A column is a class, a row is a seed; the noise is the same in every grid.</p>
<div class="rows">{figures}</div>
<h2>Numbers</h2>{_live(metrics)}{_stored(evidence)}
<h2>The fractal</h2>
<p>Small networks trained on a two-class fractal mixture with a known density: guidance by the
unconditional network concentrates the points, guidance by a weaker copy of the same network
removes the outliers and keeps the branches.</p>
{_picture(folder / "fractal2d.png", "point clouds over the density", "smooth")}
{_fractal(metrics["fractal2d"])}
</body></html>
"""
