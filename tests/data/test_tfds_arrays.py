"""TFDS sets on disk: decoded once, read when large, never fetched, and clear when missing."""

import errno
import io
import json
import os
import shutil
import socket

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from guidestar.data import array_cache
from guidestar.data.sources import tfds_arrays
from guidestar.input_pipeline import Pipeline, load_source

NAME = "little_garments"
SHARDS = {"train": (300, 41), "test": (7,)}
IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
DICTIONARY = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


def example(image, label):
    """Return one record as TFDS writes it: a PNG and a number."""
    png = io.BytesIO()
    Image.fromarray(image).save(png, format="png")
    record = tf_example_pb2.Example()
    record.features.feature["image"].bytes_list.value.append(png.getvalue())
    record.features.feature["label"].int64_list.value.append(label)
    return record.SerializeToString()


def prepare(
    data_dir, name=NAME, version="1.0.0", size=("5", "4", "3"), dtype="uint8", fill=0, **info
):
    """Write a set as ``tfds build --file_format=array_record`` does; return its pixels, labels."""
    directory = data_dir / name / version
    directory.mkdir(parents=True)
    name = name.partition("/")[0]
    random, stored, splits = np.random.default_rng(0), {}, []
    for split, lengths in SHARDS.items():
        images = random.integers(0, 256, (sum(lengths), 5, 4, 3), np.uint8) ^ np.uint8(fill)
        labels = random.integers(0, 3, sum(lengths))
        stored[split] = images, labels
        start = 0
        for shard, length in enumerate(lengths):
            file = f"{name}-{split}.array_record-{shard:05}-of-{len(lengths):05}"
            writer = ArrayRecordWriter(str(directory / file), "group_size:1")
            for row in range(start, start + length):
                writer.write(example(images[row], int(labels[row])))
            writer.close()
            start += length
        splits.append(
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(length) for length in lengths],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    description = {"name": name, "version": version, "fileFormat": "array_record", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(description | info))
    features = {
        "image": {
            "pythonClassName": IMAGE,
            "image": {"dtype": dtype, "shape": {"dimensions": list(size)}},
        },
        "label": {"pythonClassName": LABEL, "classLabel": {"numClasses": "3"}},
    }
    (directory / "features.json").write_text(
        json.dumps({"pythonClassName": DICTIONARY, "featuresDict": {"features": features}})
    )
    (directory / "label.labels.txt").write_text("coat\nbag\nboot\n")
    return stored


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a data folder with one set, and what the set holds."""
    data_dir = tmp_path_factory.mktemp("tfds")
    return data_dir, prepare(data_dir)


@pytest.fixture
def data_dir(prepared, tmp_path, monkeypatch):
    """Return a copy of the data folder to damage, with an empty cache and no network."""
    monkeypatch.setenv("GUIDESTAR_CACHE", str(tmp_path / "cache"))

    def refuse(*address):
        raise AssertionError(f"the network was reached for: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return shutil.copytree(prepared[0], tmp_path / "tfds")


@pytest.fixture
def decodings(monkeypatch):
    """Return a list that grows by one each time a set is decoded."""
    calls, decode = [], tfds_arrays._decode

    def counting(*arguments):
        calls.append(arguments[0])
        return decode(*arguments)

    monkeypatch.setattr(tfds_arrays, "_decode", counting)
    return calls


def cached(tmp_path):
    """Return the files in the cache."""
    return sorted((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("split", list(SHARDS))
def test_a_prepared_set_is_read_as_it_was_written(prepared, data_dir, split):
    source = load_source(NAME, split, data_dir)
    images, labels = prepared[1][split]
    assert (source.name, source.shape, source.num_classes) == (NAME, (5, 4, 3), 3)
    assert source.x.dtype == np.uint8 and source.condition.dtype == np.int32
    np.testing.assert_array_equal(source.x, images)
    np.testing.assert_array_equal(source.condition, labels)


def test_a_part_of_a_split_can_be_chosen(prepared, data_dir):
    source = load_source(NAME, "train[10:20]", data_dir)
    np.testing.assert_array_equal(source.x, prepared[1]["train"][0][10:20])


def test_a_set_is_decoded_once(data_dir, tmp_path, decodings):
    first = load_source(NAME, "train", data_dir)
    second = load_source(NAME, "train", data_dir)
    load_source(NAME, "test", data_dir)
    assert decodings == [f"{NAME} train", f"{NAME} test"]
    assert second.shape == first.shape and second.num_classes == first.num_classes
    np.testing.assert_array_equal(second.x, first.x)
    np.testing.assert_array_equal(second.condition, first.condition)
    assert [file.suffix for file in cached(tmp_path)] == [".npz", ".npz"]


def test_the_cache_folder_can_be_named(data_dir, tmp_path):
    load_source(NAME, "test", data_dir, cache_dir=tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert not (tmp_path / "cache").exists()


def test_a_set_that_was_prepared_again_is_decoded_again(data_dir, decodings):
    load_source(NAME, "test", data_dir)
    shutil.rmtree(data_dir / NAME)
    images = prepare(data_dir, fill=255)["test"][0]
    np.testing.assert_array_equal(load_source(NAME, "test", data_dir).x, images)
    assert len(decodings) == 2


@pytest.mark.parametrize("whole", [2**30, 0])
def test_a_set_is_known_by_its_files_contents_wherever_they_are(
    data_dir, tmp_path, monkeypatch, whole
):
    monkeypatch.setattr(tfds_arrays, "READ_WHOLE", whole)
    first = load_source(NAME, "test", data_dir).identity()
    assert load_source(NAME, "test", data_dir, memory_limit=1).identity() == first
    assert load_source(NAME, "test[:3]", data_dir).identity() != first
    shutil.copytree(data_dir, tmp_path / "moved")
    assert load_source(NAME, "test", tmp_path / "moved").identity() == first
    shutil.rmtree(data_dir / NAME)
    prepare(data_dir, fill=255)
    assert load_source(NAME, "test", data_dir).identity() != first


def cut(file):
    """Keep the first half of a file."""
    os.truncate(file, file.stat().st_size // 2)


def flip_byte(file):
    """Change one byte in the middle of the pixels."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def store_something_else(file):
    """Replace the arrays by others."""
    with open(file, "wb") as handle:
        np.savez(handle, other=np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip_byte,
        store_something_else,
        lambda f: f.write_bytes(b""),
        lambda f: f.write_text("a" * 99),
    ],
    ids=["cut", "flipped byte", "other arrays", "empty", "text"],
)
def test_a_damaged_cache_file_is_made_anew(data_dir, tmp_path, decodings, damage):
    whole = load_source(NAME, "train", data_dir)
    damage(cached(tmp_path)[0])
    with pytest.warns(UserWarning, match="damaged"):
        again = load_source(NAME, "train", data_dir)
    np.testing.assert_array_equal(again.x, whole.x)
    load_source(NAME, "train", data_dir)
    assert len(decodings) == 2


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(prepared, data_dir, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="set GUIDESTAR_CACHE"):
        source = load_source(NAME, "test", data_dir)
    np.testing.assert_array_equal(source.x, prepared[1]["test"][0])


