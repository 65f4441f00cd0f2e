"""InceptionV3 as the inception distance and the inception score define it.

The network is that of the TensorFlow graph of 2015-12-05 (Szegedy et al., arXiv 1512.00567), which
is not the one that libraries of networks have: its average pooling counts no padding, the last
block pools by the maximum, and it tells 1008 classes. What it is fed is in
`evaluation.extractors.inception_features`; the arrays are those of its published port
(`checkpoints.keys.inception`).
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..conditions import Label
from ..layers.starts import Keys, Rngs
from ..spec import Spec, checked_fields

EPSILON = 1e-3
# Channels of the spatial features: 17 x 17 x 7 are about as many numbers as the pooled ones.
SPATIAL_CHANNELS = 7
# A side below which nothing is left for the last blocks.
SMALLEST = 75


class Layer(NamedTuple):
    """A convolution: output channels, rows and columns of its window, and its stride."""

    width: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1


class Layout(NamedTuple):
    """What a block is made of.

    Attributes:
        branches: the layers of each, all on the block's input.
        pooling: "average", "max" or, at half the resolution and without a layer after it,
            "passed"; that of the last branch.
        forks: whether the last two layers of a branch of several are side by side.
    """

    branches: tuple[tuple[Layer, ...], ...]
    pooling: str
    forks: bool = False


def _square(width: int, side: int, stride: int = 1) -> Layer:
    return Layer(width, (side, side), stride)


def _row(width: int, side: int) -> Layer:
    return Layer(width, (1, side))


def _column(width: int, side: int) -> Layer:
    return Layer(width, (side, 1))


def _coarse(pooled: int) -> Layout:
    five = (Layer(48), _square(64, 5))
    three = (Layer(64), _square(96, 3), _square(96, 3))
    return Layout(((Layer(64),), five, three, (Layer(pooled),)), "average")


def _factored(width: int) -> Layout:
    seven = (Layer(width), _row(width, 7), _column(192, 7))
    twice = (Layer(width), _column(width, 7), _row(width, 7), _column(width, 7), _row(192, 7))
    return Layout(((Layer(192),), seven, twice, (Layer(192),)), "average")


def _widest(pooling: str) -> Layout:
    three = (Layer(384), _row(384, 3), _column(384, 3))
    twice = (Layer(448), _square(384, 3), _row(384, 3), _column(384, 3))
    return Layout(((Layer(320),), three, twice, (Layer(192),)), pooling, forks=True)


# Before the blocks; the third and the fifth are followed by pooling.
STEM = (
    _square(32, 3, 2),
    _square(32, 3),
    _square(64, 3),
    Layer(80),
    _square(192, 3),
)
POOLED = (2, 4)
# Those of the stem that see no padding.
UNPADDED = (0, 1, 4)
BLOCKS = (
    _coarse(32),
    _coarse(64),
    _coarse(64),
    Layout(
        ((_square(384, 3, 2),), (Layer(64), _square(96, 3), _square(96, 3, 2))),
        "passed",
    ),
    _factored(128),
    _factored(160),
    _factored(160),
    _factored(192),
    Layout(
        (
            (Layer(192), _square(320, 3, 2)),
            (Layer(192), _row(192, 7), _column(192, 7), _square(192, 3, 2)),
        ),
        "passed",
    ),
    _widest("average"),
    _widest("max"),
)
# The block whose first layer gives the spatial features, mixed_6 of the graph.
SPATIAL_BLOCK = 6
WIDTH = 2048


class ConvNorm(nnx.Module):
    """``relu(norm(conv(x)))`` without a bias, normalised by a mean and a variance that are kept."""

    def __init__(self, fan_in: int, layer: Layer, padding: str = "SAME", *, rngs: Rngs):
        self.stride, self.padding = layer.stride, padding if layer.stride == 1 else "VALID"
        shape = (*layer.window, fan_in, layer.width)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.scale = nnx.Param(jnp.ones(layer.width))
        self.bias = nnx.Param(jnp.zeros(layer.width))
        self.mean = nnx.Param(jnp.zeros(layer.width))
        self.variance = nnx.Param(jnp.ones(layer.width))

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 d"]:
        x = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return self.activated(x)

    def activated(self, x: Float[Array, "batch h w d"]) -> Float[Array, "batch h w d"]:
        """Return the output, given that of the convolution."""
        gain = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
        return jax.nn.relu(x * gain + (self.bias[...] - self.mean[...] * gain))


class Mixed(nnx.Module):
    """A block: branches on one input, side by side in the output's channels."""

    def __init__(self, fan_in: int, layout: Layout, *, rngs: Rngs):
        self.pooling, self.forks = layout.pooling, layout.forks
        branches = []
        for branch in layout.branches:
            layers, width = [], fan_in
            for number, layer in enumerate(branch):
                layers.append(ConvNorm(width, layer, rngs=rngs))
                beside = layout.forks and len(branch) > 2 and number == len(branch) - 2
                width = width if beside else layer.width
            branches.append(nnx.List(layers))
        self.branches = nnx.List(branches)
        self.width = sum(
            layer.width for branch in layout.branches for layer in branch[self._last(branch) :]
        ) + fan_in * (layout.pooling == "passed")

    def _last(self, branch: Sequence) -> int:
        """Return the number of the layer that the output of a branch begins with."""
        return len(branch) - (2 if self.forks and len(branch) > 2 else 1)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 d"]:
        pooled = None if self.pooling == "passed" else len(self.branches) - 1
        # Layers of one pixel on the input itself are one product.
        entries = [
            number
            for number, branch in enumerate(self.branches)
            if branch[0].kernel.shape[:2] == (1, 1)
            and (number != pooled or self.pooling == "average")
        ]
        maps = self._entered([self.branches[number][0] for number in entries], x)
        entered = dict(zip(entries, maps, strict=True))
        outputs = []
        for number, branch in enumerate(self.branches):
            if number not in entered:
                h = branch[0](largest(x, 1) if number == pooled else x)
            else:
                h = entered[number]
                # The average of a linear map is the map of the average, of fewer channels here.
                h = branch[0].activated(averaged(h) if number == pooled else h)
            last = self._last(branch)
            for layer in branch[1:last]:
                h = layer(h)
            outputs += [layer(h) for layer in branch[last:]] if len(branch) > 1 else [h]
        if self.pooling == "passed":
            outputs.append(largest(x, 2))
        return jnp.concatenate(outputs, axis=-1)

    @staticmethod
    def _entered(layers: Sequence[ConvNorm], x: Array) -> list[Array]:
        """Return the convolutions of layers whose window is one pixel, as one product."""
        if not layers:
            return []
        kernels = [layer.kernel[0, 0] for layer in layers]
        ends = list(accumulate(kernel.shape[1] for kernel in kernels))
        return jnp.split(x @ jnp.concatenate(kernels, axis=1), ends[:-1], axis=-1)


