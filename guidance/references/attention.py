"""Perturbed self-attention: identity maps, blurred queries, a temperature.

PAG (Ahn et al., arXiv 2403.17377), SEG (Hong, arXiv 2408.00760), and the attention temperature of
ERG (Berrada Ifriqi et al., arXiv 2504.13987). All keep the condition and work without one.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, static
from ...core.registry import register
from ...core.sites import ATTENTION
from ..modes import Mode, checked_layers
from ..protocol import Branch, require_finite
from ..pushes import Perturbed, Push, Scale

# Above this the published blur takes the mean of all queries.
LARGEST_BLUR = 9999.0
# Below 1/6 the published kernel is one token wide.
SMALLEST_BLUR = 0.1
# Reflections of the grid, to each side, that a finite blur looks at.
REFLECTIONS = 8


@pytree
class InMode(Perturbed):
    """The plain prediction's condition, with the forward pass in one mode."""

    mode: Mode

    def branch(self, x, sigma, key):
        del x, sigma, key
        return Branch(modes=(self.mode,), name=self.mode.name)


@pytree
class IdentityAttention:
    """Every token attends to itself alone: the attention map is the identity."""

    name: ClassVar[str] = "identity_attention"
    site: ClassVar[str] = ATTENTION
    layers: tuple[int, ...] = static()

    def attention(self, attend, query, key, value, grid):
        del attend, query, key, grid
        return value


@pytree
class BlurredQueries:
    """Queries are blurred over the token grid by a Gaussian of ``sigma`` tokens."""

    name: ClassVar[str] = "blurred_queries"
    site: ClassVar[str] = ATTENTION
    layers: tuple[int, ...] = static()
    sigma: float | Array

    def attention(self, attend, query, key, value, grid):
        # Blur weights do not survive bfloat16.
        exact = jnp.promote_types(query.dtype, jnp.float32)
        rows, columns = (blur(length, self.sigma, exact) for length in grid)
        blurred = query.reshape(query.shape[0], *grid, *query.shape[2:]).astype(exact)
        blurred = jnp.einsum("ir,brchf->bichf", rows, blurred)
        blurred = jnp.einsum("jc,bichf->bijhf", columns, blurred)
        return attend(blurred.reshape(query.shape).astype(query.dtype), key, value)


@pytree
class AttentionTemperature:
    """Logits of the attention map are multiplied by ``temperature``."""

    name: ClassVar[str] = "attention_temperature"
    site: ClassVar[str] = ATTENTION
    layers: tuple[int, ...] = static()
    temperature: float | Array

    def attention(self, attend, query, key, value, grid):
        del grid
        return attend(query * jnp.asarray(self.temperature, query.dtype), key, value)