def test_a_full_disk_leaves_nothing_behind_and_does_not_stop_the_run(
    data_dir, tmp_path, monkeypatch
):
    def full(file, **arrays):
        file.write(b"some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(array_cache.np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert load_source(NAME, "test", data_dir).num_examples == 7
    assert cached(tmp_path) == []


@pytest.mark.longer
def test_a_large_set_gives_the_same_batches_as_one_in_memory(data_dir, tmp_path):
    memory = load_source(NAME, "train", data_dir)
    disk = load_source(NAME, "train", data_dir, memory_limit=1000)
    assert disk.x is None and disk.condition is None
    assert (disk.shape, disk.num_classes) == (memory.shape, memory.num_classes)
    assert disk.num_examples == memory.num_examples == 341
    pipelines = [Pipeline(source, 64, seed=9, flip=True) for source in (memory, disk)]
    for _ in range(12):  # more than two epochs
        a, b = (next(pipeline) for pipeline in pipelines)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype
    for pipeline in pipelines:
        pipeline.close()


def test_a_large_set_is_not_kept_in_the_cache(data_dir, tmp_path):
    load_source(NAME, "train", data_dir, memory_limit=341 * 60 - 1)
    assert not (tmp_path / "cache").exists()
    load_source(NAME, "train", data_dir, memory_limit=341 * 60)
    assert len(cached(tmp_path)) == 1


def test_a_set_that_is_not_there_comes_with_the_folder_and_the_command(data_dir):
    with pytest.raises(ValueError) as refusal:
        load_source("cifar100", "train", data_dir)
    message = str(refusal.value)
    assert f"cifar100 is not in {data_dir}" in message
    assert (
        f'pip install -e ".[prepare]" && tfds build cifar100 --file_format=array_record '
        f"--data_dir={data_dir}"
    ) in message
    assert "\n" not in message


def test_without_a_folder_the_one_of_tfds_is_used(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert load_source(NAME, "test").num_examples == 7
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(data_dir / "home"))
    with pytest.raises(ValueError, match="home/tensorflow_datasets"):
        load_source("cifar10")


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("cifra10", "cifar10"),
        ("little_garment", NAME),
        ("digit", "digits"),
        ("qqqqqqqqq", f"digits, fractal2d, {NAME}"),
    ],
)
def test_an_unknown_name_comes_with_what_it_may_have_meant(data_dir, name, offered):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'") as refusal:
        load_source(name, "train", data_dir)
    assert offered in str(refusal.value)


