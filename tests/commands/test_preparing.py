"""From a folder of pictures to batches: labels, the cut, damage, and going on after a stop."""

import json

import numpy as np
import pytest
from PIL import Image

from guidestar import input_pipeline
from guidestar.commands.prepare import run as prepare
from guidestar.configs import prepare as config_file
from guidestar.core.errors import UserError
from guidestar.data.image_folder import labelled, square

COLOURS = {"cat": (250, 10, 10), "dog": (10, 250, 10), "owl": (10, 10, 250)}
EACH = 4


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures of one colour each, in a folder a class."""
    folder = tmp_path / "pictures"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            picture = Image.new("RGB", (40 + number, 24), colour)
            picture.save(folder / name / f"{number}.{'png' if number % 2 else 'JPEG'}")
    return folder


def config(folder, **fields):
    made = config_file.get_config()
    made.prepare.update(source=str(folder), size=8, records_per_shard=5, **fields)
    return made


def test_a_folder_becomes_a_data_set_with_its_classes(pictures, tmp_path, capsys):
    prepare(config(pictures), tmp_path / "set")
    assert "12 pictures of 3 classes" in capsys.readouterr().out
    source = input_pipeline.load_source(str(tmp_path / "set"))
    assert source.shape == (8, 8, 3) and source.num_classes == 3 and source.num_examples == 12
    images, labels = source.read(np.arange(12))
    colours = np.array(list(COLOURS.values()))
    assert abs(images.mean((1, 2)) - colours[labels]).max() < 3  # JPEG is not exact
    np.testing.assert_array_equal(np.bincount(labels), [EACH] * 3)
    facts = json.loads((tmp_path / "set/dataset.json").read_text())
    assert facts["classes"] == ["cat", "dog", "owl"]
    assert [shard["records"] for shard in facts["shards"]] == [5, 5, 2]


def test_it_goes_on_with_what_is_missing(pictures, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepare(config(pictures), whole)
    prepare(config(pictures), broken)
    # As a kill between the second and the third shard leaves it.
    facts = json.loads((broken / "dataset.json").read_text())
    (broken / "dataset.json").unlink()
    (broken / "00002.array_record").unlink()
    said = ("shards", "unreadable", "source", "prepared")
    begun = {k: v for k, v in facts.items() if k not in said}
    (broken / "unfinished.json").write_text(json.dumps(begun))
    kept = (broken / "00001.array_record").stat().st_mtime_ns
    prepare(config(pictures), broken)
    assert (broken / "00001.array_record").stat().st_mtime_ns == kept
    assert json.loads((broken / "dataset.json").read_text()) == facts
    for file in ("00000", "00001", "00002"):
        read = [(folder / f"{file}.array_record").read_bytes() for folder in (whole, broken)]
        assert read[0] == read[1]


def test_pictures_that_cannot_be_read_are_named_and_left_out(pictures, tmp_path):
    (pictures / "cat/0.JPEG").write_bytes(b"no picture")
    content = (pictures / "dog/1.png").read_bytes()
    (pictures / "dog/1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cat/0\.JPEG|dog/1\.png"):
        prepare(config(pictures), tmp_path / "strict")
    prepare(config(pictures, most_damaged=0.2), tmp_path / "set")
    facts = json.loads((tmp_path / "set/dataset.json").read_text())
    assert [line.split(":")[0] for line in facts["unreadable"]] == ["cat/0.JPEG", "dog/1.png"]
    assert input_pipeline.load_source(str(tmp_path / "set")).num_examples == 10


def listed(folder):
    files = [[f"{name}/{n}.{'png' if n % 2 else 'JPEG'}", n] for name in COLOURS for n in range(4)]
    (folder / "dataset.json").write_text(json.dumps({"labels": files}))
    return dict(files), ["0", "1", "2", "3"]


def tabled(folder):
    files = [
        (f"{name}/{n}.{'png' if n % 2 else 'JPEG'}", "wild" if name == "owl" else "tame")
        for name in COLOURS
        for n in range(4)
    ]
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(map(",".join, files)))
    return {file: int(label == "wild") for file, label in files}, ["tame", "wild"]


@pytest.mark.parametrize("write", [listed, tabled])
def test_lists_of_labels_take_the_place_of_folders(write, pictures):
    expected, names = write(pictures)
    found, classes = labelled(pictures)
    assert dict(found) == expected and classes == names


def unlabelled(folder):
    (folder / "labels.csv").write_text("cat/0.JPEG,1\n")


def unknown(folder):
    listed(folder)
    (folder / "cat/0.JPEG").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unlabelled, "11 pictures of .* have no label"),
        (unknown, "labels of 1 pictures that are not in it"),
        (lambda folder: (folder / "dataset.json").write_text("[]"), "cannot be read"),
        (lambda folder: folder.rename(folder.with_name("gone")), "is not there .any more."),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, message, pictures):
    change(pictures)
    with pytest.raises(UserError, match=message):
        labelled(pictures)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        labelled(tmp_path)


def test_settings_that_make_no_data_set_are_refused(pictures, tmp_path):
    with pytest.raises(UserError, match="1 or 3 channels"):
        prepare(config(pictures, channels=4), tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("size", [(64, 64), (40, 16), (16, 40), (7, 9), (33, 17)])
def test_the_cut_is_square_and_central(size, tmp_path):
    # A gradient from left to right: the centre keeps its value, whatever the scale.
    width, height = size
    row = 255 * (np.arange(width) + 0.5) / width
    Image.fromarray(np.tile(row, (height, 1)).astype(np.uint8)).save(tmp_path / "a.png")
    pixels = square(tmp_path / "a.png", 8, 1)
    assert pixels.shape == (8, 8, 1) and pixels.dtype == np.uint8
    assert abs(pixels.mean() - 127.5) < 4
    span = 255 * min(1, height / width)
    assert abs(float(pixels[0, -1, 0]) - float(pixels[0, 0, 0]) - span * 7 / 8) < 16


def test_gray_pictures_take_three_channels_and_back(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "gray.png")
    assert np.all(square(tmp_path / "gray.png", 8, 3) == 77)
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / "colour.png")
    assert np.all(square(tmp_path / "colour.png", 8, 1) == 90)
