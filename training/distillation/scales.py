"""The guidance scale of each sample of a batch, where the student takes it as an input."""

import jax
from jaxtyping import Array, Float, Key

from ...core.random import fold_each
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec

# Streams of a sample's key, after those of `noise.corruption`: scales, and what one family draws.
SCALE, OWN = 5, 6
NAME = "scale"


def scale_of(spec: Spec) -> ScalarInput | None:
    """Return a network's input of that name; None where it takes none."""
    return dict(spec.inputs).get(NAME)


def drawn(
    scale: ScalarInput | None, keys: Key[Array, " batch"], law: str = "uniform"
) -> dict[str, Float[Array, " batch"]]:
    """Return inputs of the student, ``{"scale": ...}`` drawn from its range, or none.

    Args:
        scale: of the network.
        keys: one a sample.
        law: ``uniform``, or ``log`` for a logarithm that is.
    """
    if scale is None:
        return {}
    uniform = jax.vmap(jax.random.uniform)(fold_each(keys, SCALE))
    if law == "log":
        return {NAME: scale.low * (scale.high / scale.low) ** uniform}
    return {NAME: scale.at(uniform)}
