"""Exact multiply-adds of one evaluation, counted from the traced program.

Published "Gflops" of diffusion transformers and EDM2 are these multiply-adds, not twice them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def macs(network: Any, shape: tuple[int, ...] | None = None) -> int:
    """Count the multiply-adds of matrix products and convolutions in one evaluation of a sample.

    Args:
        network: a denoiser (its parameters may be shapes alone), or any ``(x, sigma) -> output``
            that passes through `jax.jit` as an argument, such as a classifier.
        shape: one sample's, without the batch; the network's own if None.
    """
    if shape is None and hasattr(network, "macs"):
        return network.macs
    x = jax.ShapeDtypeStruct((1, *(network.shape if shape is None else shape)), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    return count(lambda call, *given: call(*given), network, x, time)


def count(function: Callable, *arguments: Any) -> int:
    """Count the multiply-adds of ``function(*arguments)``; arrays may be shapes alone."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(
                left[axis] for axis in contracted
            )
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_features = equation.params["dimension_numbers"].rhs_spec[0]
            taps = math.prod(kernel) // kernel[out_features]
            total += math.prod(equation.outvars[0].aval.shape) * taps
        else:
            inner = sum(_count(sub) for sub in _subprograms(equation))
            total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def _subprograms(equation):
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner
