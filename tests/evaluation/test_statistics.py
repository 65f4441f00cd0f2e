"""Statistics of real sets: what they are of, where they are found, and what they fit."""

import dataclasses
import json
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tiny_configs.evaluations import FEATURES, classifier

from guidestar import evaluation, input_pipeline
from guidestar.core.errors import UserError
from guidestar.core.files import sha256
from guidestar.data.source import Source
from guidestar.evaluation import published
from guidestar.evaluation.extractors import FeatureFunction, Together, make_extractor
from guidestar.evaluation.statistics import OF, RealStatistics, find_statistics
from guidestar.models.checkpoints import SHIPPED


def brightness(images):
    return images.reshape(len(images), -1, 2).mean(axis=1)


MEANS = FeatureFunction(brightness, {"name": "means"})


def pictures(count=20, shape=(8, 8, 1), seed=0, dtype=np.uint8):
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(dtype)
    return Source("some", shape, 2, images, np.zeros(count, np.int32))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return make_extractor(classifier(tmp_path_factory.mktemp("weights") / "c.safetensors"))


def test_they_are_those_of_all_images_and_keep_the_features_of_some(extractor):
    source = input_pipeline.load_source("digits")
    found = RealStatistics.compute(extractor, source, "train")
    features = extractor(source.x).features
    expected = evaluation.moments(features)
    np.testing.assert_allclose(found.moments.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.moments.scatter, expected.scatter, rtol=1e-9)
    assert found.moments.count == found.description["images"] == source.num_examples
    assert sorted(map(tuple, found.features)) == sorted(map(tuple, features))
    assert found.description["contrast"] == pytest.approx(evaluation.contrast(source.x))


def test_they_say_of_which_images_and_features_they_are(extractor, tmp_path):
    one, again = (RealStatistics.compute(MEANS, pictures()) for _ in range(2))
    other = RealStatistics.compute(MEANS, pictures(seed=1))
    assert one.made_of == again.made_of != other.made_of
    classified = RealStatistics.compute(extractor, pictures())
    assert classified.made_of["data_sha256"] == one.made_of["data_sha256"]
    assert classified.made_of["extractor"]["sha256"]
    # Where its weights lie decides nothing.
    moved = shutil.copy(extractor.identity["weights"], tmp_path / "moved.safetensors")
    shutil.copy(extractor.identity["weights"][:-11] + "json", tmp_path / "moved.json")
    assert (
        RealStatistics.compute(make_extractor(str(moved)), pictures()).made_of == classified.made_of
    )


def test_what_is_written_is_read_back_whatever_its_layout_in_memory(tmp_path):
    made = RealStatistics.compute(MEANS, pictures())
    lower = np.asfortranarray(np.tril(np.ones((2, 2))))
    turned = RealStatistics(
        made.moments._replace(scatter=lower), np.asfortranarray(made.features), made.description
    )
    turned.save(tmp_path / "real.safetensors")
    back = RealStatistics.load(tmp_path / "real.safetensors")
    np.testing.assert_array_equal(back.moments.scatter, lower)
    np.testing.assert_allclose(back.features, made.features, rtol=1e-3)
    assert back.description == made.description and back.moments.count == made.moments.count