def largest(x: Float[Array, "batch h w c"], stride: int) -> Float[Array, "batch h2 w2 c"]:
    """Return the largest of every 3 x 3 pixels; at stride 1 with what the image has of them."""
    if stride == 1:
        around = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jnp.pad(x, around, constant_values=-jnp.inf)
    for axis in (1, 2):
        x = reduce(jnp.maximum, _shifted(x, axis, stride))
    return x


def averaged(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    """Return the mean of the 3 x 3 pixels around each, of those that the image has."""

    def summed(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        for axis in (1, 2):
            x = reduce(jnp.add, _shifted(x, axis, 1))
        return x

    return summed(x) / summed(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _shifted(x: Array, axis: int, stride: int) -> list[Array]:
    """Return the first, second and third of every three neighbours along an axis."""
    last = x.shape[axis] - 2
    return [
        jax.lax.slice_in_dim(x, start, start + last, stride=stride, axis=axis) for start in range(3)
    ]


class InceptionV3(nnx.Module):
    """The classifier of the inception distance, ``x -> logits``.

    Args:
        num_classes: of the logits, 1008 in the graph.
        narrow: divides every layer's channels; 1 in the graph, 2, 4, 8 or 16 for a small relative.
        rngs: source of the initial parameters.

    Raises:
        ValueError: channels that do not divide.
    """

    def __init__(self, *, num_classes: int = 1008, narrow: int = 1, rngs: nnx.Rngs):
        if narrow not in (1, 2, 4, 8, 16):
            raise ValueError(f"narrow is {narrow}: it is 1, 2, 4, 8 or 16")
        keys, width = Keys(rngs), 3
        stem, blocks = [], []
        for number, layer in enumerate(STEM):
            padding = "VALID" if number in UNPADDED else "SAME"
            stem.append(ConvNorm(width, _narrowed(layer, narrow), padding, rngs=keys))
            width = layer.width // narrow
        for layout in BLOCKS:
            branches = tuple(
                tuple(_narrowed(layer, narrow) for layer in branch) for branch in layout.branches
            )
            blocks.append(Mixed(width, layout._replace(branches=branches), rngs=keys))
            width = blocks[-1].width
        self.stem, self.blocks = nnx.List(stem), nnx.List(blocks)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def _through(self, x: Array, blocks: int) -> Array:
        if x.ndim != 4 or x.shape[3] != 3 or min(x.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"InceptionV3 takes images of 3 channels and {SMALLEST} pixels or more a side, got "
                f"{x.shape[1:]}"
            )
        for number, layer in enumerate(self.stem):
            x = layer(x)
            x = largest(x, 2) if number in POOLED else x
        for block in list(self.blocks)[:blocks]:
            x = block(x)
        return x

    def features(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch feature"]:
        """Return the 2048 pooled features, pool_3 of the graph, for images in [-1, 1]."""
        return self._through(x, len(BLOCKS)).mean(axis=(1, 2))

    def spatial(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch feature"]:
        """Return the features of the spatial distance (arXiv 2103.03841), in the graph's order.

        They are the first 7 channels of mixed_6/conv, 17 x 17 x 7 for images of 299 pixels.
        """
        layer = self.blocks[SPATIAL_BLOCK].branches[0][0]
        found = layer(self._through(x, SPATIAL_BLOCK))
        return found[..., :SPATIAL_CHANNELS].reshape(len(x), -1)

    def logits_without_bias(
        self, features: Float[Array, "batch feature"]
    ) -> Float[Array, "batch class"]:
        """Return the logits that the inception score is of, for pooled features."""
        return features @ self.head.kernel[...]

    def __call__(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch class"]:
        """Return logits for images in [-1, 1]."""
        return self.head(self.features(x))


def _narrowed(layer: Layer, by: int) -> Layer:
    return layer._replace(width=layer.width // by)


@register("network", "1512.00567", name="inception_v3")
def inception_spec(**fields: Any) -> Spec:
    """Read the model section of the inception distance's network: the fields of `InceptionV3`."""
    own = checked_fields(InceptionV3, "inception_v3", fields)

    def build(rngs):
        return InceptionV3(rngs=rngs, **own)

    classes = own.get("num_classes", 1008)
    return Spec(build, Label(classes, null=False), (299, 299, 3), None)
