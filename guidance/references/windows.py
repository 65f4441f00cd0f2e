"""Sliding-window guidance: a network without long-range context as reference (arXiv 2411.10257)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import Branch, require_finite
from ..pushes import Push, Scale


@pytree
class SlidingWindows:
    """The average of predictions made in overlapping windows, each denoised alone."""

    size: int = static()
    count: int = static()
    masked: bool = static()

    def predictions(self, evaluate, x, sigma, key):
        del sigma, key
        if x.ndim != 4:
            raise ValueError(
                f"guidance.swg: samples must be images [batch, height, width, channel], got "
                f"{x.shape}"
            )
        rows, columns = (self._starts(x.shape[axis]) for axis in (1, 2))
        (main,) = evaluate((Branch(),))
        total, overlap = jnp.zeros_like(x), np.zeros((*x.shape[1:3], 1))
        for row in rows:
            for column in columns:
                window = np.s_[row : row + self.size, column : column + self.size]
                (part,) = evaluate((Branch(),), x=x[:, *window])
                total = total.at[:, *window].add(part)
                overlap[window] += 1
        reference = total / overlap.astype(x.dtype)
        return main, jnp.where(overlap > 1, reference, main) if self.masked else reference

    def _starts(self, length: int) -> np.ndarray:
        if self.size > length:
            raise ValueError(
                f"guidance.swg: windows of {self.size} do not fit into {length} pixels: choose a "
                f"smaller size"
            )
        starts = np.rint(np.linspace(0, length - self.size, self.count)).astype(int)
        if starts[-1] + self.size < length or np.any(np.diff(starts) > self.size):
            raise ValueError(
                f"guidance.swg: {self.count} windows of {self.size} leave gaps in {length} pixels: "
                f"use more or larger windows"
            )
        return starts


@register("reference", "2411.10257")
def sliding_windows(size: int, count: int = 2, masked: bool = False) -> SlidingWindows:
    """Return the reference of sliding-window guidance.

    The network denoises ``count x count`` windows of ``size x size`` pixels (of the latent),
    evenly spread from edge to edge, at the windows' own size; overlaps are averaged.

    Args:
        size: height and width of a window; 40 of 64 for EDM2.
        count: windows along each side.
        masked: push only where windows overlap (M-SWG).

    Raises:
        ValueError: sizes that are not positive; when first traced, windows larger than the image,
            or gaps between them.
    """
    if size < 1 or count < 1:
        raise ValueError(
            f"guidance.swg: size and count must be at least 1, got size={size}, count={count}"
        )
    return SlidingWindows(int(size), int(count), bool(masked))


@register("rule", "2411.10257")
def swg(scale: float | Array, size: int, count: int = 2, masked: bool = False) -> Push:
    r"""Return sliding-window guidance, ``D_windows + scale * (D_main - D_windows)``.

    Costs ``count^2`` evaluations of windows beside the plain one. Needs no training and no
    condition, but a network that takes inputs of the windows' size.

    Equation:
        D = D_\text{windows} + w (D - D_\text{windows})

    When to use: To strengthen what needs the whole image, such as symmetry and layout, in
    networks that take inputs of other sizes. Costs one evaluation a window, each smaller than
    the image.

    Args:
        scale: 1 is off; the paper's weight is ``scale - 1``.
        size, count, masked: see `sliding_windows`.

    Raises:
        ValueError: scale not finite, impossible windows.

    Source: Kaiser et al., arXiv 2411.10257, section 4.
    """
    require_finite("swg", scale=scale)
    return Push(Scale(scale), sliding_windows(size, count, masked))
