"""Decoding latents: of a data set or sampled, at once or later, by the right decoder."""

import json
import shutil

import jax
import numpy as np
import pytest
from networks.autoencoders import DIGITS, UNSCALED, configured, loaded_once, section, write_digits
from PIL import Image
from tiny_configs.configs import tiny, write_untrained

from guidestar.commands.config import overrides
from guidestar.commands.decode import run as decode
from guidestar.commands.encode import run as encode
from guidestar.commands.export import run as export
from guidestar.commands.sample import run as sample
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.data import latents
from guidestar.input_pipeline import load_source
from guidestar.models.autoencoders.loading import load_autoencoder
from guidestar.models.autoencoders.scaling import PUBLISHED
from guidestar.models.checkpoints import load, save


@pytest.fixture(autouse=True)
def cached(monkeypatch):
    monkeypatch.setattr("guidestar.models.autoencoders.loading.load", loaded_once)
    monkeypatch.setattr("guidestar.inference.networks.load", loaded_once)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of an autoencoder of the digits, 8x8x1 to 4x4x3."""
    return write_digits(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module")
def encoded(weights, tmp_path_factory):
    """The 355 test digits, encoded into three shards."""
    folder = tmp_path_factory.mktemp("encoded") / "digits_latents"
    encode(configured(weights), folder)
    return folder


@pytest.fixture(scope="module")
def posterior(weights):
    """Mean and standard deviation of the test digits' latents, computed directly."""
    autoencoder = load_autoencoder(weights, "here")
    images = load_source("digits", "test").x.astype(np.float32) / 127.5 - 1
    mean, log_variance = jax.jit(lambda x: autoencoder.encode(x, UNSCALED))(images)
    return np.asarray(mean), np.exp(0.5 * np.asarray(log_variance))


def decoding(weights, folder, **section):
    config = configured(weights)
    config.decoding.update(latents=str(folder), **section)
    config.sampling.update(decoder=str(weights), batch_size=50, format="npz")
    return config


def pictures(folder):
    shards = [np.load(path) for path in sorted((folder / "images").glob("*.npz"))]
    images = {i: x for s in shards for i, x in zip(s["indices"].tolist(), s["images"], strict=True)}
    return np.stack([images[i] for i in sorted(images)])


