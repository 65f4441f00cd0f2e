"""What building a network needs to know: every network's file has a constructor of one."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from ..core.part_types import checked
from ..core.random import root_key
from ..core.registry import registry
from . import drawing
from .conditions import Described, Label, described, without_null
from .denoiser import Denoiser, Network, Origin, split
from .preconditioning import SIGMA_RANGE, Preconditioner, sigma_range
from .scalar_inputs import Inputs

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

# Whole numbers among the fields of networks that need not be above 0.
MAY_BE_ZERO = ("num_classes", "augment_dim", "registers")


def compute_type(name: str):
    """Return the type of a network's matrix products by its name, "bfloat16".

    Raises:
        ValueError: another name than those of `DTYPES`.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def unchanged(params: Any) -> Any:
    """Return parameters as they are: what most networks do to them after an update."""
    return params


def nothing(path: str) -> bool:
    """Say of any parameter that it is no exception."""
    del path
    return False


def label_of(fields: Mapping[str, Any]) -> Label | None:
    """Return the condition of a class-conditional network of these fields; None without classes."""
    classes = fields.get("num_classes", 0)
    return Label(classes, null=fields.get("null_class", True)) if classes else None


@dataclasses.dataclass(frozen=True)
class Spec:
    """What building a network needs to know, and what it takes.

    Attributes:
        build: callable from `nnx.Rngs` to the module.
        condition: what the network is conditioned on: a number of classes, with a null class
            beside them, or as `models.conditions` describes it.
        shape: one input's shape, without the batch.
        preconditioner: turns the network into a denoiser; None for others.
        project: what training applies to the parameters after every update (forced weight
            normalisation); leaves them as they are for most networks.
        sigma_range: lowest and highest noise level that the network knows.
        latent: whether it works on an autoencoder's latents.
        frozen: says of a parameter, by its path ``"emb_fourier/freqs"``, whether it is a constant
            that the network shares with its checkpoints: the optimiser leaves it as it is.
        undecayed: says of a parameter, by its path, whether weight decay leaves it alone.
        inputs: numbers that the network takes beside its time (see `models.scalar_inputs`).

    Raises:
        ValueError: a condition that is described otherwise.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    condition: Described
    shape: tuple[int, ...]
    preconditioner: Preconditioner | None
    project: Callable = unchanged
    sigma_range: tuple[float, float] = SIGMA_RANGE
    latent: bool = False
    frozen: Callable[[str], bool] = nothing
    undecayed: Callable[[str], bool] = nothing
    inputs: Inputs = ()

    def __post_init__(self):
        object.__setattr__(self, "condition", described(self.condition))

    def __repr__(self) -> str:
        return f"Spec({self.network!r})"

    @property
    def kind(self) -> str:
        """A "denoiser", "classifier", "encoder", "autoencoder" or "discriminator"."""
        if self.preconditioner is not None:
            return "denoiser"
        if self.num_classes:
            return "classifier"
        if hasattr(self.module, "features"):
            return "encoder"
        return "autoencoder" if hasattr(self.module, "decode") else "discriminator"

    @property
    def num_classes(self) -> int:
        """Real classes; 0 when the network takes no label."""
        return getattr(self.condition, "num_classes", 0)

    @cached_property
    def _split(self) -> tuple[Network, Any, Any]:
        """The network, its parameters' shapes, and how they are drawn from a key, traced once."""
        networks = []

        def create(key):
            network, params = split(
                self.build(nnx.Rngs(params=key)),
                shape=self.shape,
                condition=self.condition,
                inputs=self.inputs,
            )
            networks.append(network)
            return params

        drawn, shapes = jax.make_jaxpr(create, return_shape=True)(root_key(0))
        return networks[0], shapes, drawn

    @property
    def network(self) -> Network:
        """The network without parameters; nothing is computed."""
        return self._split[0]

    @property
    def shapes(self) -> Any:
        """Shapes and types of the parameters, as a nested dictionary; nothing is computed."""
        return self._split[1]

    @property
    def module(self) -> Any:
        """The module with shapes in its parameters' places, for a look at what it offers."""
        return self.network.module(self.shapes)

    def takes(self, name: str) -> bool:
        """Say whether the network's call has an argument of that name."""
        return name in inspect.signature(type(self.module).__call__).parameters

    def initialise(self, key: Key[Array, ""], *, out_shardings: Any = None) -> Any:
        """Return fresh parameters, each made in its place.

        Args:
            key: random key of the parameters.
            out_shardings: optional tree of shardings for the parameters, as in `jax.jit`.
        """
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if typed and out_shardings is None and not isinstance(key, jax.core.Tracer):
            return jax.tree.unflatten(
                jax.tree.structure(self.shapes), drawing.evaluate(self._split[2], key)
            )

        def create(key):
            return split(self.build(nnx.Rngs(params=key)), shape=self.shape)[1]

        return jax.jit(create, out_shardings=out_shardings)(key)

    def denoiser(
        self, params: Any, *, origin: Origin | None = None, latent: bool | None = None
    ) -> Denoiser:
        """Return the network with its parameters as a denoiser in EDM coordinates.

        Args:
            params: a nested dictionary of arrays, or of their shapes.
            origin: where they come from, if from a file.
            latent: whether it denoises latents; None for what is usual for the network.

        Raises:
            ValueError: the network is a classifier or an autoencoder.
        """
        if self.preconditioner is None:
            raise ValueError(f"{self.network.name} is no denoiser")
        return Denoiser(
            params,
            self.network,
            self.preconditioner,
            self.sigma_range,
            self.latent if latent is None else latent,
            Origin() if origin is None else origin,
        )

    def without_null(self) -> "Spec":
        """Return the spec of a network that was never shown what stands for no condition."""
        return dataclasses.replace(self, condition=without_null(described(self.condition)))


