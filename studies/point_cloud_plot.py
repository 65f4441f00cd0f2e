"""Point clouds of the 2-D toy over its density, one panel a method, after arXiv 2406.02507."""

import functools
import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..core.files import replacing
from ..data.sources import fractal2d

VIEW = 1.6
GRID = 400
FAINTEST = -6.0
DENSITY_COLOURS = LinearSegmentedColormap.from_list("density", ["white", "#ffe3b8", "#f0a63c"])
POINT_COLOUR, OUTLINE_COLOUR = "#1f4e9c", "#8a5a12"


@functools.cache
def _depths(classes: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the view's grid lines and ``-sqrt(max log p - log p)`` on it, [row, column]."""
    line = np.linspace(-VIEW, VIEW, size)
    column, row = np.meshgrid(line, line)
    points = jnp.asarray(np.stack([column.ravel(), row.ravel()], axis=1), jnp.float32)
    log_density = np.asarray(fractal2d.mixture(classes).log_density(points)).reshape(size, size)
    return line, -np.sqrt(np.maximum(fractal2d.peak(classes) - log_density, 0.0))


def save(
    panels: Mapping[str, Float[Array, "count 2"]],
    path: str | os.PathLike | BinaryIO,
    *,
    classes: tuple[str, ...] = ("A",),
    dpi: int = 150,
) -> None:
    """Draw the panels side by side and write a PNG.

    Args:
        panels: title to points, in the order shown; the titles may have several lines.
        path: file to write, whole or not at all; or an open one.
        classes: whose density and outline lie under the points.
        dpi: pixels an inch; a panel is 4 inches wide.

    Raises:
        ValueError: no panels.
        UserError: the file cannot be written.
    """
    if not panels:
        raise ValueError("no panels to draw: give at least one title with its points")
    line, depth = _depths(tuple(classes), GRID)
    figure = Figure(figsize=(4.0 * len(panels), 4.4), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, points) in zip(axes, panels.items(), strict=True):
        points = np.asarray(points)
        ax.imshow(
            depth,
            extent=(-VIEW, VIEW, -VIEW, VIEW),
            origin="lower",
            cmap=DENSITY_COLOURS,
            vmin=FAINTEST,
            vmax=0.0,
        )
        ax.contour(
            line,
            line,
            depth,
            levels=[fractal2d.OUTLINE_LEVEL],
            colors=OUTLINE_COLOUR,
            linestyles="solid",
            linewidths=0.6,
        )
        ax.scatter(points[:, 0], points[:, 1], s=1.0, color=POINT_COLOUR, linewidths=0, alpha=0.6)
        ax.set(xlim=(-VIEW, VIEW), ylim=(-VIEW, VIEW), aspect="equal", xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
    opened = replacing(path) if isinstance(path, (str, os.PathLike)) else nullcontext(path)
    with opened as file:
        figure.savefig(file, format="png")