def test_arrays_with_the_sidecar_of_others_are_refused(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        RealStatistics.compute(MEANS, pictures(seed=seed)).save(tmp_path / f"{name}.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"b\.json.*of other arrays"):
        RealStatistics.load(tmp_path / "b.safetensors")


def test_published_moments_serve_the_frechet_distance_alone(tmp_path):
    mean, covariance = np.array([1.0, 2.0]), np.array([[9.0, 0.0], [0.0, 1.0]])
    np.savez(tmp_path / "reference.npz", mu=mean, sigma=covariance)
    real = RealStatistics.load(tmp_path / "reference.npz")
    other = evaluation.Gaussian(np.zeros(2), np.diag([1.0, 4.0]))
    # |(1, 2)|^2 + (1 - 3)^2 + (2 - 1)^2
    assert evaluation.frechet_distance(real.moments, other) == pytest.approx(10.0)
    assert real.features is None and real.width == 2


MEAN, COVARIANCE = np.array([1.0, 2.0]), np.array([[9.0, 0.5], [0.5, 1.0]])
OTHERS = {"fid": {"mu": np.zeros(3), "sigma": np.eye(3)}}


class Opened:
    """What runs when a pickle is opened that says so."""

    def __reduce__(self):
        return Path.touch, (Path(tempfile.gettempdir()) / "guidestar-pickle-was-run",)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_edm2_are_read_by_their_keys(tmp_path, several, protocol):
    path = tmp_path / "img512.pkl"
    asked = {"fd_dinov2": {"mu": MEAN, "sigma": np.asfortranarray(COVARIANCE)}}
    path.write_bytes(pickle.dumps((OTHERS if several else {}) | asked, protocol))
    real = RealStatistics.load(path, key="fd_dinov2" if several else "")
    np.testing.assert_array_equal(real.moments.mean, MEAN)
    np.testing.assert_array_equal(real.moments.covariance, COVARIANCE)
    assert real.description["key"] == "fd_dinov2" and real.features is None
    assert real.description["extractor"] == real.description["split"] == "not said"
    assert real.description["file_sha256"] == sha256(path)
    for key, message in [("fd", "no state dict under 'fd'")] + [("", "fid, fd_dinov2")] * several:
        with pytest.raises(UserError, match=rf"img512.pkl.*{message}"):
            RealStatistics.load(path, key=key)


def test_nothing_in_a_pickle_is_run(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"fid": OTHERS["fid"] | {"more": Opened()}}))
    with pytest.raises(UserError, match=r"bad.pkl"):
        RealStatistics.load(path)
    assert not Opened().__reduce__()[1][0].exists()


def adm_batch(path, **arrays):
    """Write what ADM's evaluator reads, and return its images."""
    images = pictures(30).x
    np.savez(path, arr_0=images, **arrays)
    return images


def test_a_batch_of_images_alone_is_passed_through_the_extractor(extractor, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "READ", 7)
    images = adm_batch(tmp_path / "batch.npz")
    real = RealStatistics.load(tmp_path / "batch.npz", extractor=extractor)
    expected = RealStatistics.compute(extractor, pictures(30))
    np.testing.assert_allclose(real.moments.scatter, expected.moments.scatter, rtol=1e-6)
    np.testing.assert_allclose(real.features, expected.features, rtol=1e-6)
    np.testing.assert_array_equal(real.ranks, expected.ranks)
    for name in ("extractor", "images", "shape", "data_sha256"):
        assert real.description[name] == expected.description[name]
    assert real.description["split"] == "not said"
    with pytest.raises(UserError, match="holds images, which an extractor"):
        RealStatistics.load(tmp_path / "batch.npz")
    colours = FeatureFunction(brightness, {"name": "colours"}, shape=(8, 8, 3))
    with pytest.raises(UserError, match="batch.npz: images are 8x8x1"):
        RealStatistics.load(tmp_path / "batch.npz", extractor=colours)
    assert images.shape == (30, *expected.description["shape"])


def test_a_batch_with_moments_has_both_and_spatial_ones_by_their_key(tmp_path):
    path = tmp_path / "adm.npz"
    spatial = dict(mu_s=np.zeros(5), sigma_s=2 * np.eye(5))
    images = adm_batch(path, mu=MEAN, sigma=COVARIANCE, **spatial)
    real = RealStatistics.load(path, extractor=MEANS)
    np.testing.assert_array_equal(real.moments.covariance, COVARIANCE)
    assert sorted(map(tuple, real.features)) == sorted(
        map(tuple, brightness(images).astype(np.float32))
    )
    assert real.description["moments"] == "not said"
    assert RealStatistics.load(path).features is None
    assert RealStatistics.load(path, key="spatial", extractor=MEANS).width == 5
    with pytest.raises(UserError, match="no statistics 'fid': give the key spatial"):
        RealStatistics.load(path, key="fid")
    wide = FeatureFunction(lambda images: np.zeros((len(images), 3)), {"name": "wide"})
    with pytest.raises(UserError, match="moments of 2 features, and its images have 3 by wide"):
        RealStatistics.load(path, extractor=wide)