def blur(length: int, sigma: float | Array, dtype=jnp.float32) -> Float[Array, "length length"]:
    """Return the matrix that blurs ``length`` tokens in a row, reflected at both ends.

    ``w_k ~ exp(-k^2 / 2 sigma^2)`` for ``|k| <= floor(ceil(6 sigma) / 2)``: an odd kernel of
    ``ceil(6 sigma)`` or one more. Above sigma 9999 every row is the mean.

    Args:
        length: tokens in the row.
        sigma: standard deviation in tokens, a scalar; 0 is the identity matrix. Kernels that
            reach over more than 8 reflections of the row are cut there, where they are flat.
        dtype: of the matrix.
    """
    sigma = jnp.asarray(sigma, dtype)
    # [copy, to, from]: how far each reflected copy of a token is from each token.
    distance, reach = _reflected_distances(length, dtype)
    half = jnp.minimum(jnp.floor(jnp.ceil(6 * sigma) / 2), reach)
    # A kernel of one token looks at no width: this one is safe to divide by.
    width = jnp.maximum(sigma, SMALLEST_BLUR)
    weights = jnp.where(distance <= half, jnp.exp(-((distance / width) ** 2) / 2), 0).sum(axis=0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return jnp.where(sigma > LARGEST_BLUR, jnp.full_like(weights, 1 / length), weights)


def _reflected_distances(length: int, dtype) -> tuple[np.ndarray, int]:
    if length == 1:
        return np.zeros((1, 1, 1), dtype), 0
    token, period = np.arange(length), 2 * (length - 1)
    reach = period * (REFLECTIONS - 1)
    starts = period * np.arange(-REFLECTIONS, REFLECTIONS + 1)[:, None]
    copies = np.concatenate([starts + token, starts - token])
    distance = np.abs(copies[:, None, :] - token[:, None]).astype(dtype)
    # The tokens at the ends are their own reflections: one of the two copies is out of reach.
    distance[len(starts) :, :, [0, -1]] = 2 * reach
    return distance, reach


def require_scalar(owner: str, **numbers: float | Array) -> None:
    """Refuse what is no single number, or negative, or NaN; traced values pass if scalar.

    Raises:
        ValueError: naming the rule and the argument.
    """
    for name, value in numbers.items():
        if np.ndim(value) or not (isinstance(value, jax.core.Tracer) or value >= 0):
            raise ValueError(
                f"guidance.{owner}: {name} must be one number that is not negative, got {value}"
            )


@register("reference", "2403.17377")
def identity_attention(layers: tuple[int, ...]) -> InMode:
    """Return the reference of PAG: the attention map replaced by the identity.

    ``softmax(Q K^T / sqrt(d)) V`` becomes ``V``; the output projection stays.

    Args:
        layers: blocks, counted from 0.

    Raises:
        ValueError: layers that are no block numbers; beyond the network's depth when traced.

    Source: Ahn et al., arXiv 2403.17377.
    """
    return InMode(IdentityAttention(checked_layers("identity_attention", layers)))


@register("reference", "2408.00760")
def blurred_queries(layers: tuple[int, ...], sigma: float | Array = math.inf) -> InMode:
    """Return the reference of SEG: attention queries blurred over the token grid.

    Args:
        layers: blocks, counted from 0.
        sigma: standard deviation of the Gaussian in tokens; 0 leaves the queries as they are,
            infinity (or more than 9999) replaces them by their mean.

    Raises:
        ValueError: layers that are no block numbers, sigma negative or NaN; layers beyond the
            network's depth when traced.

    Source: Hong, arXiv 2408.00760.
    """
    require_scalar("blurred_queries", sigma=sigma)
    return InMode(BlurredQueries(checked_layers("blurred_queries", layers), sigma))


@register("reference", "2504.13987")
def attention_temperature(layers: tuple[int, ...], temperature: float | Array = 0.5) -> InMode:
    """Return the reference with flatter attention, ``softmax(temperature * Q K^T / sqrt(d)) V``.

    Args:
        layers: blocks, counted from 0.
        temperature: multiplies the logits (it does not divide them): 1 is plain attention, less
            raises its entropy, 0 attends to all tokens alike.

    Raises:
        ValueError: layers that are no block numbers, temperature negative or not finite; layers
            beyond the network's depth when traced.

    Source: Berrada Ifriqi et al., arXiv 2504.13987 (tau; the steps down an energy are left out).
    """
    require_scalar("attention_temperature", temperature=temperature)
    require_finite("attention_temperature", temperature=temperature)
    layers = checked_layers("attention_temperature", layers)
    return InMode(AttentionTemperature(layers, temperature))


@register("rule", "2403.17377")
def pag(scale: float | Array, layers: tuple[int, ...]) -> Push:
    r"""Return perturbed-attention guidance, ``D_pag + scale * (D_main - D_pag)``.

    Needs no training and no condition. Costs one evaluation beside the plain one.

    Equation:
        D = D_I + w (D - D_I), \quad \mathrm{softmax}(Q K^\top / \sqrt d) \to I

    When to use: For transformers without a condition, or on top of CFG with `together`. Which
    blocks are perturbed matters as much as the scale: begin with one or two in the middle.

    Args:
        scale: 1 is off; the paper's ``s`` is ``scale - 1`` (3 for its ADM models, so scale 4).
        layers: see `identity_attention`; the paper takes blocks in the middle of its UNets, and
            pipelines of diffusion transformers a single early block.

    Raises:
        ValueError: scale not finite, layers that are no block numbers.

    Source: Ahn et al., arXiv 2403.17377.
    """
    require_finite("pag", scale=scale)
    return Push(Scale(scale), identity_attention(checked_layers("pag", layers)))


@register("rule", "2408.00760")
def seg(scale: float | Array, layers: tuple[int, ...], sigma: float | Array = math.inf) -> Push:
    r"""Return smoothed energy guidance, ``D_seg + scale * (D_main - D_seg)``.

    Needs no training and no condition. Costs one evaluation beside the plain one.

    Equation:
        D = D_G + w (D - D_G), \quad Q \to G_\sigma * Q

    When to use: Where PAG is too rough: the blur sets how far attention is perturbed, at a
    fixed scale. An infinite blur replaces all queries by their mean.

    Args:
        scale: 1 is off; the paper's weight is ``scale - 1`` (3, so scale 4).
        layers: see `blurred_queries`; the paper takes the middle of its UNet.
        sigma: blur in tokens; 10 or infinity in the paper.

    Raises:
        ValueError: scale not finite, layers that are no block numbers, sigma negative or NaN.

    Source: Hong, arXiv 2408.00760.
    """
    require_finite("seg", scale=scale)
    require_scalar("seg", sigma=sigma)
    return Push(Scale(scale), blurred_queries(checked_layers("seg", layers), sigma))


@register("rule", "2504.13987")
def erg(scale: float | Array, layers: tuple[int, ...], temperature: float | Array = 0.5) -> Push:
    r"""Return entropy rectifying guidance of the denoiser, ``D_flat + scale * (D_main - D_flat)``.

    This is the method's attention temperature alone: without the extra steps down the Hopfield
    energy of the attention, and without what it does to a text encoder. The default temperature
    is a choice of this library, not the paper's constant. To start it after the first steps, as
    the paper does, put it into `between`.

    Equation:
        D = D_\tau + w (D - D_\tau), \quad \mathrm{softmax}(Q K^\top / \sqrt d) \to
        \mathrm{softmax}(\tau Q K^\top / \sqrt d)

    When to use: The mildest of the attention perturbations: flatter maps instead of none. Works
    with any condition or without one; begin it after the first steps with `between`.

    Args:
        scale: 1 is off, as in the paper.
        layers: see `attention_temperature`; blocks in the middle of the network in the paper.
        temperature: multiplies the logits; below 1.

    Raises:
        ValueError: scale not finite, layers that are no block numbers, temperature negative or
            not finite.

    Source: Berrada Ifriqi et al., arXiv 2504.13987.
    """
    require_finite("erg", scale=scale, temperature=temperature)
    require_scalar("erg", temperature=temperature)
    return Push(Scale(scale), attention_temperature(checked_layers("erg", layers), temperature))
