"""A network with its preconditioner and parameters: a callable x0 predictor.

The module is split once; from then on everything is the pure function
``network(params, x, c_noise, label)``, which plain ``jax.jit`` dispatches quickly.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from ..core.macs import count
from .conditions import Condition, Label, Values, described, like, null_of
from .preconditioning import SIGMA_RANGE, FlowMap, Preconditioner, estimate_of
from .scalar_inputs import Inputs, ScalarInput, applied, bound

# A flow map's input beside its noise level: where to jump.
TO = "to"

# Where a module without a method `null_condition` keeps the parts that it has learnt: nowhere.
NONE_LEARNT: Mapping[str, Array] = {}


@dataclasses.dataclass(frozen=True)
class Network:
    """The structure of a module without its parameters; hashable, so static under `jax.jit`.

    Attributes:
        structure: what is left of an nnx module without its parameters.
        shape: one input's shape, without the batch.
        condition: what it is conditioned on (see `models.conditions`).
        sites: where modes may step in (see `core.sites`).
        name: of the module's class.
        inputs: numbers that it takes beside its time (see `models.scalar_inputs`), by name.
    """

    structure: nnx.GraphDef
    shape: tuple[int, ...]
    condition: Condition = None
    sites: tuple[str, ...] = ()
    name: str = ""
    inputs: Inputs = ()

    def __call__(
        self, params: Any, x: Array, time: Array, condition: Any, modes: tuple = (), **inputs: Any
    ) -> Array:
        """Run the module with ``params`` (a nested dictionary of arrays).

        ``inputs`` are what else its call takes by name: its own `inputs`, and in training alone
        ``augment`` and ``dropout_key``.

        Raises:
            ValueError: one of its own inputs is missing.
        """
        module = self.module(params)
        if self.inputs:
            added, inputs = applied(module, self.inputs, inputs, x.shape[0], self.name)
            modes = (*modes, *added)
        # A module without sites need not know of modes.
        options = {"modes": modes} if modes else {}
        return module(x, time, condition, **options, **inputs)

    def __repr__(self) -> str:
        return f"{self.name}({_signature(self.shape, self.condition)})"

    @property
    def num_classes(self) -> int:
        """Real classes; 0 when the network takes no label."""
        return getattr(self.condition, "num_classes", 0)

    def condition_like(self, batch: int) -> Any:
        """Return shapes and types of a batch of conditions; None for a network that takes none."""
        return like(self.condition, batch)

    def null_condition(self, params: Any) -> Any:
        """Return what stands for no condition, without the batch; see `Denoiser.null_condition`."""
        learns = isinstance(self.condition, Mapping)
        learnt = self.module(params).null_condition() if learns else NONE_LEARNT
        return null_of(self.condition, learnt)

    def prepared(self, params: Any) -> Any:
        """Return parameters for many calls: what layers make of theirs alone is made once.

        Layers that have a method ``prepared`` say what stands in their kernel's place.
        """
        result = jax.tree.map(lambda leaf: leaf, params)
        for path, layer in nnx.iter_modules(self.module(params)):
            prepare: Any = getattr(layer, "prepared", None)
            if callable(prepare):
                place = result
                for name in path:
                    place = place[name]
                place["kernel"] = prepare()
        return result

    def module(self, params: Any) -> Any:
        """Return the module with ``params`` inside, for methods other than its call."""
        return nnx.merge(self.structure, nnx.State(params))


def split(
    module: nnx.Module,
    *,
    shape: tuple[int, ...],
    num_classes: int = 0,
    condition: Any = None,
    inputs: Inputs = (),
) -> tuple[Network, Any]:
    """Split a module into its structure and a nested dictionary of its parameters.

    Args:
        module: an nnx module whose call is ``(x, time, condition)``; one with an attribute
            ``sites`` takes ``modes`` as well (see `core.sites`).
        shape: one input's shape, without the batch.
        num_classes: real classes of a network whose condition is a label and which knows a null
            class beside them; 0 for others.
        condition: what another takes, as `models.conditions` describes it.
        inputs: numbers that it takes beside its time (see `models.scalar_inputs`).
    """
    structure, params = nnx.split(module, nnx.Param)
    sites = tuple(getattr(module, "sites", ()))
    takes = described(condition if condition is not None else num_classes)
    network = Network(structure, tuple(shape), takes, sites, type(module).__name__, inputs)
    return network, nnx.to_pure_dict(params)


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where weights come from. All origins are equal: none makes a program compile anew.

    Attributes:
        file: name of the weight file; empty for weights that come from none.
        sha256: of the file, in hexadecimal; empty where nobody has asked for it.
        facts: what the sidecar says of them: data, steps, licence, the config they were trained by.
    """

    file: str = ""
    sha256: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return hash(Origin)

    def __repr__(self) -> str:
        digest = f", sha256={self.sha256[:12]!r}" if self.sha256 else ""
        return f"Origin({self.file!r}{digest})"


