"""The page and the picture of what `solver_study` measured."""

import os
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...core.files import replacing

BASELINE = "euler"
# Nearest the top of a legend: those that a page's margins are about.
STYLES = ("-", "--", ":", "-.")


def render(found: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        found: the contents of a ``samplers.json``.
    """
    schedule = found["schedule"]
    named = f"{schedule['name']}, sigma {schedule['sigma_max']:g} to {schedule['sigma_min']:g}, 0"
    mixture, images = found["mixture"], found["images"]
    real = found["real"]
    lines = [
        "# Solvers against evaluations",
        "",
        f"Written by `{found['command']}` ({found['date']}, {found['device']}). Every solver takes "
        f"as many steps as a number of network evaluations allows, of one schedule ({named}) but "
        "for the rows that name another. Numbers in brackets are evaluations where a solver cannot "
        "spend all.",
        "",
        "![Error against evaluations](samplers.png)",
        "",
        *_margins(found),
        f"## On images: {images['count']} of the shipped Fashion-MNIST network, without guidance",
        "",
        f"The same noise in every row, against the {real['images']} images of {real['data']} "
        f"({real['split']}) in the features of `{real['classifier']}`. The exact flow is "
        f"{_reference(images)}.",
        "",
        *_tables(found, "images"),
        "## On an exact denoiser: a mixture of two Gaussians on a line, float64",
        "",
        f"{mixture['count']} samples from the quantiles of the noise. The exact flow is "
        f"{_reference(mixture)}; solvers that add noise end elsewhere, so for them the distance "
        "from the flow is left out. The Wasserstein distance is from the data's own quantiles: for "
        "solvers that add noise that of a sample of this size is the least there is. EVODiff "
        "projects the numbers of a sample on each other: on samples of one number it is not "
        "stable.",
        "",
        *_tables(found, "mixture"),
    ]
    return "\n".join(lines).rstrip()


def _reference(part: Mapping[str, Any]) -> str:
    solver = part["reference"]["solver"]["name"]
    return f"{part['reference']['steps']} steps of `{solver}` on the same schedule"


def _margins(found: Mapping[str, Any]) -> list[str]:
    budget, part = found["margins"]["evaluations"], found["images"]
    base = _at(part["rows"].get(BASELINE, []), budget)
    lines = []
    for row in found["margins"]["rows"]:
        cell = _at(part["rows"].get(row, []), budget)
        if cell is None or base is None or None in (*cell.values(), *base.values()):
            continue
        shares = [
            f"{part['metrics'][metric]} {cell[metric]:.3g} against {base[metric]:.3g} "
            f"({cell[metric] / base[metric] - 1:+.0%})"
            for metric in part["metrics"]
        ]
        lines.append(f"- {found['titles'][row]}: {', '.join(shares)}")
    if not lines:
        return []
    head = f"At {budget} evaluations on images, against {found['titles'][BASELINE]}:"
    return [head, "", *lines, ""]


def _at(cells, budget: int):
    """Return the measurement with the most evaluations within a budget."""
    within = [cell for cell in cells if cell["evaluations"] <= budget]
    return max(within, key=lambda cell: cell["evaluations"], default=None)


def _tables(found: Mapping[str, Any], name: str) -> list[str]:
    part, lines = found[name], []
    budgets = sorted({cell["evaluations"] for cell in part["rows"].get(BASELINE, [])}) or sorted(
        {cell["evaluations"] for cells in part["rows"].values() for cell in cells}
    )
    for metric, title in part["metrics"].items():
        rows = [row for row in part["rows"] if not _meaningless(found, row, metric)]
        lines += [f"### {title}", "", _line(["solver", *map(str, budgets)])]
        lines.append(_line(["---"] * (len(budgets) + 1)))
        for row in rows:
            cells = [_shown(part["rows"][row], metric, budgets, i) for i in range(len(budgets))]
            lines.append(_line([found["titles"][row], *cells]))
        lines.append("")
    return lines


def _meaningless(found: Mapping[str, Any], row: str, metric: str) -> bool:
    return metric == "distance" and row in found["random"]


def _shown(cells, metric: str, budgets: list[int], column: int) -> str:
    budget, below = budgets[column], budgets[column - 1] if column else 0
    cell = _at(cells, budget)
    if cell is None or cell["evaluations"] <= below:
        return ""
    spent = cell["evaluations"]
    if cell[metric] is None:
        return "diverges"
    return f"{cell[metric]:.3g}" + (f" ({spent})" if spent < budget else "")


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(found: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write the picture: the Frechet distance of images, and both errors on the mixture."""
    panels = [
        ("images", "frechet_distance"),
        ("images", "distance"),
        ("mixture", "distance"),
        ("mixture", "wasserstein"),
    ]
    figure = Figure(figsize=(15, 13), layout="constrained")
    FigureCanvasAgg(figure)
    everywhere = [*found["titles"]]
    for axes, (name, metric) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        part = found[name]
        for row, cells in part["rows"].items():
            if _meaningless(found, row, metric) or not cells:
                continue
            place = everywhere.index(row)
            finite = [cell for cell in cells if cell[metric] is not None]
            axes.plot(
                [cell["evaluations"] for cell in finite],
                [cell[metric] for cell in finite],
                label=found["titles"][row],
                color=f"C{place % 10}",
                linestyle=STYLES[place // 10 % len(STYLES)],
                marker=".",
                linewidth=1.2,
            )
        axes.set(xscale="log", yscale="log", xlabel="network evaluations a sample")
        axes.set_ylabel(part["metrics"][metric])
        axes.set_title("Fashion-MNIST" if name == "images" else "mixture")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=6, ncols=2)
    with replacing(path) as file:
        figure.savefig(file, dpi=80, format="png")
