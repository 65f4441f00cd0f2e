"""Prepared folders: what goes in comes out, damage is named, what is unfinished is not a set."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from guidestar import input_pipeline
from guidestar.core.errors import UserError
from guidestar.data import record_folder

SHAPE, PER_SHARD, SHARDS = (3, 2, 4), 8, 3
COUNT = PER_SHARD * SHARDS
LABELS = np.arange(COUNT, dtype=np.int32) % 5


def description(dtype="uint8"):
    return dict(shape=SHAPE, dtype=dtype, num_classes=5)


def arrays(dtype="uint8"):
    values = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE))
    return values.astype(record_folder.DTYPES[dtype])


def write(folder, dtype="uint8", shards=range(SHARDS), finish=True, change=0):
    writer = record_folder.Writer(folder, description(dtype))
    for shard in shards:
        part = slice(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        stored = arrays(dtype)[part]
        writer.write(shard, stored ^ change if change else stored, LABELS[part])
    if finish:
        writer.finish(SHARDS)
    return writer


def damage(folder, shard, record):
    """Change one byte in the middle of a record."""
    path = folder / f"{shard:05d}.array_record"
    content = bytearray(path.read_bytes())
    inside = arrays()[shard * PER_SHARD + record].tobytes()
    content[content.index(inside) + len(inside) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", record_folder.DTYPES)
def test_examples_come_back_in_any_order_over_all_shards(dtype, tmp_path):
    write(tmp_path / "set", dtype)
    source = input_pipeline.load_source(str(tmp_path / "set"))
    assert source.shape == SHAPE and source.num_classes == 5 and source.num_examples == COUNT
    order = np.random.default_rng(1).permutation(COUNT)
    found, labels = source.read(order)
    np.testing.assert_array_equal(found, arrays(dtype)[order])
    assert found.dtype == record_folder.DTYPES[dtype] and labels.dtype == np.int32
    np.testing.assert_array_equal(labels, LABELS[order])


def test_bfloat16_keeps_its_type(tmp_path):
    write(tmp_path, "bfloat16")
    found, _ = record_folder.load(tmp_path).read(np.array([1]))
    assert found.dtype == ml_dtypes.bfloat16


def test_a_damaged_record_is_named_once_and_the_next_taken(tmp_path):
    write(tmp_path)
    damage(tmp_path, 1, 3)
    source = record_folder.load(tmp_path, most_damaged=0.1)
    bad = PER_SHARD + 3
    with pytest.warns(UserWarning, match=r"record 3 of .*00001\.array_record") as seen:
        found, labels = source.read(np.array([0, bad, bad, COUNT - 1]))
    assert len(seen) == 1
    expected = [0, bad + 1, bad + 1, COUNT - 1]
    np.testing.assert_array_equal(found, arrays()[expected])
    np.testing.assert_array_equal(labels, LABELS[expected])
    assert list(source.records.damaged) == [bad]


def test_more_damage_than_allowed_stops_and_names_it_all(tmp_path):
    write(tmp_path)
    for shard in range(3):
        damage(tmp_path, shard, 2)
    source = record_folder.load(tmp_path, most_damaged=0.1)  # 2 of 24
    with (
        pytest.warns(UserWarning, match="skipping"),
        pytest.raises(UserError, match=r"3 of 24 .*lets 2 pass: .*00000.*00001.*00002"),
    ):
        source.read(np.arange(COUNT))


def test_an_interrupted_folder_goes_on_with_the_shards_that_are_missing(tmp_path):
    first = write(tmp_path, shards=[0], finish=False)
    before = first.path(0).stat().st_mtime_ns
    with pytest.raises(UserError, match="not a finished data set"):
        record_folder.load(tmp_path)
    again = record_folder.Writer(tmp_path, description())
    assert [again.has(shard) for shard in range(SHARDS)] == [True, False, False]
    (tmp_path / "00001.partial").write_bytes(b"half a shard")
    write(tmp_path, shards=[1, 2])
    assert first.path(0).stat().st_mtime_ns == before
    found, _ = record_folder.load(tmp_path).read(np.arange(COUNT))
    np.testing.assert_array_equal(found, arrays())


def test_other_settings_do_not_go_on_with_a_folder_and_a_whole_one_is_kept(tmp_path):
    write(tmp_path, shards=[0], finish=False)
    with pytest.raises(UserError, match="other settings"):
        record_folder.Writer(tmp_path, description("float16"))
    write(tmp_path)
    with pytest.raises(UserError, match="already holds a data set"):
        record_folder.Writer(tmp_path, description())


def test_a_record_of_another_shape_is_refused(tmp_path):
    writer = record_folder.Writer(tmp_path, description())
    with pytest.raises(ValueError, match="record of shape"):
        writer.write(0, [np.zeros((2, 2, 4))], [0])
    assert not writer.has(0)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_count(path):
    facts = json.loads(path.read_text())
    facts["shards"][0]["records"] += 1
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("00001.array_record", lambda path: path.unlink(), "00001.array_record is missing"),
        ("00001.array_record", cut, "00001.array_record"),
        ("dataset.json", other_count, "has 8 records and dataset.json says 9"),
        ("dataset.json", lambda path: path.write_text("{"), "dataset.json is damaged"),
        ("dataset.json", lambda path: path.write_text('{"format": 9}'), "this release reads 1"),
    ],
)
def test_folders_that_are_not_whole_are_refused_by_name(file, change, message, tmp_path):
    write(tmp_path)
    change(tmp_path / file)
    with pytest.raises(UserError, match=message):
        record_folder.load(tmp_path)


def test_a_part_of_a_folder_can_be_chosen_and_damage_is_replaced_from_within(tmp_path):
    write(tmp_path)
    damage(tmp_path, 1, 3)
    end = PER_SHARD + 4
    part = record_folder.load(tmp_path, f"train[2:{end}]", most_damaged=0.1)
    assert part.num_examples == end - 2
    with pytest.warns(UserWarning, match="skipping"):
        found, labels = part.read(np.array([0, end - 3]))
    np.testing.assert_array_equal(found, arrays()[[2, 2]])
    np.testing.assert_array_equal(labels, LABELS[[2, 2]])
    with pytest.raises(UserError, match="no split 'test': choose one of train"):
        record_folder.load(tmp_path, "test")


def test_a_folder_is_known_by_its_content(tmp_path):
    write(tmp_path / "set")
    whole = record_folder.load(tmp_path / "set").identity()
    assert record_folder.load(tmp_path / "set", "train[:50%]").identity() != whole
    shutil.move(tmp_path / "set", tmp_path / "moved")
    assert record_folder.load(tmp_path / "moved").identity() == whole
    write(tmp_path / "set", change=1)
    assert record_folder.load(tmp_path / "set").identity() != whole
    # Of a folder that an earlier release wrote, the shards themselves tell.
    for name in ("set", "moved"):
        path = tmp_path / name / "dataset.json"
        facts = json.loads(path.read_text())
        facts["shards"] = [{k: s[k] for k in ("file", "records")} for s in facts["shards"]]
        path.write_text(json.dumps(facts))
    old = [record_folder.load(tmp_path / name).identity() for name in ("set", "moved")]
    assert old[0] != old[1]


def test_shards_of_another_set_are_refused(tmp_path):
    write(tmp_path / "set")
    write(tmp_path / "other", change=1)
    shutil.copy(tmp_path / "other/00001.array_record", tmp_path / "set")
    with pytest.raises(UserError, match=r"00001\.array_record is not the shard that dataset\.json"):
        record_folder.load(tmp_path / "set")


def test_a_pipeline_reads_it_the_same_on_any_number_of_hosts(tmp_path):
    write(tmp_path)
    source = record_folder.load(tmp_path)

    def batches(hosts):
        parts = []
        for host in range(hosts):
            pipeline = input_pipeline.Pipeline(
                source, 12, seed=3, process_index=host, process_count=hosts
            )
            parts.append([next(pipeline) for _ in range(4)])
            pipeline.close()
        joined = [np.concatenate([part[n]["condition"] for part in parts]) for n in range(4)]
        return np.concatenate(joined)

    np.testing.assert_array_equal(batches(1), batches(2))
    np.testing.assert_array_equal(np.sort(batches(3)[:COUNT]), np.sort(LABELS))