@runtime_checkable
class Applicable(Protocol):
    """What a denoiser asks of its network; `Network` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape, without the batch."""

    @property
    def condition(self) -> Condition:
        """What it is conditioned on."""

    @property
    def num_classes(self) -> int:
        """Real classes; 0 when it takes no label."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in."""

    @property
    def name(self) -> str:
        """What it is called."""

    def __call__(
        self, params: Any, x: Array, time: Array, condition: Any, modes: tuple = (), **inputs: Any
    ) -> Array:
        """Return the output, in its own coordinates."""

    def condition_like(self, batch: int) -> Any:
        """Return shapes and types of a batch of conditions."""

    def null_condition(self, params: Any) -> Any:
        """Return what stands for no condition, without the batch."""


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
        origin: where the parameters come from; a copy with others keeps it.
        bound: values of the network's inputs that hold in every call, see `bind`.
    """

    params: Any
    network: Applicable = dataclasses.field(metadata={"static": True})
    preconditioner: Preconditioner = dataclasses.field(metadata={"static": True})
    sigma_range: tuple[float, float] = dataclasses.field(
        metadata={"static": True}, default=SIGMA_RANGE
    )
    latent: bool = dataclasses.field(metadata={"static": True}, default=False)
    origin: Origin = dataclasses.field(metadata={"static": True}, default=Origin())
    bound: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        low, high = self.sigma_range
        parts = [f"{self.network.name}: {parameter_count(self.params):,} parameters"]
        parts += [_signature(self.shape, self.network.condition), f"sigma {low:g} to {high:g}"]
        parts += [f"{name} {one.low:g} to {one.high:g}" for name, one in self.inputs.items()]
        parts += [self.estimate] * (self.estimate != "x0")
        parts += ["latent"] * self.latent
        parts += [f"from {self.origin.file}"] * bool(self.origin.file)
        return f"Denoiser({', '.join(parts)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape, without the batch."""
        return self.network.shape

    @property
    def null_condition(self) -> Any:
        """What stands for no condition; None where there is none, or none was learnt.

        The label after the last class, or a dictionary of arrays, without the batch. Parts of the
        condition that it lacks (an image's size) stay as given.
        """
        return self.network.null_condition(self.params)

    @property
    def inputs(self) -> dict[str, ScalarInput]:
        """Numbers that the network takes beside the noise levels, by name."""
        own = {TO} if isinstance(self.preconditioner, FlowMap) else {}
        return {name: one for name, one in self._inputs.items() if name not in own}

    @property
    def _inputs(self) -> dict[str, ScalarInput]:
        return dict(getattr(self.network, "inputs", ()))

    @property
    def estimate(self) -> str:
        """What a call returns: ``x0``, or another of `models.preconditioning.ESTIMATES`."""
        return estimate_of(self.preconditioner)

    def nulls(self, batch: int) -> Any:
        """Return the null condition of a batch.

        Raises:
            ValueError: the network never learnt to do without a condition.
        """
        null, like = self.null_condition, self.network.condition_like(batch)
        if null is None:
            raise ValueError(
                f"{self.network.name} knows no prediction without a condition: it was trained "
                f"with one for every sample. Give it one"
            )
        if isinstance(null, Mapping):
            like = {name: like[name] for name in null}
        return jax.tree.map(
            lambda one, like: jnp.broadcast_to(jnp.asarray(one, like.dtype), like.shape),
            null,
            like,
        )

    def bind(self, **values: Float[ArrayLike, ""] | float) -> "Denoiser":
        """Return the denoiser with values for inputs of its network, ``bind(scale=3.0)``.

        They are leaves: another value does not compile anew.

        Raises:
            ValueError: a name that is no input, or a value outside the range it was trained in.
        """
        added = bound(self.inputs, values, f"models: {self.network.name}")
        return dataclasses.replace(self, bound={**self.bound, **added})

    @property
    def macs(self) -> int:
        """Multiply-adds of one evaluation of one sample, counted from the traced program."""
        x = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        time = jax.ShapeDtypeStruct((1,), jnp.float32)
        given = {name: jnp.float32(one.middle) for name, one in self._inputs.items()}

        def run(params, x, time, condition):
            return self.network(params, x, time, condition, **given)

        return count(run, self.params, x, time, self.network.condition_like(1))

    def prepared(self) -> "Denoiser":
        """Return the same denoiser for many samples: faster UNets on CPUs, up to rounding.

        What follows from the parameters alone is computed now: normalised kernels, and the filters
        of 3x3 convolutions (see `models.layers.convolution`), which take 16/9 of their kernels'
        memory beside them. Programs of such a network take about twice as long to compile. It is
        for sampling: neither saved nor trained.
        """
        prepare = getattr(self.network, "prepared", None)
        return self if prepare is None else dataclasses.replace(self, params=prepare(self.params))

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; empty for a network that offers no site."""
        return self.network.sites

    @property
    def num_classes(self) -> int:
        """Real classes; 0 when the network takes no label."""
        return self.network.num_classes

    def condition_like(self, batch: int) -> Any:
        """Return shapes and types of a batch of conditions; None for a network that takes none."""
        return self.network.condition_like(batch)

    def __call__(
        self,
        x: Float[ArrayLike, " batch *shape"],
        sigma: Float[ArrayLike, ""] | Float[ArrayLike, " batch"] | float,
        condition: Any = None,
        modes: tuple = (),
        **inputs: Any,
    ) -> Float[Array, " batch *shape"]:
        """Estimate x0 from ``x`` at noise level ``sigma``; condition None is the null condition.

        ``modes`` are pairs (mode, where) that step in at the network's sites. What the network
        predicts beside the sample's own channels (a variance) is left out; see `raw`. ``inputs``
        go on to the network; a flow map's ``to``, the noise level to jump to, is one of them.

        Raises:
            ValueError: a flow map that is not told where to.
        """
        x = jnp.asarray(x)
        levels = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[:1])
        column = levels.reshape((-1,) + (1,) * (x.ndim - 1))
        skip, out, inside, noise = self.preconditioner.coefficients(column)
        if isinstance(self.preconditioner, FlowMap):
            if TO not in inputs:
                raise ValueError(
                    f"{self.network.name} is a flow map: say where to, as {TO}=0.0 for the data, "
                    f"or take samplers.ctm()"
                )
            end = jnp.broadcast_to(jnp.asarray(inputs[TO], jnp.float32), levels.shape)
            inputs[TO] = self.preconditioner.interval(levels, end)
        raw = self.raw(inside * x, noise.reshape(-1), condition, modes, **inputs)
        return skip * x + out * raw[..., : x.shape[-1]]

    def raw(
        self,
        x: Float[ArrayLike, " batch *shape"],
        time: Float[ArrayLike, ""] | Float[ArrayLike, " batch"] | float,
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
            inputs: what else the network's call takes by name; before what is bound.

        Raises:
            ValueError: an input of the network that is neither given nor bound; no condition, and
                the network never learnt to do without one.
        """
        x = jnp.asarray(x)
        batch = x.shape[0]
        time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), (batch,))
        if condition is None and self.network.condition is not None:
            condition = self.nulls(batch)
        condition = jax.tree.map(jnp.asarray, condition)
        return self.network(self.params, x, time, condition, modes, **{**self.bound, **inputs})


def parameter_count(params: Any) -> int:
    """Count the numbers in a tree of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _signature(shape: tuple[int, ...], condition: Condition) -> str:
    """Return a shape and a condition in words."""
    taken = ""
    if isinstance(condition, Label):
        taken = f", {condition.num_classes} classes"
    elif isinstance(condition, Values):
        taken = f", {'x'.join(map(str, condition.shape))} condition"
    elif condition:
        taken = f", {', '.join(condition)}"
    return "x".join(map(str, shape)) + taken
