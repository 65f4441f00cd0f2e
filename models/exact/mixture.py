"""Gaussian mixtures with exact density, score and denoiser at every noise level.

The oracle behind tests of samplers and guidance, and the ground truth of the 2-D toy data.
Everything follows from one eigendecomposition per component: smoothing by noise of standard
deviation sigma only adds sigma^2 to the eigenvalues.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

# Elements of [rows, dim, components] evaluated at once: the temporaries then stay in a core's
# cache (five times faster on a CPU than whole batches) and memory does not grow with the batch.
BLOCK_ELEMENTS = 2**18


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class GaussianMixture:
    """The distribution ``sum_k weights_k N(means_k, covariances_k)``, a pytree.

    Attributes:
        log_weights: [K], normalised.
        means: [K, d].
        eigenvalues: [K, d] of the covariances, ascending, not negative.
        eigenvectors: [K, d, d], one in each column.
    """

    log_weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    eigenvalues: Float[Array, "components dim"]
    eigenvectors: Float[Array, "components dim dim"]

    def __init__(self, weights, means, covariances):
        """Decompose the covariances, in float64 on the host.

        Args:
            weights: [K], positive; normalised here.
            means: [K, d], in the data's units.
            covariances: [K, d, d], symmetric positive semidefinite (zero: a point mass, whose
                density exists only at sigma > 0).

        Raises:
            ValueError: shapes that do not fit together, a weight that is not positive, or a
                covariance that is not symmetric positive semidefinite.
        """
        weights, means, covariances = (
            np.asarray(value, np.float64) for value in (weights, means, covariances)
        )
        if means.ndim != 2 or weights.shape != means.shape[:1]:
            raise ValueError(
                f"weights {weights.shape} and means {means.shape}: give [K] and [K, d]"
            )
        if covariances.shape != (*means.shape, means.shape[1]):
            expected = (*means.shape, means.shape[1])
            raise ValueError(f"covariances {covariances.shape}: give [K, d, d] = {expected}")
        if not (np.all(weights > 0) and np.all(np.isfinite(weights))):
            raise ValueError("weights must be positive and finite: leave empty components out")
        scale = np.abs(covariances).max()
        if not np.allclose(covariances, np.swapaxes(covariances, 1, 2), rtol=0, atol=1e-6 * scale):
            raise ValueError("covariances must be symmetric: give (C + C.T) / 2")
        eigenvalues, eigenvectors = np.linalg.eigh(covariances)
        if eigenvalues.min() < -1e-6 * scale:
            raise ValueError(
                f"covariances must be positive semidefinite: component "
                f"{eigenvalues.min(axis=1).argmin()} has eigenvalue {eigenvalues.min():g}"
            )
        fields = {
            "log_weights": np.log(weights / weights.sum()),
            "means": means,
            "eigenvalues": np.maximum(eigenvalues, 0.0),
            "eigenvectors": eigenvectors,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, jnp.asarray(value, float))

    def tree_flatten_with_keys(self):
        """Return the arrays with their names; nothing is static."""
        names = [field.name for field in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Rebuild from leaves, without decomposing again."""
        mixture = object.__new__(cls)
        for field, value in zip(dataclasses.fields(cls), children, strict=True):
            object.__setattr__(mixture, field.name, value)
        return mixture

    @property
    def dim(self) -> int:
        """The dimension d of one sample."""
        return self.means.shape[1]

    def log_density(
        self, x: Float[ArrayLike, "batch dim"], sigma: Float[ArrayLike, "..."] | float = 0.0
    ) -> Float[Array, " batch"]:
        """Return ``log p(x; sigma)``, the log-density of data plus noise.

        Args:
            x: points.
            sigma: standard deviation of the noise, a scalar or [batch].
        """
        return _in_blocks(_log_density, self, *self._checked(x, sigma))

    def score(
        self, x: Float[ArrayLike, "batch dim"], sigma: Float[ArrayLike, "..."] | float
    ) -> Float[Array, "batch dim"]:
        """Return ``grad_x log p(x; sigma) = -sum_k r_k(x) (C_k + sigma^2 I)^-1 (x - m_k)``.

        Args and dtype as in `log_density`.
        """
        return _in_blocks(_score, self, *self._checked(x, sigma))

    def denoise(
        self, x: Float[ArrayLike, "batch dim"], sigma: Float[ArrayLike, "..."] | float
    ) -> Float[Array, "batch dim"]:
        """Return ``E[x0 | x] = x + sigma^2 score(x; sigma)`` (Tweedie), the ideal denoiser."""
        points, levels = self._checked(x, sigma)
        return points + levels[..., None] ** 2 * self.score(points, levels)

    def component(
        self, x: Float[ArrayLike, "batch dim"], sigma: Float[ArrayLike, "..."] | float = 0.0
    ) -> Int[Array, " batch"]:
        """Return the component with the largest responsibility for each point."""
        return _in_blocks(_component, self, *self._checked(x, sigma))

    def sample(
        self, key: Key[Array, ""], count: int, sigma: Float[Array, "..."] | float = 0.0
    ) -> Float[Array, "count dim"]:
        """Draw ``count`` points of data plus noise; the i-th depends on (key, i) alone."""
        return _sample(self, key, sigma, count)

    def draw(
        self, keys: Key[Array, " batch"], sigma: Float[Array, "..."] | float = 0.0
    ) -> tuple[Float[Array, "batch dim"], Int[Array, " batch"]]:
        """Draw one point of data plus noise for every key.

        Args:
            keys: one a sample.
            sigma: standard deviation of the noise, a scalar or [batch].

        Returns:
            The points, and the component each was drawn from.
        """
        return _draw(self, keys, jnp.broadcast_to(jnp.asarray(sigma, float), keys.shape))

    def _checked(self, x, sigma):
        x = jnp.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {x.shape}: give [batch, {self.dim}]")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        sigma = jnp.asarray(sigma, x.dtype)
        if sigma.shape not in ((), x.shape[:1]):
            raise ValueError(f"sigma has shape {sigma.shape}: give a scalar or {x.shape[:1]}")
        return x, sigma


