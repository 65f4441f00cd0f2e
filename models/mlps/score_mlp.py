"""The log-density MLP of the 2-D toy (Karras et al., arXiv 2406.02507, appendix on the toy).

The network models an unnormalised log-density, so its score is a gradient field. Its layers
preserve magnitudes and keep unit-norm weights (arXiv 2312.02696, sec. 2.4 and appendix B).
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...core.registry import register
from ...core.sites import BLOCK, TIME_EMBEDDING, around, changed, for_layer, require_offered
from ..layers.magnitude import MPLinear, mp_silu, normalise_weights
from ..preconditioning import Direct
from ..spec import Spec, checked_fields

SIGMA_DATA = 0.5
LAYERS = 4


class ScoreMLP(nnx.Module):
    """Denoiser of 2-D data, ``D(x; sigma) = x + sigma^2 grad_x log p(x; sigma)``.

    Args:
        hidden: width of the layers; 64 for the published main network, 32 for its guides.
        rngs: stream ``params`` draws the weights.

    Modes step in at ``time_embedding``, the noise level's input ``ln(sigma)/4`` as ``[batch, 1]``,
    and at ``block``, a hidden layer with the activation before it, ``[batch, hidden]``.
    """

    sites = (TIME_EMBEDDING, BLOCK)

    def __init__(self, hidden: int, *, rngs: nnx.Rngs):
        widths = [4] + [hidden] * (LAYERS + 1)
        self.layers = nnx.List(
            MPLinear(fan_in, fan_out, rngs=rngs) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.gain = nnx.Param(jnp.zeros(()))

    def log_density(
        self, x: Float[Array, "batch 2"], sigma: Float[Array, " batch"], modes: tuple = ()
    ) -> Float[Array, " batch"]:
        """Return ``mean(y^2) gain / sigma - |x_in|^2 / 2``, unnormalised.

        Args:
            x: noisy points, sigma_data 0.5.
            sigma: their noise levels, positive.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).

        Raises:
            ValueError: a mode at a site that is not offered, or in a layer beyond the depth.
        """
        require_offered(modes, self.sites, LAYERS)
        inside = x / jnp.sqrt(SIGMA_DATA**2 + sigma**2)[:, None]
        noise = changed(modes, TIME_EMBEDDING, jnp.log(sigma)[:, None] / 4)
        y = jnp.concatenate([inside, noise, jnp.ones_like(noise)], axis=1)
        first, *rest = self.layers
        y = first(y)
        for number, layer in enumerate(rest):
            held = for_layer(modes, number)
            y = around(held, BLOCK, lambda y, layer=layer: layer(mp_silu(y)))(y)
        return jnp.mean(y**2, axis=1) * self.gain[...] / sigma - 0.5 * jnp.sum(inside**2, axis=1)

    def score(
        self, x: Float[Array, "batch 2"], sigma: Float[Array, "..."] | float, modes: tuple = ()
    ) -> Float[Array, "batch 2"]:
        """Return the gradient of `log_density` in x; sigma is a scalar or [batch]."""
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        return jax.grad(lambda x: jnp.sum(self.log_density(x, sigma, modes)))(x)

    def __call__(
        self,
        x: Float[Array, "batch 2"],
        sigma: Float[Array, "..."] | float,
        label: Int[Array, " batch"] | None = None,
        modes: tuple = (),
    ) -> Float[Array, "batch 2"]:
        """Estimate x0 from ``x`` at noise level ``sigma`` (itself, not a function of it).

        ``label`` is not used: each network of the toy knows one set of classes.
        """
        del label
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        return x + sigma[:, None] ** 2 * self.score(x, sigma, modes)


@register("network", "2406.02507", name="score_mlp")
def score_mlp_spec(**fields: Any) -> Spec:
    """Read the model section of a score MLP: the fields of `ScoreMLP`."""
    fields = checked_fields(ScoreMLP, "score_mlp", fields)

    def build(rngs):
        return ScoreMLP(rngs=rngs, **fields)

    return Spec(build, None, (2,), Direct(), normalise_weights)
