"""What every transformer keeps to: layers scanned or not, half precision, samples apart, sites."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.everyday import few
from tables.transformer_examples import MODELS, TINY, condition_of, fresh, make, stacked

from guidestar import guidance, samplers
from guidestar.guidance.modes import Active

BATCH = 3
TIMES = {"sit": (0.1, 0.9), "lightning_dit": (0.1, 0.9), "pixart": (3.0, 800.0)}


def inputs(name, batch=BATCH, size=8):
    x = jax.random.normal(jax.random.key(0), (batch, size, size, 2))
    return x, jnp.linspace(*TIMES[name], batch), condition_of(name, batch)


@jax.jit
def raw(denoise, x, time, condition, modes=()):
    return denoise.raw(x, time, condition, modes)


def distance(one, other):
    """Return by how much samples differ at most, ``[batch]``, in units of the largest output."""
    one, other = np.asarray(one), np.asarray(other)
    return np.abs(one - other).max(axis=(1, 2, 3)) / np.abs(other).max()


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, MODELS))
def test_layers_scanned_or_not_compute_the_same(name):
    loop, scan = make(name), make(name, scan_layers=True)
    params = stacked(loop.params)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, scan.params)
    scan = dataclasses.replace(scan, params=params)
    expected = raw(loop, *inputs(name))
    assert distance(raw(scan, *inputs(name)), expected).max() < 5e-6
    for mode in (Skip(), Identity()):
        modes = (Active(mode, None),)
        changed = raw(loop, *inputs(name), modes)
        assert distance(changed, expected).min() > 1e-4
        assert distance(raw(scan, *inputs(name), modes), changed).max() < 5e-6


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, MODELS))
def test_half_precision_stays_close_and_returns_float32(name):
    exact, rounded = make(name, scale=0.1), make(name, scale=0.1, dtype="bfloat16")
    exact, rounded = raw(exact, *inputs(name)), raw(rounded, *inputs(name))
    assert rounded.dtype == jnp.float32
    assert 0 < distance(rounded, exact).max() < 0.05


@pytest.mark.parametrize("name", few(1, MODELS))
def test_samples_of_a_batch_do_not_see_each_other(name):
    denoise = make(name)
    x, time, condition = inputs(name)
    whole = raw(denoise, x, time, condition)
    for i in (0, 2):
        one = jax.tree.map(lambda a, i=i: a[i : i + 1], (x, time, condition))
        assert distance(raw(denoise, *one), whole[i : i + 1]) < 5e-6


@pytest.mark.parametrize("name", MODELS)
def test_time_and_condition_each_change_every_sample(name):
    denoise = make(name)
    x, time, condition = inputs(name)
    plain = raw(denoise, x, time, condition)
    assert distance(raw(denoise, x, time + 0.05, condition), plain).min() > 1e-4
    other = jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), condition)
    assert distance(raw(denoise, x, time, other), plain).min() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_zero_at_initialisation(name):
    denoise = fresh(name, depth=1)
    assert not np.any(raw(denoise, *inputs(name)))
    # Blocks with gates of their own are no identity even then, where a zero gate makes them one.
    tokens = jax.random.normal(jax.random.key(2), (1, 16, TINY["width"]))
    module = denoise.network.module(denoise.params)
    if name == "pixart":
        modulation, text = jnp.zeros((1, 6, TINY["width"])), jnp.ones((1, 5, TINY["width"]))
        after = module.blocks[0](tokens, modulation, text, jnp.ones((1, 5), bool), (4, 4))
        assert np.abs(after - tokens).max() > 1e-3
    else:
        after = module.blocks[0](tokens, jnp.ones((1, TINY["width"])), (4, 4))
        np.testing.assert_array_equal(after, tokens)


# Modes made by hand: one a site.


class Mode:
    layers = None

    def __init__(self):
        self.name = type(self).__name__.lower()


class Warm(Mode):
    site = "time_embedding"

    def time_embedding(self, embedding):
        return embedding + 1


class Confused(Mode):
    site = "condition_embedding"

    def condition_embedding(self, embedding, table):
        assert table.shape == (3, TINY["width"])
        return embedding + table[0]


class Identity(Mode):
    site, layers = "attention", (1,)

    def attention(self, attend, query, key, value, grid):
        assert grid == (4, 4) and query.shape == key.shape == value.shape
        return value


class Skip(Mode):
    site, layers = "block", (0,)

    def block(self, run, tokens):
        return tokens


for kind in (Warm, Confused, Identity, Skip):
    jax.tree_util.register_pytree_node(kind, lambda m: ((), None), lambda _, __, kind=kind: kind())


@pytest.mark.parametrize("name", few(4, MODELS))
@pytest.mark.parametrize("kind", [Warm, Confused, Identity, Skip])
def test_modes_step_in_where_they_hold(name, kind):
    denoise = make(name)
    where = jnp.array([False, True, False])
    if kind is Confused and name == "pixart":
        assert kind.site not in denoise.sites
        with pytest.raises(ValueError, match="offers time_embedding, attention, block alone"):
            denoise.raw(*inputs(name), (Active(kind(), where),))
        return
    assert kind.site in denoise.sites
    plain = raw(denoise, *inputs(name))
    changed = distance(raw(denoise, *inputs(name), (Active(kind(), where),)), plain)
    assert changed[1] > 1e-4 and changed[[0, 2]].max() < 5e-6


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, MODELS))
def test_rules_and_solvers_run_on_it(name):
    denoise = make(name, scale=0.15)
    x, _, condition = inputs(name)

    def run(rule):
        sigmas, key = samplers.karras(3, 0.1, 10.0), jax.random.key(3)
        return samplers.sample(denoise, rule, samplers.euler(), sigmas, x, condition, key)

    guided, perturbed = run(guidance.cfg(3.0)), run(guidance.pag(2.0, layers=(1,)))
    assert np.isfinite(guided).all() and np.isfinite(perturbed).all()
    assert distance(perturbed, guided).min() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_cfg_is_the_extrapolation_from_the_denoiser_s_null_condition(name):
    denoise = make(name)
    x, _, condition = inputs(name)
    found = samplers.sample(
        denoise,
        guidance.cfg(2.5),
        samplers.euler(),
        np.array([2.0, 0.0]),
        x,
        condition,
        jax.random.key(0),
    )
    null = denoise.null_condition
    if name == "pixart":
        # What the null caption leaves open is as given.
        assert set(null) == {"tokens"}
        null = condition | {"tokens": jnp.broadcast_to(null["tokens"], (BATCH, 5, 6))}
    else:
        null = jnp.full(BATCH, null)
    call = jax.jit(lambda denoise, x, condition: denoise(x, 2.0, condition))
    given, empty = call(denoise, 2.0 * x, condition), call(denoise, 2.0 * x, null)
    assert distance(given, empty).min() > 1e-3
    assert distance(found, empty + 2.5 * (given - empty)).max() < 2e-5


@pytest.mark.parametrize("name", MODELS)
def test_channels_of_a_variance_are_dropped_and_raw_keeps_them(name):
    denoise = make(name)
    x, time, condition = inputs(name)
    outputs = 2 if name == "lightning_dit" else 4
    assert raw(denoise, x, time, condition).shape == (BATCH, 8, 8, outputs)
    sigma = jnp.array([0.3, 1.0, 4.0])
    denoised = jax.jit(lambda d, *given: d(*given))(denoise, x, sigma, condition)
    assert denoised.shape == x.shape
    column = sigma[:, None, None, None]
    skip, out, inside, noise = denoise.preconditioner.coefficients(column)
    output = raw(denoise, inside * x, noise.reshape(-1), condition)
    np.testing.assert_allclose(denoised, skip * x + out * output[..., :2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(size="XXL/3"), "unknown .* size"),
        (dict(size="XL/2", image_size=31), "31 is not divisible by patch_size 2"),
        (dict(dtype="float8"), "dtype .float8. is not one of"),
        (dict(depht=3), "depht"),
    ],
)
def test_what_makes_no_network_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        make(name, **changes)


@pytest.mark.parametrize("name", MODELS)
def test_inputs_of_other_channels_or_sizes_are_refused(name):
    x, time, condition = inputs(name)
    for wrong in (x[:, :7], x[..., :1]):
        with pytest.raises(ValueError, match="takes 8x8x2 inputs, or others of 2 channels"):
            make(name).raw(wrong, time, condition)
