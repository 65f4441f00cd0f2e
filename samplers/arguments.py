"""What of a run is an argument of its compiled program, and what is part of the program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Held:
    """What cannot be hashed, hashed by identity."""

    def __init__(self, value: Any):
        self.value = value


class Fixed(NamedTuple):
    """A pytree without its numbers; hashable, so static under `jax.jit`.

    Attributes:
        structure: of the tree.
        leaves: what is no number (functions, frozen solvers); None in the place of numbers.
    """

    structure: Any
    leaves: tuple

    def filled(self, numbers: list) -> Any:
        """Return the tree with numbers in their places."""
        pairs = zip(self.leaves, numbers, strict=True)
        leaves = [_freed(fixed) if number is None else number for fixed, number in pairs]
        return jax.tree.unflatten(self.structure, leaves)


def separated(tree: Any) -> tuple[Fixed, list]:
    """Return a tree without its numbers and arrays, and those, None in the place of all else."""
    leaves, structure = jax.tree.flatten(tree)
    fixed = tuple(None if _is_number(leaf) else _held(leaf) for leaf in leaves)
    return Fixed(structure, fixed), [jnp.asarray(x) if _is_number(x) else None for x in leaves]


def opaque(networks: Any) -> bool:
    """Return whether some networks are no pytrees, so that their arrays cannot be seen."""
    return not all(map(_is_number, jax.tree.leaves(networks)))


def floats(tree: Any) -> Any:
    """Return a tree with floats for its integers: cfg(3) must not compile beside cfg(3.0)."""
    return jax.tree.map(lambda leaf: float(leaf) if type(leaf) is int else leaf, tree)


def state_of(owner: str, name: str, x: Any) -> jax.Array:
    """Return samples that can be a sampler's state: float32, or float64 where x64 is on.

    A state that is rounded to fewer bits at every step is the worse the more steps there are.

    Raises:
        ValueError: no numbers of these types ``[batch, ...]``, in the name of ``owner``.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"samplers.{owner}: {name} must be floating point, got {x.dtype}")
    if jnp.finfo(x.dtype).bits < 32:
        raise ValueError(
            f"samplers.{owner}: {name} must be float32, as a state of {x.dtype} is rounded at "
            f"every step: draw it in float32, and let the network alone compute in {x.dtype}"
        )
    if not x.ndim or not x.shape[0]:
        raise ValueError(
            f"samplers.{owner}: {name} must be one or more samples [batch, ...], got shape "
            f"{x.shape}"
        )
    return x


def _held(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return Held(leaf)
    return leaf


def _freed(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Held) else leaf


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic, jax.Array))
