"""LPIPS against the published package, under both sets of names that its weights come with."""

import jax
import numpy as np
import places
import pytest
from golden.make_lpips import drawn
from networks.autoencoders import section
from safetensors.numpy import save_file

from guidestar.models import builders
from guidestar.training.losses.autoencoding import autoencoding
from guidestar.training.losses.lpips import NUMBERS, SCALE, SHIFT, STAGES, SUMS_OF_0_0, read_lpips

GOLDEN = np.load(places.GOLDEN / "lpips.npz")


def arrays():
    """Return the golden weights under the names of a whole LPIPS's state dict."""
    found, fan_in = {}, 3
    for stage, (numbers, widths) in enumerate(zip(NUMBERS, STAGES, strict=True)):
        for number, width in zip(numbers, widths, strict=True):
            name = f"net.slice{stage + 1}.{number}"
            found[f"{name}.weight"] = drawn(f"{name}.weight", (width, fan_in, 3, 3))
            found[f"{name}.bias"] = drawn(f"{name}.bias", (width,))
            fan_in = width
        name = f"lin{stage}.model.1.weight"
        found[name] = drawn(name, (1, fan_in, 1, 1))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(arrays() | {"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)}, path)
    return path


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    """The same weights as torchvision and the lpips package publish them."""
    folder, given = tmp_path_factory.mktemp("vgg"), arrays()
    linear = {name: value for name, value in given.items() if name.startswith("lin")}
    vgg = {
        f"features.{name.split('.', 2)[2]}": value
        for name, value in given.items()
        if name.startswith("net")
    }
    save_file(vgg | {"classifier.0.weight": np.zeros((2, 2), np.float32)}, folder / "vgg16.st")
    save_file(linear, folder / "linear.st")
    return folder / "vgg16.st", folder / "linear.st"


def images(name, channels=slice(None)):
    return GOLDEN[name][:, channels].transpose(0, 2, 3, 1)


@pytest.mark.longer
def test_distances_are_those_of_the_package(whole):
    distance = jax.jit(read_lpips(whole))
    found = distance(images("x"), images("y"))
    np.testing.assert_allclose(found, GOLDEN["coloured"], rtol=2e-5)
    grey = distance(images("x", slice(1)), images("y", slice(1)))
    np.testing.assert_allclose(grey, GOLDEN["grey"], rtol=2e-5)
    np.testing.assert_allclose(distance(images("x"), images("x")), 0, atol=1e-7)


@pytest.mark.longer
def test_two_files_are_read_as_the_one(whole, separate):
    for one, two in zip(
        jax.tree.leaves(vars(read_lpips(whole))),
        jax.tree.leaves(vars(read_lpips(*separate))),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.longer
def test_files_that_are_not_lpips_are_refused(separate, tmp_path):
    vgg, linear = separate
    with pytest.raises(ValueError, match=r"lin0.model.1.weight has shape None and LPIPS takes"):
        read_lpips(vgg)
    with pytest.raises(ValueError, match=r"features.0.weight has shape None"):
        read_lpips(linear)
    save_file({"features.0.weight": np.zeros((64, 1, 3, 3), np.float32)}, tmp_path / "vgg11.st")
    with pytest.raises(ValueError, match=r"has shape \(64, 1, 3, 3\) and LPIPS takes \(64, 3"):
        read_lpips(tmp_path / "vgg11.st", linear)


@pytest.mark.longer
def test_weights_of_version_0_0_are_for_images_that_are_not_scaled(separate, tmp_path):
    vgg, _ = separate
    linear = {name: value for name, value in arrays().items() if name.startswith("lin")}
    for (name, value), total in zip(sorted(linear.items()), SUMS_OF_0_0, strict=True):
        linear[name] = value * np.float32(total / value.sum())
    save_file(linear, tmp_path / "old.st")
    save_file(
        {name: value * np.float32(1.1) for name, value in linear.items()}, tmp_path / "new.st"
    )
    old, new = (read_lpips(vgg, tmp_path / f"{name}.st") for name in ("old", "new"))
    assert (old.scaled, new.scaled) == (False, True)
    x, y = images("x")[:1], images("y")[:1]
    scaled = [(one - np.float32(SHIFT)) / np.float32(SCALE) for one in (x, y)]
    np.testing.assert_allclose(old(*scaled), new(x, y) / 1.1, rtol=2e-5)


@pytest.mark.longer
def test_other_channels_are_refused(whole):
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        read_lpips(whole)(np.zeros((1, 16, 16, 2)), np.zeros((1, 16, 16, 2)))


@pytest.mark.longer
def test_the_loss_takes_lpips_from_a_config(separate):
    spec = builders.build(section(channels=3, image_size=16))
    features, linear = map(str, separate)
    loss = autoencoding(spec, {"main": spec}, features=features, lpips=linear, adversarial=0.0)
    assert type(loss.distance).__name__ == "LPIPS"
