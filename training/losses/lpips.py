"""LPIPS: the learned perceptual distance in features of VGG-16 (Zhang et al., arXiv 1801.03924).

Its weights are two published files: torchvision's VGG-16 (``vgg16-397923af.pth``), and the weights
of the features, which the authors' package has as ``weights/v0.1/vgg.pth``; or one file with the
state dict of the package's ``LPIPS(net="vgg")``. The package has weights of an older version 0.0
too, of the same names and shapes, which are for images that are not scaled; their sums tell them.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.errors import UserError
from ...models.checkpoints.keys.layout import conv
from ...models.checkpoints.readers import open_weights, require_finite
from .perceptual import feature_distance

# Output channels of the convolutions of each stage, and torchvision's numbers of them.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
# Mean and standard deviation of ImageNet's colours, for images in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# What the weights of version 0.0 sum to, layer by layer; those of 0.1 to twice as much and more.
SUMS_OF_0_0 = (3.6416, 1.9601, 1.1231, 20.1063, 25.6896)
FEATURE = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)")
LINEAR = re.compile(r"lin(\d)\.model\.1\.weight")


@dataclasses.dataclass(frozen=True, eq=False)
class LPIPS:
    """``sum_l mean_hw sum_c w_lc (f_l / |f_l| - g_l / |g_l|)^2`` over five layers, eq. 1.

    Attributes:
        stages: kernels ``[3, 3, in, out]`` and biases of every stage's convolutions.
        weights: of each stage's channels.
        scaled: whether images are brought to mean 0 and deviation 1 first; not in version 0.0.
    """

    stages: tuple[tuple[tuple[Array, Array], ...], ...]
    weights: tuple[Array, ...]
    scaled: bool = True

    def __call__(
        self, x: Float[Array, "batch h w c"], y: Float[Array, "batch h w c"]
    ) -> Float[Array, " batch"]:
        """Return distances between images in [-1, 1], grey ones taken for coloured.

        Raises:
            ValueError: other channels than 1 or 3.
        """
        x, y = (_coloured(one, self.scaled) for one in (x, y))
        total = 0.0
        for number, (stage, weights) in enumerate(zip(self.stages, self.weights, strict=True)):
            x, y = (_through(stage, one if number == 0 else _halved(one)) for one in (x, y))
            total = total + feature_distance(x, y, weights)
        return total


def _coloured(x: Array, scaled: bool) -> Array:
    if x.shape[-1] not in (1, 3):
        raise ValueError(f"LPIPS is of images of 1 or 3 channels, got {x.shape[-1]}")
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    return (x - np.float32(SHIFT)) / np.float32(SCALE) if scaled else x


def _through(stage: tuple, x: Array) -> Array:
    for kernel, bias in stage:
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + bias)
    return x


def _halved(x: Array) -> Array:
    """Return the largest of every square of four; what is left over at odd sizes is dropped."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def read_lpips(features: str | Path, linear: str | Path = "") -> LPIPS:
    """Read published weights.

    Args:
        features: torchvision's VGG-16, or the state dict of a whole LPIPS.
        linear: the weights of the features, where they are in a file of their own.

    Raises:
        UserError: a file that is missing, damaged, or has other arrays.
    """
    tensors = dict(open_weights(features).tensors)
    if linear:
        tensors |= open_weights(linear).tensors
    found: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        if match := FEATURE.fullmatch(name):
            found[int(match[1]), match[2]] = (name, tensor)
        elif match := LINEAR.fullmatch(name):
            found["linear", int(match[1])] = (name, tensor)

    def take(key, what: str, shape: tuple[int, ...]) -> np.ndarray:
        name, tensor = found.get(key, (what, None))
        there = None if tensor is None else tensor.shape
        if there != shape:
            raise UserError(
                f"{features}{f' and {linear}' if linear else ''}: {name} has shape {there} and "
                f"LPIPS takes {shape}: give torchvision's vgg16-397923af.pth as features and "
                f"vgg.pth of the lpips package as lpips"
            )
        return require_finite(name, tensor.read().astype(np.float32, copy=False))

    stages, fan_in = [], 3
    for numbers, widths in zip(NUMBERS, STAGES, strict=True):
        stage = []
        for number, width in zip(numbers, widths, strict=True):
            name = f"features.{number}"
            kernel = take((number, "weight"), f"{name}.weight", (width, fan_in, 3, 3))
            bias = take((number, "bias"), f"{name}.bias", (width,))
            stage.append((jnp.asarray(conv(kernel)), jnp.asarray(bias)))
            fan_in = width
        stages.append(tuple(stage))
    weights = tuple(
        jnp.asarray(
            take(("linear", k), f"lin{k}.model.1.weight", (1, widths[-1], 1, 1)).reshape(-1)
        )
        for k, widths in enumerate(STAGES)
    )
    old = np.allclose([float(one.sum()) for one in weights], SUMS_OF_0_0, rtol=0.01)
    return LPIPS(tuple(stages), weights, scaled=not old)


def is_vgg(source: str | Path) -> bool:
    """Say whether a file has VGG-16's first convolution, under either of its names."""
    names: Mapping = open_weights(source).tensors
    return "features.0.weight" in names or "net.slice1.0.weight" in names
