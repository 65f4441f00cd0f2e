"""Sites: places in a network's forward pass where a caller's modes may step in.

A mode has a ``name``, the ``site`` it works at, the ``layers`` it holds in (None where a site has
none) and one method named like its site, and comes as a pair ``(mode, where)``: ``where`` marks
the samples of the batch that it holds for, None being all of them. Nothing more of it is known
here.

``time_embedding(embedding)`` and ``condition_embedding(embedding, table)`` return an embedding,
``h_space(features)`` and ``skip(features)`` a UNet's features ``[batch, height, width, channel]``
at its bottleneck (arXiv 2210.10960) and on a skip connection (its layers number the connections in
the order in which the encoder makes them); ``attention(attend, query, key, value, grid)`` and
``block(run, tokens)`` step in around a function.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

TIME_EMBEDDING = "time_embedding"
CONDITION_EMBEDDING = "condition_embedding"
ATTENTION = "attention"
BLOCK = "block"
H_SPACE = "h_space"
SKIP = "skip"


class _EveryLayer:
    """Contains every number, and none beyond any depth: see `EVERY_LAYER`."""

    def __contains__(self, layer: int) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(())


# The ``layers`` of a mode that holds in all layers of its site, however many there are.
EVERY_LAYER = _EveryLayer()


def require_offered(modes: Sequence, sites: Sequence[str], depth: int) -> None:
    """Refuse modes that a network cannot hold.

    Args:
        modes: pairs (mode, where).
        sites: what the network offers.
        depth: its number of layers, counted from 0.

    Raises:
        ValueError: a site that is not offered, or a layer beyond the depth.
    """
    for mode, _ in modes:
        if mode.site not in sites:
            raise ValueError(
                f"the mode {mode.name!r} works on the {mode.site!r} of a network, and this one "
                f"offers {', '.join(sites)} alone"
            )
        for layer in mode.layers or ():
            if not 0 <= layer < depth:
                raise ValueError(
                    f"the mode {mode.name!r} asks for layer {layer} of a network of depth {depth}: "
                    f"choose from 0 to {depth - 1}"
                )


def at_site(modes: Sequence, site: str) -> tuple:
    """Return the modes that work at a site."""
    return tuple(one for one in modes if one[0].site == site)


def for_layer(modes: Sequence, layer: int) -> tuple:
    """Return the modes that hold in a layer."""
    return tuple(one for one in modes if layer in (one[0].layers or ()))


def runs(modes: Sequence, depth: int, first: int = 0) -> Iterator[tuple[range, tuple]]:
    """Cut ``depth`` layers into runs of consecutive ones in which the same modes hold.

    The runs count from 0; ``first`` is the number that modes know the first layer by.
    """

    def held(layer):
        return tuple(id(mode) for mode, _ in for_layer(modes, first + layer))

    for _, group in itertools.groupby(range(depth), key=held):
        layers = tuple(group)
        yield range(layers[0], layers[-1] + 1), for_layer(modes, first + layers[0])


def choose(where: Bool[Array | np.ndarray, " batch"] | None, new: Array, old: Array) -> Array:
    """Return ``new`` in the samples marked by ``where``, ``old`` elsewhere, in the old type."""
    new = jnp.asarray(new).astype(old.dtype)
    if where is None:
        return new
    return jnp.where(where.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)


def changed(modes: Sequence, site: str, value: Array, *context: Any) -> Array:
    """Return an embedding, or features, as the modes at a site change them.

    Args:
        modes: pairs (mode, where).
        site: one of the embeddings, ``h_space`` or ``skip``.
        value: ``[batch, ...]``.
        context: what else the site shows to its modes.
    """
    for mode, where in at_site(modes, site):
        value = choose(where, getattr(mode, site)(value, *context), value)
    return value


def around(modes: Sequence, site: str, run: Callable, *context: Any) -> Callable:
    """Return ``run`` as the modes at a site change it.

    ``run`` is called once, whether a mode holds for some samples or for all: those it holds for
    go in as the mode made them, the others as they were. A mode that holds for all samples and
    does not call ``run`` leaves it out of the program.

    Args:
        modes: pairs (mode, where).
        site: of the two functions, which.
        run: maps arrays ``[batch, ...]`` to one of these, every sample by itself.
        context: what else the site shows to its modes, after the arrays.
    """
    for mode, where in at_site(modes, site):
        run = _around_one(getattr(mode, site), where, run, context)
    return run


def _around_one(hook: Callable, where, run: Callable, context: tuple) -> Callable:
    if where is None:
        return lambda *plain: hook(run, *plain, *context)

    def either(*plain):
        outputs = []

        def run_both(*changed):
            inputs = (choose(where, new, old) for new, old in zip(changed, plain, strict=True))
            outputs.append(run(*inputs))
            return outputs[-1]

        hooked = hook(run_both, *plain, *context)
        # Where the mode does not hold, what `run` was called with is the plain input.
        return choose(where, hooked, outputs[-1] if outputs else run(*plain))

    return either
