"""Extractors: what networks are fed, batches and devices, what identifies features, refusals."""

import os
import subprocess
import sys

import numpy as np
import places
import pytest
from golden.make_extractors import LEARNT, NARROW, images
from networks.filled import fill
from networks.published_extractors import inception_state, require_parity, written
from PIL import Image
from tiny_configs.evaluations import evaluation

from guidestar.commands import evaluate
from guidestar.configs import evidence
from guidestar.core.errors import UserError
from guidestar.data.source import Source
from guidestar.evaluation.extractors import (
    clip,
    dinov2,
    features_of,
    inception,
    make_extractor,
)
from guidestar.evaluation.extractors import transformer_features as transformers
from guidestar.evaluation.extractors.inception_features import resized
from guidestar.evaluation.statistics import RealStatistics
from guidestar.models.builders import build
from guidestar.models.checkpoints import save


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(places.GOLDEN / "extractors.npz"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of the narrow InceptionV3 and of the DINOv2 in miniature."""
    folder = tmp_path_factory.mktemp("weights")
    path = folder / "dinov2.safetensors"
    save(path, fill(build(DINOV2).shapes), DINOV2, {})
    return {
        "inception": str(written(folder / "inception.safetensors", inception_state(NARROW))),
        "dinov2": str(path),
    }


DINOV2 = dict(name="dinov2", width=24, depth=2, heads=2, registers=4, position_grid=LEARNT)


@pytest.fixture(scope="module")
def seen(weights):
    """The narrow InceptionV3, the one network here that takes seconds to compile."""
    return inception(weights["inception"], batch_size=2)


@pytest.mark.longer
def test_uint8_images_give_the_features_of_the_published_port(golden, seen):
    x = images(2, 64, 48, 3)
    found = seen(np.concatenate([x, x[:1]]))
    expected = golden["inception/2048"]
    require_parity(found.features, np.concatenate([expected, expected[:1]]))
    logits = golden["inception/logits_unbiased"].astype(np.float64)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities[:2], chances, atol=2e-4)
    assert seen.num_classes == 1008 and features_of(seen, (8, 8, 3)) == 128 == seen.width


@pytest.mark.longer
def test_grey_images_are_those_of_three_equal_channels(seen):
    grey = images(2, 20, 30, 1)
    coloured = seen(np.repeat(grey, 3, axis=-1)).features
    np.testing.assert_allclose(seen(grey).features, coloured, atol=1e-4)


def test_pytorch_fid_s_form_is_another(golden):
    x = images(1, 32, 32, 3)
    found = np.asarray(resized(x, "pytorch_fid"))
    expected = golden["pytorch_fid/32x32"].transpose(1, 2, 0)
    np.testing.assert_allclose(found[0, ::23, ::17], expected, atol=5e-6)
    graph = np.asarray(resized(x, "graph"))
    np.testing.assert_allclose(
        graph[0, ::23, ::17], golden["graph/32x32"].transpose(1, 2, 0) / 128 - 1, atol=1e-5
    )
    assert np.abs(found - graph).max() > 0.05


@pytest.mark.longer
def test_batches_change_nothing(weights):
    x = images(11, 40, 30, 3)
    expected = dinov2(weights["dinov2"], batch_size=11)(x).features
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    few = dinov2(weights["dinov2"], batch_size=4)
    np.testing.assert_allclose(few(x).features, expected, atol=1e-5)
    np.testing.assert_allclose(few(x[7:8]).features, expected[7:8], atol=1e-5)


@pytest.mark.longer
def test_devices_change_nothing(weights, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    path = tmp_path / "eight.npy"
    script = [places.PROCESSES / "extracted_features.py", weights["dinov2"], path]
    around = os.pathsep.join([str(places.TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": around}
    subprocess.run([sys.executable, *script], check=True, env=os.environ | environment)
    expected = dinov2(weights["dinov2"], batch_size=11)(images(11, 40, 30, 3)).features
    np.testing.assert_allclose(np.load(path), expected, atol=1e-5)


@pytest.mark.longer
def test_no_image_is_no_batch(weights):
    with pytest.raises(UserError, match="batch_size is 0"):
        dinov2(weights["dinov2"], batch_size=0)


def prepared(x):
    return np.asarray(transformers.resized(x, transformers.IMAGENET))


def test_dinov2_takes_images_by_cubic_interpolation_and_imagenet_s_colours(golden, weights):
    x = images(1, 300, 250, 3)
    expected = golden["antialias/300x250"].transpose(1, 2, 0) / 255
    expected = (expected - transformers.IMAGENET.mean) / transformers.IMAGENET.deviation
    found = prepared(x)
    np.testing.assert_allclose(found[0, ::17, ::13], expected, atol=3e-5)
    # Pillow rounds to whole numbers, once along each side: the same but for a level or two.
    x = 64 + x // 2
    found = prepared(x)
    by_pillow = transformers.resized_by_pillow(x)
    picture = Image.fromarray(x[0]).resize((224, 224), resample=Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(by_pillow[0], picture)
    again = prepared(by_pillow)
    assert 0 < np.abs(again - found).max() < 2 / 255 / 0.22
    grey = transformers.resized_by_pillow(images(2, 30, 20, 1))
    assert grey.shape == (2, 224, 224, 1)


@pytest.mark.longer
def test_resizing_by_pillow_is_other_features(weights):
    x = images(2, 60, 50, 3)
    one, other = (dinov2(weights["dinov2"], resize=form) for form in ("antialias", "pillow"))
    apart = np.abs(one(x).features - other(x).features).max()
    assert 0 < apart < 0.1
    assert one.identity != other.identity


def test_a_published_file_that_is_missing_is_named_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDESTAR_WEIGHTS", str(tmp_path))
    for name, file in (
        ("inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("dinov2", "dinov2_vitl14_pretrain.pth"),
        ("clip", "clip-vit-base-patch32.bin"),
    ):
        with pytest.raises(UserError, match=rf"{file} is not in {tmp_path}: download it from http"):
            make_extractor("", {"name": name})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("inception", dict(features="last"), "features 'last' is not one of pooled, spatial"),
        ("inception", dict(resize="pil"), "resize 'pil' is not one of graph, pytorch_fid"),
        ("dinov2", dict(resize="pil"), "resize 'pil' is not one of antialias, pillow"),
        ("dinov2", dict(size="L"), "size"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(name, settings, message, weights):
    with pytest.raises(UserError, match=message):
        make_extractor("", {"name": name, "weights": weights[name], **settings})


@pytest.mark.longer
def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(UserError, match="of inception_v3, and the extractor 'dinov2' takes"):
        dinov2(weights["inception"])
    with pytest.raises(UserError, match="of dit, and the extractor 'inception' takes"):
        inception("fashion_mnist_dit")
    with pytest.raises(UserError, match="of dinov2, and the extractor 'clip' takes"):
        clip(weights["dinov2"])
    with pytest.raises(UserError, match="is an encoder, not a classifier"):
        make_extractor(weights["dinov2"])


@pytest.mark.longer
def test_every_setting_that_changes_features_identifies_them(weights, seen):
    spatial = inception(weights["inception"], features="spatial")
    # How many are taken at a time decides nothing.
    assert spatial.identity == seen.identity | {"features": "spatial"}
    assert seen.identity["resize"] == "graph" and len(seen.identity["sha256"]) == 64
    assert spatial.width == 2023 and spatial.num_classes == 0
    # Nothing after the sixth mixed block is computed.
    assert 0.5 * seen.macs < spatial.macs < 0.8 * seen.macs


def statistics_of(extractor):
    """Return statistics of some images of the digits' size."""
    some = Source("some", (8, 8, 1), 10, images(30, 8, 8, 1), np.zeros(30, np.int32))
    return RealStatistics.compute(extractor, some)


@pytest.mark.longer
def test_statistics_of_other_settings_are_refused(weights):
    one, other = (
        make_extractor("", {"name": "dinov2", "weights": weights["dinov2"], "resize": form})
        for form in ("antialias", "pillow")
    )
    real = statistics_of(one)
    real.require_fit(one, 24, "statistics")
    with pytest.raises(UserError, match="in the features of"):
        real.require_fit(other, 24, "statistics")


@pytest.mark.longer
def test_a_config_is_measured_in_their_features(weights, tmp_path):
    config = evaluation(lambda: evidence.get_config("unguided"), tmp_path)
    config.evaluation.extractor = {"name": "dinov2", "weights": weights["dinov2"], "batch_size": 12}
    found = make_extractor(config.evaluation.classifier, config.evaluation.extractor.to_dict())
    statistics_of(found).save(tmp_path / "real.safetensors")
    config.evaluation.statistics = str(tmp_path / "real")
    config.evaluation.metrics = ("frechet_distance", "agreement")
    result = evaluate.evaluated(config, tmp_path / "work")
    assert result["extractor"]["resize"] == "antialias"
    assert result["rows"]["unguided"]["frechet_distance"] > 0
