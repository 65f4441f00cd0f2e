"""InceptionV3 of the inception distance: parity with its published port, and what it costs."""

import jax
import numpy as np
import places
import pytest
from golden.make_extractors import NARROW, images
from networks.published_extractors import inception_state, require_parity, written

from guidestar.core.errors import UserError
from guidestar.core.macs import count
from guidestar.evaluation.extractors.inception_features import resized
from guidestar.models import builders
from guidestar.models.checkpoints.loading import fit, load
from guidestar.models.classifiers.inception import averaged, largest
from guidestar.models.denoiser import parameter_count


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(places.GOLDEN / "extractors.npz"))


def everything(loaded):
    def run(params, x):
        module = loaded.network.module(params)
        pooled = module.features(x)
        return pooled, module.logits_without_bias(pooled), module.head(pooled), module.spatial(x)

    return jax.jit(run)(loaded.params, resized(images(2, 64, 48, 3), "graph"))


@pytest.mark.longer
def test_all_outputs_are_those_of_the_published_port(golden, tmp_path):
    path = written(tmp_path / "x.safetensors", inception_state(NARROW))
    found = everything(load(path))
    for name, value in zip(("2048", "logits_unbiased", "logits"), found[:3], strict=True):
        expected = golden[f"inception/{name}"]
        # The two images differ by far more than what is allowed for.
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
        require_parity(value, expected)
    # The narrow relative has fewer channels than the 7 of the spatial features have places.
    spatial = golden["inception/spatial"].transpose(0, 2, 3, 1)[..., :7].reshape(2, -1)
    require_parity(found[3], spatial)


@pytest.mark.longer
def test_the_whole_network_is_the_published_port(golden, tmp_path):
    found = everything(load(written(tmp_path / "x.safetensors", inception_state())))
    assert found[3].shape == (2, 2023)
    require_parity(found[0], golden["inception_whole/2048"])
    require_parity(found[1][:, ::8], golden["inception_whole/logits_unbiased"])
    require_parity(found[2][:, ::8], golden["inception_whole/logits"])


@pytest.mark.longer
def test_its_size_and_cost_are_those_published():
    """5.71 G multiply-adds at 299 x 299, torchvision's figure for its 1000 classes."""
    spec = builders.build(dict(name="inception_v3"))
    # Running means and variances are among them, 2 x 17 216.
    assert parameter_count(spec.shapes) == 23_885_392
    x = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    found = count(lambda params, x: spec.network.module(params)(x), spec.shapes, x)
    assert found == multiply_adds()
    assert found / 1e9 == pytest.approx(5.71, abs=0.005)


def multiply_adds():
    """Add up outputs times window times channels, layer by layer, as the paper draws them."""

    def layers(side, *shapes):
        return sum(side**2 * taps * a * b for taps, a, b in shapes)

    total = layers(149, (9, 3, 32)) + layers(147, (9, 32, 32), (9, 32, 64))
    total += layers(73, (1, 64, 80)) + layers(71, (9, 80, 192))
    for a, pooled in ((192, 32), (256, 64), (288, 64)):
        total += layers(35, (1, a, 64), (1, a, 48), (25, 48, 64), (1, a, pooled))
        total += layers(35, (1, a, 64), (9, 64, 96), (9, 96, 96))
    total += layers(17, (9, 288, 384), (9, 96, 96)) + layers(35, (1, 288, 64), (9, 64, 96))
    for b in (128, 160, 160, 192):
        total += layers(17, (1, 768, 192), (1, 768, 192))
        total += layers(17, (1, 768, b), (7, b, b), (7, b, 192))
        total += layers(17, (1, 768, b), *[(7, b, b)] * 3, (7, b, 192))
    total += layers(17, (1, 768, 192), (1, 768, 192), (7, 192, 192), (7, 192, 192))
    total += layers(8, (9, 192, 320), (9, 192, 192))
    for a in (1280, 2048):
        total += layers(8, (1, a, 320), (1, a, 384), (3, 384, 384), (3, 384, 384))
        total += layers(8, (1, a, 448), (9, 448, 384), (3, 384, 384), (3, 384, 384), (1, a, 192))
    return total + 2048 * 1008


def test_averages_count_no_padding():
    x = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
    found = averaged(x)[0, :, :, 0]
    # A corner has four neighbours, an edge six, the middle nine.
    assert found[0, 0] == (0 + 1 + 3 + 4) / 4
    assert found[0, 1] == pytest.approx((0 + 1 + 2 + 3 + 4 + 5) / 6)
    assert found[1, 1] == pytest.approx(4)


@pytest.mark.parametrize(("stride", "expected"), [(1, [[5, 6], [5, 6]]), (2, [[6]])])
def test_the_largest_of_what_there_is(stride, expected):
    x = -np.ones((1, 3, 3, 1), np.float32)
    x[0, 1, 1:, 0] = 5, 6
    found = largest(x, stride)[0, :, :, 0]
    np.testing.assert_array_equal(found[:2, 0:3:2] if stride == 1 else found, expected)


@pytest.mark.longer
def test_torchvision_s_own_network_is_refused(tmp_path):
    more = {"AuxLogits.fc.weight": np.ones((1008, 3), np.float32)}
    path = written(tmp_path / "x.safetensors", inception_state(NARROW) | more)
    with pytest.raises(UserError, match=r"AuxLogits.fc.weight.* has no place in inception_v3"):
        fit(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [(dict(narrow=3), "narrow is 3"), (dict(width=2), "has no field 'width'")],
)
def test_what_makes_no_network_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        builders.build(dict(name="inception_v3", **fields))


def test_images_that_are_too_small_are_refused():
    spec = builders.build(dict(name="inception_v3", narrow=NARROW))
    with pytest.raises(ValueError, match="75 pixels or more"):
        jax.eval_shape(
            lambda params, x: spec.network.module(params)(x), spec.shapes, np.zeros((1, 64, 64, 3))
        )
