"""Statistics of a guided denoiser, from which DPM-Solver-v3 takes its steps (arXiv 2310.13268).

With ``lambda = -log sigma`` and ``f = (1 - l) x - D``, elementwise over x from noised data:

``l = E[diag(d(sigma eps)/dx)] = 1 - E[v * (dD/dx) v]``, v random signs (Hutchinson);
``s = Cov[f, f'] / Var[f]``, ``b = E[f'] - s E[f]``, f' the derivative along the flow,
``f' = (1 - l) (D - x) - l' x - D'``, where ``D' = dD/dx (D - x) - sigma dD/dsigma``.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ...core.calls import takes_parts
from ...core.constructors import name_of
from ...core.random import fold_each, keys_per_sample, normal_like, unit_noise
from ...guidance.protocol import Rule
from ..arguments import opaque, separated, state_of
from ..checks import span, whole
from ..conditions import checked_condition
from ..evaluator import MODES
from ..loop import Calls, GuidedDenoiser, sample, segments
from ..networks import Networks, by_name, check_networks
from ..solvers.dpmpp import dpmpp
from ..solvers.statistics import Statistics, grid

# A sample's key is folded with these: out of the way of data drawn from the same key, whose
# noise would be its own.
NOISE, SIGNS, RULE = (2**20 + i for i in range(3))
# Trajectories of a second-order solver with this many steps are the flow's own for this purpose.
FINE = 120
# An f that varies by less than this many roundings of what it is the difference of is constant.
ROUNDINGS = 100


@takes_parts("samplers")
def calibrate(
    denoise: Callable | Networks,
    rule: Rule,
    x0: Float[Array | np.ndarray, " data *shape"] | None,
    condition: Any,
    key: Key[Array, ""],
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    shape: tuple[int, ...] | None = None,
    intervals: int = 120,
    samples: int = 1024,
    batch: int = 64,
    branches: str = "fused",
) -> Statistics:
    """Estimate the statistics with which `samplers.dpm_solver_v3` follows a guided denoiser.

    They belong to one rule at one scale: calibrate again for another. Noised states come from

    * data, ``x0 + sigma noise``: right without guidance, where the flow's states are distributed
      like noised data. Needs data with their conditions; costs no trajectories.
    * no data (``x0=None``): the denoiser's own trajectories, from noise down the grid. These are
      the states that the solver will meet, also where guidance leads away from the data, so this
      is the better choice for a guided denoiser and where the network falls short of the data.

    Costs ``samples * (intervals + 1)`` guided predictions and twice as many derivatives of one
    along a direction, each about as costly again: 372 000 predictions' worth unless told
    otherwise; without data, ``samples * intervals`` more, at least 120 a sample. A network must be
    differentiable forwards (`jax.jvp`) in x and sigma.

    Args:
        denoise, branches: as `samplers.sample` takes them.
        rule: the rule that will guide; one without a state.
        x0: clean data ``[data, ...]`` in EDM coordinates, float32 or float64; None for none.
        condition: for the ``given`` branch: arrays whose first axis goes with that of x0, or of
            any length without x0; None for none. Sample i takes row i, around again from the end.
        key: one key; sample i draws from ``fold_in(key, i)``, the same at every noise level, so
            that statistics are smooth in it.
        sigma_min, sigma_max: noise levels to cover, those of schedules to come.
        shape: one sample's shape, where there are no data to tell.
        intervals: even steps of log sigma, 2 or more.
        samples: how many to average over, 2 or more.
        batch: how many at once.

    Returns:
        `Statistics` of x0's type; without data float32, or float64 where x64 is on.

    Raises:
        ValueError: a rule with a state, or one that renoises (CFG++); a missing network; data or
            conditions of no use; or numbers that make no sense.

    Source: Zheng et al., arXiv 2310.13268; the estimators are this library's.
    """
    span("calibrate", intervals, sigma_min, sigma_max)
    whole("calibrate", samples=samples, batch=batch)
    if min(intervals, samples) < 2:
        raise ValueError(
            f"samplers.calibrate: slopes need two intervals and two samples at least, got "
            f"intervals={intervals} and samples={samples}"
        )
    if branches not in MODES:
        raise ValueError(f"samplers.calibrate: branches is {' or '.join(MODES)}, got {branches!r}")
    x0, shape = _data(x0, shape)
    if isinstance(condition, (list, tuple)):
        condition = np.asarray(condition)
    rows = _rows(x0, condition)
    networks = by_name("calibrate", denoise)
    like = jax.ShapeDtypeStruct((1, *shape), jnp.result_type(float) if x0 is None else x0.dtype)
    if jax.tree.leaves(jax.eval_shape(rule.init, like)):
        raise ValueError(
            f"samplers.calibrate: the rule {name_of(rule)} remembers earlier steps, so its "
            f"prediction is no function of x and sigma, which statistics are of: calibrate with "
            f"the rule without its momentum or history"
        )
    lambdas = grid(sigma_min, sigma_max, intervals)
    sigmas = np.exp(-lambdas)
    sigmas[[0, -1]] = sigma_max, sigma_min
    levels = np.append(sigmas, 0.0)
    parts = segments(rule, dpmpp(), levels)
    check_networks("calibrate", rule, parts, levels, networks, like)
    condition, guarded = checked_condition(
        "calibrate", rule, parts, networks, condition, like, batch=rows
    )
    calls = Calls(branches, guarded)
    # Traced once a call of `calibrate` where networks are no pytrees, and then forgotten.
    ask = _asker() if opaque(networks) else _responses

    moments = _Moments(len(sigmas), shape)
    every = keys_per_sample("samplers.calibrate", key, int(samples))
    for start in range(0, int(samples), int(batch)):
        keys = every[start : start + int(batch)]
        chosen = (start + np.arange(len(keys))) % rows
        given = jax.tree.map(lambda leaf: leaf[chosen], condition)  # noqa: B023
        noise_keys, rule_keys = fold_each(keys, NOISE), fold_each(keys, RULE)
        if x0 is None:
            noise = unit_noise(noise_keys, shape, like.dtype)
            states = _trajectories(denoise, rule, sigmas, noise, given, rule_keys, branches)
        else:
            noise = normal_like(noise_keys, jnp.asarray(x0[chosen]))
            states = (x0[chosen] + np.asarray(sigma, x0.dtype) * noise for sigma in sigmas)
        for i, (x, sigma) in enumerate(zip(states, sigmas, strict=True)):
            fixed, numbers = separated((networks, rule.at(float(sigma))))
            responses = ask(
                (fixed, calls, name_of(rule)),
                numbers,
                x,
                jnp.asarray(sigma, x.dtype),
                given,
                rule_keys,
                fold_each(keys, SIGNS),
            )
            moments.add(i, x, *responses)
    return moments.statistics(lambdas, like.dtype)


def _respond(static, numbers, x, sigma, condition, keys, sign_keys):
    """Return D, dD/dlambda along the flow, and ``v * (dD/dx) v`` for signs v."""
    fixed, calls, owner = static
    networks, rule = fixed.filled(numbers)

    def predict(x, sigma):
        guided = GuidedDenoiser(networks, rule, rule.init(x), condition, keys, calls)(x, sigma)
        if guided.renoise_from is not None:
            raise ValueError(
                f"samplers.calibrate: the rule {owner} takes its noise from another "
                f"prediction than the guided one (CFG++), which is not defined for DPM-Solver-v3: "
                f"calibrate with guidance.cfg"
            )
        return guided.denoised

    denoised, derivative = jax.linearize(predict, x, sigma)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(sign_keys)
    diagonal = signs * derivative(signs, jnp.zeros_like(sigma))
    return denoised, derivative(denoised - x, -sigma), diagonal


_responses = jax.jit(_respond, static_argnums=0)


def _asker() -> Callable:
    """Return `_respond` compiled by itself: what it is traced for is forgotten with it."""
    return jax.jit(lambda *arguments: _respond(*arguments), static_argnums=0)


def _trajectories(denoise, rule, sigmas, noise, condition, keys, branches):
    """Return the states of the denoiser's own flow at ``sigmas``."""
    finer = math.ceil(FINE / (len(sigmas) - 1))
    nodes = np.arange((len(sigmas) - 1) * finer) / finer
    between = np.exp(np.interp(nodes, np.arange(len(sigmas)), np.log(sigmas)))
    # The grid's own levels to the bit.
    between[::finer] = sigmas[:-1]
    end, kept = sample(
        denoise,
        rule,
        dpmpp(),
        np.append(between, sigmas[-1]),
        noise,
        condition,
        keys,
        save="x",
        branches=branches,
    )
    return [*kept["x"][::finer], end]


