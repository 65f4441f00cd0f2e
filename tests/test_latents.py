"""Data sets of latents: encoded shard by shard, drawn anew at each visit, decoded into pictures."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from autoencoders_for_tests import make, section
from configs_for_tests import tiny, write_untrained
from PIL import Image

from guidestar import input_pipeline
from guidestar.data import latents, record_folder
from guidestar.encoding.decode import decode
from guidestar.encoding.encode import encode
from guidestar.errors import UserError
from guidestar.input_pipeline import Pipeline, load_source, normal
from guidestar.models.autoencoders.loading import load_autoencoder
from guidestar.models.autoencoders.scaling import PUBLISHED, LatentScaling
from guidestar.models.weights import load, save
from guidestar.sampling.run import sample
from guidestar.training import loop
from guidestar.training.export import export

DIGITS = dict(channels=1, levels=1, decoder_widths=(4, 8))
SYMMETRIC = LatentScaling("symmetric", (0.0,) * 3, (1.0,) * 3)


# Building a network takes a second, and most tests here build the same ones.
LOADED = functools.cache(load)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    monkeypatch.setattr("guidestar.models.autoencoders.loading.load", LOADED)
    monkeypatch.setattr("guidestar.sampling.networks.load", LOADED)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of an autoencoder of the digits, 8x8x1 to 4x4x3."""
    path = tmp_path_factory.mktemp("autoencoder") / "digits_vae.safetensors"
    save(path, make(**DIGITS)[1], section(**DIGITS), {})
    return path


def configured(weights, **encoding):
    config = tiny()
    config.data.split = "test"
    config.encoding.update(autoencoder=str(weights), records_per_shard=150, batch_size=64)
    config.encoding.update(**encoding)
    return config


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
    images = load_source("digits", "test").images.astype(np.float32) / 127.5 - 1
    mean, log_variance = jax.jit(lambda x: autoencoder.encode(x, SYMMETRIC))(images)
    return np.asarray(mean), np.exp(0.5 * np.asarray(log_variance))


def test_records_are_the_posteriors_of_the_images_in_order(encoded, posterior):
    stored = record_folder.load(encoded)
    found, labels = stored.records.read(np.arange(355))
    np.testing.assert_array_equal(labels, load_source("digits", "test").labels)
    # float16 keeps 11 bits.
    for part, exact in zip(np.split(found.astype(np.float32), 2, axis=-1), posterior, strict=True):
        np.testing.assert_allclose(part, exact, rtol=1e-3, atol=1e-5)
    assert len(list(encoded.glob("*.array_record"))) == 3


def test_the_description_says_what_the_latents_are(encoded, weights, posterior):
    facts = latents.facts_of(encoded)
    assert facts["images"] == {"name": "digits", "split": "test", "shape": [8, 8, 1]}
    assert facts["file"] == "digits_vae.safetensors" and len(facts["autoencoder"]) == 64
    assert facts["autoencoder"] == load_autoencoder(weights, "here").sha256
    mean, std = posterior
    np.testing.assert_allclose(facts["channel_mean"], mean.mean((0, 1, 2)), atol=1e-3)
    spread = np.sqrt((mean**2 + std**2).mean((0, 1, 2)) - mean.mean((0, 1, 2)) ** 2)
    np.testing.assert_allclose(facts["channel_std"], spread, rtol=1e-3)
    assert sorted(path.suffix for path in encoded.iterdir()) == [".array_record"] * 3 + [".json"]


