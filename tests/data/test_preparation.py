"""A folder of pictures becomes a data set: what is made again, what is refused, and when."""

import collections
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from guidestar.core.errors import UserError
from guidestar.data import preparation, record_folder
from guidestar.data.preparation import prepare_pictures


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures in two folders; each has its own grey."""
    for number in range(12):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * number).save(path)
    return tmp_path / "pictures"


def prepare(source, folder, **fields):
    """Make a data set and return what was said."""
    said = []
    settings = dict(size=4, channels=1, records_per_shard=5, most_damaged=0.0)
    prepare_pictures(source, folder, say=said.append, **settings | fields)
    return said


def content(folder):
    """Return grey -> label of a data set."""
    source = record_folder.load(folder)
    arrays, labels = source.read(np.arange(source.num_examples))
    return dict(zip(arrays[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))


ALL = {20 * number: number % 2 for number in range(12)}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def begun(pictures, tmp_path, monkeypatch):
    """A data set of which the first shard is there."""
    write = record_folder.Writer.write

    def killed(self, shard, *given):
        if shard == 1:
            raise Killed
        return write(self, shard, *given)

    with monkeypatch.context() as patch:
        patch.setattr(record_folder.Writer, "write", killed)
        with pytest.raises(Killed):
            prepare(pictures, tmp_path / "set")
    return tmp_path / "set"


def test_it_goes_on_with_the_shards_that_are_missing(pictures, begun):
    before = (begun / "00000.array_record").stat().st_mtime_ns
    said = prepare(pictures, begun)
    assert any("3 shards in" in line and "2 still to make" in line for line in said)
    assert content(begun) == ALL
    assert (begun / "00000.array_record").stat().st_mtime_ns == before
    assert sorted(path.name for path in begun.iterdir()) == [
        *(f"{shard:05d}.array_record" for shard in range(3)),
        "dataset.json",
    ]


def swap(pictures):
    files = [f"{'ab'[n % 2]}/{n}.png" for n in range(12)]
    (pictures / "labels.csv").write_text("".join(f"{f},{1 - n % 2}\n" for n, f in enumerate(files)))
    return {grey: 1 - label for grey, label in ALL.items()}


def remove(pictures):
    (pictures / "a/0.png").unlink()
    return {grey: label for grey, label in ALL.items() if grey}


def add(pictures):
    Image.new("L", (8, 8), 255).save(pictures / "a/more.png")
    return ALL | {255: 0}


@pytest.mark.parametrize("change", [swap, remove, add])
def test_what_was_begun_of_other_pictures_or_labels_is_made_anew(change, pictures, begun):
    expected = change(pictures)
    assert any("1 shards were made: all are made anew" in line for line in prepare(pictures, begun))
    assert content(begun) == expected


def test_what_was_begun_of_another_folder_or_with_other_settings_is_kept(pictures, begun, tmp_path):
    shutil.copytree(pictures, tmp_path / "others")
    remove(tmp_path / "others")
    for source, fields in ((tmp_path / "others", {}), (pictures, dict(size=5))):
        with pytest.raises(UserError, match="beginning of a data set made with other settings"):
            prepare(source, begun, **fields)
    assert (begun / "00000.array_record").exists()
    shutil.move(pictures, tmp_path / "moved")
    prepare(tmp_path / "moved", begun)
    assert content(begun) == ALL


def test_a_finished_set_is_done_or_another_one(pictures, tmp_path):
    prepare(pictures, tmp_path / "set")
    assert prepare(pictures, tmp_path / "set")[-1].startswith("nothing to do")
    with pytest.raises(UserError, match=r"already holds a data set, of other shape"):
        prepare(pictures, tmp_path / "set", size=5)
    swap(pictures)
    with pytest.raises(UserError, match="of other classes, listing"):
        prepare(pictures, tmp_path / "set")
    # One that an earlier release made, without a digest of its pictures and labels.
    facts = json.loads((tmp_path / "set/dataset.json").read_text())
    for key in ("listing", "preparation", "classes"):
        del facts[key]
    (tmp_path / "set/dataset.json").write_text(json.dumps(facts))
    assert prepare(pictures, tmp_path / "set")[-1].startswith("nothing to do")


def spoil(pictures, *files):
    for file in files:
        (pictures / file).write_bytes(b"no picture")


def test_all_that_cannot_be_read_is_named_at_once_and_mending_it_helps(pictures, tmp_path):
    files = ["a/0.png", "b/3.png", "a/10.png"]
    kept = {file: (pictures / file).read_bytes() for file in files}
    spoil(pictures, *files)
    with pytest.raises(UserError, match=r"3 of 12 pictures cannot be read.*a/0.*a/10.*b/3"):
        prepare(pictures, tmp_path / "set")
    named = (tmp_path / "set/unreadable.txt").read_text()
    assert all(file in named for file in files)
    for file, data in kept.items():
        (pictures / file).write_bytes(data)
    prepare(pictures, tmp_path / "set")
    assert content(tmp_path / "set") == ALL


def test_removing_what_cannot_be_read_helps(pictures, tmp_path):
    spoil(pictures, "b/3.png")
    with pytest.raises(UserError, match="mend or remove them"):
        prepare(pictures, tmp_path / "set")
    (pictures / "b/3.png").unlink()
    prepare(pictures, tmp_path / "set")
    assert len(content(tmp_path / "set")) == 11


def test_letting_more_pass_helps_and_what_was_left_out_stays_named(pictures, tmp_path, monkeypatch):
    spoil(pictures, "a/0.png", "b/3.png")
    with pytest.raises(UserError, match=r"prepare\.most_damaged=0\.1 lets"):
        prepare(pictures, tmp_path / "set", most_damaged=0.1)
    monkeypatch.setattr(record_folder.Writer, "finish", lambda *given, **facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(pictures, tmp_path / "set", most_damaged=0.2)
    monkeypatch.undo()
    said = prepare(pictures, tmp_path / "set", most_damaged=0.2)
    assert said[-1].startswith("2 pictures could not be read and are left out: a/0.png: no picture")
    facts = json.loads((tmp_path / "set/dataset.json").read_text())
    assert [line.partition(":")[0] for line in facts["unreadable"]] == ["a/0.png", "b/3.png"]


def test_classes_of_which_nothing_is_left_are_named(pictures, tmp_path):
    (pictures / "c").mkdir()
    spoil(pictures, "c/0.png")
    said = prepare(pictures, tmp_path / "set", most_damaged=0.1)
    assert "1 classes have no picture that can be read: c" in said


def test_a_shard_of_nothing_but_damage_is_no_shard(pictures, tmp_path):
    spoil(pictures, "a/0.png", "b/3.png")
    prepare(pictures, tmp_path / "set", records_per_shard=1, most_damaged=0.2)
    assert len(content(tmp_path / "set")) == 10
    spoil(pictures, *(f"{'ab'[n % 2]}/{n}.png" for n in range(12)))
    with pytest.raises(UserError, match="no example is left"):
        prepare(pictures, tmp_path / "none", most_damaged=1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(source=""), "prepare.source is empty"),
        (dict(source=" "), "prepare.source is empty"),
        (dict(size=0), "size 0"),
        (dict(size=4.5), "size 4.5"),
        (dict(channels=4), "1 or 3 channels"),
        (dict(records_per_shard=0), "1 record a shard or more"),
        (dict(most_damaged=1.5), "most_damaged 1.5 is a share"),
        (dict(most_damaged=float("nan")), "most_damaged nan is a share"),
        (dict(folder="pictures"), "would lie among its pictures"),
        (dict(folder="pictures/set"), "would lie among its pictures"),
    ],
)
def test_what_makes_no_data_set_is_refused_before_anything(fields, message, pictures, tmp_path):
    fields = dict(source=pictures, folder="set") | fields
    target = tmp_path / fields.pop("folder")
    with pytest.raises(UserError, match=message):
        prepare(fields.pop("source"), target, **fields)
    assert not (tmp_path / "set").exists() and not (target / "unfinished.json").exists()


def test_pictures_that_the_disk_has_no_space_for_are_refused_at_the_start(
    pictures, tmp_path, monkeypatch
):
    usage = collections.namedtuple("usage", "free")(2**20)
    monkeypatch.setattr(record_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"12 examples of 600x600x3 need about 1\d MiB.* 1 MiB"):
        prepare(pictures, tmp_path / "set", size=600, channels=3)
    assert not (tmp_path / "set").exists()
    prepare(pictures, tmp_path / "set")


def test_shards_that_memory_cannot_hold_are_refused_at_the_start(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_free_memory", lambda: 2**21)
    with pytest.raises(UserError, match=r"5 pictures of 600x600x3 .*records_per_shard"):
        prepare(pictures, tmp_path / "set", size=600, channels=3)
    prepare(pictures, tmp_path / "set", size=600, channels=3, records_per_shard=1)


def test_a_full_disk_is_one_error_and_leaves_no_half_of_a_shard(pictures, tmp_path, monkeypatch):
    def full(self):
        raise RuntimeError("write() failed: No space left on device; writing /x; at byte 0")

    class Writer(record_folder.ArrayRecordWriter):
        close = full

    with monkeypatch.context() as patch:
        patch.setattr(record_folder, "ArrayRecordWriter", Writer)
        with pytest.raises(UserError, match=r"writing .*00000.array_record failed.*No space left"):
            prepare(pictures, tmp_path / "set")
    assert [path.name for path in sorted((tmp_path / "set").iterdir())] == [
        "unfinished.json",
        "unreadable.txt",
    ]
    prepare(pictures, tmp_path / "set")
    assert content(tmp_path / "set") == ALL


@pytest.mark.longer
def test_many_pictures_are_cut_by_processes_to_the_same_squares(pictures, tmp_path, monkeypatch):
    prepare(pictures, tmp_path / "alone")
    monkeypatch.setattr(preparation, "ALONE", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    spoil(pictures, "a/0.png")
    said = prepare(pictures, tmp_path / "together", most_damaged=0.1)
    assert "a/0.png: no picture" in said[-1]
    expected = content(tmp_path / "alone")
    assert content(tmp_path / "together") == {g: label for g, label in expected.items() if g}


def test_a_picture_that_cannot_be_read_is_named_whatever_its_bytes(pictures, tmp_path):
    with open(os.path.join(os.fsencode(pictures), b"a/\x83e\n.png"), "wb") as file:
        file.write(b"no picture")
    prepare(pictures, tmp_path / "set", most_damaged=0.1)
    facts = json.loads((tmp_path / "set/dataset.json").read_text())
    assert facts["unreadable"] == ["a/\\x83e\\n.png: no picture of a kind that is read"]


def test_home_is_understood_in_both_paths(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare("~/pictures", "~/set")
    assert content(tmp_path / "set") == ALL
