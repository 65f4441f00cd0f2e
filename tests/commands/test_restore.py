"""The restore mode: what it restores, goes on with, shows and refuses."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_configs.configs import tiny, write_untrained

from guidestar.commands import restore
from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.data.images import from_uint8
from guidestar.runtime.store import Store

COUNT = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = common.base()
    config.data.name, config.data.split = "digits", "test"
    config.sampling.weights.main = str(
        write_untrained(
            tmp_path_factory.mktemp("weights") / "tiny.safetensors", tiny().model.to_dict()
        )
    )
    config.guidance = ConfigDict(dict(name="ddnm"))
    config.sampler.solver = ConfigDict(dict(name="euler"))
    config.sampler.schedule.steps = 3
    config.sampling.update(count=COUNT, batch_size=3, classes="0")
    return config


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("restored")
    restore.run(config, folder)
    return folder


def changed(config, section="restore", **fields):
    other = config.copy_and_resolve_references()
    other[section].update(fields)
    return other


def images(folder):
    return from_uint8(Store.open(folder, COUNT).read(np.arange(COUNT)))


def pooled(values):
    count, height, width, channels = values.shape
    return values.reshape(count, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def test_restored_images_have_the_measurement_and_are_not_its_pseudo_inverse(config, made):
    found, source = images(made), restore.input_pipeline.load_source(**config.data)
    truth = from_uint8(source.read(np.arange(COUNT))[0])
    # Pixels are clipped to the data's range where untrained networks leave it.
    whole = pooled(np.abs(found) > 0.99) == 0
    assert whole.sum() > 10
    np.testing.assert_allclose(pooled(found)[whole], pooled(truth)[whole], atol=0.01)
    assert found.std(axis=(1, 2)).min() > 0.05
    record = json.loads((made / "restoration.json").read_text())
    assert record["images"] == COUNT and record["evaluations"] == {"main": 3}
    inverse = pooled(truth).repeat(2, axis=1).repeat(2, axis=2)
    expected = 10 * np.log10(4 / np.square(inverse - truth).mean(axis=(1, 2, 3))).mean()
    assert record["psnr_of_pseudo_inverse"] == pytest.approx(expected, abs=1e-3)
    with Image.open(made / "beside.png") as picture:
        assert picture.size == (2 * (10 * COUNT - 2), 2 * (3 * 10 - 2))


@pytest.mark.longer
def test_it_goes_on_with_what_is_missing_and_refuses_other_measurements(config, made):
    before, one = images(made), made / "images" / "00000003.png"
    one.unlink()
    restore.run(config, made)
    np.testing.assert_array_equal(images(made), before)
    with pytest.raises(UserError, match="noise"):
        restore.run(changed(config, noise=0.1), made)


def test_measurements_from_files_are_restored_as_those_made_here(config, made, tmp_path):
    source = restore.input_pipeline.load_source(**config.data)
    values = pooled(from_uint8(source.read(np.arange(COUNT))[0]))
    np.save(tmp_path / "all.npy", values)
    folder = tmp_path / "each"
    folder.mkdir()
    for number, value in enumerate(values):
        np.save(folder / f"{number}.npy", value)
    for name in ("all.npy", "each"):
        restore.run(changed(config, measurements=str(tmp_path / name)), tmp_path / f"of {name}")
        np.testing.assert_allclose(images(tmp_path / f"of {name}"), images(made), atol=0.02)
        assert "psnr" not in json.loads((tmp_path / f"of {name}/restoration.json").read_text())


@pytest.mark.longer
def test_masks_come_from_pictures_and_repaint_needs_no_rule(config, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    other = config.copy_and_resolve_references()
    other.restore.operator = ConfigDict(dict(name="mask", mask=str(tmp_path / "mask.png")))
    other.guidance = ConfigDict(dict(name="unguided"))
    other.sampler.solver = ConfigDict(dict(name="repaint", repeats=2, jump=1))
    restore.run(other, tmp_path / "out")
    source = restore.input_pipeline.load_source(**config.data)
    truth = from_uint8(source.read(np.arange(COUNT))[0])
    np.testing.assert_allclose(images(tmp_path / "out")[:, :, :4], truth[:, :, :4], atol=1e-2)
    record = json.loads((tmp_path / "out" / "restoration.json").read_text())
    assert record["evaluations"] == {"main": 5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(guidance=dict(name="unguided")), "guidance.name 'unguided' takes no measurement"),
        (dict(operator=dict(name="average_pool", size=3)), "restore.operator: guidance.average_po"),
        (dict(operator=dict(name="cfg", scale=2.0)), "restore.operator.name 'cfg' is no operator"),
        (dict(operator=dict(name="mask", mask="none.npy")), "restore.operator.mask 'none.npy' is"),
        (dict(measurements="nowhere"), "restore.measurements .*nowhere is no folder"),
        (dict(guidance=dict(name="ddnm", measurement=(1.0,))), "guidance.measurement: --mode=res"),
        (dict(count=10_000), "sampling.count is 10000, and there are"),
    ],
)
def test_what_cannot_be_restored_is_refused_before_anything_runs(config, tmp_path, fields, message):
    other = config.copy_and_resolve_references()
    for name, value in fields.items():
        if name == "guidance":
            other.guidance = ConfigDict(value)
        elif name == "operator":
            other.restore.operator = ConfigDict(value)
        elif name == "count":
            other.sampling.count = value
        else:
            other.restore[name] = value
    with pytest.raises(UserError, match=message):
        restore.run(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