def test_a_training_draws_latents_of_the_scaled_spread(encoded):
    source = load_source(str(encoded))
    assert (source.shape, source.num_classes, source.num_examples) == ((4, 4, 3), 10, 355)
    pipeline = Pipeline(source, 355, seed=0)
    batch = next(pipeline)
    pipeline.close()
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (355, 4, 4, 3)
    np.testing.assert_allclose(batch["image"].mean((0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(batch["image"].std((0, 1, 2)), 0.5, rtol=0.06)


def test_a_draw_depends_on_seed_and_position_alone(encoded, posterior):
    source = load_source(str(encoded))

    def stream(seed, batch_size, batches):
        pipeline = Pipeline(source, batch_size, seed=seed)
        found = [next(pipeline) for _ in range(batches)]
        pipeline.close()
        return {name: np.concatenate([b[name] for b in found]) for name in found[0]}

    whole, cut = stream(3, 400, 2), stream(3, 100, 8)
    np.testing.assert_array_equal(whole["image"], cut["image"])
    assert np.abs(stream(4, 400, 2)["image"] - whole["image"]).max() > 0.1
    # The first example of the second epoch, and the same one in the first.
    order = [input_pipeline.epoch_order(3, epoch, 355) for epoch in (0, 1)]
    row = order[1][0]
    first, second = int(np.flatnonzero(order[0] == row)[0]), 355
    mean, std = (part[row] for part in posterior)
    scaling = latents.scaling_of(encoded)
    for position in (first, second):
        noise = normal(3, input_pipeline.DRAW, np.array([position]), (4, 4, 3))[0]
        expected = scaling.to_network(mean + std * noise)
        np.testing.assert_allclose(whole["image"][position], expected, atol=5e-3)
    assert np.abs(whole["image"][first] - whole["image"][second]).max() > 1e-3


def test_noise_of_positions_is_unit_normal_and_independent():
    noise = normal(0, input_pipeline.DRAW, np.arange(2000), (8,))
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(noise, rowvar=False), np.eye(8), atol=0.1)
    assert abs((noise**4).mean() - 3) < 0.3 and np.isfinite(noise).all()
    later = normal(0, input_pipeline.DRAW, np.array([1999]), (8,))
    np.testing.assert_array_equal(later[0], noise[-1])


def test_mirrored_images_are_encoded_after_the_others(weights, tmp_path, posterior):
    encode(configured(weights, mirror=True), tmp_path / "both")
    stored = record_folder.load(tmp_path / "both")
    assert stored.num_examples == 710
    numbers = np.array([7, 355 + 7])
    (plain, mirrored), labels = stored.records.read(numbers)
    np.testing.assert_allclose(plain[..., :3], posterior[0][7], rtol=1e-3, atol=1e-5)
    autoencoder = load_autoencoder(weights, "here")
    image = load_source("digits", "test").images[7:8, :, ::-1].astype(np.float32) / 127.5 - 1
    expected, _ = autoencoder.encode(image, SYMMETRIC)
    np.testing.assert_allclose(mirrored[..., :3], expected[0], rtol=1e-3, atol=1e-3)
    assert labels[0] == labels[1] and np.abs(plain - mirrored).max() > 0.01


# Interruptions and damage.


def test_encoding_that_was_killed_goes_on_with_the_shards_that_are_missing(
    weights, encoded, tmp_path, monkeypatch
):
    folder, config, written = tmp_path / "latents", configured(weights), []
    write = record_folder.Writer.write

    def killed(self, shard, arrays, labels):
        if shard == 1:
            (self.folder / "00001.partial").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        return write(self, shard, arrays, labels)

    def counted(self, shard, arrays, labels):
        written.append(shard)
        return write(self, shard, arrays, labels)

    with monkeypatch.context() as patch:
        patch.setattr(record_folder.Writer, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(config, folder)
    with pytest.raises(UserError, match="not a finished data set: run the command that makes it"):
        load_source(str(folder))
    other = configured(weights, records_per_shard=100)
    with pytest.raises(UserError, match="beginning of a data set made with other settings"):
        encode(other, folder)
    with monkeypatch.context() as patch:
        patch.setattr(record_folder.Writer, "write", counted)
        encode(config, folder)
    assert written == [1, 2]
    assert (folder / "dataset.json").read_text() == (encoded / "dataset.json").read_text()
    for path in encoded.glob("*.array_record"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in encoded.iterdir())


def test_the_same_command_again_does_nothing_and_another_one_is_refused(weights, encoded, capsys):
    before = {path: path.stat().st_mtime_ns for path in encoded.iterdir()}
    encode(configured(weights), encoded)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="already holds a data set"):
        encode(configured(weights, std=1.0), encoded)
    assert {path: path.stat().st_mtime_ns for path in encoded.iterdir()} == before


@pytest.fixture
def copy(encoded, tmp_path):
    return shutil.copytree(encoded, tmp_path / "copy")


def test_a_shard_that_is_cut_short_is_refused_by_name(copy):
    path = copy / "00001.array_record"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"00001\.array_record"):
        load_source(str(copy))


def test_a_record_that_was_altered_is_refused_by_name(copy):
    path = copy / "00002.array_record"
    data = bytearray(path.read_bytes())
    stored, _ = record_folder.load(copy).records.read(np.array([320]))
    data[data.index(stored.tobytes()) + 50] ^= 0xFF
    path.write_bytes(data)
    pipeline = Pipeline(load_source(str(copy), most_damaged=0.0), 355, seed=0)
    with pytest.raises(UserError, match=r"of 355 records.*00002\.array_record"):
        next(pipeline)
    pipeline.close()


def test_a_description_without_its_scaling_is_refused(copy):
    path = copy / "dataset.json"
    facts = json.loads(path.read_text())
    del facts["latents"]["scale"]
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"dataset\.json is damaged \('scale'\)"):
        load_source(str(copy))


