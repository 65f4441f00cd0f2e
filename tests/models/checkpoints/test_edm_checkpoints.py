"""What checkpoints of EDM's UNets say of their network: tables of names, wrappers, classes."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from networks.edm_unets import ADM, DDPMPP, GOLDEN, STATE, golden, shapes_of
from safetensors.numpy import save_file
from tables.everyday import few

from guidestar.models import builders
from guidestar.models.checkpoints import load
from guidestar.models.checkpoints.keys import dhariwal, song
from guidestar.models.checkpoints.readers import open_weights
from guidestar.models.checkpoints.readers.weight_source import Description, ModuleInfo
from guidestar.models.preconditioning import EDM, IDDPM, VE, VP

TYPES = {
    "skip inputs": DDPMPP | dict(encoder_type="skip", embedding_type="fourier"),
    "residual inputs": DDPMPP | dict(encoder_type="residual", augment_dim=0),
    "summed outputs": DDPMPP | dict(decoder_type="skip", num_classes=0),
    "ADM": ADM,
    "ADM alone": ADM
    | dict(num_classes=0, augment_dim=0, channel_mult=(2, 1, 3))
    | dict(image_size=12, attn_resolutions=(6, 3)),
}


def table(model):
    keys = (song if model["name"] == "song_unet" else dhariwal).keys
    taken = inspect.signature(keys).parameters
    return keys(**{name: value for name, value in model.items() if name in taken})


@pytest.mark.parametrize("name", TYPES)
def test_every_array_of_a_network_has_one_name(name):
    _, _, shapes = shapes_of(TYPES[name])
    paths = [entry.path for entry in table(TYPES[name]).values() if entry is not None]
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    assert sorted(paths) == sorted("/".join(key.key for key in path) for path, _ in flat)


def published(model):
    """Return arrays under their published names and in their published layout."""
    _, _, shapes = shapes_of(model)
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    ours = {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}
    taps = np.asarray(model.get("resample_filter", (1, 1)), "f")
    random, arrays = np.random.default_rng(0), {}
    for name, entry in table(model).items():
        shape = ours[entry.path] if entry else (1, 1, len(taps), len(taps))
        if len(shape) == 4:
            shape = shape if entry is None else tuple(shape[i] for i in (3, 2, 0, 1))
        arrays[name] = random.normal(size=shape[::-1] if len(shape) == 2 else shape).astype("f")
        if entry is None:
            arrays[name] = (np.outer(taps, taps) / taps.sum() ** 2)[None, None]
    return arrays


@pytest.mark.parametrize("name", few(2, TYPES))
def test_a_checkpoint_of_every_type_is_recognised_and_loaded(name, tmp_path):
    model = TYPES[name] | dict(preconditioner="edm")
    save_file(published(model), tmp_path / "weights.safetensors")
    section = load(tmp_path / "weights.safetensors").sidecar["model"]
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}.items() >= (
        model.items()
    )


def wrapped(class_name, directory, **attributes):
    """Return the weights of a golden file as if its pickle had named the wrapper's class."""
    golden("edm_ddpmpp", directory)
    weights = open_weights(directory / "edm_ddpmpp.safetensors")
    modules = {
        "": ModuleInfo(class_name, attributes=attributes),
        "model.enc.16x16_block0": ModuleInfo("UNetBlock", attributes={"dropout": 0.13}),
    }
    return dataclasses.replace(weights, description=Description("pickle", modules=modules))


@pytest.mark.parametrize(
    ("class_name", "attributes", "expected"),
    [
        ("EDMPrecond", dict(sigma_data=0.7, sigma_min=0), EDM(sigma_data=0.7)),
        ("VPPrecond", dict(beta_d=18.0, beta_min=0.2, M=500, epsilon_t=1e-4), None),
        ("VEPrecond", dict(sigma_min=0.03, sigma_max=50.0), VE(0.03, 50.0)),
        ("iDDPMPrecond", dict(C_1=0.002, C_2=0.01, M=100), IDDPM(100, 0.002, 0.01)),
    ],
)
def test_the_wrapper_of_a_pickle_names_its_preconditioner(
    class_name, attributes, expected, tmp_path
):
    section = song.recognise(wrapped(class_name, tmp_path, **attributes))
    spec = builders.build({"name": "song_unet"} | section)
    assert spec.preconditioner == (expected or VP(18.0, 0.2, 500, 1e-4))
    assert section["dropout"] == 0.13


def test_a_table_of_noise_levels_is_the_wrapper_of_improved_ddpm(tmp_path):
    arrays = np.load(GOLDEN / "edm_ddpmpp_tiny.npz")
    state = {k.removeprefix(STATE): arrays[k] for k in arrays.files if k.startswith(STATE)}
    save_file(state | {"u": np.zeros(1001, "f")}, tmp_path / "weights.safetensors")
    loaded = load(tmp_path / "weights.safetensors")
    assert loaded.denoiser.preconditioner == IDDPM()
    assert loaded.denoiser.sigma_range == IDDPM().sigma_range


def test_neither_network_is_taken_for_the_other(tmp_path):
    for name in ("edm_ddpmpp", "edm_adm"):
        golden(name, tmp_path)
    weights = {
        name: open_weights(tmp_path / f"{name}.safetensors") for name in ("edm_ddpmpp", "edm_adm")
    }
    assert dhariwal.recognise(weights["edm_ddpmpp"]) is None
    assert song.recognise(weights["edm_adm"]) is None