def test_sidecars_that_were_changed_are_refused(tmp_path):
    path = tmp_path / "real.safetensors"
    RealStatistics.compute(MEANS, pictures(), "train").save(path)
    said = json.loads((tmp_path / "real.json").read_text())
    for name, value in [
        ("split", "test"),
        ("extractor", {"name": "others"}),
        ("shape", [16, 16, 1]),
        ("prepared", {"crop": "centre square"}),
        ("data_sha256", "0" * 64),
    ]:
        (tmp_path / "real.json").write_text(json.dumps(said | {name: value}))
        with pytest.raises(UserError, match="real.json was changed since it was written"):
            RealStatistics.load(path)


def test_how_a_set_was_prepared_is_part_of_what_statistics_are_of(tmp_path):
    cut = dataclasses.replace(pictures(), prepared={"crop": "centre square"})
    plain, other = (RealStatistics.compute(MEANS, one, "train") for one in (pictures(), cut))
    assert plain.description["prepared"]["crop"] == "none"
    assert plain.made_of != other.made_of and not plain.same_as(other)
    assert not plain.same_as(RealStatistics.compute(MEANS, pictures(), "test"))
    # Earlier releases' files do not say it.
    older = {k: v for k, v in other.description.items() if k != "prepared"}
    assert plain.same_as(dataclasses.replace(other, description=older))


def test_classes_of_real_images_are_counted(extractor, tmp_path):
    source = pictures(50)
    real = RealStatistics.compute(extractor, source)
    expected = evaluation.class_ranks(extractor(source.x).probabilities)
    np.testing.assert_array_equal(real.ranks, expected)
    real.save(tmp_path / "real.safetensors")
    back = RealStatistics.load(tmp_path / "real.safetensors")
    np.testing.assert_array_equal(back.ranks, expected)
    assert back.description["classes"]["sha256"] == extractor.identity["sha256"]
    assert RealStatistics.compute(MEANS, source).ranks is None


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.savez(path, arr_0=np.zeros(3)),
        lambda path: np.savez(path, arr_0=np.zeros((3, 8, 8, 1))),
        lambda path: np.savez(path, mu=np.array([Opened()]), sigma=np.eye(1)),
        lambda path: path.with_suffix(".pkl").write_bytes(pickle.dumps({"fid": {"mu": MEAN}})),
        lambda path: path.with_suffix(".pkl").write_bytes(b"\x80\x04cut"),
        lambda path: np.savez(path, mu=np.zeros(3), sigma=np.zeros((2, 2))),
        lambda path: np.savez(path, mu=np.full(2, np.nan), sigma=np.eye(2)),
        lambda path: path.write_bytes(b"no zip"),
        lambda path: path.with_suffix(".safetensors").write_bytes(b"nor this"),
        lambda path: shutil.copy(SHIPPED / "digits.safetensors", path.with_suffix(".safetensors")),
    ],
    ids=[
        *("other arrays", "images of floats", "objects", "no covariance", "cut short"),
        "shapes",
        "nan",
        "no archive",
        "no arrays",
        "weights",
    ],
)
def test_files_that_hold_no_statistics_are_named(tmp_path, write):
    write(tmp_path / "real.npz")
    path = next(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"{path.stem}"):
        RealStatistics.load(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pictures(shape=(2,), dtype=np.float32), r"shape \(2,\) are no pictures"),
        (pictures(shape=(28, 28, 1)), "28x28x1, and classifier takes 8x8x1"),
        (pictures(shape=(8, 8, 3)), "8x8x3, and classifier takes 8x8x1"),
        (pictures(dtype=np.float32), "float32, and pictures are uint8"),
        (pictures(count=1), "1 image: statistics need 2"),
    ],
)
def test_sets_of_other_examples_are_refused(extractor, source, message):
    with pytest.raises(UserError, match=f"data.name some.*{message}"):
        RealStatistics.compute(extractor, source)


