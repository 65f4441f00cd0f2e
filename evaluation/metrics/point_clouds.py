"""How well points drawn from the 2-D toy fit one class, from its exact density."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...data.sources import fractal2d

# Nats, far below anything the density itself draws: 131 072 of its points stay above -9.
FLOOR = -20.0


def evaluate(
    points: Float[Array, "count 2"], classes: tuple[str, ...] = ("A",)
) -> dict[str, float]:
    """Compare generated points with the density of ``classes``.

    No figure alone tells quality from collapse: a sampler that returns the mode has the best
    density, nothing outside and no coverage.

    Args:
        points: generated points in the data's units.
        classes: the classes they should come from.

    Returns:
        ``mean_log_density``: mean of ``log p(x)`` at sigma 0, in nats. Quadratic in how far a
        point is from the data: one that diverged costs millions of nats and decides the mean.
        ``floored_mean_log_density``: the same with every point counted as ``FLOOR`` nats at
        least, so that a stray costs the same however far it went.
        ``strays``: share of points below the floor.
        ``median_log_density``: the median.
        ``outside``: share of points outside the outline of the density.
        ``coverage``: share of mixture components that receive a point, every point counting for
        the component with the largest responsibility. It grows with the number of points:
        compare equal numbers, and with points drawn from the density itself.

    Raises:
        ValueError: not [count, 2], no points, or a coordinate that is not finite.
    """
    points = jnp.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points have shape {points.shape}: give [count, 2] with count > 0")
    if not jnp.isfinite(points).all():
        raise ValueError("points contain NaN or infinity: the sampler diverged")
    mixture = fractal2d.mixture(classes)
    log_density = np.asarray(mixture.log_density(points), np.float64)
    received = np.unique(np.asarray(mixture.component(points)))
    return {
        "mean_log_density": float(log_density.mean()),
        "floored_mean_log_density": float(np.maximum(log_density, FLOOR).mean()),
        "strays": float(np.mean(log_density < FLOOR)),
        "median_log_density": float(np.median(log_density)),
        "outside": float(np.mean(fractal2d.outside(log_density, classes))),
        "coverage": len(received) / len(mixture.means),
    }