def class_conditional(
    network: Any,
    name: str,
    preconditioner: Preconditioner,
    size: str | None,
    dtype: str,
    latent: bool | None,
    fields: Mapping[str, Any],
) -> Spec:
    """Return the spec of a class-conditional network whose sizes have names.

    Args:
        network: its class; one of published sizes has ``fields(size)``, one of parameters that
            weight decay leaves alone ``undecayed(path)``.
        name: what configs call it.
        preconditioner: turns it into a denoiser.
        size: a published one, whose fields hold where ``fields`` has none; None for none.
        dtype: name of the compute type.
        latent: whether it works on an autoencoder's latents; None where published sizes do.
        fields: of the class.

    Raises:
        ValueError: unknown size, field or type; neither a size nor one of the fields that a
            network cannot be without.
    """
    compute = compute_type(dtype)
    fields = (network.fields(size) if size else {}) | dict(fields)
    for field in ("image_size", "channels", "num_classes"):
        if field not in fields:
            raise ValueError(f"{field} is missing: give it, or a published size as size='XL/2'")
    fields = checked_fields(network, name, fields)

    def build(rngs):
        return network(**fields, dtype=compute, rngs=rngs)

    side = fields["image_size"]
    return Spec(
        build,
        label_of(fields),
        (side, side, fields["channels"]),
        preconditioner,
        sigma_range=sigma_range(preconditioner),
        latent=bool(size) if latent is None else latent,
        undecayed=getattr(network, "undecayed", nothing),
    )


def checked_fields(
    network: type[nnx.Module], name: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return fields of a network that its class takes, none missing.

    Args:
        network: the class; its arguments but ``rngs`` and ``dtype`` are its fields.
        name: what configs call it.
        fields: by name.

    Raises:
        ValueError: a field that the class does not have, with the nearest, or one that is missing;
            a value of another type than declared; a size that is not above 0.
    """
    known = _fields_of(network)
    if unknown := [field for field in fields if field not in known]:
        every = sorted({*known, *_options_of(name)})
        near = difflib.get_close_matches(unknown[0], every)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(f"{name} has no field {unknown[0]!r}{hint}; it takes {', '.join(every)}")
    required = [field for field, one in known.items() if one.default is one.empty]
    if missing := [field for field in required if field not in fields]:
        one = missing[0]
        raise ValueError(
            f"{name} needs the field {one!r}: set it in the section model; for published weights "
            f"that do not say it, in weights.model (--mode=import), or as models.load(..., {one}=)"
        )
    for field, value in fields.items():
        hint = known[field].annotation
        checked(value, Any if hint is inspect.Parameter.empty else hint, field, name)
        least = 0 if field in MAY_BE_ZERO else 1
        if hint is int and value < least:
            raise ValueError(f"{field} must be {least} or more, got {value}")
    return dict(fields)


def _options_of(name: str) -> list[str]:
    """Return what a registered constructor takes beside the fields of its class."""
    table = registry("network")
    if name not in table:
        return []
    return [one.name for one in table[name].parameters.values() if one.kind is not one.VAR_KEYWORD]


def _fields_of(network: type, *, positional: bool = True) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class, those of its bases too where it passes them on."""
    found: dict[str, inspect.Parameter] = {}
    for cls in network.__mro__:
        if "__init__" not in vars(cls):
            continue
        signature = inspect.signature(cls.__init__, eval_str=True)
        given = list(signature.parameters.values())[1:]
        for one in given:
            named = one.kind is one.KEYWORD_ONLY
            named |= positional and one.kind is one.POSITIONAL_OR_KEYWORD
            if named and one.name not in ("rngs", "dtype"):
                found.setdefault(one.name, one)
        if not any(one.kind is one.VAR_KEYWORD for one in given):
            break
        # What a relative's blocks take beside the others' goes through the network's constructor.
        if block := getattr(network, "block", None):
            found = _fields_of(block, positional=False) | found
    return found