class _Parameters(NamedTuple):
    """The mixture with components along the last axis, where a CPU's vector units want them."""

    log_weights: Float[Array, " components"]
    means: Float[Array, "dim components"]
    eigenvalues: Float[Array, "dim components"]
    eigenvectors: Float[Array, "dim dim components"]


def _log_joint(
    x: Float[Array, "rows dim"], sigma: Float[Array, " rows"], parameters: _Parameters
) -> tuple[Float[Array, "rows components"], Float[Array, "rows dim components"]]:
    """Return ``log w_k N(x; m_k, C_k + sigma^2 I)`` and ``(C_k + sigma^2 I)^-1 (x - m_k)``.

    The second is in the components' eigenbases. Sums over the dimension are written out: XLA
    does not vectorise a reduction over a few elements on a CPU.
    """
    log_weights, means, values, vectors = parameters
    dim = x.shape[1]
    along = sum((x[:, d, None] - means[d])[:, None] * vectors[d] for d in range(dim))
    variance = values + sigma[:, None, None] ** 2
    whitened = along / variance
    terms = along * whitened + jnp.log(variance)
    total = sum(terms[:, e] for e in range(dim)) + dim * math.log(2 * math.pi)
    return log_weights - 0.5 * total, whitened


def _log_density(x, sigma, parameters):
    return jax.nn.logsumexp(_log_joint(x, sigma, parameters)[0], axis=1)


def _score(x, sigma, parameters):
    log_joint, whitened = _log_joint(x, sigma, parameters)
    pull = jax.nn.softmax(log_joint, axis=1)[:, None] * whitened
    vectors = parameters.eigenvectors
    return -jnp.einsum("bek,dek->bd", pull, vectors, precision=jax.lax.Precision.HIGHEST)


def _component(x, sigma, parameters):
    return jnp.argmax(_log_joint(x, sigma, parameters)[0], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _in_blocks(function, mixture: GaussianMixture, x: Array, sigma: Array) -> Array:
    """Apply ``function(x, sigma [rows], parameters)`` to blocks of rows."""
    count = len(x)
    sigma = jnp.broadcast_to(sigma, (count,))
    parameters = _Parameters(
        log_weights=mixture.log_weights.astype(x.dtype),
        means=mixture.means.T.astype(x.dtype),
        eigenvalues=mixture.eigenvalues.T.astype(x.dtype),
        eigenvectors=jnp.moveaxis(mixture.eigenvectors, 0, 2).astype(x.dtype),
    )
    blocks = -(-count * mixture.means.size // BLOCK_ELEMENTS)
    if blocks <= 1:
        return function(x, sigma, parameters)
    rows = -(-count // blocks)
    padding = rows * blocks - count
    x = jnp.pad(x, ((0, padding), (0, 0)))
    sigma = jnp.pad(sigma, (0, padding), constant_values=1.0)
    # Every block takes rows from all over the batch: a batch sharded over devices stays so.
    x = jnp.swapaxes(x.reshape(rows, blocks, mixture.dim), 0, 1)
    sigma = sigma.reshape(rows, blocks).T
    out = jax.lax.map(lambda block: function(*block, parameters), (x, sigma))
    return jnp.swapaxes(out, 0, 1).reshape(rows * blocks, *out.shape[2:])[:count]


@jax.jit
def _draw(mixture: GaussianMixture, keys: Key[Array, " batch"], sigma: Float[Array, " batch"]):
    # One uniform through the cumulative weights: Gumbel draws would need K a sample.
    cumulative = jnp.cumsum(jnp.exp(mixture.log_weights))

    def one(key, sigma):
        choice_key, noise_key = jax.random.split(key)
        uniform = jax.random.uniform(choice_key, dtype=cumulative.dtype) * cumulative[-1]
        k = jnp.searchsorted(cumulative, uniform, side="right")
        k = jnp.minimum(k, len(cumulative) - 1)
        noise = jax.random.normal(noise_key, (mixture.dim,), cumulative.dtype)
        spread = jnp.sqrt(mixture.eigenvalues[k] + sigma**2) * noise
        turned = jnp.matmul(mixture.eigenvectors[k], spread, precision=jax.lax.Precision.HIGHEST)
        return mixture.means[k] + turned, k

    return jax.vmap(one)(keys, sigma)


@functools.partial(jax.jit, static_argnums=3)
def _sample(mixture: GaussianMixture, key: Key[Array, ""], sigma: Array | float, count: int):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return mixture.draw(keys, sigma)[0]
