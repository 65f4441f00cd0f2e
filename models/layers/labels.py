"""Labels as networks read them: none becomes the null class, an unknown one becomes NaN.

In a compiled program an index out of range takes a neighbour's row, and a one-hot vector of it is
the null class: both would be another class's picture without a word.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def label_or_null(
    label: Int[Array, " batch"] | None, batch: int, num_classes: int, null_class: bool
) -> Int[Array, " batch"]:
    """Return labels, ``num_classes`` in the place of none.

    Args:
        label: integers; None for none.
        batch: number of samples.
        num_classes: real classes.
        null_class: whether the network knows a null class.

    Raises:
        ValueError: none, and the network knows no null class; labels that are no whole numbers.
    """
    if label is None:
        if not null_class:
            raise ValueError(f"this network knows {num_classes} classes and no null class: give it")
        return jnp.full(batch, num_classes)
    label = jnp.asarray(label)
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"labels are whole numbers, got {label.dtype}")
    return label


def known(label: Int[Array, " batch"], num_classes: int, null_class: bool) -> Bool[Array, " batch"]:
    """Say of each label whether it is a class, or the null class where there is one."""
    return (label >= 0) & (label < num_classes + null_class)


def where_known(
    rows: Float[Array, "batch width"],
    label: Int[Array, " batch"],
    num_classes: int,
    null_class: bool,
) -> Float[Array, "batch width"]:
    """Return what was read for labels, NaN for those that the network does not know."""
    return jnp.where(known(label, num_classes, null_class)[:, None], rows, jnp.nan)


def one_hot(
    label: Int[Array, " batch"], num_classes: int, null_class: bool
) -> Float[Array, "batch num_classes"]:
    """Return a row with a single 1 for each label, zeros for the null class, NaN for unknown."""
    return where_known(jax.nn.one_hot(label, num_classes), label, num_classes, null_class)
