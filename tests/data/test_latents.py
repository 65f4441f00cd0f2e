"""Data sets of latents: encoded shard by shard, drawn anew each time an example is visited."""

import json
import shutil

import jax
import numpy as np
import pytest
from networks.autoencoders import DIGITS, UNSCALED, configured, loaded_once, section, write_digits
from tables.everyday import few

from guidestar import input_pipeline
from guidestar.commands.encode import run as encode
from guidestar.core.errors import UserError
from guidestar.data import latents, record_folder
from guidestar.inference import encoding
from guidestar.input_pipeline import Pipeline, load_source, normal
from guidestar.models.autoencoders.loading import load_autoencoder
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


@pytest.mark.longer
def test_records_are_the_posteriors_of_the_images_in_order(encoded, posterior):
    stored = record_folder.load(encoded)
    found, labels = stored.records.read(np.arange(355))
    np.testing.assert_array_equal(labels, load_source("digits", "test").condition)
    # float16 keeps 11 bits.
    for part, exact in zip(np.split(found.astype(np.float32), 2, axis=-1), posterior, strict=True):
        np.testing.assert_allclose(part, exact, rtol=1e-3, atol=1e-5)
    assert len(list(encoded.glob("*.array_record"))) == 3


@pytest.mark.longer
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


@pytest.mark.longer
def test_a_training_draws_latents_of_the_scaled_spread(encoded):
    source = load_source(str(encoded))
    assert (source.shape, source.num_classes, source.num_examples) == ((4, 4, 3), 10, 355)
    pipeline = Pipeline(source, 355, seed=0)
    batch = next(pipeline)
    pipeline.close()
    assert batch["x"].dtype == np.float32 and batch["x"].shape == (355, 4, 4, 3)
    np.testing.assert_allclose(batch["x"].mean((0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(batch["x"].std((0, 1, 2)), 0.5, rtol=0.06)


@pytest.mark.longer
def test_a_draw_depends_on_seed_and_position_alone(encoded, posterior):
    source = load_source(str(encoded))

    def stream(seed, batch_size, batches):
        pipeline = Pipeline(source, batch_size, seed=seed)
        found = [next(pipeline) for _ in range(batches)]
        pipeline.close()
        return {name: np.concatenate([b[name] for b in found]) for name in found[0]}

    whole, cut = stream(3, 400, 2), stream(3, 100, 8)
    np.testing.assert_array_equal(whole["x"], cut["x"])
    assert np.abs(stream(4, 400, 2)["x"] - whole["x"]).max() > 0.1
    # The first example of the second epoch, and the same one in the first.
    order = [input_pipeline.epoch_order(3, epoch, 355) for epoch in (0, 1)]
    row = order[1][0]
    first, second = int(np.flatnonzero(order[0] == row)[0]), 355
    mean, std = (part[row] for part in posterior)
    scaling = latents.scaling_of(encoded)
    for position in (first, second):
        noise = normal(3, input_pipeline.DRAW, np.array([position]), (4, 4, 3))[0]
        expected = scaling.to_network(mean + std * noise)
        np.testing.assert_allclose(whole["x"][position], expected, atol=5e-3)
    assert np.abs(whole["x"][first] - whole["x"][second]).max() > 1e-3


def test_noise_of_positions_is_unit_normal_and_independent():
    noise = normal(0, input_pipeline.DRAW, np.arange(2000), (8,))
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(noise, rowvar=False), np.eye(8), atol=0.1)
    assert abs((noise**4).mean() - 3) < 0.3 and np.isfinite(noise).all()
    later = normal(0, input_pipeline.DRAW, np.array([1999]), (8,))
    np.testing.assert_array_equal(later[0], noise[-1])


@pytest.mark.longer
def test_mirrored_images_are_encoded_after_the_others(weights, tmp_path, posterior):
    encode(configured(weights, mirror=True), tmp_path / "both")
    stored = record_folder.load(tmp_path / "both")
    assert stored.num_examples == 710
    numbers = np.array([7, 355 + 7])
    (plain, mirrored), labels = stored.records.read(numbers)
    np.testing.assert_allclose(plain[..., :3], posterior[0][7], rtol=1e-3, atol=1e-5)
    autoencoder = load_autoencoder(weights, "here")
    image = load_source("digits", "test").x[7:8, :, ::-1].astype(np.float32) / 127.5 - 1
    expected, _ = autoencoder.encode(image, UNSCALED)
    np.testing.assert_allclose(mirrored[..., :3], expected[0], rtol=1e-3, atol=1e-3)
    assert labels[0] == labels[1] and np.abs(plain - mirrored).max() > 0.01
    # A part of the images comes with what mirrors them, and nothing else does.
    part = load_source(str(tmp_path / "both"), "train[7:9]")
    np.testing.assert_array_equal(part.read(np.array([0, 2]))[0], [plain, mirrored])
    assert part.num_examples == 4


# Interruptions and damage.


@pytest.mark.longer
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


def test_processes_share_the_shards_by_their_numbers(weights, encoded, tmp_path, monkeypatch):
    written, write = [], record_folder.Writer.write

    def counted(self, shard, arrays, labels):
        written.append(shard)
        return write(self, shard, arrays, labels)

    monkeypatch.setattr(record_folder.Writer, "write", counted)
    monkeypatch.setattr(encoding.distributed, "agree", lambda error, what: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process, expected in ((1, [1]), (0, [0, 2])):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(encoding.distributed, "is_primary", lambda process=process: not process)
        written.clear()
        encode(configured(weights), tmp_path / "set")
        assert written == expected
    assert (tmp_path / "set/dataset.json").read_text() == (encoded / "dataset.json").read_text()


@pytest.mark.longer
def test_latents_are_known_by_what_they_are_made_of_not_by_names(
    weights, encoded, tmp_path, capsys
):
    moved = shutil.copy(weights, tmp_path / "moved.safetensors")
    shutil.copy(weights.with_suffix(".json"), tmp_path / "moved.json")
    encode(configured(moved), encoded)
    assert "nothing to do" in capsys.readouterr().out
    config = configured(weights)
    config.data.split = "test[:300]"
    with pytest.raises(UserError, match=r"of other examples, latents\.data"):
        encode(config, encoded)


def test_what_was_begun_of_other_data_is_refused(weights, tmp_path, monkeypatch):
    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record_folder.Writer, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(configured(weights), tmp_path / "set")
    config = configured(weights)
    config.data.split = "train[:355]"  # as many
    with pytest.raises(UserError, match=r"of other examples \(latents\)"):
        encode(config, tmp_path / "set")


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
    with pytest.raises(UserError, match=r"set flip to False.*encoding\.mirror"):
        Pipeline(load_source(str(encoded)), 8, seed=0, flip=True)


@pytest.mark.parametrize(
    ("change", "message"),
    few(
        4,
        [
            (dict(autoencoder=""), "encoding.autoencoder is empty"),
            (dict(autoencoder="digits"), "digits is no autoencoder but a dit"),
            (dict(autoencoder="nowhere"), "no weights at 'nowhere'"),
            (dict(scaling="sdxl"), "not one of fitted, dit, edm2"),
            (dict(scaling="dit"), "is of 4 channels and digits_vae.safetensors makes 3"),
            (dict(image_range="bytes"), "encoding.image_range"),
            (dict(batch_size=0), "must be 1 or more"),
            (dict(std=0.0), "encoding.std 0.0 is a standard deviation"),
            (
                dict(scaling="edm2", std=0.7),
                "encoding.std 0.7 has no effect where encoding.scaling",
            ),
            (dict(scaling="dit", image_range="unit"), "encoding.image_range 'unit' has no effect"),
            (dict(data="fractal2d"), "not images"),
            (dict(data="latents"), "not images"),
        ],
    ),
)
def test_what_cannot_be_encoded_is_refused(weights, encoded, tmp_path, change, message):
    data = change.pop("data", None) if "data" in (change := dict(change)) else None
    config = configured(weights, **change)
    if data is not None:
        config.data.update(name=str(encoded) if data == "latents" else data, split="train")
    with pytest.raises(UserError, match=message):
        encode(config, tmp_path / "refused")
    assert not (tmp_path / "refused" / "dataset.json").exists()


@pytest.mark.longer
def test_latents_beyond_float16_are_refused_by_image(weights, tmp_path):
    params = jax.tree.map(np.copy, load(weights).params)
    params["encoder"]["aggregator"]["conv_out"]["bias"][0] = 6e4
    params["encoder"]["aggregator"]["conv_out"]["kernel"][..., 0] *= 1e4
    save(tmp_path / "large.safetensors", params, section(**DIGITS), {})
    with pytest.raises(UserError, match=r"latent of image \d+ of digits is not finite in float16"):
        encode(configured(tmp_path / "large.safetensors"), tmp_path / "out")
