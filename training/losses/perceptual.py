"""Distances between images in the features of a classifier (Zhang et al., arXiv 1801.03924)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.errors import UserError
from ...models.checkpoints import load
from ...models.denoiser import Network
from .loss import over_elements

EPSILON = 1e-10


def feature_distance(
    ours: Float[Array, "batch h w c"], theirs: Float[Array, "batch h w c"], weights: Any = 1.0
) -> Float[Array, " batch"]:
    """Return one layer's distance, arXiv 1801.03924, eq. 1.

    ``mean_hw sum_c w_c (f / |f| - g / |g|)^2``, the lengths those of the channels of one place.
    """
    # Inside the root, where it keeps the gradient of what is zero finite.
    ours, theirs = (
        f * jax.lax.rsqrt(jnp.sum(f**2, axis=-1, keepdims=True) + EPSILON) for f in (ours, theirs)
    )
    each = jnp.sum(weights * (ours - theirs) ** 2, axis=-1)
    return over_elements(jnp.mean, each)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierDistance:
    """The sum of `feature_distance` over the stages of a classifier, every channel's weight 1.

    Attributes:
        network, params: a `models.Classifier`.
    """

    network: Network
    params: Any

    def __call__(
        self, x: Float[Array, "batch h w c"], y: Float[Array, "batch h w c"]
    ) -> Float[Array, " batch"]:
        """Return distances between images in [-1, 1]."""
        module = self.network.module(self.params)
        total = 0.0
        for stage in module.stages:
            x, y = stage(x), stage(y)
            total = total + feature_distance(x, y)
        return total


def from_weights(source: str, shape: tuple[int, ...]) -> ClassifierDistance:
    """Return the distance in the features of a classifier's weights.

    Args:
        source: a weight file of this project, or the name of shipped ones.
        shape: of the images, without the batch.

    Raises:
        UserError: no such weights, of no classifier, or of one that takes other images.
    """
    loaded = load(source)
    if loaded.sidecar["model"].get("name") != "classifier":
        raise UserError(
            f"training.loss.features {source!r} holds a {loaded.sidecar['model']['name']}: "
            f"name the weights of a classifier"
        )
    if loaded.spec.shape != tuple(shape):
        raise UserError(
            f"the classifier of training.loss.features {source!r} takes images of shape "
            f"{loaded.spec.shape}, and those here are {tuple(shape)}: name one that was trained on "
            f"such images"
        )
    return ClassifierDistance(loaded.network, jax.lax.stop_gradient(loaded.params))
