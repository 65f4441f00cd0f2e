"""Folders of diffusers and accelerate: a network, a pipeline, shards; what lies beside weights."""

import json
import shutil

import jax
import numpy as np
import pytest
from networks.published_dit import published_dit
from places import GOLDEN
from safetensors.numpy import load_file, save_file
from tables.everyday import few

from guidestar import models
from guidestar.core.errors import UserError
from guidestar.models.autoencoders.loading import load_autoencoder
from guidestar.models.checkpoints.conversion import convert, read_section
from guidestar.models.checkpoints.files import resolve
from guidestar.models.checkpoints.folders import digest
from guidestar.models.checkpoints.keys import sd_vae
from guidestar.models.checkpoints.loading import fit, load
from guidestar.models.checkpoints.readers import open_weights
from guidestar.models.preconditioning import Discrete

DIT = GOLDEN / "diffusers_dit"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
WIDTHS = (32, 64)


@pytest.mark.longer
def test_the_output_is_that_of_diffusers():
    arrays = np.load(DIT / "output.npz")
    denoise = load(DIT).denoiser
    x, labels = arrays["x"].transpose(0, 2, 3, 1), arrays["labels"]
    found = jax.jit(lambda d, *given: d.raw(*given))(denoise, x, arrays["t"].astype("f"), labels)
    wanted = arrays["output"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def test_a_config_says_what_arrays_do_not(tmp_path):
    section = fit(DIT).sidecar["model"]
    assert (section["heads"], section["image_size"], section["num_classes"]) == (2, 8, 10)
    assert "of diffusers" in fit(DIT).sidecar["format"]
    shutil.copy(DIT / WEIGHTS, tmp_path)  # without its config
    found = fit(tmp_path / WEIGHTS, heads=2, image_size=8)
    assert found.sidecar["model"] == section
    with pytest.raises(UserError, match="image_size"):
        fit(tmp_path / WEIGHTS, heads=2)


def changed(folder, change):
    """Copy the golden folder with its arrays changed."""
    folder.mkdir()
    shutil.copy(DIT / "config.json", folder)
    arrays = load_file(DIT / WEIGHTS)
    change(arrays)
    save_file(arrays, folder / WEIGHTS)
    return folder


BLOCK = "transformer_blocks.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({f"{BLOCK}.norm1.emb.timestep_embedder.linear_1.bias": np.ones(32)}),
            r"linear_1\.bias differs between blocks 0 and 1",
        ),
        (lambda a: a.pop(f"{BLOCK}.attn1.to_k.weight"), r"1\.attn1\.to_k\.weight .*is missing"),
        (lambda a: a.update(more=np.ones(2)), r"more, of shape \(2,\), has no place in dit"),
    ],
)
def test_a_dit_of_diffusers_that_is_not_as_published_is_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(changed(tmp_path / "dit", change))


def test_another_activation_is_refused(tmp_path):
    folder = changed(tmp_path / "dit", lambda arrays: None)
    config = json.loads((folder / "config.json").read_text()) | {"activation_fn": "geglu"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="activation_fn='geglu'"):
        fit(folder)


