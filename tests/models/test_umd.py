"""Unified masked diffusion: what is hidden stays hidden, nothing hidden is the plain network."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.filled import Doubled, filled, initialise, one_mode_a_sample, parameters, run
from places import GOLDEN
from tables.everyday import few

from guidestar.core.macs import count
from guidestar.models import UMD, builders
from guidestar.models.checkpoints import load
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys.umd import keys
from guidestar.models.denoiser import Denoiser
from guidestar.models.preconditioning import Discrete
from guidestar.models.transformers.umd import SIZES, draw_visible

TINY = dict(
    image_size=6, channels=2, patch_size=2, width=8, depth=3, decoder_depth=2, heads=2,
    num_classes=3,
)  # fmt: skip
LAYERS, TOKENS = TINY["depth"] + TINY["decoder_depth"], 9
VISIBLE = jnp.array([[4, 0, 7, 2, 5], [1, 3, 8, 6, 0], [0, 1, 2, 3, 4]])


@functools.cache
def make(**changes):
    """Return a tiny network and parameters in which no layer is zero."""
    fields = TINY | changes
    return filled(lambda rngs: UMD(**fields, rngs=rngs), num_classes=3, shape=(6, 6, 2))


def inputs(batch=3):
    x = jax.random.normal(jax.random.key(5), (batch, 6, 6, 2))
    return x, jnp.linspace(-1.0, 900.0, batch), jnp.arange(batch) % 3


def in_tokens(image):
    """Return an image's squares by token, ``[batch, token, ...]``."""
    batch, _, _, channels = image.shape
    squares = np.asarray(image).reshape(batch, 3, 2, 3, 2, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, TOKENS, -1)


def hidden(visible):
    """Return which tokens are hidden, ``[batch, token]``."""
    return np.array([[n not in row for n in range(TOKENS)] for row in np.asarray(visible)])


@pytest.mark.parametrize(
    ("name", "scan_layers"), [("S/4", False), ("S/4", True), ("B/4", True), ("L/2", True)]
)
def test_published_sizes_have_the_parameters_of_their_structure(name, scan_layers):
    d, depth, decoder_depth, _ = SIZES[name[0]]
    patch, image = int(name[2]), dict(image_size=64, channels=3)
    image |= {key: value for key, value in UMD.fields(name).items() if key in image}
    tokens, inside = (image["image_size"] // patch) ** 2, patch**2 * image["channels"]
    block = 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + (6 * d * d + 6 * d) + 4 * d
    trunk = (2 * d * d + 2 * d) + (2 * d * d + d)
    expected = (
        (depth + decoder_depth) * block
        + 2 * 2 * d  # the norms after encoder and decoder
        + (inside * d + d)
        + 2 * tokens * d
        + 4 * d  # summaries
        + d  # what stands for hidden tokens
        + 2 * trunk
        + 1001 * d
        + (2 * d * d + 2 * d)
        + (d * 2 * inside + 2 * image["channels"])
    )
    assert expected == parameters(
        lambda rngs: UMD.from_name(name, **image, scan_layers=scan_layers, rngs=rngs)
    )


def test_the_published_networks_are_for_pixels_and_for_latents():
    section = dict(name="umd", scan_layers=True)
    pixels, latents = (builders.build(section | dict(size=name)) for name in ("B/4", "L/2"))
    assert (pixels.shape, pixels.latent) == ((64, 64, 3), False)
    assert (latents.shape, latents.latent) == ((32, 32, 4), True)
    assert builders.build(section | dict(size="L/2", latent=False)).latent is False


@pytest.mark.parametrize("scan_layers", few(1, [False, True]))
def test_the_authors_names_load_to_the_authors_numbers(scan_layers):
    golden = np.load(GOLDEN / "umd_tiny.npz")
    file = GOLDEN / "umd_tiny.safetensors"
    loaded = load(file, scan_layers=scan_layers)
    network, given = loaded.network, [jnp.asarray(golden[name]) for name in ("x", "time", "label")]
    for name, visible in (("output", None), ("masked", golden["visible"])):
        # Theirs has the clean image first.
        expected = np.roll(golden[name], 2, axis=-1)
        found = run(network, loaded.params, *given, visible=visible)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    summary = jax.jit(lambda params: network.module(params).summarise(*given))(loaded.params)
    np.testing.assert_allclose(summary, golden["summary"], atol=2e-5)


def test_the_authors_names_are_of_every_parameter():
    _, params = make()
    entries = keys(depth=TINY["depth"], decoder_depth=2, num_classes=3).values()
    assert sorted(entry.path for entry in entries) == sorted(flatten(params))


@pytest.mark.longer
def test_with_nothing_hidden_it_is_the_plain_network_in_any_order():
    network, params = make()
    plain = run(network, params, *inputs())
    order = jnp.stack([jax.random.permutation(jax.random.key(n), TOKENS) for n in range(3)])
    masked = run(network, params, *inputs(), visible=order)
    np.testing.assert_allclose(masked, plain, atol=1e-5 * np.abs(plain).max())


@pytest.mark.longer
def test_hidden_pixels_change_nothing_and_visible_ones_everything():
    network, params = make()
    x, time, label = inputs()
    module = network.module(params)
    mask = module.hidden_pixels(VISIBLE)
    np.testing.assert_array_equal(in_tokens(mask).max(axis=-1), hidden(VISIBLE))
    assert mask.shape == (3, 6, 6, 1) and set(np.unique(mask)) == {0, 1}
    both = [jnp.concatenate([array] * 3) for array in (x, time, label, VISIBLE)]
    noise = jax.random.normal(jax.random.key(9), x.shape)
    both[0] = jnp.concatenate([x, x + mask * noise, x + (1 - mask) * noise])
    output = run(network, params, *both[:3], visible=both[3])
    plain, unseen, seen = np.split(np.asarray(output), 3)
    np.testing.assert_allclose(unseen, plain, atol=1e-5 * np.abs(plain).max())
    # Every token sees the visible ones, the hidden tokens too.
    assert (np.abs(in_tokens(seen) - in_tokens(plain)).max(axis=-1) > 1e-4).all()


@pytest.mark.longer
def test_the_order_of_visible_tokens_does_not_matter():
    network, params = make()
    both = [jnp.concatenate([array] * 2) for array in inputs()]
    visible = jnp.concatenate([VISIBLE, VISIBLE[:, ::-1]])
    one, other = np.split(np.asarray(run(network, params, *both, visible=visible)), 2)
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())