@pytest.mark.longer
def test_encoded_latents_are_decoded_and_compared_with_their_images(
    weights, encoded, tmp_path, posterior, capsys
):
    decode(decoding(weights, encoded, count=120, compare=True), tmp_path)
    autoencoder = load_autoencoder(weights, "here")
    kept = posterior[0][:120].astype(np.float16).astype(np.float32)
    expected = np.asarray(jax.jit(lambda z: autoencoder.decode(z, UNSCALED))(kept))
    found = pictures(tmp_path)
    assert found.shape == (120, 8, 8, 1)
    exact = np.clip((expected + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(found, exact, atol=1.5)
    error = found.astype(float) - load_source("digits", "test").x[:120]
    ratio = (10 * np.log10(255**2 / (error**2).mean((1, 2, 3)))).mean()
    kept = json.loads((tmp_path / "reconstruction.json").read_text())
    assert kept["images"] == 120 and kept["psnr"] == pytest.approx(ratio, abs=1e-6)
    assert f"{ratio:.2f} dB" in capsys.readouterr().out
    assert Image.open(tmp_path / "grid.png").size == (10 * 20 - 4, 20 * 20 - 4)
    # A picture that is missing is made again, alone.
    gone = next((tmp_path / "images").glob("00000050-*.npz"))
    gone.unlink()
    decode(decoding(weights, encoded, count=120), tmp_path)
    np.testing.assert_array_equal(pictures(tmp_path), found)


@pytest.fixture(scope="module")
def network(encoded, tmp_path_factory):
    """Weights of an untrained transformer on these latents, their scaling beside them."""
    model = tiny().model.to_dict() | dict(image_size=4, channels=3, patch_size=2)
    path = tmp_path_factory.mktemp("network") / "latent_dit.safetensors"
    write_untrained(path, model)
    beside = path.with_suffix(".json")
    sidecar = json.loads(beside.read_text()) | latents.provenance(str(encoded))
    beside.write_text(json.dumps(sidecar))
    return path


def sampling(network, **changes):
    config = tiny()
    config.sampling.weights.main = str(network)
    config.sampler.schedule.steps = 2
    config.guidance.scale = 1.0
    config.sampling.update(**(dict(count=6, batch_size=4) | changes))
    return config


@pytest.mark.longer
def test_samples_are_decoded_at_once_or_later_to_the_same_pictures(
    weights, encoded, network, tmp_path
):
    sample(sampling(network, format="npz", decoder=str(weights)), tmp_path / "at_once")
    sample(sampling(network, format="npz"), tmp_path / "kept")
    decode(decoding(weights, tmp_path / "kept"), tmp_path / "later")
    at_once = pictures(tmp_path / "at_once")
    assert at_once.shape == (6, 8, 8, 1) and at_once.std() > 1
    np.testing.assert_allclose(pictures(tmp_path / "later"), at_once.astype(int), atol=1)
    kept = np.load(next((tmp_path / "kept" / "images").glob("*.npz")))
    assert kept["latents"].shape == (4, 4, 4, 3) and kept["latents"].dtype == np.float32
    assert not (tmp_path / "kept" / "grid.png").exists()
    assert (tmp_path / "at_once" / "grid.png").exists()
    # What decodes them is the autoencoder on unscaled latents.
    autoencoder, scaling = load_autoencoder(weights, "here"), latents.scaling_of(encoded)
    raw = kept["latents"][:1] / np.float32(scaling.scale) + np.float32(scaling.shift)
    exact = np.clip((np.asarray(autoencoder.decode(raw, UNSCALED)) + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(at_once[:1], exact, atol=1.5)


@pytest.mark.longer
def test_a_network_on_latents_is_known_as_one(network):
    assert load(network).denoiser.latent
    assert load(network).sidecar["latents"]["image_range"] == "symmetric"


@pytest.mark.longer
def test_latents_are_not_written_as_pictures(network, tmp_path):
    with pytest.raises(UserError, match=r"makes latents: set sampling\.decoder"):
        sample(sampling(network, format="png"), tmp_path)


@pytest.mark.longer
def test_a_decoder_of_other_latents_is_refused_unless_it_is_said_to_fit(weights, network, tmp_path):
    params = jax.tree.map(np.copy, load(weights).params)
    params["decoder"]["out"]["conv"]["bias"] += 0.1
    other = tmp_path / "other.safetensors"
    save(other, params, section(**DIGITS), {})
    config = sampling(network, format="npz", decoder=str(other), count=4)
    with pytest.raises(UserError, match=r"made by digits_vae.safetensors.*any_decoder=True"):
        sample(config, tmp_path / "samples")
    config.sampling.any_decoder = True
    sample(config, tmp_path / "samples")
    assert len(pictures(tmp_path / "samples")) == 4


@pytest.mark.longer
def test_published_scalings_are_named_in_the_config(network, weights, tmp_path):
    config = sampling(network, decoder=str(weights), scaling="dit")
    with pytest.raises(UserError, match="have 3 channels, their scaling 4"):
        sample(config, tmp_path)
    config.sampling.scaling = "sdxl"
    with pytest.raises(UserError, match="not one of dit, edm2; empty takes what the weights say"):
        sample(config, tmp_path)
    assert PUBLISHED["dit"].channels == 4


def test_latents_of_unknown_scaling_are_not_decoded(weights, tmp_path):
    model = tiny().model.to_dict() | dict(image_size=4, channels=3, patch_size=2)
    path = write_untrained(tmp_path / "plain.safetensors", model)
    with pytest.raises(UserError, match=r"set sampling\.scaling to dit or edm2"):
        sample(sampling(path, decoder=str(weights)), tmp_path / "out")


@pytest.fixture(scope="module")
def kept(network, tmp_path_factory):
    """Six sampled latents."""
    folder = tmp_path_factory.mktemp("kept")
    sample(sampling(network, format="npz"), folder)
    return folder


def copied(folder, path):
    shutil.copytree(folder, path)
    return path


@pytest.mark.longer
def test_pictures_are_known_by_what_they_were_decoded_of(weights, network, kept, tmp_path):
    latent = copied(kept, tmp_path / "latents")
    decode(decoding(weights, latent, count=4), tmp_path / "out")
    before = pictures(tmp_path / "out")
    # The same latents in another place.
    moved = latent.rename(tmp_path / "moved")
    decode(decoding(weights, moved), tmp_path / "out")
    np.testing.assert_array_equal(pictures(tmp_path / "out")[:4], before)
    # Others in the same place.
    shutil.rmtree(moved)
    config = sampling(network, format="npz")
    config.seed = 1
    sample(config, moved)
    with pytest.raises(UserError, match="origin was .*moved.* and is .* choose another --workdir"):
        decode(decoding(weights, moved), tmp_path / "out")
    # Another decoder of the same name.
    params = jax.tree.map(np.copy, load(weights).params)
    params["decoder"]["out"]["conv"]["bias"] += 0.1
    other = tmp_path / weights.name
    save(other, params, section(**DIGITS), {})
    config = decoding(other, kept)
    config.sampling.any_decoder = True
    with pytest.raises(UserError, match=rf"decoder was .* and is .*{weights.name}"):
        decode(config, tmp_path / "out")


@pytest.mark.longer
def test_an_earlier_releases_pictures_are_continued_where_they_agree(weights, kept, tmp_path):
    out, record = tmp_path / "out", tmp_path / "out" / "sampling.json"
    decode(decoding(weights, kept, count=4), out)
    scaling = json.loads((kept / "sampling.json").read_text())["made_of"]["latents"]
    said = {"latents": scaling | {"file": weights.name}, "decoder": weights.name}
    for change, message in (
        ({"decoder": "other.safetensors"}, "that of other.safetensors"),
        ({"latents": scaling | {"scale": [1.0, 1.0, 1.0]}}, "latents.scale was"),
        ({}, ""),
    ):
        earlier = {"sampling": {"format": "npz"}, "decoding": said | change}
        record.write_text(json.dumps(earlier))
        if message:
            with pytest.raises(UserError, match=message):
                decode(decoding(weights, kept), out)
        else:
            decode(decoding(weights, kept), out)
    assert len(pictures(out)) == 6
    assert json.loads(record.read_text())["made_of"].keys() == {"origin", "latents", "decoder"}


def test_latents_that_are_not_finite_are_named_and_not_decoded(weights, kept, tmp_path):
    latent = copied(kept, tmp_path / "latents")
    for value, message in (
        (np.nan, "image 5 is not finite as latents already, and nothing was written"),
        (3e38, "image 5 is not finite once decoded by .*sampling.scaling"),
    ):
        path = next((latent / "images").glob("00000004-*.npz"))
        arrays = dict(np.load(path))
        arrays["latents"][1] = value
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=message):
            decode(decoding(weights, latent), tmp_path / "out")
        assert not list((tmp_path / "out" / "images").iterdir())


def test_latents_that_are_missing_are_asked_for(weights, kept, tmp_path):
    latent = copied(kept, tmp_path / "latents")
    next((latent / "images").glob("00000000-*.npz")).unlink()
    with pytest.raises(UserError, match="image 0 .* is missing or damaged: run the command that"):
        decode(decoding(weights, latent), tmp_path / "out")
    with pytest.raises(UserError, match=r"decoding\.count is 7 and .* holds 6 latents"):
        decode(decoding(weights, kept, count=7), tmp_path / "out")
    with pytest.raises(UserError, match=r"decoding\.count is -1: give a whole number"):
        decode(decoding(weights, kept, count=-1), tmp_path / "out")


def test_pictures_and_data_that_nothing_is_done_with_are_refused(weights, kept, tmp_path):
    decode(decoding(weights, kept), tmp_path / "out")
    with pytest.raises(UserError, match="holds images: nothing is left to decode"):
        decode(decoding(weights, tmp_path / "out"), tmp_path / "again")
    given = [overrides.Override(("data", "split"), "train")]
    config = overrides.apply(decoding(weights, kept), given)
    with pytest.raises(UserError, match=r"without decoding\.compare: leave it out"):
        decode(config, tmp_path / "out")


@pytest.mark.longer
def test_a_transformer_is_trained_on_latents_exported_and_sampled(weights, encoded, tmp_path):
    config = tiny(steps=600, batch_size=32)
    config.data.name = str(encoded)
    config.model.update(image_size=4, channels=3, patch_size=2, latent=True, sigma_data=0.5)
    config.checkpoint.every_steps = 600
    config.optimizer.update(learning_rate=5e-3, schedule="constant")
    config.log.update(every_steps=10, preview_every_steps=10)
    train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    # Latents scaled to sigma_data have loss 1 before training.
    assert losses[0] == pytest.approx(1, abs=0.15)
    assert np.mean(losses[-20:]) < np.mean(losses[:3]) - 0.1
    path = export(config, tmp_path / "run")
    assert load(path).sidecar["latents"] == latents.scaling_of(encoded).to_json()
    sample(sampling(path, decoder=str(weights)), tmp_path / "samples")
    assert Image.open(tmp_path / "samples" / "images" / "00000005.png").size == (8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(latents=""), "is no folder of latents"),
        (dict(latents="elsewhere"), "is no folder of latents"),
        (dict(data="train"), "latents were made of digits test"),
    ],
)
def test_what_cannot_be_decoded_is_refused(weights, encoded, tmp_path, change, message):
    config = decoding(weights, encoded, compare=True)
    config.data.split = change.get("data", "test")
    config.decoding.latents = change.get("latents", str(encoded))
    with pytest.raises(UserError, match=message):
        decode(config, tmp_path)
