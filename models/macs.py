"""Exact multiply-adds of one evaluation, counted from the traced program.

Published "Gflops" of diffusion transformers and EDM2 are these multiply-adds, not twice them.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from .denoiser import Denoiser


def macs(network: Denoiser | Callable) -> int:
    """Count the multiply-adds of matrix products and convolutions in one evaluation of a sample.

    Args:
        network: a denoiser, or a classifier ``(x, sigma) -> logits`` with a ``shape``; its
            parameters may be shapes alone.
    """
    x = jax.ShapeDtypeStruct((1, *network.shape), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    if not isinstance(network, Denoiser):
        return _count(jax.make_jaxpr(lambda call, *given: call(*given))(network, x, time).jaxpr)
    inner = network.network
    label = jax.ShapeDtypeStruct((1,), jnp.int32) if inner.num_classes else None
    return _count(jax.make_jaxpr(inner)(network.params, x, time, label).jaxpr)


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