def test_mirroring_latents_while_training_is_refused(encoded):
    with pytest.raises(UserError, match=r"set flip to False.*config\.encoding\.mirror"):
        Pipeline(load_source(str(encoded)), 8, seed=0, flip=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(autoencoder=""), "config.encoding.autoencoder is empty"),
        (dict(autoencoder="digits"), "digits is no autoencoder but a dit"),
        (dict(autoencoder="nowhere"), "no weights at 'nowhere'"),
        (dict(scaling="sdxl"), "not one of fitted, dit, edm2"),
        (dict(scaling="dit"), "is of 4 channels and digits_vae.safetensors makes 3"),
        (dict(image_range="bytes"), "config.encoding.image_range"),
        (dict(batch_size=0), "at least 1"),
        (dict(data="fractal2d"), "not images"),
        (dict(data="latents"), "not images"),
    ],
)
def test_what_cannot_be_encoded_is_refused(weights, encoded, tmp_path, change, message):
    data = change.pop("data", None) if "data" in (change := dict(change)) else None
    config = configured(weights, **change)
    if data is not None:
        config.data.update(name=str(encoded) if data == "latents" else data, split="train")
    with pytest.raises(UserError, match=message):
        encode(config, tmp_path / "refused")
    assert not (tmp_path / "refused" / "dataset.json").exists()


def test_latents_beyond_float16_are_refused_by_image(weights, tmp_path):
    params = jax.tree.map(np.copy, load(weights).params)
    params["encoder"]["aggregator"]["conv_out"]["bias"][0] = 6e4
    params["encoder"]["aggregator"]["conv_out"]["kernel"][..., 0] *= 1e4
    save(tmp_path / "large.safetensors", params, section(**DIGITS), {})
    with pytest.raises(UserError, match=r"latent of image \d+ of digits is not finite in float16"):
        encode(configured(tmp_path / "large.safetensors"), tmp_path / "out")


# Decoding.


def decoding(weights, folder, **section):
    config = configured(weights)
    config.decoding.update(latents=str(folder), **section)
    config.sampling.update(decoder=str(weights), batch_size=50, format="npz")
    return config


def pictures(folder):
    shards = [np.load(path) for path in sorted((folder / "images").glob("*.npz"))]
    images = {i: x for s in shards for i, x in zip(s["indices"].tolist(), s["images"], strict=True)}
    return np.stack([images[i] for i in sorted(images)])


def test_encoded_latents_are_decoded_and_compared_with_their_images(
    weights, encoded, tmp_path, posterior, capsys
):
    decode(decoding(weights, encoded, count=120, compare=True), tmp_path)
    autoencoder = load_autoencoder(weights, "here")
    kept = posterior[0][:120].astype(np.float16).astype(np.float32)
    expected = np.asarray(jax.jit(lambda z: autoencoder.decode(z, SYMMETRIC))(kept))
    found = pictures(tmp_path)
    assert found.shape == (120, 8, 8, 1)
    exact = np.clip((expected + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(found, exact, atol=1.5)
    error = found.astype(float) - load_source("digits", "test").images[:120]
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
    exact = np.clip((np.asarray(autoencoder.decode(raw, SYMMETRIC)) + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(at_once[:1], exact, atol=1.5)


def test_a_network_on_latents_is_known_as_one(network):
    assert load(network).denoiser.latent
    assert load(network).sidecar["latents"]["image_range"] == "symmetric"


def test_latents_are_not_written_as_pictures(network, tmp_path):
    with pytest.raises(UserError, match=r"makes latents: set config\.sampling\.decoder"):
        sample(sampling(network, format="png"), tmp_path)


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
    with pytest.raises(UserError, match=r"set config\.sampling\.scaling to dit or edm2"):
        sample(sampling(path, decoder=str(weights)), tmp_path / "out")


@pytest.mark.longer
def test_a_transformer_is_trained_on_latents_exported_and_sampled(weights, encoded, tmp_path):
    config = tiny(steps=600, batch_size=32)
    config.data.name = str(encoded)
    config.model.update(image_size=4, channels=3, patch_size=2, latent=True, sigma_data=0.5)
    config.checkpoint.every_steps = 600
    config.optimizer.update(learning_rate=5e-3, schedule="constant")
    config.log.update(every_steps=10, preview_every_steps=10)
    loop.train(config, tmp_path / "run")
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
