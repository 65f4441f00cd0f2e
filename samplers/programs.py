"""Compiled programs: where networks are pytrees, kept by what they are; else, by their text.

A network that is no pytree (a function over its parameters, a module in an attribute) may change
between two calls without anything to tell. It is traced anew at every call, which sees whatever
has changed; the arrays that it holds become arguments of the program, and a program whose text
has been compiled before is not compiled again.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax

from ..core.files import digest_of_parts

# Programs of networks that are no pytrees that are kept, the latest.
KEPT = 32
_compiled: collections.OrderedDict[Any, jax.stages.Compiled] = collections.OrderedDict()


def program(function: Callable) -> Callable:
    """Compile a function whose first argument is static; see `anew` for ``opaque=True``."""
    kept = jax.jit(function, static_argnums=0)

    @functools.wraps(function)
    def run(static: Any, *arguments: Any, opaque: bool = False) -> Any:
        if not opaque:
            return kept(static, *arguments)
        return anew(functools.partial(function, static), *arguments)

    return run


def anew(function: Callable, *arguments: Any) -> Any:
    """Trace a function, and run what it is now; what it closes over is never remembered.

    Costs the time to trace and to lower at every call, and that to compile where the program is
    another than those of the last `KEPT` kinds. Wrapping a network in `jax.tree_util.Partial`,
    its parameters as arguments, saves both.
    """
    flat, _ = jax.tree.flatten(arguments)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in flat):
        return jax.jit(function)(*arguments)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    if any(isinstance(one, jax.core.Tracer) for one in closed.consts):
        return jax.jit(function)(*arguments)

    def evaluate(held, flat):
        return jax.core.eval_jaxpr(closed.jaxpr, held, *flat)

    lowered = jax.jit(evaluate).lower(closed.consts, flat)
    out = _compile(lowered, flat)(closed.consts, flat)
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def _compile(lowered: jax.stages.Lowered, arrays: list) -> jax.stages.Compiled:
    text = lowered.as_text()
    if "callback" in text:
        # Which function is called back is not in the text.
        return lowered.compile()
    places = tuple(str(getattr(one, "sharding", None)) for one in arrays)
    key = digest_of_parts([text]), places
    if key not in _compiled:
        _compiled[key] = lowered.compile()
    _compiled.move_to_end(key)
    while len(_compiled) > KEPT:
        _compiled.popitem(last=False)
    return _compiled[key]
