"""The second trainable network of distribution matching: a denoiser of what the student makes.

It is the role ``fake``, trained beside the student by a gradient of its own: its part of a loss is
added to the student's, and no gradient passes from one to the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..losses.denoising import weighted_error
from ..losses.loss import Role
from ..noise.corruption import Corruption, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting

FAKE = "fake"


def denoising_of_made(
    fake: Role,
    made: Float[Array, " batch *shape"],
    condition: Any,
    keys: Key[Array, " batch"],
    corruption: Corruption,
    weighting: Weighting,
    span: tuple = WHOLE,
    **inputs: Array,
) -> Float[Array, " batch"]:
    """Return the fake denoiser's loss on generated samples, which receive no gradient.

    Args:
        fake: the network.
        made: the student's samples.
        condition: that they were made for.
        keys: one a sample, of noise levels and noise.
        corruption, weighting: as of the loss ``denoising``.
        span: part of the noise levels.
        inputs: numbers that the samples were made with, where the fake takes them, too.
    """
    batch = {"x": jax.lax.stop_gradient(made), "condition": condition}
    given = corruption(fake.network, batch, keys, span)
    given = given._replace(inputs={**given.inputs, **inputs})
    assert fake.preconditioner is not None, "the fake network is a denoiser"
    return weighted_error(
        weighting, fake.preconditioner, given.column, outcome(fake.denoiser, given)
    )


def direction(
    fake_denoised: Float[Array, " batch *shape"],
    real_denoised: Float[Array, " batch *shape"],
    made: Float[Array, " batch *shape"],
    *,
    normalised: bool = True,
) -> Float[Array, " batch *shape"]:
    """Return ``D_fake - D_real``, along which distribution matching moves a sample downwards.

    Args:
        fake_denoised, real_denoised: predictions at one noised version of ``made``.
        made: the student's samples.
        normalised: divide by the mean of ``|made - D_real|`` over a sample's elements.

    Source: Yin et al., arXiv 2311.18828, eq. 7 and 8.
    """
    way = fake_denoised - real_denoised
    if normalised:
        axes = tuple(range(1, made.ndim))
        size = jnp.mean(jnp.abs(made - real_denoised), axis=axes, keepdims=True)
        way = way / jnp.maximum(size, jnp.finfo(made.dtype).tiny ** 0.5)
    return jax.lax.stop_gradient(way)
