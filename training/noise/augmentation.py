"""Geometric augmentation that the network is told of, so that none of it leaks into samples.

The pipe of Karras et al., arXiv 2206.00364, appendix F.2: flips, one affine map per image with
band-limited resampling, and nine numbers a sample that say what was done.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ...core.registry import register

LABELS = 9
# Low-pass filter of the least asymmetric wavelet with six vanishing moments (Daubechies 1992,
# Table 6.3): its even shifts are orthonormal, so that resampling by the identity is the identity.
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip


class Draws(NamedTuple):
    """What is done to one image; every number is 0 where its operation was not drawn.

    Attributes:
        flip_x, flip_y: 1 where mirrored left to right, top to bottom.
        scale: enlargement by ``2^(scale_std scale)``.
        angle: rotation, in radians.
        stretch, axis: enlargement by ``2^(stretch_std stretch)`` along a direction at the angle
            ``axis``, and reduction by as much across it.
        shift_x, shift_y: translation, in units of ``shift_std`` image sides.
    """

    flip_x: Array
    flip_y: Array
    scale: Array
    angle: Array
    stretch: Array
    axis: Array
    shift_x: Array
    shift_y: Array

    @property
    def labels(self) -> Float[Array, "... 9"]:
        """The numbers the network is given; zeros for an image as it is."""
        return jnp.stack(
            [
                self.flip_x,
                self.flip_y,
                self.scale,
                jnp.cos(self.angle) - 1,
                jnp.sin(self.angle),
                self.stretch * jnp.cos(self.axis),
                self.stretch * jnp.sin(self.axis),
                self.shift_x,
                self.shift_y,
            ],
            axis=-1,
        )


@dataclasses.dataclass(frozen=True)
class AugmentPipe:
    """Draw and apply augmentations, one key an image.

    Attributes:
        probability: of every operation but the mirror image, 0.12 for CIFAR-10 and 0.15 for
            FFHQ and AFHQv2 in the paper.
        mirror: of drawing whether an image is mirrored left to right, so half of it is the share
            that is mirrored; 1 in the paper.
        scale_std, stretch_std: of log2 of the factors.
        axis_probability: of a stretch along another direction than the image's rows.
        shift_std: of the translation, in image sides.

    Raises:
        ValueError: a probability outside [0, 1], or a negative spread.
    """

    probability: float = 0.12
    mirror: float = 1.0
    scale_std: float = 0.2
    stretch_std: float = 0.2
    axis_probability: float = 0.5
    shift_std: float = 0.125

    def __post_init__(self):
        chances = self.probability, self.mirror, self.axis_probability
        if not all(0 <= one <= 1 for one in chances):
            raise ValueError(f"augmentation: probabilities lie in [0, 1], got {chances}")
        if min(self.scale_std, self.stretch_std, self.shift_std) < 0:
            raise ValueError("augmentation: scale_std, stretch_std and shift_std are 0 or more")

    def __call__(
        self, images: Float[Array, "batch h w c"], keys: Key[Array, " batch"]
    ) -> tuple[Float[Array, "batch h w c"], Float[Array, "batch 9"]]:
        """Return augmented images and their labels.

        Raises:
            ValueError: inputs that are not images.
        """
        if images.ndim != 4:
            raise ValueError(f"augmentation takes images [batch, h, w, c], got {images.shape}")
        draws = jax.vmap(self.draw)(keys)
        return jax.vmap(self.apply)(images, draws), draws.labels

    def draw(self, key: Key[Array, ""]) -> Draws:
        """Draw what is done to one image."""
        flip_key, angle_key, normal_key, chance_key = jax.random.split(key, 4)
        flips = jax.random.bernoulli(flip_key, 0.5, (2,)).astype(jnp.float32)
        angles = jax.random.uniform(angle_key, (2,), minval=-math.pi, maxval=math.pi)
        normals = jax.random.normal(normal_key, (4,))
        values = (*flips, normals[0], angles[0], normals[1], angles[1], *normals[2:])
        chances = np.full(7, self.probability)
        chances[[0, 5]] = self.mirror, self.axis_probability
        happens = jax.random.uniform(chance_key, (7,)) < chances
        # An image is moved in both directions or in none.
        happens = (*happens, happens[6])
        return Draws(*(jnp.where(yes, v, 0.0) for yes, v in zip(happens, values, strict=True)))

    def apply(self, image: Float[Array, "h w c"], draws: Draws) -> Float[Array, "h w c"]:
        """Do to one image what was drawn."""
        image = jnp.where(draws.flip_x == 1, image[:, ::-1], image)
        image = jnp.where(draws.flip_y == 1, image[::-1], image)
        return resampled(image, *self._source(image.shape[:2], draws))

    def _source(self, size: tuple[int, int], draws: Draws) -> tuple[Array, Array]:
        """Return matrix and shift ``p - shift -> matrix (p - shift)`` from the result's places to
        the image's, (column, row) in pixels from the centre: enlarged, then turned, then
        stretched, then moved.
        """
        height, width = size
        factor = jnp.exp2(self.scale_std * draws.scale)
        stretch = jnp.exp2(self.stretch_std * draws.stretch)
        stretched = _turn(-draws.axis) @ jnp.diag(jnp.stack([1 / stretch, stretch]))
        matrix = _turn(draws.angle) @ stretched @ _turn(draws.axis) / factor
        sides = jnp.array([width, height])
        return matrix, self.shift_std * sides * jnp.stack([draws.shift_x, draws.shift_y])


@register("augmentation", name="none")
def unaugmented() -> None:
    """Leave images as they are."""


@register("augmentation", "2206.00364")
def edm(
    probability: float = 0.12,
    mirror: float = 1.0,
    scale_std: float = 0.2,
    stretch_std: float = 0.2,
    axis_probability: float = 0.5,
    shift_std: float = 0.125,
) -> AugmentPipe:
    """Flip, scale, turn, stretch and move images, and tell the network.

    Args:
        probability, mirror, scale_std, stretch_std, axis_probability, shift_std: as of
            `AugmentPipe`.
    """
    return AugmentPipe(probability, mirror, scale_std, stretch_std, axis_probability, shift_std)


def resampled(
    image: Float[Array, "h w c"], matrix: Float[Array, "2 2"], shift: Float[Array, "2"]
) -> Float[Array, "h w c"]:
    """Return the image whose place p shows the place ``matrix (p - shift)`` of ``image``.

    Places are (column, row) in pixels from the centre. Beyond its sides the image is mirrored once
    and then 0. It is brought to twice the resolution by the wavelet's filter, interpolated
    linearly there, and brought back by the filter's mirror image, so that the identity changes
    nothing.
    """
    height, width, _ = image.shape
    fine = _product("mh,hwc,nw->mnc", _enlarging(height), image, _enlarging(width))
    rows, columns = (_fine_places(side) - (side - 1) / 2 for side in (height, width))
    place = jnp.stack(jnp.broadcast_arrays(columns[None], rows[:, None])) - shift[:, None, None]
    column, row = _product("ij,jmn->imn", matrix, place)
    # Of the finer image, which begins `side - 1` pixels before the image itself.
    row, column = (
        2 * (at + (side - 1) / 2 + side - 1) for at, side in ((row, height), (column, width))
    )
    found = jax.vmap(
        lambda channel: jax.scipy.ndimage.map_coordinates(channel, [row, column], order=1),
        in_axes=-1,
        out_axes=-1,
    )(fine)
    return _product("hm,mnc,wn->hwc", _reducing(height), found, _reducing(width))


def _turn(angle: Array) -> Float[Array, "2 2"]:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


def _product(equation: str, *operands) -> Array:
    # Some accelerators multiply matrices in half precision unless told not to.
    return jnp.einsum(equation, *operands, precision="highest")


# The tap of the filter that meets the pixel itself.
MIDDLE = 5


def _fine_places(side: int) -> np.ndarray:
    """Return the places, in pixels, of the finer image's pixels that one of ``side`` is made of."""
    return np.arange(-MIDDLE, 2 * (side - 1) + len(SYM6) - MIDDLE) / 2


@functools.cache
def _enlarging(side: int) -> np.ndarray:
    """Return the matrix that mirrors a row beyond its ends and doubles its resolution.

    ``[2 (3 side - 2), side]``: to the pixel at ``side - 1 + n`` of the mirrored row belongs entry
    ``2 (side - 1 + n)``.
    """
    mirrored = np.pad(np.eye(side), ((side - 1, side - 1), (0, 0)), mode="reflect")
    fine = np.zeros((2 * len(mirrored), side))
    for tap, weight in enumerate(SYM6):
        places = 2 * np.arange(len(mirrored)) + tap - MIDDLE
        inside = (places >= 0) & (places < len(fine))
        fine[places[inside]] += weight * mirrored[inside]
    return fine.astype(np.float32)


@functools.cache
def _reducing(side: int) -> np.ndarray:
    """Return the matrix from pixels at `_fine_places` back to a row of ``side``."""
    back = np.zeros((side, len(_fine_places(side))))
    for tap, weight in enumerate(SYM6):
        back[np.arange(side), 2 * np.arange(side) + tap] = weight
    return back.astype(np.float32)
