"""Fresh parameters, drawn piece by piece by one small program a distribution.

Random numbers compile slowly. A program that draws a whole network has a generator in it for every
parameter, and on CPUs takes several times as long to compile as the network itself. Number i of a
draw is a function of its key and of i, so a program of a fixed size draws any of them in pieces:
the same numbers, compiled once for all networks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, Key, UInt

from ..core.random import GENERATOR

# Numbers of a piece: so many that calls cost nothing, so few that a short draw wastes nothing.
PIECE = 2**16
ROOT_TWO = np.float32(np.sqrt(2))
# What else initialisers do, on the host: each shape of each would be a program of its own.
HOST: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "mul": np.multiply,
    "sqrt": np.sqrt,
    "transpose": lambda x, permutation: np.transpose(x, permutation),
}


def evaluate(closed: core.ClosedJaxpr, key: Key[Array, ""]) -> list[Array]:
    """Return what a traced function of a random key returns, its arrays.

    Args:
        closed: of the function, as `jax.make_jaxpr` returns it.
        key: its argument.
    """
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values[jaxpr.invars[0]] = key

    def held(place):
        return place.val if isinstance(place, core.Literal) else values[place]

    def read(place):
        value = held(place)
        return value.product() if isinstance(value, _Scaled) else value

    for equation in jaxpr.eqns:
        found = _drawn(equation, read)
        if found is None:
            found = _rescaled(equation, held)
        if found is None:
            found = _on_host(equation, read)
        if found is not None:
            values[equation.outvars[0]] = found
            continue
        taken = [place for place in equation.invars if not isinstance(place, core.Literal)]
        alone = jaxpr.replace(
            constvars=[],
            invars=taken,
            outvars=equation.outvars,
            eqns=[equation],
            debug_info=jaxpr.debug_info.with_unknown_names(),
        )
        results = jax.core.eval_jaxpr(alone, (), *(_placed(read(place)) for place in taken))
        values.update(zip(equation.outvars, results, strict=True))
    return [_placed(read(place)) for place in jaxpr.outvars]


def _placed(value: Any) -> Array:
    return jnp.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


class _Scaled(NamedTuple):
    """Numbers and a factor of theirs, which compilers join with a next one before they multiply."""

    numbers: np.ndarray
    factor: np.float32

    def product(self) -> np.ndarray:
        return self.numbers * self.factor


def _rescaled(equation: core.JaxprEqn, held: Callable) -> "_Scaled | None":
    """Return numbers with a scalar joined to their factor; None for every other equation."""
    if equation.primitive.name != "mul":
        return None
    operands = sorted(map(held, equation.invars), key=lambda one: not isinstance(one, _Scaled))
    scaled, other = operands
    if not isinstance(scaled, _Scaled) or isinstance(other, _Scaled) or np.ndim(other):
        return None
    return scaled._replace(factor=np.float32(scaled.factor * np.float32(other)))


def _drawn(equation: core.JaxprEqn, read: Callable) -> "np.ndarray | _Scaled | None":
    """Return the numbers that an equation draws; None where it is no draw, or one of another kind.

    A draw is known by the name of jax's function. Under another name it is evaluated like any
    other equation, to the same numbers.
    """
    draw = DRAWS.get(str(equation.params.get("name")))
    out: Any = equation.outvars[0].aval
    if draw is None or out.dtype != jnp.float32 or not _by_number():
        return None
    keys, *bounds = map(read, equation.invars)
    typed = jnp.issubdtype(getattr(keys, "dtype", np.void), jax.dtypes.prng_key)
    if not typed or str(jax.random.key_impl(keys)) != GENERATOR:
        return None
    if out.shape[: keys.ndim] != keys.shape or any(np.ndim(bound) for bound in bounds):
        return None
    shape = out.shape[keys.ndim :]
    count = int(np.prod(shape))
    rows = np.empty((keys.size, count), np.float32)
    for row, one in zip(rows, keys.reshape(-1), strict=True):
        for start in range(0, count, PIECE):
            piece = draw(one, np.uint32(start), *bounds)
            row[start : start + PIECE] = np.asarray(piece)[: count - start]
    numbers = rows.reshape(out.shape)
    return _Scaled(numbers, ROOT_TWO) if draw is _normal else numbers


def _by_number() -> bool:
    """Return whether number i of a draw is a function of its key and of i alone."""
    return bool(getattr(jax.config, "jax_threefry_partitionable", False))


def _on_host(equation: core.JaxprEqn, read: Callable) -> np.ndarray | None:
    """Return the result of an equation of numpy's own; None for others, and for arrays of jax."""
    name: str = equation.primitive.name
    out: Any = equation.outvars[0].aval
    if name == "broadcast_in_dim" and not np.ndim(read(equation.invars[0])):
        return np.full(out.shape, np.asarray(read(equation.invars[0])), out.dtype)
    operands = [read(place) for place in equation.invars]
    if name not in HOST or not all(isinstance(x, (np.ndarray, np.generic)) for x in operands):
        return None
    options = {"permutation": equation.params["permutation"]} if name == "transpose" else {}
    return np.asarray(HOST[name](*operands, **options), out.dtype)


def _bits(key: Key[Array, ""], start: UInt[Array, ""]) -> UInt[Array, " piece"]:
    """Return the random words from number ``start`` on: both halves of a fold of it, as one."""
    numbers = start + jnp.arange(PIECE, dtype=jnp.uint32)
    folds = jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))
    return folds[:, 0] ^ folds[:, 1]


def _between(bits: UInt[Array, " piece"], low: Any, high: Any) -> Float[Array, " piece"]:
    """Return uniform numbers: 23 bits of each word are a mantissa in [1, 2)."""
    one = np.float32(1).view(np.uint32)
    floats = jax.lax.bitcast_convert_type((bits >> 9) | one, jnp.float32) - 1
    low, high = jnp.float32(low), jnp.float32(high)
    return jnp.maximum(low, floats * (high - low) + low)


@jax.jit
def _uniform(key, start, low, high):
    return _between(_bits(key, start), low, high)


@jax.jit
def _normal(key, start):
    """Return normal numbers over `ROOT_TWO`."""
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return jax.lax.erf_inv(_between(_bits(key, start), lowest, 1.0))


DRAWS: dict[str, Callable[..., Float[Array, " piece"]]] = {"_uniform": _uniform, "_normal": _normal}
