"""What of a run is an argument of its compiled program, and what is part of the program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


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
        leaves = [fixed if number is None else number for fixed, number in pairs]
        return jax.tree.unflatten(self.structure, leaves)


def separated(tree: Any) -> tuple[Fixed, list]:
    """Return a tree without its numbers and arrays, and those, None in the place of all else."""
    leaves, structure = jax.tree.flatten(tree)
    fixed = tuple(None if _is_number(leaf) else leaf for leaf in leaves)
    return Fixed(structure, fixed), [jnp.asarray(x) if _is_number(x) else None for x in leaves]


def floats(tree: Any) -> Any:
    """Return a tree with floats for its integers: cfg(3) must not compile beside cfg(3.0)."""
    return jax.tree.map(lambda leaf: float(leaf) if type(leaf) is int else leaf, tree)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic, jax.Array))
