"""Numbers as inputs of a network beside its noise level: a guidance scale, the ends of an interval.

Each becomes sines and cosines and, through a linear layer that starts at zero, a part of the
network's time embedding, at the site of that name: any network that offers the site can take them,
and one that does begins as the network without them, whatever the numbers are.

Sources: Meng et al., arXiv 2210.03142, sec. 3.1; Luo et al., arXiv 2310.04378, sec. 4.3.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from ..core.sites import TIME_EMBEDDING
from .layers.dense import zeros
from .layers.frequencies import TIME_FREQUENCIES, time_features

if TYPE_CHECKING:
    from .spec import Spec

# Where a module keeps the layers of its inputs.
PLACE = "scalar_inputs"


@dataclasses.dataclass(frozen=True)
class ScalarInput:
    """One number that a network takes.

    Attributes:
        low, high: the range that it is trained in; another is refused where it is known.
        factor: multiplies it before the sinusoids, whose periods are from 2 pi to 2e4 pi. What is
            differentiated in (a second time) wants a small one.

    Raises:
        ValueError: no range, or a factor that is not above 0.
    """

    low: float
    high: float
    factor: float = 1000.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, float(getattr(self, field.name)))
        if not (np.isfinite([self.low, self.high]).all() and self.low <= self.high):
            raise ValueError(
                f"an input is trained from low to high, finite numbers in this order, got "
                f"{self.low} and {self.high}"
            )
        if not self.factor > 0:
            raise ValueError(f"an input's factor is above 0, got {self.factor}")

    @property
    def middle(self) -> float:
        """The middle of its range."""
        return (self.low + self.high) / 2

    def at(self, share: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the value at a share of its range."""
        return self.low + (self.high - self.low) * share

    def require(self, name: str, value: Any, owner: str) -> None:
        """Refuse a value outside the range; traced ones pass.

        Raises:
            ValueError: naming the range.
        """
        if isinstance(value, jax.core.Tracer):
            return
        given = np.asarray(value)
        if not np.all((given >= self.low) & (given <= self.high)):
            raise ValueError(
                f"{owner}: {name} is {value}, and the network was trained with {name} from "
                f"{self.low:g} to {self.high:g}: beyond that it extrapolates"
            )


# By name, in order.
Inputs = tuple[tuple[str, ScalarInput], ...]


@dataclasses.dataclass(frozen=True)
class Added:
    """The forward mode that adds to a time embedding.

    Attributes:
        value: ``[batch, width]``.
    """

    value: Float[Array, "batch width"]

    name: ClassVar[str] = "scalar inputs"
    site: ClassVar[str] = TIME_EMBEDDING
    layers: ClassVar[None] = None

    def time_embedding(self, embedding: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Return the sum, in the embedding's own type."""
        middle = (1,) * (embedding.ndim - 2)
        value = self.value.reshape(self.value.shape[0], *middle, self.value.shape[1])
        return embedding + value.astype(embedding.dtype)


class ScalarInputs(nnx.Module):
    """The layers of a network's inputs.

    Args:
        inputs: by name.
        width: of the time embedding.
    """

    def __init__(self, inputs: Inputs, width: int, *, rngs: nnx.Rngs):
        for name, _ in inputs:
            layer = nnx.Linear(
                TIME_FREQUENCIES, width, use_bias=False, kernel_init=zeros, rngs=rngs
            )
            setattr(self, name, layer)

    def __call__(self, inputs: Inputs, values: Mapping[str, ArrayLike], batch: int) -> Added:
        """Return the mode for a batch; each value is a scalar or ``[batch]``."""
        total = jnp.zeros(())
        for name, one in inputs:
            value = jnp.broadcast_to(jnp.asarray(values[name], jnp.float32), (batch,))
            total = total + getattr(self, name)(time_features(one.factor * value))
        return Added(total)


@dataclasses.dataclass(frozen=True)
class _Look:
    """A mode that notes an embedding's width."""

    found: list

    name: ClassVar[str] = "width"
    site: ClassVar[str] = TIME_EMBEDDING
    layers: ClassVar[None] = None

    def time_embedding(self, embedding):
        self.found.append(embedding.shape[-1])
        return embedding


def inputs_of(section: Mapping[str, Any]) -> Inputs:
    """Read the field ``inputs`` of a model section.

    ``{"scale": (1.0, 5.0)}``, or ``{"scale": {"low": 1.0, "high": 5.0, "factor": 1000.0}}``.

    Raises:
        ValueError: what is no range.
    """
    found = []
    for name, given in section.items():
        try:
            one = ScalarInput(**given) if isinstance(given, Mapping) else ScalarInput(*given)
            found.append((name, one))
        except TypeError as error:
            raise ValueError(
                f"inputs.{name} is the range that it is trained in, (low, high), got {given!r}"
            ) from error
    return tuple(found)


def with_inputs(spec: "Spec", inputs: Inputs) -> "Spec":
    """Return the spec of a network that takes numbers as inputs, by name, when it is called.

    Their parameters lie beside the network's own, whose paths stay: weights of the network without
    inputs fit.

    Args:
        spec: of a network with the site ``time_embedding``.
        inputs: by name.

    Raises:
        ValueError: a network without that site, or an input of a name that its call has already.
    """
    if TIME_EMBEDDING not in spec.network.sites:
        raise ValueError(
            f"{spec.network.name} has no time embedding that an input could be added to: leave "
            f"inputs out, or take another network"
        )
    found: list[int] = []
    jax.eval_shape(
        lambda params, x, time, condition: spec.network(
            params, x, time, condition, ((_Look(found), None),)
        ),
        spec.shapes,
        jax.ShapeDtypeStruct((2, *spec.shape), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.float32),
        spec.network.condition_like(2),
    )

    def build(rngs):
        module = spec.build(rngs)
        setattr(module, PLACE, ScalarInputs(inputs, found[0], rngs=rngs))
        return module

    return dataclasses.replace(spec, build=build, inputs=inputs)


def applied(
    module: Any, inputs: Inputs, values: Mapping[str, Any], batch: int, owner: str
) -> tuple[tuple, dict[str, Any]]:
    """Return the modes that a network's inputs are, and the values that are none of them.

    Raises:
        ValueError: one is missing.
    """
    known = dict(inputs)
    if missing := [name for name in known if name not in values]:
        name = missing[0]
        raise ValueError(
            f"{owner} takes the input {name}, trained from {known[name].low:g} to "
            f"{known[name].high:g}: give it, as denoiser.bind({name}={known[name].middle:g})"
        )
    mode = getattr(module, PLACE)(inputs, values, batch)
    return ((mode, None),), {name: one for name, one in values.items() if name not in known}


def bound(
    inputs: Mapping[str, ScalarInput], values: Mapping[str, Any], owner: str
) -> dict[str, Array]:
    """Return checked values of inputs as arrays.

    Raises:
        ValueError: a name that is none, or a value outside its range.
    """
    for name, value in values.items():
        if name not in inputs:
            near = difflib.get_close_matches(name, inputs)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"{owner} takes no input {name!r}{hint}; it takes {', '.join(inputs) or 'none'}"
            )
        inputs[name].require(name, value, owner)
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
