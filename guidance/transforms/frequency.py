"""Frequency-decoupled guidance: a scale for each band of a Laplacian pyramid (arXiv 2506.19713)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree
from ...core.registry import register
from ...core.resampling import linear, separable
from ..protocol import per_sample, require_finite
from ..pushes import Context, Push, Stateless
from ..references.cfg import from_null
from .projection import project

# Burt & Adelson's binomial filter.
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def blurring(length: int) -> np.ndarray:
    """Return the matrix that filters a row with [1 4 6 4 1]/16, mirrored at both ends."""
    # Mirroring needs more pixels than it adds; a smaller image repeats its edge.
    mode: Literal["reflect", "edge"] = "reflect" if length > 2 else "edge"
    padded = np.pad(np.eye(length), ((2, 2), (0, 0)), mode=mode)
    return sum(tap * padded[k : k + length] for k, tap in enumerate(TAPS))


def halved(length: int) -> int:
    """Return the length of the next coarser level."""
    return max(1, length // 2)


def down(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c"]:
    """Blur, then sample at half the size."""
    rows, columns = (linear(n, halved(n)) @ blurring(n) for n in x.shape[1:3])
    return separable(rows, columns, x)


def up(x: Float[Array, "batch h2 w2 c"], height: int, width: int) -> Array:
    """Sample at a larger size, then blur."""
    rows, columns = (
        blurring(n) @ linear(m, n) for m, n in zip(x.shape[1:3], (height, width), strict=True)
    )
    return separable(rows, columns, x)


def pyramid(x: Float[Array, "batch h w c"], levels: int) -> list[Array]:
    """Return the bands of a Laplacian pyramid, high to low; sizes need not be powers of two."""
    bands = []
    for _ in range(levels - 1):
        coarse = down(x)
        bands.append(x - up(coarse, *x.shape[1:3]))
        x = coarse
    return [*bands, x]


def assemble(bands: Sequence[Array]) -> Float[Array, "batch h w c"]:
    """Return the image of a pyramid's bands; the inverse of `pyramid`."""
    x = bands[-1]
    for band in reversed(bands[:-1]):
        x = band + up(x, *band.shape[1:3])
    return x


@pytree
class FrequencyDecoupled(Stateless):
    """Scale every band of the push on its own."""

    scales: tuple[float | Array, ...]
    parallel_weights: tuple[float | Array, ...]

    def push_of(self, push, context):
        if push.ndim != 4:
            raise ValueError(
                f"guidance.frequency_decoupled: predictions must be images [batch, height, "
                f"width, channel], got {push.shape}"
            )
        levels = len(self.scales)
        pushes, mains = pyramid(push, levels), pyramid(context.main, levels)
        bands = []
        for band, main, weight, eta in zip(
            pushes, mains, self.scales, self.parallel_weights, strict=True
        ):
            own = Context(main, main, main, context.sigma)
            weight = per_sample("scales", weight, band)
            bands.append((weight - 1) * project(eta).push_of(band, own))
        return assemble(bands)


@register("transform", "2506.19713")
def frequency_scales(
    scales: Sequence[float | Array] = (10.0, 5.0),
    parallel_weights: Sequence[float | Array] | None = None,
) -> FrequencyDecoupled:
    """Return the transform with a scale for every frequency band, in the place of `scale`.

    Arguments and errors are those of `frequency_decoupled`.

    Source: Sadat et al., arXiv 2506.19713, algorithm 1.
    """
    weights = (1.0,) * len(scales) if parallel_weights is None else tuple(parallel_weights)
    if not scales or len(weights) != len(scales):
        raise ValueError(
            f"guidance.frequency_scales: need one parallel weight a scale, got {len(scales)} "
            f"scales and {len(weights)} weights"
        )
    require_finite("frequency_scales", **{f"scales[{i}]": s for i, s in enumerate(scales)})
    return FrequencyDecoupled(tuple(scales), weights)


@register("rule", "2506.19713")
def frequency_decoupled(
    scales: Sequence[float | Array] = (10.0, 5.0),
    parallel_weights: Sequence[float | Array] | None = None,
) -> Push:
    r"""Return CFG with its own scale in every frequency band, ``D_b + (scale_b - 1) push_b``.

    Equation:
        D_b = D_{y, b} + (w_b - 1) \Delta_b, \quad b = \text{bands of a Laplacian pyramid}

    When to use: To sharpen details without what a high scale does to colour and contrast: a
    high scale for high frequencies, a low one for low frequencies.

    Args:
        scales: one a band, from the highest frequencies to the lowest; 1 is off. As many bands
            as there are scales, at any image size.
        parallel_weights: what is kept, in each band, of the push along the conditional
            prediction (`project`'s eta); 1 everywhere when not given.

    Raises:
        ValueError: no scales, another number of weights, a number that is not finite.

    Source: Sadat et al., arXiv 2506.19713, algorithm 1.
    """
    return from_null(frequency_scales(scales, parallel_weights))