@pytest.mark.parametrize("name", ["../secret", "", "a b", "little_garments:", "/etc"])
def test_a_malformed_name_says_how_names_are_written(data_dir, name):
    if name.endswith(":"):
        assert load_source(name, "test", data_dir).num_examples == 7
    else:
        with pytest.raises(ValueError, match="set/config"):
            load_source(name, "train", data_dir)


def test_a_wrong_split_comes_with_those_that_exist(data_dir):
    for split in ("validation", "train[:", ""):
        with pytest.raises(ValueError, match=r"choose one of train, test"):
            load_source(NAME, split, data_dir)


def test_the_newest_version_is_read_unless_one_is_named(data_dir):
    for version, fill in (("9.0.0", 1), ("10.0.0", 2), ("11.0.0.incompleteAB", 3)):
        prepare(data_dir, version=version, fill=fill)
    oldest = load_source(f"{NAME}:1.0.0", "test", data_dir).x
    newest = load_source(NAME, "test", data_dir).x
    np.testing.assert_array_equal(newest, oldest ^ np.uint8(2))
    with pytest.raises(ValueError, match="unknown|not in"):
        load_source(f"{NAME}:2.0.0", "test", data_dir)


def test_one_config_is_found_and_several_must_be_named(data_dir):
    prepare(data_dir, "sized/32x32")
    assert load_source("sized", "test", data_dir).num_examples == 7
    prepare(data_dir, "sized/64x64")
    assert load_source("sized/64x64", "test", data_dir).num_examples == 7
    with pytest.raises(ValueError, match="sized/32x32, sized/64x64"):
        load_source("sized", "test", data_dir)


def test_another_file_format_is_refused_with_the_command(data_dir):
    prepare(data_dir, "old", fileFormat="tfrecord")
    with pytest.raises(ValueError, match="prepared as tfrecord.*--file_format=array_record"):
        load_source("old", "train", data_dir)


@pytest.mark.parametrize("image", [dict(size=("-1", "-1", "3")), dict(dtype="uint16")])
def test_images_of_many_sizes_or_deeper_pixels_are_refused(data_dir, image):
    prepare(data_dir, "varied", **image)
    with pytest.raises(ValueError, match="of one size"):
        load_source("varied", "train", data_dir)


def test_a_set_without_labels_is_refused(data_dir):
    directory = data_dir / NAME / "1.0.0"
    features = json.loads((directory / "features.json").read_text())
    del features["featuresDict"]["features"]["label"]
    (directory / "features.json").write_text(json.dumps(features))
    with pytest.raises(ValueError, match="choose a labelled image set"):
        load_source(NAME, "train", data_dir)


@pytest.mark.parametrize("memory_limit", [2**30, 1])
@pytest.mark.parametrize("damage", [cut, os.unlink, lambda f: f.write_bytes(b"x" * 65536)])
def test_damaged_files_are_named_with_the_command_that_repairs_them(data_dir, damage, memory_limit):
    damage(data_dir / NAME / "1.0.0" / f"{NAME}-train.array_record-00000-of-00002")
    with pytest.raises(ValueError, match=f"{NAME}/1.0.0 away, then run .*tfds build {NAME}"):
        load_source(NAME, "train", data_dir, memory_limit=memory_limit)


def test_a_damaged_description_is_named(data_dir):
    (data_dir / NAME / "1.0.0" / "features.json").write_text("{")
    with pytest.raises(ValueError, match="does not describe a TFDS set"):
        load_source(NAME, "train", data_dir)


@pytest.mark.skipif("GUIDESTAR_DATA_DIR" not in os.environ, reason="set GUIDESTAR_DATA_DIR")
@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("fashion_mnist", (28, 28, 1), 60_000), ("cifar10", (32, 32, 3), 50_000)],
)
def test_published_sets_hold_what_their_authors_state(name, shape, count):
    source = load_source(name, "train", os.environ["GUIDESTAR_DATA_DIR"])
    assert source.shape == shape and source.num_examples == count and source.num_classes == 10
    assert np.bincount(source.condition).tolist() == [count // 10] * 10
