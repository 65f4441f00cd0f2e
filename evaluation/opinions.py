"""What a network says of images that are to be of given classes: a classifier, or a denoiser."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ..core.batches import Batches
from ..core.random import root_key
from .denoising_errors import diffusion_classifier


class Opinion(NamedTuple):
    """Of images and their classes.

    Attributes:
        agrees: whether each is named as its class.
        log_probability: of its class; None of a denoiser, whose few draws say too little of it.
    """

    agrees: Bool[np.ndarray, " image"]
    log_probability: Float[np.ndarray, " image"] | None


# From images, their classes and their indices to an opinion of them.
Opinions = Callable[[np.ndarray, np.ndarray, np.ndarray], Opinion]


def of_classifier(network: Callable, batch_size: int) -> Opinions:
    """Return the opinions of a classifier.

    Args:
        network: ``(x0, sigma) -> logits``, a pytree; asked at sigma 0.
        batch_size: images that it is given at a time.
    """
    batches = Batches(_log_probabilities, network, batch_size)

    def opinion(images, labels, indices):
        del indices
        found = batches(np.asarray(images, np.float32))
        own = np.take_along_axis(found, np.asarray(labels)[:, None], axis=1)[:, 0]
        return Opinion(found.argmax(axis=1) == labels, own)

    return opinion


@jax.jit
def _log_probabilities(network, images):
    return jax.nn.log_softmax(network(images, jnp.zeros((), images.dtype)))


def of_denoiser(
    denoiser: Any, sigmas: Float[np.ndarray, " level"], batch_size: int, seed: int
) -> Opinions:
    """Return the opinions of a denoiser as a classifier, see `diffusion_classifier`.

    Args:
        denoiser: a pytree that knows classes.
        sigmas: one noise level a draw.
        batch_size: samples that it is given at a time.
        seed: of its draws.
    """

    def opinion(images, labels: Int[np.ndarray, " image"], indices):
        found = diffusion_classifier(
            denoiser,
            images,
            sigmas=sigmas,
            key=root_key(seed),
            indices=indices,
            batch_size=batch_size,
        )
        return Opinion(found.classes == labels, None)

    return opinion
