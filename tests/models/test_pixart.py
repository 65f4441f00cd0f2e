"""PixArt-alpha: parity with diffusers, its conditions, its counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables.everyday import few
from tables.transformer_examples import condition_of, golden, last, make, published, require_parity

from guidestar.core.errors import UserError
from guidestar.core.macs import macs
from guidestar.models import builders
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys import pixart
from guidestar.models.checkpoints.loading import load
from guidestar.models.conditions import LEARNT, Values
from guidestar.models.preconditioning import Discrete
from guidestar.models.transformers.pixart import CrossAttention

FILE = "pixart_tiny.npz"
HEADS = 2  # no array tells it, and the width is of no published size
BATCH = 3
# diffusers' own counts, which leave out the null caption, for 512 and for 1024 pixels.
PLAIN, WITH_MICRO = 610_856_096, 611_349_152
MICRO = ("csize_embedder", "ar_embedder")


@jax.jit
def raw(denoise, x, time, condition):
    return denoise.raw(x, time, condition)


def inputs(batch=BATCH):
    x = jax.random.normal(jax.random.key(0), (batch, 8, 8, 2))
    return x, jnp.linspace(3.0, 800.0, batch), condition_of("pixart", batch)


@pytest.mark.parametrize("scan_layers", few(1, [False, True]))
def test_the_output_is_diffusers(scan_layers, tmp_path):
    arrays, state, config = golden(FILE)
    path = published(state, tmp_path / "tiny.safetensors")
    loaded = load(path, heads=HEADS, scan_layers=scan_layers)
    section = loaded.sidecar["model"]
    assert {name: section[name] for name in config} == config
    assert (section["position_scale"], section["micro_conditions"]) == (1.0, True)
    assert loaded.spec.preconditioner == Discrete() and loaded.spec.latent
    assert loaded.spec.sigma_range == Discrete().sigma_range
    names = ("tokens", "mask", "size", "aspect_ratio")
    condition = {name: jnp.asarray(arrays[name], jnp.float32) for name in names}
    found = raw(loaded.denoiser, last(arrays["x"]), arrays["t"], condition)
    require_parity(found, arrays["output_micro"])
    found = raw(loaded.denoiser, last(arrays["wide"]), arrays["t"], condition)
    require_parity(found, arrays["output_micro_wide"])


@pytest.mark.longer
def test_positions_in_the_file_tell_their_scale(tmp_path):
    arrays, state, _ = golden(FILE)
    plain = {name: a for name, a in state.items() if not name.startswith(MICRO)}
    plain["pos_embed"] = arrays["pos_embed_scale_2"]
    loaded = load(published(plain, tmp_path / "two.safetensors"), heads=HEADS)
    assert loaded.sidecar["model"]["position_scale"] == 2.0
    assert set(loaded.network.condition_like(1)) == {"tokens", "mask"}
    condition = {name: jnp.asarray(arrays[name], jnp.float32) for name in ("tokens", "mask")}
    found = raw(loaded.denoiser, last(arrays["x"]), arrays["t"], condition)
    require_parity(found, arrays["output_scale_2"])
    del plain["pos_embed"]
    path = published(plain, tmp_path / "none.safetensors")
    assert load(path, heads=HEADS, image_size=8, position_scale=2.0).spec.shape == (8, 8, 4)
    with pytest.raises(UserError, match="image_size is missing"):
        load(path, heads=HEADS)


@pytest.mark.longer
def test_masked_attention_is_what_packing_captions_block_by_block_computes():
    layer = CrossAttention(8, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.proj.kernel[...] = jnp.eye(8)
    x = jax.random.normal(jax.random.key(0), (3, 4, 8))
    text = jax.random.normal(jax.random.key(1), (3, 5, 8))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool)
    found = layer(x, text, jnp.asarray(mask))
    # All queries and all words in one sequence, a query seeing the words of its own sample.
    words, owner = np.asarray(text)[mask], np.nonzero(mask)[0]
    query = np.asarray(layer.query(x)).reshape(12, 2, 4)
    key, value = np.split(np.asarray(layer.key_value(words)).reshape(len(words), 4, 4), 2, axis=1)
    logits = np.einsum("qhf,khf->hqk", query, key) / 2
    logits[:, np.repeat(np.arange(3), 4)[:, None] != owner] = -np.inf
    weights = np.asarray(jax.nn.softmax(logits, axis=-1))
    expected = np.einsum("hqk,khf->qhf", weights, value).reshape(3, 4, 8)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.longer
def test_the_order_of_words_with_their_mask_does_not_matter_and_padding_neither():
    denoise = make("pixart", scale=0.15)
    x, time, condition = inputs()
    plain = raw(denoise, x, time, condition)
    order = jnp.array([3, 0, 4, 1, 2])
    shuffled = {name: condition[name][:, order] for name in ("tokens", "mask")}
    np.testing.assert_allclose(raw(denoise, x, time, condition | shuffled), plain, atol=1e-4)
    padding = 1 - condition["mask"][..., None]
    other = {"tokens": condition["tokens"] + 5 * padding}
    np.testing.assert_allclose(raw(denoise, x, time, condition | other), plain, atol=1e-4)
    words = {"tokens": condition["tokens"] + 5 * (1 - padding)}
    assert np.abs(raw(denoise, x, time, condition | words) - plain).max() > 1e-2


@pytest.mark.longer
def test_what_a_condition_leaves_out_is_filled_in():
    denoise = make("pixart")
    x, time, condition = inputs()
    tokens = {"tokens": condition["tokens"]}
    filled = tokens | {
        "mask": jnp.ones((BATCH, 5)),
        "size": jnp.full((BATCH, 2), 64.0),
        "aspect_ratio": jnp.ones((BATCH, 1)),
    }
    expected = raw(denoise, x, time, filled)
    np.testing.assert_allclose(raw(denoise, x, time, tokens), expected, atol=1e-4)
    null = denoise.null_condition["tokens"]
    assert null.shape == (5, 6)
    empty = filled | {"tokens": jnp.broadcast_to(null, (BATCH, 5, 6))}
    expected = raw(denoise, x, time, empty)
    np.testing.assert_allclose(raw(denoise, x, time, None), expected, atol=1e-4)
    direct = denoise.network(denoise.params, x, time, None)
    np.testing.assert_allclose(direct, expected, atol=1e-4)


@pytest.mark.longer
@pytest.mark.parametrize("name", ["size", "aspect_ratio"])
def test_the_image_s_size_is_told(name):
    denoise = make("pixart")
    x, time, condition = inputs()
    plain = raw(denoise, x, time, condition)
    told = raw(denoise, x, time, condition | {name: condition[name] + 1})
    assert np.abs(told - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda c: {"mask": c["mask"]}, "tokens at least"),
        (lambda c: c | {"label": jnp.zeros(BATCH)}, "dictionary of tokens, mask, size"),
        (lambda c: c | {"tokens": c["tokens"][..., :5]}, r"tokens .* \('batch', 5, 6\)"),
        (lambda c: c | {"mask": c["mask"][:1]}, "for a batch of 3"),
    ],
)
def test_conditions_of_other_parts_or_shapes_are_refused(condition, message):
    x, time, given = inputs()
    with pytest.raises(ValueError, match=message):
        make("pixart").raw(x, time, condition(given))


def test_a_network_without_micro_conditions_refuses_them():
    x, time, given = inputs()
    with pytest.raises(ValueError, match="dictionary of tokens, mask .tokens at least"):
        make("pixart", micro_conditions=False).raw(x, time, given)
    with pytest.raises(ValueError, match="divisible by 3"):
        make("pixart", width=16)


def sized(**changes):
    spec = builders.build(dict(name="pixart", size="XL/2", scan_layers=True) | changes)
    return spec, spec.denoiser(spec.shapes)


def count(params):
    return sum(math.prod(p.shape) for p in jax.tree.leaves(params))


@pytest.mark.longer
def test_xl_2_has_diffusers_count_and_its_multiply_adds():
    spec, denoise = sized()
    null, width, depth, tokens, words = 120 * 4096, 1152, 28, 1024, 120
    assert count(denoise.params) == PLAIN + null
    expected = {"tokens": Values((120, 4096), null=LEARNT), "mask": Values((120,))}
    assert dict(spec.condition) == expected
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    block += 2 * (tokens + words) * width**2 + 2 * tokens * words * width
    rest = 7 * width**2 + 256 * width + words * (4096 * width + width**2)
    rest += tokens * width * 4 * (4 + 8)
    assert denoise.macs == macs(denoise) == depth * block + rest
    _, micro = sized(image_size=128, position_scale=2.0, micro_conditions=True)
    assert count(micro.params) == WITH_MICRO + null


def test_one_modulation_for_all_blocks_saves_what_is_published():
    _, denoise = sized()
    width, depth = 1152, 28
    shared = count(denoise.params["modulation"]) + count(denoise.params["blocks"]["table"])
    assert shared == 6 * width**2 + 6 * width + depth * 6 * width
    assert shared == 8_163_072  # a DiT's blocks have 28 (6 d^2 + 6 d), 223 million


@pytest.mark.longer
def test_every_published_array_of_xl_2_has_its_place():
    for micro in (False, True):
        _, denoise = sized(scan_layers=False, depth=2, micro_conditions=micro)
        table = pixart.keys(depth=2, micro_conditions=micro)
        loaded = [entry.path for entry in table.values() if entry is not None]
        assert len(loaded) == len(set(loaded)) and set(loaded) == flatten(denoise.params).keys()


@pytest.mark.longer
def test_the_null_caption_is_not_trained():
    denoise = make("pixart")
    x, time, _ = inputs(1)

    def loss(params):
        return jnp.sum(denoise.network(params, x, time, None) ** 2)

    slopes = jax.jit(jax.grad(loss))(denoise.params)
    assert not np.any(slopes["null_tokens"]) and np.any(slopes["text_in"]["kernel"])