def autoencoder(quant=True):
    """Return a small autoencoder's arrays under diffusers' names."""
    spec = models.build(dict(name="sd_vae", block_out_channels=WIDTHS, layers_per_block=1))
    flat = jax.tree_util.tree_flatten_with_path(spec.shapes)[0]
    shapes = {"/".join(str(key.key) for key in path): leaf.shape for path, leaf in flat}
    random, found = np.random.default_rng(0), {}
    names = [f"{name}.weight" for name in sd_vae.QUANT.values()] if quant else []
    for name, entry in sd_vae.keys(names, WIDTHS, 1).items():
        shape = shapes[entry.path]
        shape = tuple(shape[n] for n in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
        found[name] = (0.1 * random.normal(size=shape)).astype(np.float32)
    return found


def write_shards(folder, arrays, count=2):
    """Write arrays in shards, with their index."""
    names = sorted(arrays)
    parts = [names[n::count] for n in range(count)]
    places = {}
    for number, part in enumerate(parts, start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-{count:05d}.safetensors"
        save_file({name: arrays[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A folder with one file."""
    folder = tmp_path_factory.mktemp("vae")
    save_file(autoencoder(), folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), published_dit())


def test_shards_are_read_as_the_whole(sharded, tmp_path):
    save_file(published_dit(), tmp_path / "whole.safetensors")
    shards, whole = fit(sharded, heads=2), fit(tmp_path / "whole.safetensors", heads=2)
    assert shards.shapes == whole.shapes
    for name in whole.shapes:
        np.testing.assert_array_equal(shards.read(name), whole.read(name))
    assert shards.sidecar["format"] == "safetensors in 2 shards"
    assert resolve(sharded) == sharded / INDEX
    shutil.copytree(sharded, tmp_path / "half")
    variant = tmp_path / "half" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    (tmp_path / "half" / INDEX).rename(variant)
    assert resolve(tmp_path / "half") == variant and fit(variant, heads=2).shapes == whole.shapes


def test_the_digest_of_shards_is_of_what_is_in_them(sharded, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy)
    assert digest(resolve(copy)) == digest(resolve(sharded))
    write_shards(copy, published_dit(seed=1))
    assert digest(resolve(copy)) != digest(resolve(sharded))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("diffusion_pytorch_model-00001-of-00002.safetensors", "is one of 2 shards: give the fold"),
        ("config.json", "is no weights .* the .safetensors file beside it"),
    ],
)
def test_a_part_of_a_folder_says_what_to_give(given, message, sharded, tmp_path):
    shutil.copytree(sharded, tmp_path / "dit")
    (tmp_path / "dit" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "dit" / given)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "is no index of shards"),
        ("{", "is no index of shards"),
        ('{"weight_map": {"a": 1}}', "is no index of shards"),
        ('{"weight_map": {}}', "names no arrays"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "without separators"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "names the shard gone.safetensors, which"),
        (f'{{"weight_map": {{"a": "{WEIGHTS}"}}}}', "has 'a', and it has not"),
    ],
)
def test_an_index_that_says_something_else_is_refused(index, message, tmp_path):
    save_file({"b": np.ones(2)}, tmp_path / WEIGHTS)
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(UserError, match=message):
        load(tmp_path / INDEX)


@pytest.mark.longer
def test_a_pipeline_s_networks_are_found_in_their_folders(vae, tmp_path):
    shutil.copytree(DIT, tmp_path / "transformer")
    shutil.copytree(vae, tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert fit(tmp_path).sidecar["model"]["name"] == "dit"
    with pytest.raises(UserError, match="no denoiser but a sd_vae"):
        models.load(tmp_path, entry="vae")
    assert fit(tmp_path, entry="transformer").path == tmp_path / "transformer" / WEIGHTS
    autoencoder = load_autoencoder(tmp_path, "encoding.autoencoder")
    assert autoencoder.latent_channels == 4
    assert autoencoder.sha256 == digest(vae / WEIGHTS)


@pytest.mark.parametrize(
    ("schedule", "preconditioner"),
    [
        (dict(prediction_type="epsilon", beta_schedule="linear", beta_end=0.02), Discrete()),
        (
            dict(prediction_type="v_prediction", beta_start=0.001),
            Discrete(0.001, predicts="velocity"),
        ),
        (dict(num_train_timesteps=100), Discrete(steps=100)),
        (dict(beta_schedule="squaredcos_cap_v2"), "'squaredcos_cap_v2' schedule"),
        (dict(trained_betas=[0.1, 0.2]), "trained_betas="),
        (dict(prediction_type="sample"), "predicts 'sample'"),
    ],
)
def test_a_pipeline_s_schedule_says_how_its_network_was_trained(schedule, preconditioner, tmp_path):
    shutil.copytree(DIT, tmp_path / "transformer")
    (tmp_path / "scheduler").mkdir()
    text = json.dumps({"_class_name": "DDIMScheduler"} | schedule)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(text)
    if isinstance(preconditioner, str):
        with pytest.raises(UserError, match=preconditioner):
            fit(tmp_path)
    else:
        assert fit(tmp_path).spec.preconditioner == preconditioner


def test_a_network_of_diffusers_that_is_unknown_is_named(tmp_path):
    save_file({"conv_in.weight": np.ones((2, 2, 3, 3))}, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(
        UserError, match="UNet2DConditionModel of diffusers.* no network known here"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no weights but nothing"),
        ({"readme.txt": None}, "holds no weights but readme.txt"),
        ({"a.safetensors": "w", "b.safetensors": "w"}, r"several weight files \(a.*, b.*\): name"),
    ],
)
def test_a_folder_without_weights_or_with_several_is_refused(files, message, tmp_path):
    for name in files:
        save_file({"x": np.ones(2)}, tmp_path / name)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "alone.safetensors"])
def test_a_folder_of_one_network_is_that_network(name, tmp_path):
    save_file(published_dit(), tmp_path / name)
    assert fit(tmp_path, heads=2).path == tmp_path / name


@pytest.mark.parametrize("source", few(2, ["", "nothing", "gone/x.pt", "a\0b", "x" * 300]))
@pytest.mark.parametrize("entry", [None, "ema"])
def test_what_is_nowhere_is_said_to_be(source, entry):
    with pytest.raises(UserError, match="no weights at .*: give the path"):
        load(source, entry=entry)


@pytest.mark.longer
def test_without_convolutions_at_the_latents_they_are_identities(tmp_path):
    beside = {"loss.discriminator.main.0.weight": np.ones((2, 2), np.float32)}
    save_file(autoencoder(quant=False) | beside, tmp_path / "none.safetensors")
    weights, section = read_section(open_weights(tmp_path / "none.safetensors"), {})
    assert "without loss.*" in str(weights.description)
    assert section["latent_channels"] == 4
    arrays = convert(weights, section)
    for name, width in (("quant", 8), ("post_quant", 4)):
        np.testing.assert_array_equal(arrays[f"{name}/kernel"].read(), np.eye(width)[None, None])
        np.testing.assert_array_equal(arrays[f"{name}/bias"].read(), np.zeros(width))


@pytest.mark.parametrize(
    "said",
    [
        '{"description": "", "activation text": ""}',
        "[1]",
        "{nonsense",
        '{"model": "x"}',
        "[" * 2000,
    ],
)
def test_what_another_tool_writes_beside_weights_is_passed_over(said, tmp_path):
    save_file(published_dit(), tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text(said)
    assert fit(tmp_path / "x.safetensors", heads=2).sidecar["model"]["name"] == "dit"


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_of_numpy_is_read(order, tmp_path):
    state = {name: np.asarray(value, order=order) for name, value in published_dit().items()}
    np.savez(tmp_path / "x.npz", **state)
    source = open_weights(tmp_path / "x.npz")
    assert source.description.format == "numpy archive"
    for name, value in state.items():
        np.testing.assert_array_equal(source.tensors[name].read(), value)
    assert fit(tmp_path / "x.npz", heads=2).sidecar["model"]["name"] == "dit"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.savez_compressed(path, x=np.ones(3)), "'x' compressed; .*numpy.savez"),
        (lambda path: np.savez(path, x=np.array(["a"])), "'x' of type <U1"),
        (lambda path: np.savez(path, mu=np.ones(3), sigma=np.ones((3, 3))), "statistics of images"),
        (lambda path: np.savez(path, arr_0=np.ones((2, 4, 4, 3))), "arr_0, .*known are"),
    ],
)
def test_an_archive_of_numpy_that_is_no_network_is_named(write, message, tmp_path):
    write(tmp_path / "x.npz")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.npz")