class _Moments:
    """First and second moments of (x, D, D') on a grid of noise levels, and the mean diagonal.

    In float64 about the means of the first batch, as f is a difference of nearly equal parts.
    """

    def __init__(self, levels: int, shape: tuple[int, ...]):
        self.count = np.zeros(levels)
        self.about = np.zeros((3, levels, *shape))
        self.sums = np.zeros((3, levels, *shape))
        self.products = np.zeros((3, 3, levels, *shape))
        self.diagonal = np.zeros((levels, *shape))

    def add(self, level, x, denoised, derivative, diagonal):
        """Add a batch at one level."""
        parts = np.stack([np.asarray(part, np.float64) for part in (x, denoised, derivative)])
        if not self.count[level]:
            self.about[:, level] = parts.mean(axis=1)
        parts -= self.about[:, level, None]
        self.count[level] += parts.shape[1]
        self.sums[:, level] += parts.sum(axis=1)
        self.products[:, :, level] += np.einsum("ib...,jb...->ij...", parts, parts)
        self.diagonal[level] += np.asarray(diagonal, np.float64).sum(axis=0)

    def statistics(self, lambdas: np.ndarray, dtype) -> Statistics:
        """Return least squares of f' on f, both linear in (x, D, D') once l is known."""
        count = self.count[0]
        mean = self.sums / count
        covariance = self.products / count - mean[:, None] * mean[None]
        mean += self.about
        # 1 - l, which is small at high noise: never the difference of what is nearly equal.
        rest = self.diagonal / count
        l_slope = -np.gradient(rest, lambdas, axis=0, edge_order=2)
        f = np.stack([rest, -np.ones_like(rest), np.zeros_like(rest)])
        f_slope = np.stack([-rest - l_slope, rest, -np.ones_like(rest)])
        variance = np.einsum("i...,ij...,j...->...", f, covariance, f)
        common = np.einsum("i...,ij...,j...->...", f, covariance, f_slope)
        second = np.einsum("ii...->i...", covariance) + mean**2
        # Values are rounded to dtype, and squares of them to float64.
        seen = (ROUNDINGS * np.finfo(dtype).eps) ** 2 + ROUNDINGS * np.finfo(np.float64).eps
        varies = variance > seen * np.einsum("i...,i...->...", f**2, second)
        s = np.where(varies, common / np.where(varies, variance, 1.0), 0.0)
        b = np.sum(f_slope * mean, axis=0) - s * np.sum(f * mean, axis=0)
        l, s, b = (array.astype(dtype) for array in (1 - rest, s, b))
        return Statistics(l, s, b, lambdas)


