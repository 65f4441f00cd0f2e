"""One-dimensional Gaussian mixtures, whose flow is exact without a solver.

On a line the probability-flow ODE keeps the order of points and the mass between them, so its
map is ``Q_to(F_sigma(x))``: F the distribution function of data plus noise, Q the quantiles.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, ArrayLike, Float

from ...core.pytrees import pytree
from .flow import ExactFlow, columns

# Halvings of a bracket that is exact from the start: to the last bit of float64.
HALVINGS = 60
# Steps of the guided flow; its error falls as their fourth power.
STEPS = 256


@pytree
class LineMixture(ExactFlow):
    """``sum_k weights_k N(means_k, stds_k^2)`` on a line; samples are arrays of any shape.

    Every coordinate of a sample is a draw of its own.

    Attributes:
        weights: [K], of sum 1.
        means: [K].
        stds: [K], above 0.
    """

    weights: Float[Array, " components"]
    means: Float[Array, " components"]
    stds: Float[Array, " components"]

    def denoise(
        self, x: Float[ArrayLike, " batch *shape"], sigma: Float[ArrayLike, "..."]
    ) -> Float[Array, " batch *shape"]:
        """Return ``E[x0 | x]``.

        Args:
            x: data plus noise.
            sigma: standard deviation of the noise, a scalar or ``[batch]``.
        """
        x, sigma = _broadcast(x, sigma)
        return x + sigma**2 * self._score(x, sigma)

    def log_density(
        self, x: Float[ArrayLike, " batch *shape"], sigma: Float[ArrayLike, "..."] = 0.0
    ) -> Float[Array, " batch *shape"]:
        """Return the log-density of data plus noise at every coordinate."""
        return jax.nn.logsumexp(self._log_joint(*_broadcast(x, sigma)), axis=-1)

    def log_cdf(
        self, x: Float[ArrayLike, " batch *shape"], sigma: Float[ArrayLike, "..."] = 0.0
    ) -> Float[Array, " batch *shape"]:
        """Return the logarithm of the share of data plus noise that lies below ``x``."""
        x, sigma = _broadcast(x, sigma)
        return self._log_below(x, sigma, 1.0)

    def flow_map(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        to: Float[ArrayLike, "..."],
    ) -> Float[Array, " batch *shape"]:
        """Return where the flow carries ``x`` of noise level ``sigma`` at the level ``to``.

        Differentiable once in ``x``, ``sigma`` and ``to``.
        """
        x, sigma, to = _broadcast(x, sigma, to)
        # The thinner tail keeps its digits in a logarithm.
        lower = self._log_below(x, sigma, 1.0)
        side = jnp.where(lower < jnp.log(0.5), 1.0, -1.0).astype(x.dtype)
        wanted = self._log_below(x, sigma, side)
        found = jax.lax.stop_gradient(self._solved(x, sigma, to, wanted, side))
        # A step of Newton's method, which polishes the root and carries its derivatives.
        log_share = self._log_below(found, to, side)
        slope = side * jnp.exp(self.log_density(found, to) - log_share)
        return found - (log_share - wanted) / slope

    def guided_denoise(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        *,
        reference: "LineMixture",
        scale: Float[ArrayLike, "..."],
    ) -> Float[Array, " batch *shape"]:
        """Return ``D_ref + scale (D - D_ref)``; 1 is off, a scalar or ``[batch]``."""
        x, sigma, scale = _broadcast(x, sigma, scale)
        return x + sigma**2 * self._guided_score(x, sigma, reference, scale)

    def guided_flow_map(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, "..."],
        to: Float[ArrayLike, "..."],
        *,
        reference: "LineMixture",
        scale: Float[ArrayLike, "..."],
        steps: int = STEPS,
    ) -> Float[Array, " batch *shape"]:
        """Return the map of `guided_denoise`'s flow, by the classical Runge-Kutta method.

        No distribution function gives it: the flow's own densities are not data plus noise. Steps
        are equal in ``asinh(sigma / d)``, d the narrowest std of either mixture: in ln(sigma)
        where there is structure to follow, and down to 0.
        """
        x, sigma, to, scale = _broadcast(x, sigma, to, scale)
        unit = jnp.minimum(jnp.min(self.stds), jnp.min(reference.stds)).astype(x.dtype)
        begin, end = jnp.arcsinh(sigma / unit), jnp.arcsinh(to / unit)
        stride = (end - begin) / steps

        def slope(x, time):
            level = unit * jnp.sinh(time)
            return -level * self._guided_score(x, level, reference, scale) * unit * jnp.cosh(time)

        def step(number, x):
            time = begin + number * stride
            first = slope(x, time)
            second = slope(x + stride / 2 * first, time + stride / 2)
            third = slope(x + stride / 2 * second, time + stride / 2)
            fourth = slope(x + stride * third, time + stride)
            return x + stride / 6 * (first + 2 * second + 2 * third + fourth)

        return jax.lax.fori_loop(0, steps, step, x)

    def _spread(self, sigma: Array) -> Array:
        return jnp.sqrt(self.stds.astype(sigma.dtype) ** 2 + sigma[..., None] ** 2)

    def _log_joint(self, x: Array, sigma: Array) -> Array:
        spread = self._spread(sigma)
        away = (x[..., None] - self.means.astype(x.dtype)) / spread
        constant = math.log(2 * math.pi) / 2
        return jnp.log(self.weights.astype(x.dtype)) - away**2 / 2 - jnp.log(spread) - constant

    def _score(self, x: Array, sigma: Array) -> Array:
        share = jax.nn.softmax(self._log_joint(x, sigma), axis=-1)
        pull = (self.means.astype(x.dtype) - x[..., None]) / self._spread(sigma) ** 2
        return jnp.sum(share * pull, axis=-1)

    def _guided_score(self, x, sigma, reference, scale) -> Array:
        other = reference._score(x, sigma)
        return other + scale * (self._score(x, sigma) - other)

    def _log_below(self, x: Array, sigma: Array, side: ArrayLike) -> Array:
        """Return the logarithm of the mass below x, or above it where ``side`` is -1."""
        away = (x[..., None] - self.means.astype(x.dtype)) / self._spread(sigma)
        away = jnp.asarray(side, x.dtype)[..., None] * away
        return jax.nn.logsumexp(jnp.log(self.weights.astype(x.dtype)) + log_ndtr(away), axis=-1)

    def _solved(self, x, sigma, to, wanted, side) -> Array:
        # Between the lowest and the highest of the components' own maps.
        away = (x[..., None] - self.means.astype(x.dtype)) / self._spread(sigma)
        spread, means = self._spread(to), self.means.astype(x.dtype)
        low = jnp.min(means + spread * jnp.min(away, axis=-1, keepdims=True), axis=-1)
        high = jnp.max(means + spread * jnp.max(away, axis=-1, keepdims=True), axis=-1)

        def halve(_, ends):
            low, high = ends
            middle = low + (high - low) / 2
            below = side * (self._log_below(middle, to, side) - wanted) < 0
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
        return low + (high - low) / 2


def mixture_1d(weights: ArrayLike, means: ArrayLike, stds: ArrayLike) -> LineMixture:
    """Return a mixture on a line with its exact denoiser, flow, consistency and guided flow map.

    Args:
        weights: [K], above 0; normalised here.
        means: [K].
        stds: [K], above 0.

    Raises:
        ValueError: other shapes, or a number out of range.
    """
    weights, means, stds = (np.asarray(value, float) for value in (weights, means, stds))
    if weights.ndim != 1 or not weights.shape == means.shape == stds.shape:
        raise ValueError(
            f"models.exact.mixture_1d: weights {weights.shape}, means {means.shape} and stds "
            f"{stds.shape}: give one of each a component, [K]"
        )
    if not (np.all(weights > 0) and np.all(stds > 0)):
        raise ValueError(
            f"models.exact.mixture_1d: weights and stds are above 0, got {weights} and {stds}"
        )
    if not np.all(np.isfinite([weights, means, stds])):
        raise ValueError("models.exact.mixture_1d: weights, means and stds must be finite")
    return LineMixture(
        *(jnp.asarray(value, float) for value in (weights / weights.sum(), means, stds))
    )


def _broadcast(x: ArrayLike, *numbers: ArrayLike) -> tuple[Array, ...]:
    """Return samples, and numbers that are a scalar or one a sample, all of one shape."""
    x, *found = columns(x, *numbers)
    return x, *(jnp.broadcast_to(number, x.shape) for number in found)
