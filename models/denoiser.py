"""A network with its preconditioner and parameters: a callable x0 predictor.

The module is split once; from then on everything is the pure function
``network(params, x, c_noise, label)``, which plain ``jax.jit`` dispatches quickly.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ..core.macs import count
from .preconditioning import Preconditioner
from .spec import SIGMA_RANGE


@dataclasses.dataclass(frozen=True)
class Network:
    """The structure of a module without its parameters; hashable, so static under `jax.jit`.

    Attributes:
        structure: what is left of an nnx module without its parameters.
        num_classes: real classes; 0 when the network takes no label.
        shape: one input's shape, without the batch.
        sites: where modes may step in (see `models.sites`).
        condition: names and shapes of what stands in a label's place (see `Blueprint`).
    """

    structure: nnx.GraphDef
    num_classes: int
    shape: tuple[int, ...]
    sites: tuple[str, ...] = ()
    condition: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __call__(
        self, params: Any, x: Array, time: Array, condition: Any, modes: tuple = (), **inputs: Any
    ) -> Array:
        """Run the module with ``params`` (a nested dictionary of arrays).

        ``inputs`` are what else its call takes by name, in training alone (``augment``,
        ``dropout_key``).
        """
        # A module without sites need not know of modes.
        options = {"modes": modes} if modes else {}
        return self.module(params)(x, time, condition, **options, **inputs)

    def condition_like(self, batch: int) -> Any:
        """Return shapes and types of a batch of conditions; None for a network that takes none."""
        if self.condition:
            return {
                name: jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
                for name, shape in self.condition
            }
        return jax.ShapeDtypeStruct((batch,), jnp.int32) if self.num_classes else None

    def module(self, params: Any) -> nnx.Module:
        """Return the module with ``params`` inside, for methods other than its call."""
        return nnx.merge(self.structure, nnx.State(params))


def split(
    module: nnx.Module, *, num_classes: int, shape: tuple[int, ...], condition: tuple = ()
) -> tuple[Network, Any]:
    """Split a module into its structure and a nested dictionary of its parameters.

    Args:
        module: an nnx module whose call is ``(x, time, condition)``; one with an attribute
            ``sites`` takes ``modes`` as well (see `models.sites`).
        num_classes: its real classes; 0 when it takes no label.
        shape: one input's shape, without the batch.
        condition: names and shapes of what it takes in a label's place (see `Blueprint`).
    """
    structure, params = nnx.split(module, nnx.Param)
    sites = tuple(getattr(module, "sites", ()))
    network = Network(structure, num_classes, tuple(shape), sites, tuple(condition))
    return network, nnx.to_pure_dict(params)


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
        preset: name of the published weights it was made from; empty for others.
    """

    params: Any
    network: Network = dataclasses.field(metadata={"static": True})
    preconditioner: Preconditioner = dataclasses.field(metadata={"static": True})
    sigma_range: tuple[float, float] = dataclasses.field(
        metadata={"static": True}, default=SIGMA_RANGE
    )
    latent: bool = dataclasses.field(metadata={"static": True}, default=False)
    preset: str = dataclasses.field(metadata={"static": True}, default="")

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape, without the batch."""
        return self.network.shape

    @property
    def null_condition(self) -> Any:
        """What stands for no condition; None for a network that takes none.

        The label after the last class, or what a module's ``null_condition()`` returns: a
        dictionary of arrays, without the batch. Parts of the condition that it lacks (an image's
        size) stay as given.
        """
        if self.network.condition:
            return self.network.module(self.params).null_condition()
        return self.network.num_classes or None

    @property
    def macs(self) -> int:
        """Multiply-adds of one evaluation of one sample, counted from the traced program."""
        x = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        time = jax.ShapeDtypeStruct((1,), jnp.float32)
        return count(self.network, self.params, x, time, self.network.condition_like(1))

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; empty for a network that offers no site."""
        return self.network.sites

    def __call__(
        self,
        x: Float[Array, " batch *shape"],
        sigma: Float[Array, ""] | Float[Array, " batch"],
        condition: Int[Array, " batch"] | Any | None = None,
        modes: tuple = (),
        **inputs: Any,
    ) -> Float[Array, " batch *shape"]:
        """Estimate x0 from ``x`` at noise level ``sigma``; condition None is the null condition.

        ``modes`` are pairs (mode, where) that step in at the network's sites. What the network
        predicts beside the sample's own channels (a variance) is left out; see `raw`. ``inputs``
        go on to the network.
        """
        sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[:1])
        column = sigma.reshape((-1,) + (1,) * (x.ndim - 1))
        skip, out, inside, noise = self.preconditioner.coefficients(column)
        raw = self.raw(inside * x, noise.reshape(-1), condition, modes, **inputs)
        return skip * x + out * raw[..., : x.shape[-1]]

    def raw(
        self,
        x: Float[Array, " batch *shape"],
        time: Float[Array, ""] | Float[Array, " batch"],
        condition: Any = None,
        modes: tuple = (),
        **inputs: Any,
    ) -> Float[Array, " batch *output"]:
        """Return the network's own output in its own coordinates, every channel of it.

        Args:
            x: the network's own input, already scaled as it expects.
            time: its own time input (c_noise, a time step, a flow's time).
            condition: as in a call; None is the null condition.
            modes: pairs (mode, where) that step in at the network's sites.
            inputs: what else the network's call takes by name.
        """
        batch = x.shape[0]
        time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), (batch,))
        if condition is None and (null := self.null_condition) is not None:
            like = self.network.condition_like(batch)
            if isinstance(null, Mapping):
                like = {name: like[name] for name in null}
            condition = jax.tree.map(
                lambda one, like: jnp.broadcast_to(jnp.asarray(one, like.dtype), like.shape),
                null,
                like,
            )
        return self.network(self.params, x, time, condition, modes, **inputs)


def initialise(
    build, key: Key[Array, ""], *, num_classes: int, shape, condition=(), out_shardings=None
):
    """Build a network without materialising it on one device, then its parameters in place.

    Args:
        build: callable from `nnx.Rngs` to a module.
        key: random key of the parameters.
        num_classes: real classes of the network; 0 when it takes no label.
        shape: one input's shape, without the batch.
        condition: names and shapes of what it takes in a label's place (see `Blueprint`).
        out_shardings: optional tree of shardings for the parameters, as in `jax.jit`.

    Returns:
        The `Network` and its parameters.
    """
    fields = dict(num_classes=num_classes, shape=shape, condition=condition)

    def create(key):
        return split(build(nnx.Rngs(params=key)), **fields)[1]

    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(params=0)))
    network, _ = split(abstract, **fields)
    return network, jax.jit(create, out_shardings=out_shardings)(key)
