"""A network with its preconditioner and parameters: a callable x0 predictor.

The module is split once; from then on everything is the pure function
``network(params, x, c_noise, label)``, which plain ``jax.jit`` dispatches quickly.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from .preconditioning import EDM, Direct


@dataclasses.dataclass(frozen=True)
class Network:
    """The structure of a module without its parameters; hashable, so static under `jax.jit`."""

    structure: nnx.GraphDef
    num_classes: int
    shape: tuple[int, ...]
    sites: tuple[str, ...] = ()

    def __call__(
        self, params: Any, x: Array, time: Array, label: Array | None, modes: tuple = ()
    ) -> Array:
        """Run the module with ``params`` (a nested dictionary of arrays)."""
        # A module without sites need not know of modes.
        options = {"modes": modes} if modes else {}
        return self.module(params)(x, time, label, **options)

    def module(self, params: Any) -> nnx.Module:
        """Return the module with ``params`` inside, for methods other than its call."""
        return nnx.merge(self.structure, nnx.State(params))


def split(module: nnx.Module, *, num_classes: int, shape: tuple[int, ...]) -> tuple[Network, Any]:
    """Split a module into its structure and a nested dictionary of its parameters.

    Args:
        module: an nnx module whose call is ``(x, time, label)``; one with an attribute ``sites``
            takes ``modes`` as well (see `models.sites`).
        num_classes: its real classes; 0 when it takes no label.
        shape: one input's shape, without the batch.
    """
    structure, params = nnx.split(module, nnx.Param)
    sites = tuple(getattr(module, "sites", ()))
    return Network(structure, num_classes, tuple(shape), sites), nnx.to_pure_dict(params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Map ``(x, sigma, condition)`` to the x0 estimate, in EDM coordinates x = x0 + sigma noise.

    Parameters are pytree leaves and everything else is static, so a denoiser passes through
    `jax.jit` as an argument and new weights never recompile.

    Attributes:
        params, network: the network and its parameters.
        preconditioner: between EDM's coordinates and the network's own.
        sigma_range: lowest and highest noise level that the network was trained for.
        latent: whether it denoises an autoencoder's latents rather than pixels.
    """

    params: Any
    network: Network = dataclasses.field(metadata={"static": True})
    preconditioner: EDM | Direct = dataclasses.field(metadata={"static": True})
    sigma_range: tuple[float, float] = dataclasses.field(
        metadata={"static": True}, default=(0.002, 80.0)
    )
    latent: bool = dataclasses.field(metadata={"static": True}, default=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape, without the batch."""
        return self.network.shape

    @property
    def null_condition(self) -> int | None:
        """The label that stands for no condition; None for a network without classes."""
        return self.network.num_classes or None

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; empty for a network that offers no site."""
        return self.network.sites

    def __call__(
        self,
        x: Float[Array, " batch *shape"],
        sigma: Float[Array, ""] | Float[Array, " batch"],
        condition: Int[Array, " batch"] | None = None,
        modes: tuple = (),
    ) -> Float[Array, " batch *shape"]:
        """Estimate x0 from ``x`` at noise level ``sigma``; condition None is the null class.

        ``modes`` are pairs (mode, where) that step in at the network's sites.
        """
        sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[:1])
        if condition is None and self.network.num_classes:
            condition = jnp.full(x.shape[:1], self.null_condition, jnp.int32)
        column = sigma.reshape((-1,) + (1,) * (x.ndim - 1))
        skip, out, inside, noise = self.preconditioner.coefficients(column)
        raw = self.network(self.params, inside * x, noise.reshape(-1), condition, modes)
        return skip * x + out * raw


def initialise(build, key: Key[Array, ""], *, num_classes: int, shape, out_shardings=None):
    """Build a network without materialising it on one device, then its parameters in place.

    Args:
        build: callable from `nnx.Rngs` to a module.
        key: random key of the parameters.
        num_classes: real classes of the network; 0 when it takes no label.
        shape: one input's shape, without the batch.
        out_shardings: optional tree of shardings for the parameters, as in `jax.jit`.

    Returns:
        The `Network` and its parameters.
    """

    def create(key):
        return split(build(nnx.Rngs(params=key)), num_classes=num_classes, shape=shape)[1]

    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(params=0)))
    network, _ = split(abstract, num_classes=num_classes, shape=shape)
    return network, jax.jit(create, out_shardings=out_shardings)(key)
