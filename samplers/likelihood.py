"""Log-likelihoods by the flow: how much it stretches volume on the way up to noise."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.calls import takes_parts
from ..core.constructors import name_of
from ..core.random import fold_each, keys_per_sample
from ..guidance.protocol import Guided, Rule
from .checks import Keys, Levels, positive, whole
from .inversion import upward
from .loop import SOLVER_STREAM, GuidedDenoiser
from .networks import Networks
from .programs import program
from .solvers.heun import heun

TRACES = ("hutchinson", "exact")


@takes_parts("samplers")
def log_likelihood(
    denoise: Callable | Networks,
    rule: Rule,
    sigmas: Levels,
    x: Float[Array | np.ndarray, " batch *shape"],
    condition: Any,
    key: Keys,
    *,
    trace: str = "hutchinson",
    probes: int = 1,
    branches: str = "fused",
) -> Float[Array, " batch"]:
    """Return the natural log-density of ``x`` at the lowest noise level.

    ``log p(x) = log N(x_max; 0, sigma_max^2) + int div (x - D)/sigma dsigma`` along the flow from
    x up to x_max. x is followed by Heun's method and the divergence ``(dim - tr dD/dx)/sigma``
    integrated by trapezoids in log sigma at the same evaluations: second order in the schedule,
    two guided predictions a step, each with its forward derivatives. Of a guided prediction it is
    the density of what the guided flow makes of noise. float32 resolves about 1e-7 of the sum of
    all ``dim`` contributions.

    Args:
        denoise, rule, condition, branches: as in `sample`; a rule without state.
        sigmas: decreasing noise levels without a final 0, up to where data is nearly noise alone.
        x: samples at the lowest noise level: for images, dequantised or with noise added.
        key: one key, or one a sample, for the probes and for rules that draw.
        trace: ``hutchinson`` estimates the trace without bias by ``v^T (dD/dx) v``, v of random
            signs, anew in every evaluation; ``exact`` takes ``dim`` forward derivatives at once.
        probes: how many v to average over.

    Raises:
        ValueError: sigmas that end in 0; sigmas, networks and conditions that `sample` refuses
            too; a rule with a state or whose noise is of another prediction (CFG++), an unknown
            trace, or a number of probes that is none.

    Source: Song et al., arXiv 2011.13456, on the probability flow and its instantaneous change of
    variables.
    """
    if trace not in TRACES:
        raise ValueError(f"samplers.log_likelihood: trace is {' or '.join(TRACES)}, got {trace!r}")
    whole("log_likelihood", probes=probes)
    if trace == "exact" and probes != 1:
        raise ValueError(
            "samplers.log_likelihood: the exact trace takes no probes: leave them out, or take "
            "trace='hutchinson'"
        )
    run = upward("log_likelihood", denoise, rule, heun(), sigmas, x, condition, branches)
    if jax.tree.leaves(jax.eval_shape(rule.init, run.x)):
        raise ValueError(
            f"samplers.log_likelihood: the rule {name_of(rule)} carries a state from step to step "
            f"and so has no flow of x alone: take a rule without one, such as guidance.cfg"
        )
    keys = keys_per_sample("samplers.log_likelihood", key, run.x.shape[0])
    static = run.program, name_of(rule), int(probes) if trace == "hutchinson" else 0
    return _log_likelihood(
        static, run.numbers, run.x, run.condition, keys, run.steps, opaque=run.opaque
    )


@program
def _log_likelihood(static, numbers, x, condition, keys, intervals):
    run, owner, probes = static
    dim = math.prod(x.shape[1:])

    def step(networks, rule, carry, number, interval):
        x, total, state = carry
        step_keys = fold_each(keys, number)
        denoise = GuidedDenoiser(networks, rule, state, condition, step_keys, run.calls)
        traced = _Traced(owner, denoise, fold_each(step_keys, SOLVER_STREAM), probes)
        x, _, _ = heun().step(traced, x, interval, (), None)
        divergence = dim - sum(traced.traces) / len(traced.traces)
        return x, total + jnp.log(interval.end / interval.start) * divergence, state

    def start(rule):
        return x, jnp.zeros(x.shape[0], x.dtype), rule.init(x)

    end, total, _ = run.climb(numbers, intervals, start, step)
    top = intervals.end[0]
    distance = jnp.sum((end / top) ** 2, axis=tuple(range(1, x.ndim)))
    return total - distance / 2 - dim * (jnp.log(top) + math.log(2 * math.pi) / 2)


class _Traced:
    """What Heun's method calls; keeps the trace of dD/dx, ``[batch]``, of every call."""

    def __init__(self, owner, denoise, keys, probes):
        self.traces: list[Array] = []
        self._owner, self._denoise, self._keys, self._probes = owner, denoise, keys, probes

    def __call__(
        self, x: Array, sigma: Array, to: Array | None = None, *, scale: Any = None
    ) -> Guided:
        def denoised(x):
            guided = self._denoise(x, sigma, to, scale=scale)
            return guided.denoised, guided

        def along(vector):
            _, change, guided = jax.jvp(denoised, (x,), (vector,), has_aux=True)
            return jnp.sum(vector * change, axis=tuple(range(1, x.ndim))), guided

        vectors = self._vectors(x, fold_each(self._keys, self._denoise.count))
        parts, guided = jax.vmap(along, out_axes=(0, None))(vectors)
        if guided.renoise_from is not None:
            raise ValueError(
                f"samplers.log_likelihood: the rule {self._owner} takes its noise from another "
                f"prediction than the guided one (CFG++), whose steps follow no flow: take a rule "
                f"such as guidance.cfg"
            )
        self.traces.append(parts.mean(axis=0) if self._probes else parts.sum(axis=0))
        return guided

    def scan(self, body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        def stage(denoise, carry, x):
            inner = _Traced(self._owner, denoise, self._keys, self._probes)
            carry, y = body(inner, carry, x)
            return carry, (y, jnp.stack(inner.traces))

        carry, (ys, traces) = self._denoise.scan(stage, carry, xs)
        self.traces += list(traces.reshape(-1, traces.shape[-1]))
        return carry, ys

    def _vectors(self, x: Array, keys: Array) -> Array:
        """Return the vectors to take derivatives along, ``[vectors, batch, ...]``."""
        if not self._probes:
            basis = jnp.eye(math.prod(x.shape[1:]), dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
            return jnp.broadcast_to(basis, (len(basis), *x.shape))
        shape = (self._probes, *x.shape[1:])
        return jax.vmap(lambda key: jax.random.rademacher(key, shape, x.dtype), out_axes=1)(keys)


def bits_per_dimension(
    log_likelihood: Float[Array | np.ndarray, " batch"],
    shape: tuple[int, ...],
    levels: int = 256,
    span: float = 2.0,
) -> Float[Array | np.ndarray, " batch"]:
    """Return ``-log p / (dim log 2) + log2(levels / span)``, the bits that one value takes.

    The density of continuous values becomes the probability of a cell of width ``span/levels``;
    of dequantised data the result is an upper bound for the discrete model's.

    Args:
        log_likelihood: natural log-densities, from `log_likelihood`.
        shape: one sample's.
        levels: how many values the data takes.
        span: length of its range; 2 for data in [-1, 1].

    Raises:
        ValueError: levels no positive integer, or a span not above 0.

    Source: Theis et al., arXiv 1511.01844, for the bound.
    """
    whole("bits_per_dimension", levels=levels)
    positive("bits_per_dimension", span=span)
    dim = math.prod(shape)
    return -log_likelihood / (dim * math.log(2)) + math.log2(levels / span)