def test_a_mask_saves_the_encoders_work():
    network, params = make()

    def cost(visible):
        given = (params, *inputs(1))
        return count(lambda *given: network(*given, visible=visible), *given)

    assert cost(VISIBLE[:1, :3]) < cost(VISIBLE[:1]) < cost(None)


def test_visible_tokens_are_drawn_without_repeats_each_sample_its_own():
    drawn = np.asarray(draw_visible(jax.random.split(jax.random.key(0), 64), 16, 0.375))
    assert drawn.shape == (64, 10) and drawn.min() >= 0 and drawn.max() < 16
    assert all(len(set(row)) == 10 for row in drawn) and len({tuple(row) for row in drawn}) > 60
    # All places are as likely: 40 of 64 draws have each, give or take.
    assert np.abs(np.bincount(drawn.reshape(-1)) - 40).max() < 4.5 * math.sqrt(64 * 0.625 * 0.375)
    one = draw_visible(jax.random.split(jax.random.key(0), 2), 10, 0.9)
    assert one.shape == (2, 1) and draw_visible(jax.random.split(jax.random.key(0), 1), 10, 0).size
    for mask, message in ((1.0, r"in \[0, 1\)"), (-0.1, r"in \[0, 1\)"), (0.95, "leaves none")):
        with pytest.raises(ValueError, match=message):
            draw_visible(jax.random.split(jax.random.key(0), 2), 10, mask)


@pytest.mark.longer
def test_layers_scanned_or_not_are_the_same_to_a_mode():
    loop, params = make()
    scan, like = make(scan_layers=True)
    stacked = dict(params)
    for part in ("encoder", "decoder"):
        blocks = [params[part][n] for n in sorted(params[part])]
        stacked[part] = jax.tree.map(lambda *a: jnp.stack(a), *blocks)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, like)
    modes = (
        (Doubled("block", (1, 3)), jnp.array([True, False, True])),
        (Doubled("attention", (2, 4)), None),
    )
    looped, scanned = run(loop, params, *inputs(), modes), run(scan, stacked, *inputs(), modes)
    np.testing.assert_allclose(scanned, looped, atol=1e-4 * np.abs(looped).max())


@pytest.mark.longer
def test_modes_step_in_at_every_site_and_in_every_block():
    network, params = make()
    time, condition = Doubled("time_embedding"), Doubled("condition_embedding")
    attentions = [Doubled("attention", (layer,)) for layer in range(LAYERS)]
    blocks = [Doubled("block", (layer,)) for layer in range(LAYERS)]
    modes = one_mode_a_sample([time, condition, *attentions, *blocks])
    x, step, label = inputs(1)
    same = [jnp.repeat(array, len(modes), axis=0) for array in (x, step + 30, label + 1)]
    plain, changed = run(network, params, *same), run(network, params, *same, modes)
    assert (np.abs(changed - plain).max(axis=(1, 2, 3)) > 1e-4).all()
    assert time.seen[0][0].shape == condition.seen[0][0].shape == (len(modes), 8)
    # Summaries are no part of the grid.
    assert {(mode.seen[0][1], mode.seen[0][0].shape[1]) for mode in attentions} == {((3, 3), 9)}
    assert {block.seen[0][0].shape[1:] for block in blocks} == {(9, 8)}


