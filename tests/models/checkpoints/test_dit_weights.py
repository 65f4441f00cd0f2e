"""Published weights of DiT, and of SiT, which has the same: parity with the authors' own code."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from tables.everyday import few
from tables.transformer_examples import GOLDEN, golden, last, published, require_parity
from weight_files import writers

from guidestar.core.errors import UserError
from guidestar.models import DiT, SiT
from guidestar.models.checkpoints.files import flatten
from guidestar.models.checkpoints.keys import dit, sit
from guidestar.models.checkpoints.loading import load
from guidestar.models.checkpoints.readers import open_weights
from guidestar.models.checkpoints.stacking import places
from guidestar.models.denoiser import split
from guidestar.models.preconditioning import Discrete, Flow

TINY = GOLDEN / "dit_tiny.pt"
HEADS = 4  # no array tells it, and the width is of no published size


@jax.jit
def raw(denoise, x, time, condition):
    return denoise.raw(x, time, condition)


def tiny_state():
    return {name: tensor.read() for name, tensor in open_weights(TINY).tensors.items()}


@pytest.mark.parametrize("scan_layers", few(2, [False, True]))
@pytest.mark.parametrize("name", ["dit", "sit"])
def test_the_output_is_that_of_the_authors_code(scan_layers, name):
    arrays, _, _ = golden("dit_tiny.npz")
    loaded = load(TINY, name=name, heads=HEADS, scan_layers=scan_layers)
    x, labels = last(arrays["x"]), jnp.asarray(arrays["labels"])
    assert loaded.spec.num_classes == 10 and loaded.spec.shape == (8, 8, 4)
    assert 10 in labels  # the null class
    found = raw(loaded.denoiser, x, arrays["t"], labels)
    require_parity(found, arrays["output"])
    null = raw(loaded.denoiser, x[-1:], arrays["t"][-1:], None)
    require_parity(null, arrays["output"][-1:])


@pytest.mark.longer
def test_a_published_dit_predicts_noise_at_discrete_steps():
    arrays, _, _ = golden("dit_tiny.npz")
    loaded = load(TINY, heads=HEADS)
    denoise = loaded.denoiser
    assert denoise.preconditioner == Discrete() and denoise.latent
    assert denoise.sigma_range == Discrete().sigma_range
    sigma = Discrete().sigma(jnp.asarray(arrays["t"]))
    column = sigma[:, None, None, None]
    x = last(arrays["x"]) * jnp.sqrt(1 + column**2)
    found = jax.jit(lambda d, *given: d(*given))(denoise, x, sigma, jnp.asarray(arrays["labels"]))
    noise = last(arrays["output"])[..., :4]
    expected = np.asarray(x - column * noise)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.longer
def test_the_same_arrays_are_a_sit_s_where_the_file_or_the_caller_says_so(tmp_path):
    state = tiny_state()
    assert load(TINY, heads=HEADS).sidecar["model"]["name"] == "dit"
    path = published(state, tmp_path / "SiT-tiny.safetensors")
    loaded = load(path, heads=HEADS)
    assert loaded.sidecar["model"]["name"] == "sit"
    assert loaded.spec.preconditioner == Flow() and loaded.spec.latent
    assert load(path, heads=HEADS, preconditioner={"name": "flow", "path": "gvp"}).spec
    for model, name in (("SiT-XL/2", "sit"), ("DiT-XL/2", "dit")):
        path = checkpoint(state, model, tmp_path / "0400000.pt")
        assert load(path, heads=HEADS).sidecar["model"]["name"] == name


def checkpoint(state, model, path):
    """Write what a training of the authors saves, averaged weights and arguments; return path."""
    ema = {name: writers.pickled_tensor(array) for name, array in state.items()}
    arguments = writers.table({"model": writers.text(model)})
    root = writers.table({"ema": writers.table(ema), "args": arguments})
    path.write_bytes(writers.program(root, protocol=4))
    return path


def shapes_of(build):
    """Return the shapes of a module's arrays by path."""
    _, params = split(nnx.eval_shape(build), num_classes=1000, shape=(32, 32, 4))
    return {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}


def published_shapes(width=1152, depth=28, tokens=256):
    """Return the arrays of DiT-XL-2-256x256.pt, as its authors' code makes them."""

    def linear(name, fan_in, fan_out):
        return {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}

    shapes = {"pos_embed": (1, tokens, width)}
    shapes |= {"x_embedder.proj.weight": (width, 4, 2, 2), "x_embedder.proj.bias": (width,)}
    shapes |= linear("t_embedder.mlp.0", 256, width) | linear("t_embedder.mlp.2", width, width)
    shapes |= {"y_embedder.embedding_table.weight": (1001, width)}
    for layer in range(depth):
        block = f"blocks.{layer}"
        shapes |= linear(f"{block}.attn.qkv", width, 3 * width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", width, 4 * width)
        shapes |= linear(f"{block}.mlp.fc2", 4 * width, width)
        shapes |= linear(f"{block}.adaLN_modulation.1", width, 6 * width)
    shapes |= linear("final_layer.linear", width, 32)
    return shapes | linear("final_layer.adaLN_modulation.1", width, 2 * width)


@pytest.mark.parametrize(("network", "scan_layers"), [(DiT, False), (DiT, True), (SiT, True)])
def test_every_published_array_of_xl_2_has_its_place(network, scan_layers):
    shapes, table = published_shapes(), {DiT: dit, SiT: sit}[network].keys(depth=28)
    assert table.keys() == shapes.keys()
    assert sum(np.prod(shape) for shape in shapes.values()) == 675_129_632
    found = {
        entry.path: entry.transform(np.broadcast_to(np.float32(0), shapes[name])).shape
        for name, entry in table.items()
        if entry is not None
    }
    assert [name for name, entry in table.items() if entry is None] == ["pos_embed"]
    wanted = shapes_of(lambda: network.from_name("XL/2", scan_layers=scan_layers, rngs=nnx.Rngs(0)))
    layout = places(wanted, found)
    assert {name: place.shape(found) for name, place in layout.items()} == wanted
    assert {name for place in layout.values() for name in place.names} == found.keys()


@pytest.mark.parametrize("name", ["dit", "sit"])
def test_other_positions_are_refused(name, tmp_path):
    state = tiny_state()
    for kind in (np.float32, np.float16, ml_dtypes.bfloat16):
        half = {key: array.astype(kind) for key, array in state.items()}
        assert load(published(half, tmp_path / "same.safetensors"), name=name, heads=HEADS)
    state["pos_embed"] = state["pos_embed"].copy()
    state["pos_embed"][0, 3, 5] += 1e-4
    with pytest.raises(UserError, match="pos_embed is not the fixed sine-cosine table"):
        load(published(state, tmp_path / "moved.safetensors"), name=name, heads=HEADS)


def test_a_kernel_that_is_none_of_patches_is_refused(tmp_path):
    state = tiny_state()
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"][..., 0]
    with pytest.raises(UserError, match="to be a kernel of square patches"):
        load(published(state, tmp_path / "flat.safetensors"), heads=HEADS)


def test_a_width_of_no_published_size_asks_for_the_heads():
    with pytest.raises(UserError, match="heads"):
        load(TINY)
