"""The multi-resolution network: its time-dependent norms, published sizes and numbers, sites."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.filled import Doubled, filled, one_mode_a_sample, parameters, run
from places import GOLDEN
from tables.everyday import few

from guidestar.core.macs import macs
from guidestar.models import DiMR, builders
from guidestar.models.checkpoints import load
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys.dimr import keys
from guidestar.models.convnets.dimr import STEPS, targets
from guidestar.models.convnets.time_norm import TimeDependent, TimeDependentNorm
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.preconditioning import EDM, Discrete

# Millions of parameters and "Gflops" as published; the paper's code counts multiply-adds.
PUBLISHED = {"XL/2R": (505, 160), "G/2R": (1056, 331), "XL/3R": (525, None)}
TINY = dict(image_size=8, channels=2, widths=(8, 4), depths=(5, 3), num_classes=3, heads=2)
LAYERS = sum(TINY["depths"])
ones, zeros = nnx.initializers.ones_init(), nnx.initializers.zeros_init()


@functools.cache
def make(**changes):
    """Return a tiny network and parameters in which no layer is zero."""
    fields = TINY | changes
    return filled(lambda rngs: DiMR(**fields, rngs=rngs), num_classes=3, shape=(8, 8, 2))


def inputs(batch=3, shape=(8, 8, 2)):
    x = jax.random.normal(jax.random.key(5), (batch, *shape))
    return x, jnp.linspace(0.0, 900.0, batch), jnp.arange(batch) % 3


# Time-dependent norms.


@pytest.mark.longer
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_norm_starts_as_the_plain_norm_at_all_times(kind):
    norm = TimeDependentNorm(6, kind, rngs=nnx.Rngs(0))
    x = 2 + 3 * jax.random.normal(jax.random.key(0), (5, 2, 3, 6))
    found = norm(x, jnp.linspace(-9, 9, 5)[:, None])
    x = np.asarray(x, np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    plain = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    if kind == "rms":
        plain = x / np.sqrt((x**2).mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(found, plain, atol=2e-6)


def test_a_norm_has_eight_numbers_a_channel():
    for kind, numbers in (("layer", 8), ("rms", 4)):
        assert parameters(lambda rngs, kind=kind: TimeDependentNorm(7, kind, rngs=rngs)) == (
            7 * numbers
        )


def vector(p0, p1, slope=0.0, offset=0.0):
    found = TimeDependent(len(p0), ones, rngs=nnx.Rngs(0))
    found.p0[...], found.p1[...] = jnp.asarray(p0), jnp.asarray(p1)
    found.slope[...] = jnp.full(len(p0), slope)
    found.offset[...] = jnp.full(len(p0), offset)
    return found


def test_a_vector_moves_from_one_end_to_the_other_as_the_noise_grows():
    p0, p1 = jnp.array([3.0, -1.0]), jnp.array([1.0, 2.0])
    found = vector(p0, p1)(jnp.array([[-60.0], [0.0], [60.0]]))
    np.testing.assert_allclose(found, [p1, (p0 + p1) / 2, p0], atol=1e-6)
    shifted = vector(p0, p1, slope=1.0, offset=-1.0)(jnp.array([[0.5]]))
    np.testing.assert_allclose(shifted[0], (p0 + p1) / 2, atol=1e-6)


def test_gradients_of_a_vector_are_those_by_hand():
    p0, p1 = np.array([3.0, -1.0]), np.array([1.0, 2.0])
    slope, offset, tau, g = 0.4, -0.3, 0.7, np.array([0.5, -2.0])
    structure, state = nnx.split(vector(p0, p1, slope, offset))

    def weighed(state):
        return (nnx.merge(structure, state)(jnp.array([[tau]])) * g).sum()

    found = nnx.to_pure_dict(jax.grad(weighed)(state))
    s = 1 / (1 + np.exp(-((1 + slope) * tau + offset)))
    inner = (p0 - p1) * g * s * (1 - s)
    expected = dict(p0=s * g, p1=(1 - s) * g, slope=inner * tau, offset=inner)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_the_gradient_of_a_norm_of_zeros_is_finite():
    norm = TimeDependentNorm(4, "rms", rngs=nnx.Rngs(0))
    slope = jax.grad(lambda x: norm(x, jnp.zeros((1, 1))).sum())(jnp.zeros((1, 1, 4)))
    assert np.isfinite(slope).all()


# The network.


def test_targets_of_all_branches_have_unit_variance():
    noise = jax.random.normal(jax.random.key(0), (8, 64, 64, 2))
    coarse, middle, fine = targets(noise, 3)
    assert fine is noise and middle.shape == (8, 32, 32, 2) and coarse.shape == (8, 16, 16, 2)
    np.testing.assert_allclose(middle[0, 1, 2], noise[0, 2:4, 4:6].sum(axis=(0, 1)) / 2, rtol=1e-4)
    for target in (coarse, middle, fine):
        deviation = np.sqrt(2 / target.size)
        assert abs(np.var(target) - 1) < 4 * deviation


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, PUBLISHED))
def test_published_sizes_have_the_published_parameters_and_cost(name):
    millions, giga = PUBLISHED[name]
    side = DiMR.fields(name)["image_size"]

    def build(rngs):
        return DiMR.from_name(name, scan_layers=True, rngs=rngs)

    assert round(parameters(build) / 1e6) == millions
    if giga is not None:
        module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        network, params = split(module, num_classes=1000, shape=(side, side, 4))
        assert round(macs(Denoiser(params, network, EDM())) / 1e9) == giga


@pytest.mark.parametrize("scan_layers", few(1, [False, True]))
def test_published_names_load_to_the_published_numbers_of_all_branches(scan_layers):
    golden = np.load(GOLDEN / "dimr_tiny.npz")
    loaded = load(GOLDEN / "dimr_tiny.pt", heads=2, scan_layers=scan_layers)
    network = loaded.network

    @jax.jit
    def stages(params, *given):
        return network.module(params).stages(*given), network(params, *given)

    x = jnp.asarray(golden["x"].transpose(0, 2, 3, 1))
    found, last = stages(loaded.params, x, golden["time"], golden["label"])
    assert len(found) == 3
    for n, output in enumerate(found):
        expected = golden[f"output_{n}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(output, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(last, found[-1])
    assert loaded.spec.preconditioner == Discrete(
        beta_start=0.00085, beta_end=0.012, betas="scaled_linear"
    )


@pytest.mark.longer
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_published_names_are_of_every_parameter(norm):
    _, params = make(norm=norm)
    entries = keys(depths=TINY["depths"], num_classes=3, norm=norm).values()
    assert sorted(entry.path for entry in entries) == sorted(flatten(params))


@pytest.mark.longer
def test_layers_scanned_or_not_are_the_same_to_a_mode():
    loop, params = make()
    scan, like = make(scan_layers=True)
    stacked = {"branches": {}}
    for name, branch in params["branches"].items():
        halves = {
            half: jax.tree.map(
                lambda *a: jnp.stack(a), *(branch[half][n] for n in sorted(branch[half]))
            )
            for half in ("first", "last")
        }
        stacked["branches"][name] = branch | halves
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, like)
    modes = (
        (Doubled("block", (1, 4, 5)), jnp.array([True, False, True])),
        (Doubled("attention", (3,)), None),
    )
    looped, scanned = run(loop, params, *inputs(), modes), run(scan, stacked, *inputs(), modes)
    np.testing.assert_allclose(scanned, looped, atol=1e-4 * np.abs(looped).max())


@pytest.mark.longer
def test_modes_step_in_at_every_site_and_in_every_block():
    network, params = make()
    time, condition = Doubled("time_embedding"), Doubled("condition_embedding")
    attentions = [Doubled("attention", (layer,)) for layer in range(TINY["depths"][0])]
    blocks = [Doubled("block", (layer,)) for layer in range(LAYERS)]
    modes = one_mode_a_sample([time, condition, *attentions, *blocks])
    x, step, label = inputs(1)
    same = [jnp.repeat(array, len(modes), axis=0) for array in (x, step + 30, label + 1)]
    plain, changed = run(network, params, *same), run(network, params, *same, modes)
    assert (np.abs(changed - plain).max(axis=(1, 2, 3)) > 1e-4).all()
    assert time.seen[0][0].shape == (len(modes), 1)
    assert condition.seen[0][0].shape == (len(modes), 8)
    # The token of the class is no part of the grid.
    for mode in attentions:
        query, grid = mode.seen[0]
        assert grid == (4, 4) and query.shape[1] == 16
    assert [block.seen[0][0].shape[1:] for block in blocks] == [(16, 8)] * 5 + [(8, 8, 4)] * 3


@pytest.mark.longer
def test_time_enters_as_tau_between_minus_1_and_1():
    network, params = make()
    x, _, label = inputs(3)

    @jax.jit
    def seen(time):
        mode = Doubled("time_embedding")
        network(params, x, time, label, ((mode, None),))
        return mode.seen[0][0]

    found = seen(jnp.array([-1.0, 499.0, 999.0]))
    np.testing.assert_allclose(found, [[-1], [0], [1]], atol=1e-6)


@pytest.mark.longer
def test_samples_see_their_own_time_and_label_alone():
    network, params = make()
    x, time, label = (jnp.concatenate([array] * 4) for array in inputs())
    time = time.at[3:6].add(50.0)
    label = label.at[6:9].set((label[6:9] + 1) % 3).at[9:12].set(3)
    x = x.at[4:6].add(1.0)
    plain, moved, other, null = np.split(run(network, params, x, time, label), 4)
    for changed in (moved[:1], other, null):
        assert np.abs(changed - plain[: len(changed)]).max(axis=(1, 2, 3)).min() > 1e-4
    np.testing.assert_allclose(run(network, params, x[:3], time[:3], None), null, atol=1e-5)


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32():
    network, params = make()
    half, _ = make(dtype=jnp.bfloat16, scan_layers=False)
    exact, rounded = run(network, params, *inputs()), run(half, params, *inputs())
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.longer
def test_smaller_inputs_take_the_first_places():
    network, params = make(num_classes=0)
    assert "label_table" not in params["branches"]["branch_1"]
    small, _ = make(num_classes=0, image_size=4)
    cut = jax.tree.map(lambda a: a, params)
    for name, side in (("branch_1", 2), ("branch_2", 4)):
        positions = params["branches"][name]["positions"]
        cut["branches"][name] = params["branches"][name] | {"positions": positions[:side, :side]}
    given = inputs(shape=(4, 4, 2))
    np.testing.assert_array_equal(run(network, params, *given), run(small, cut, *given))


@pytest.mark.longer
def test_without_a_published_table_tau_spans_the_known_noise_levels():
    section = dict(name="dimr", **TINY)
    module = builders.build(section).module
    assert module.time_range == STEPS
    section["preconditioner"] = "edm"
    spec = builders.build(section)
    low, high = spec.module.time_range
    assert (low, high) == pytest.approx([np.log(sigma) / 4 for sigma in spec.sigma_range])
    section["time_range"] = (0.0, 1.0)
    assert builders.build(section).module.time_range == (
        0.0,
        1.0,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_size=7), "divisible by 2 for 2 branches"),
        (dict(widths=(8,)), "as many"),
        (dict(depths=(4, 3)), "odd numbers"),
        (dict(depths=(5, 1)), "odd numbers"),
        (dict(heads=3), "divisible by heads"),
        (dict(norm="group"), "not one of layer, rms"),
        (dict(time_range=(1.0, 1.0)), "two increasing numbers"),
        (dict(size="S/2R"), "unknown DiMR size"),
    ],
)
def test_a_model_section_that_makes_no_network_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        builders.build(dict(name="dimr") | TINY | changes)


@pytest.mark.parametrize(
    "shape",
    [(7, 8, 2), (8, 8, 3), (10, 8, 2), (0, 8, 2), pytest.param((8, 8), marks=pytest.mark.untyped)],
)
def test_inputs_that_it_was_not_made_for_are_refused(shape):
    network, params = make()
    with pytest.raises(ValueError, match="takes 8x8x2 inputs, or smaller ones of 2 channels"):
        network(params, jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (Doubled("skip", (0,)), "works on the 'skip'"),
        (Doubled("block", (LAYERS,)), "layer 8 of a network of depth 8"),
        (Doubled("attention", (5,)), "layer 5 of a network of depth 5"),
    ],
)
def test_modes_that_the_network_cannot_hold_are_refused(mode, message):
    network, params = make()
    with pytest.raises(ValueError, match=message):
        network(params, *inputs(), ((mode, None),))