@pytest.mark.longer
def test_samples_see_their_own_time_and_label_alone():
    network, params = make()
    x, time, label = (jnp.concatenate([array] * 4) for array in inputs())
    time = time.at[3:6].add(1.0)
    label = label.at[6:9].set((label[6:9] + 1) % 3).at[9:12].set(3)
    x = x.at[4:6].add(1.0)
    plain, moved, other, null = np.split(np.asarray(run(network, params, x, time, label)), 4)
    for changed in (moved[:1], other, null):
        assert np.abs(changed - plain[: len(changed)]).max(axis=(1, 2, 3)).min() > 1e-4
    np.testing.assert_allclose(run(network, params, x[:3], time[:3], None), null, atol=1e-5)


@pytest.mark.longer
def test_blocks_start_as_the_identity():
    network, params = initialise(
        lambda rngs: UMD(**TINY, scan_layers=True, rngs=rngs),
        jax.random.key(0),
        num_classes=3,
        shape=(6, 6, 2),
    )
    x, time, label = inputs()
    skipped = tuple((Doubled("block", (n,)), None) for n in range(LAYERS))
    for mode, _ in skipped:
        mode.block = lambda run, tokens: tokens
    plain = run(network, params, x, time, label)
    np.testing.assert_allclose(run(network, params, x, time, label, skipped), plain, atol=1e-6)
    assert np.abs(plain).min() > 0


@pytest.mark.longer
def test_bfloat16_stays_close_and_returns_float32():
    network, params = make()
    half, _ = make(dtype=jnp.bfloat16)
    exact, rounded = run(network, params, *inputs()), run(half, params, *inputs())
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.longer
def test_a_denoiser_takes_the_noise_and_leaves_the_clean_image():
    spec = builders.build(dict(name="umd", **TINY))
    network, params = filled(spec.build, num_classes=3, shape=spec.shape)
    denoiser = Denoiser(params, network, spec.preconditioner)
    x, _, label = inputs()

    @jax.jit
    def both(denoiser):
        time = spec.preconditioner.network_time(jnp.asarray(2.0))
        return denoiser(x, 2.0, label), denoiser.raw(x / jnp.sqrt(5.0), time, label)

    denoised, raw = both(denoiser)
    assert raw.shape == (3, 6, 6, 4) and spec.preconditioner == Discrete()
    np.testing.assert_allclose(denoised, x - 2.0 * raw[..., :2], atol=1e-5)


@pytest.mark.longer
def test_the_clean_time_is_below_all_that_the_preconditioner_knows():
    section = dict(name="umd", **TINY)
    times = []
    for preconditioner in ("discrete", "edm"):
        spec = builders.build(section | {"preconditioner": preconditioner})
        clean = nnx.eval_shape(lambda spec=spec: spec.build(nnx.Rngs(0))).clean_time
        lowest = spec.preconditioner.coefficients(jnp.asarray(spec.sigma_range[0])).noise
        assert float(lowest) - clean == pytest.approx(1, abs=1e-3)
        times.append(clean)
    assert times[0] == -1
    given = section | {"preconditioner": "edm", "clean_time": -500.0}
    assert builders.build(given).module.clean_time == -500


@pytest.mark.longer
def test_no_classes_means_no_table():
    network, params = make(num_classes=0)
    assert not {"label", "label_table"} & params.keys()
    assert "condition_embedding" not in network.sites
    assert run(network, params, *inputs()).shape == (3, 6, 6, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch_size=4), "not divisible by patch_size"),
        (dict(heads=3), "divisible by 4 and by heads"),
        (dict(decoder_depth=0), "1 or more"),
        (dict(summaries=0), "1 or more"),
        (dict(size="XL/2"), "unknown UMD size"),
    ],
)
def test_a_model_section_that_makes_no_network_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        builders.build(dict(name="umd") | TINY | changes)


def test_a_size_without_an_image_says_what_is_missing():
    with pytest.raises(ValueError, match="image_size is missing"):
        builders.build(dict(name="umd", size="S/2"))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(x=jnp.zeros((3, 4, 6, 2))), "takes 6x6x2 inputs alone"),
        (dict(visible=VISIBLE[:2]), r"visible must be \[3, n\]"),
        (dict(visible=jnp.zeros((3, 10), jnp.int32)), "n from 1 to 9"),
        (dict(visible=VISIBLE[0]), "visible must be"),
        (dict(visible=VISIBLE, modes=((Doubled("block", (0,)), None),)), "whole images"),
        (dict(modes=((Doubled("block", (LAYERS,)), None),)), "layer 5 of a network of depth 5"),
        (dict(modes=((Doubled("h_space"), None),)), "works on the 'h_space'"),
    ],
)
def test_what_the_network_cannot_take_is_refused(given, message):
    network, params = make()
    x, time, label = inputs()
    with pytest.raises(ValueError, match=message):
        network(params, given.pop("x", x), time, label, **given)
