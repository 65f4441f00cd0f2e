"""A small residual convolutional classifier whose penultimate layer is a feature space.

Group normalisation (Wu & He, arXiv 1803.08494) keeps no running state, so the module is a pure
function of its parameters and an image's logits never depend on its batch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..conditions import Label
from ..spec import Spec, checked_fields

GROUPS = 8


def _convolution(fan_in: int, fan_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # He initialisation (arXiv 1502.01852); no bias where a normalisation with one follows.
    initial = nnx.initializers.he_normal()
    return nnx.Conv(
        fan_in, fan_out, (3, 3), strides=stride, use_bias=False, kernel_init=initial, rngs=rngs
    )


class Residual(nnx.Module):
    """``x + conv(gelu(norm(x)))``: the pre-activation residual branch (arXiv 1603.05027)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(width, num_groups=GROUPS, rngs=rngs)
        self.convolution = _convolution(width, width, 1, rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        return x + self.convolution(jax.nn.gelu(self.norm(x)))


class Stage(nnx.Module):
    """Halve the resolution, then refine with ``depth`` residual branches and normalise."""

    def __init__(self, fan_in: int, width: int, depth: int, *, rngs: nnx.Rngs):
        self.down = _convolution(fan_in, width, 2, rngs)
        self.blocks = nnx.List([Residual(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.GroupNorm(width, num_groups=GROUPS, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch h w c"]
    ) -> Float[Array, "batch (h+1)//2 (w+1)//2 width"]:
        x = self.down(x)
        for block in self.blocks:
            x = block(x)
        return jax.nn.gelu(self.norm(x))


class Classifier(nnx.Module):
    """Image classifier, ``x -> logits``, with ``features`` for feature-space metrics.

    The first convolution is strided: at full resolution nearly all of the time on a CPU would go
    into a layer that sees three channels or one.

    Args:
        image_size: height and width of the input.
        channels: input channels.
        num_classes: classes, 2 or more.
        widths: channels of each stage, multiples of 8; every stage halves the resolution.
        depths: residual branches of each stage, as many entries as ``widths``.
        feature_width: length of the feature vector.
        rngs: source of the initial parameters.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int,
        widths: Sequence[int] = (24, 48, 96),
        depths: Sequence[int] = (1, 1, 1),
        feature_width: int = 64,
        rngs: nnx.Rngs,
    ):
        if not widths or len(widths) != len(depths):
            raise ValueError(
                f"widths {tuple(widths)} and depths {tuple(depths)} need one entry per stage"
            )
        if any(width % GROUPS for width in widths):
            raise ValueError(f"widths {tuple(widths)} must be multiples of {GROUPS}")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs 2 or more")
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        fan_ins = (channels, *widths[:-1])
        self.stages = nnx.List(
            [Stage(*sizes, rngs=rngs) for sizes in zip(fan_ins, widths, depths, strict=True)]
        )
        self.project = nnx.Linear(widths[-1], feature_width, rngs=rngs)
        self.head = nnx.Linear(feature_width, num_classes, rngs=rngs)

    def features(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch feature"]:
        """Return the penultimate layer for images in [-1, 1]."""
        if x.shape[1:] != (self.image_size, self.image_size, self.channels):
            raise ValueError(
                f"this classifier takes {self.image_size}x{self.image_size}x{self.channels} "
                f"images, got {x.shape[1:]}"
            )
        for stage in self.stages:
            x = stage(x)
        return jax.nn.gelu(self.project(jnp.mean(x, axis=(1, 2))))

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch class"]:
        """Return logits for images in [-1, 1]."""
        return self.head(self.features(x))


@register("network", name="classifier")
def classifier_spec(image_size: int, channels: int, num_classes: int, **fields: Any) -> Spec:
    """Read the model section of a classifier: the fields of `Classifier`."""
    sizes = dict(image_size=image_size, channels=channels, num_classes=num_classes)
    own = checked_fields(Classifier, "classifier", sizes | fields)

    def build(rngs):
        return Classifier(rngs=rngs, **own)

    return Spec(build, Label(num_classes, null=False), (image_size, image_size, channels), None)
