"""Networks that are no pytrees: what they are now is what is sampled, and nothing is hoarded."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles.analytic import keys
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.samplers import programs

SIGMAS = samplers.karras(3, 0.1, 5.0)
NOISE = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
SHARE = {"now": jnp.float32(0.25)}


class Module(nnx.Module):
    """One weight."""

    def __init__(self, share):
        self.share = nnx.Param(jnp.float32(share))

    def __call__(self, x, sigma):
        return x * self.share[...] / (1 + sigma**2)


class Plain:
    """An object with a number, which jax knows nothing of; it cannot even be hashed."""

    __hash__ = None

    def __init__(self, share):
        self.share = share

    def __call__(self, x, sigma, condition):
        return x * self.share / (1 + sigma**2)


class Around:
    """An object with a module inside."""

    def __init__(self, share):
        self.module = Module(share)

    def __call__(self, x, sigma, condition):
        return self.module(x, sigma)


def attribute():
    plain = Plain(0.25)
    return plain, lambda share: setattr(plain, "share", share)


def array_attribute():
    plain = Plain(jnp.float32(0.25))
    return plain, lambda share: setattr(plain, "share", jnp.float32(share))


def closure():
    module = Module(0.25)

    def change(share):
        module.share[...] = jnp.float32(share)

    return lambda x, sigma, condition: module(x, sigma), change


def module_attribute():
    around = Around(0.25)

    def change(share):
        around.module.share[...] = jnp.float32(share)

    return around, change


def bound_method():
    plain, change = attribute()
    return plain.__call__, change


def from_global(x, sigma, condition):
    return x * SHARE["now"] / (1 + sigma**2)


def of_a_global():
    SHARE["now"] = jnp.float32(0.25)
    return from_global, lambda share: SHARE.update(now=jnp.float32(share))


KINDS = (attribute, array_attribute, closure, module_attribute, bound_method, of_a_global)


def sample(network):
    rule, solver = guidance.unguided(), samplers.euler()
    return samplers.sample(network, rule, solver, SIGMAS, NOISE, None, keys(2))


def invert(network):
    sigmas = samplers.karras(3, 0.1, 5.0, final_zero=False)
    return samplers.invert(network, guidance.unguided(), sigmas, NOISE, None, keys(2))


def log_likelihood(network):
    sigmas = samplers.karras(3, 0.1, 5.0, final_zero=False)
    return samplers.log_likelihood(network, guidance.unguided(), sigmas, NOISE, None, keys(2))


def calibrate(network):
    options = dict(intervals=2, samples=4, sigma_min=0.1, sigma_max=5.0)
    key, rule = jax.random.key(0), guidance.unguided()
    return samplers.calibrate(network, rule, NOISE, None, key, **options).l


@pytest.mark.parametrize("entry", few(2, [sample, invert, log_likelihood, calibrate]))
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_changed_are_those_that_are_sampled(kind, entry):
    network, change = kind()
    first = np.asarray(entry(network))
    np.testing.assert_array_equal(entry(network), first)
    change(0.75)
    second = np.asarray(entry(network))
    np.testing.assert_allclose(second, entry(jax.tree_util.Partial(Plain(0.75))), rtol=1e-5)
    assert np.abs(second - first).max() > 1e-3


def test_they_change_under_a_trace_of_ones_own_too():
    def end(share):
        return sample(lambda x, sigma, condition: x * share / (1 + sigma**2))

    slope = jax.grad(lambda share: end(share).sum())(0.5)
    step = (end(0.501).sum() - end(0.499).sum()) / 0.002
    np.testing.assert_allclose(slope, step, rtol=1e-2)
    np.testing.assert_allclose(jax.jit(end)(0.5), end(0.5), rtol=1e-6)


@pytest.mark.parametrize("kind", [array_attribute, closure, module_attribute, of_a_global])
def test_new_arrays_compile_nothing(kind, compilations):
    network, change = kind()
    first = sample(network)
    change(0.6)
    with compilations() as compiled:
        second = sample(network)
    assert not compiled
    assert np.abs(first - second).max() > 1e-3


def test_what_is_called_back_is_the_network_at_hand():
    def counting():
        calls = []

        def network(x, sigma, condition):
            jax.debug.callback(lambda: calls.append(1))
            return 0.5 * x

        return network, calls

    for _ in range(2):
        network, calls = counting()
        jax.block_until_ready(sample(network))
        jax.effects_barrier()
        assert len(calls) == 3


def test_nothing_is_hoarded():
    networks = [Around(0.1 + i / 100) for i in range(3)] + [Plain(0.3 + i / 100) for i in range(40)]
    gone = []
    for network in networks:
        sample(network)
        gone.append(weakref.ref(network))
    assert len(programs._compiled) <= programs.KEPT
    del networks, network
    gc.collect()
    assert not [one for one in gone if one() is not None]