def test_names_and_paths_are_looked_for_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    work, shipped = tmp_path / "work", tmp_path / "shipped"
    for folder, name in ((work, "mine"), (shipped, "mine"), (shipped, "theirs")):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.safetensors").touch()
    (work / "adm.npz").touch()
    (work / "noise.json").touch()
    here = work / "mine.safetensors"
    for source in ("mine", "mine.safetensors", str(here), str(work / "mine"), "~/work/mine"):
        assert find_statistics(source, (work, shipped)) == here
    assert find_statistics("theirs", (work, shipped)).parent == shipped
    assert find_statistics("adm.npz", (work, shipped)) == work / "adm.npz"
    for source in ("neither", "noise.json", str(work), ""):
        with pytest.raises(UserError, match=r"evaluation.statistics.*--mode=statistics"):
            find_statistics(source, (work, shipped))


def test_statistics_in_other_features_are_refused(extractor, tmp_path):
    real = RealStatistics.compute(extractor, pictures())
    real.require_fit(extractor, FEATURES, "statistics")
    other = make_extractor(classifier(tmp_path / "c.safetensors", depths=[2]))
    with pytest.raises(UserError, match=r"in the features of .*c.safetensors \(sha256"):
        real.require_fit(other, FEATURES, "statistics")
    # Files of earlier versions say which shape or width alone, or nothing.
    said = {"shape": [28, 28, 1]}
    with pytest.raises(UserError, match=r"images of shape \(28, 28, 1\)"):
        RealStatistics(real.moments, real.features, said).require_fit(extractor, FEATURES, "s")
    with pytest.raises(UserError, match=r"shape \(8, 8, 1\), and these are of \(64, 64, 1\)"):
        real.require_fit(extractor, FEATURES, "statistics", (64, 64, 1))
    with pytest.raises(UserError, match="of 6 features, and .* gives 7"):
        RealStatistics(real.moments, real.features, {}).require_fit(extractor, 7, "s")


@pytest.mark.longer
def test_shipped_statistics_name_the_shipped_classifiers():
    for name in ("fashion_mnist", "cifar10"):
        real = RealStatistics.load(SHIPPED / f"{name}_statistics.safetensors")
        real.require_fit(make_extractor(f"{name}_classifier"), 64, name)
        other = {"fashion_mnist": "cifar10", "cifar10": "fashion_mnist"}[name]
        with pytest.raises(UserError, match="sha256"):
            real.require_fit(make_extractor(f"{other}_classifier"), 64, name)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "digits"])
def test_shipped_statistics_count_classes_and_say_of_which_images_they_are(name):
    real = RealStatistics.load(SHIPPED / f"{name}_statistics.safetensors")
    # Every image has one class first, one second, ...
    assert (real.ranks.sum(axis=1) == real.moments.count).all() and real.ranks.shape[1] == 10
    assert {"data_sha256", "prepared", "classes", OF} <= real.description.keys()
    # By a classifier that is right of most images, classes of equal size stay about equal.
    assert np.ptp(real.ranks[0]) < 0.15 * real.ranks[0].mean()
    fake = np.eye(10)[np.arange(200) % 10] * 0.9 + 0.01
    found = evaluation.resampled_frechet_distance(
        real.moments, real.features[:200], real_ranks=real.ranks, probabilities=fake, top=1
    )
    assert found.distance > 0 and found.matched == 1


def test_a_denoiser_is_no_classifier():
    with pytest.raises(UserError, match="digits is a denoiser"):
        make_extractor("digits")


def test_features_of_ones_own_go_with_the_classes_of_a_classifier(extractor):
    both = Together(MEANS, extractor)
    images = pictures().x
    found = both(images)
    np.testing.assert_array_equal(found.features, brightness(images))
    np.testing.assert_array_equal(found.probabilities, extractor(images).probabilities)
    assert both.identity == MEANS.identity and both.shape == extractor.shape
    with pytest.raises(UserError, match=r"20 images gave an array of shape \(\)"):
        FeatureFunction(np.mean, {"name": "mean"})(images)


def test_an_extractor_is_named_or_that_of_the_classifier():
    with pytest.raises(UserError, match="evaluation.classifier is empty"):
        make_extractor("")
    with pytest.raises(UserError, match="evaluation.extractor.name 'clasifier'.*classifier"):
        make_extractor("", {"name": "clasifier"})


def test_probabilities_sum_to_one(extractor):
    found = extractor(pictures(3).x)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.features.shape == (3, FEATURES) and json.dumps(dict(extractor.identity))