def _data(x0, shape):
    """Return the data, None for none, and one sample's shape."""
    if x0 is None:
        if shape is None:
            raise ValueError(
                "samplers.calibrate: without data x0, give the shape of one sample, shape=(...)"
            )
        return None, tuple(shape)
    x0 = jnp.asarray(x0)
    if x0.ndim < 1 or not len(x0) or not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(
            f"samplers.calibrate: x0 must be floating-point data [data, ...] in the denoiser's "
            f"units, got {x0.dtype} of shape {x0.shape}"
        )
    x0 = state_of("calibrate", "x0", x0)
    if shape is not None and tuple(shape) != x0.shape[1:]:
        raise ValueError(
            f"samplers.calibrate: x0 has samples of shape {x0.shape[1:]}, not {tuple(shape)}: "
            f"leave shape out"
        )
    return x0, x0.shape[1:]


def _rows(x0, condition) -> int:
    """Return how many rows there are to take samples' data and conditions from."""
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(condition)}
    if x0 is not None:
        lengths.add(x0.shape[:1])
    if len(lengths) > 1 or () in lengths or (0,) in lengths:
        raise ValueError(
            f"samplers.calibrate: x0 and every array of the condition must go together, one row a "
            f"sample, but have lengths {sorted(lengths)}"
        )
    return lengths.pop()[0] if lengths else 1
