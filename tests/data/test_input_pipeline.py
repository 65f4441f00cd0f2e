"""The stream of examples: complete, reproducible, the same on any number of hosts."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_configs.own_parts import registered

from guidestar.core.errors import UserError
from guidestar.core.registry import register
from guidestar.data.source import Source
from guidestar.data.sources import fractal2d
from guidestar.input_pipeline import Pipeline, drop_condition, epoch_order, load_source, uniform

COUNT = 10


@pytest.fixture
def source():
    """Return ten images whose pixels name the example (rows) and the column."""
    images = np.arange(COUNT)[:, None, None, None] * 20 + np.arange(3)[None, None, :, None]
    return Source(
        name="ten",
        shape=(2, 3, 1),
        num_classes=COUNT,
        x=np.broadcast_to(images, (COUNT, 2, 3, 1)).astype(np.uint8),
        condition=np.arange(COUNT, dtype=np.int32),
    )


class Slow:
    """Records that count how often they are read, and fail on demand."""

    def __init__(self):
        self.reads, self.failure = 0, None

    def __len__(self):
        return COUNT

    def read(self, indices):
        if self.failure:
            raise self.failure
        self.reads += 1
        images = np.stack([np.full((2, 3, 1), index, np.uint8) for index in indices])
        return images, np.asarray(indices, np.int32)


def take(pipeline, count):
    """Return ``count`` batches joined, and stop the pipeline."""
    batches = [next(pipeline) for _ in range(count)]
    pipeline.close()
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype


def until(condition, seconds=10):
    """Wait for ``condition()``; tell whether it came true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_each_epoch_visits_every_example_once_also_where_batches_straddle_epochs(source):
    labels = take(Pipeline(source, 4, seed=0), 10)["condition"].reshape(4, COUNT)
    for epoch in labels:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in labels}) == 4


def test_a_batch_may_be_larger_than_the_set(source):
    labels = take(Pipeline(source, 3 * COUNT, seed=0), 1)["condition"].reshape(3, COUNT)
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in labels)


def test_the_order_depends_on_the_seed_and_the_epoch():
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_and_the_decisions_never_change_between_releases():
    # A stored position means something else if these numbers ever move.
    assert epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert epoch_order(2**64 - 1, 1, 5).tolist() == [3, 2, 4, 0, 1]
    np.testing.assert_array_equal(
        uniform(7, 1, np.array([0, 1, 2**40])),
        [0.5091093394740435, 0.7512630066025818, 0.653239054142483],
    )


def test_decisions_are_uniform_and_independent_between_streams_and_seeds():
    positions = np.arange(20_000)
    draws = np.stack([uniform(seed, stream, positions) for seed in (0, 1) for stream in (0, 1)])
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.stack([np.histogram(draw, bins=10, range=(0, 1))[0] for draw in draws])
    # Five standard deviations of a binomial count, and of a correlation.
    np.testing.assert_allclose(counts, 2000, atol=5 * np.sqrt(2000 * 0.9))
    correlations = np.corrcoef(draws)[np.triu_indices(4, k=1)]
    np.testing.assert_allclose(correlations, 0, atol=5 / np.sqrt(len(positions)))
    neighbours = np.corrcoef(draws[0, 1:], draws[0, :-1])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(len(positions))


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_hosts_together_hold_the_same_global_batch(source, hosts):
    whole = take(Pipeline(source, 6, seed=5, flip=True), 1)
    parts = [
        take(Pipeline(source, 6, seed=5, flip=True, process_index=p, process_count=hosts), 1)
        for p in range(hosts)
    ]
    assert all(len(part["condition"]) == 6 // hosts for part in parts)
    assert_same(whole, {k: np.concatenate([part[k] for part in parts]) for k in whole})


def test_the_stream_does_not_depend_on_the_batch_size(source):
    assert_same(
        take(Pipeline(source, 3, seed=2, flip=True), 8),
        take(Pipeline(source, 12, seed=2, flip=True), 2),
    )


def test_the_state_counts_what_was_consumed_not_what_was_made_ahead(source):
    pipeline = Pipeline(source, 4, seed=0)
    assert pipeline.state() == {"examples_seen": 0}
    next(pipeline), next(pipeline)
    assert pipeline.state() == {"examples_seen": 8}
    pipeline.close()


@pytest.mark.parametrize(("batch_size", "hosts"), [(4, 1), (4, 2), (8, 4), (2, 1)])
def test_a_restored_run_continues_where_the_interrupted_one_stopped(source, batch_size, hosts):
    interrupted = Pipeline(source, 4, seed=1, flip=True)
    for _ in range(4):  # past the end of the first epoch
        next(interrupted)
    state = interrupted.state()
    expected = take(interrupted, 2)
    parts = []
    for host in range(hosts):
        pipeline = Pipeline(
            source, batch_size, seed=1, flip=True, process_index=host, process_count=hosts
        )
        next(pipeline)
        pipeline.restore(state)
        parts.append(take(pipeline, 8 // batch_size))
        assert pipeline.state() == {"examples_seen": state["examples_seen"] + 8}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    order = np.argsort(joined["index"])
    assert_same(expected, {name: value[order] for name, value in joined.items()})


def test_a_state_of_something_else_is_refused(source):
    pipeline = Pipeline(source, 4, seed=0)
    for state in ({}, {"step": 3}, {"examples_seen": -1}):
        with pytest.raises(ValueError, match="examples_seen"):
            pipeline.restore(state)
    assert take(pipeline, 1)["index"].tolist() == [0, 1, 2, 3]


def test_pixels_are_scaled_to_minus_one_to_one():
    pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    source = Source("three", (1, 1, 1), 3, x=pixels, condition=np.arange(3, dtype=np.int32))
    batch = take(Pipeline(source, 3, seed=0), 1)
    scaled = batch["x"][np.argsort(batch["condition"])].ravel()
    assert batch["x"].dtype == np.float32
    np.testing.assert_allclose(scaled, [-1, -0.6, 1], atol=1e-7)


def test_half_of_the_images_are_mirrored_left_to_right_and_nothing_else_changes(source):
    plain = take(Pipeline(source, 100, seed=3), 10)
    flipped = take(Pipeline(source, 100, seed=3, flip=True), 10)
    np.testing.assert_array_equal(plain["condition"], flipped["condition"])
    mirrored = np.all(flipped["x"] == plain["x"][:, :, ::-1], axis=(1, 2, 3))
    same = np.all(flipped["x"] == plain["x"], axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 430 < mirrored.sum() < 570  # 4.4 standard deviations
    # The decision belongs to the position: one example is mirrored in some epochs only.
    first = mirrored[plain["condition"] == 0]
    assert 0 < first.sum() < len(first)


def test_dropped_labels_depend_on_the_position_alone():
    positions = np.arange(10_000)
    labels = (positions % 10).astype(np.int32)
    dropped = drop_condition(labels, positions, seed=4, rate=0.1, null=10)
    assert dropped.dtype == np.int32
    assert 850 < np.sum(dropped == 10) < 1150
    np.testing.assert_array_equal(dropped[dropped != 10], labels[dropped != 10])
    part = drop_condition(labels[77:99], positions[77:99], seed=4, rate=0.1, null=10)
    np.testing.assert_array_equal(part, dropped[77:99])
    other = drop_condition(labels, positions, seed=5, rate=0.1, null=10)
    assert np.any((other == 10) != (dropped == 10))


def test_conditions_of_many_parts_are_dropped_whole_or_part_by_part():
    positions = np.arange(4000)
    text = np.broadcast_to(positions[:, None] + 1.0, (4000, 3)).astype(np.float32)
    condition = {"label": (positions % 10).astype(np.int32), "text": text, "size": positions}
    null = {"label": 10, "text": np.full(3, -1)}
    whole = drop_condition(condition, positions, seed=4, rate=0.1, null=null)
    gone = whole["label"] == 10
    labels = drop_condition(condition["label"], positions, seed=4, rate=0.1, null=10)
    np.testing.assert_array_equal(whole["label"], labels)  # the same decisions as of labels alone
    np.testing.assert_array_equal(np.all(whole["text"] == -1, axis=1), gone)
    np.testing.assert_array_equal(whole["text"][~gone], text[~gone])
    np.testing.assert_array_equal(whole["size"], positions)  # without a null: kept
    rate = {"label": 0.5, "text": 0.5}
    parts = drop_condition(condition, positions, seed=4, rate=rate, null=null)
    label, words = parts["label"] == 10, np.all(parts["text"] == -1, axis=1)
    shares = [label.mean(), words.mean(), (label & words).mean()]
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.25], atol=0.04)
    later = {name: part[50:] for name, part in condition.items()}
    again = drop_condition(later, positions[50:], seed=4, rate=rate, null=null)
    np.testing.assert_array_equal(again["label"], parts["label"][50:])
    assert drop_condition(None, positions, seed=4, rate=0.1, null=None) is None


@pytest.mark.parametrize(
    ("rate", "null", "message"),
    [
        (0.1, None, "without null condition"),
        ({"words": 0.1}, 10, "name 'words'.*has no parts"),
        (0.1, {"text": 1}, "name 'text'.*has no parts"),
    ],
)
def test_what_cannot_be_dropped_is_refused(rate, null, message):
    with pytest.raises(ValueError, match=message):
        drop_condition(np.arange(3), np.arange(3), seed=0, rate=rate, null=null)


def test_label_dropout_keeps_all_at_rate_0_and_none_at_rate_1():
    labels = np.arange(5, dtype=np.int32)
    kept = drop_condition(labels, np.arange(5), seed=0, rate=0.0, null=9)
    gone = drop_condition(labels, np.arange(5), seed=0, rate=1.0, null=9)
    assert kept.tolist() == [0, 1, 2, 3, 4] and gone.tolist() == [9] * 5
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
            drop_condition(labels, np.arange(5), seed=0, rate=rate, null=9)


def test_nothing_before_the_position_is_read_and_no_sooner_than_asked_for():
    records, place = Slow(), {"examples_seen": 6}
    source = Source("slow", (2, 3, 1), COUNT, records=records)
    asked = []
    records.read = lambda indices, read=records.read: asked.append(list(indices)) or read(indices)
    for begin in (
        lambda: Pipeline(source, 2, seed=0, state=place),
        lambda: (one := Pipeline(source, 2, seed=0), one.restore(place))[0],
    ):
        asked.clear()
        pipeline = begin()
        assert not until(lambda: asked, seconds=0.2)
        assert next(pipeline)["index"].tolist() == [6, 7]
        order = epoch_order(0, 0, COUNT)
        assert not any(set(rows) <= set(order[:6]) for rows in asked[:2])
        pipeline.close()


def test_batches_are_made_before_they_are_asked_for():
    records = Slow()
    pipeline = Pipeline(Source("slow", (2, 3, 1), COUNT, records=records), 2, seed=0)
    next(pipeline)
    assert until(lambda: records.reads > 4)
    assert pipeline.state() == {"examples_seen": 2}
    pipeline.close()


def test_a_closed_pipeline_leaves_no_thread_and_says_how_to_go_on(source):
    def threads():
        return {t for t in threading.enumerate() if t.name.startswith("grain")}

    before = threads()
    pipeline = Pipeline(source, 4, seed=0)
    next(pipeline)
    assert threads() - before
    state = pipeline.state()
    pipeline.close()
    pipeline.close()
    assert until(lambda: not threads() - before)
    with pytest.raises(ValueError, match="closed"):
        next(pipeline)
    pipeline.restore(state)
    assert take(pipeline, 1)["index"].tolist() == [4, 5, 6, 7]


def test_a_batch_that_cannot_be_read_is_not_counted():
    records = Slow()
    records.failure = OSError("gone")
    pipeline = Pipeline(Source("slow", (2, 3, 1), COUNT, records=records), 2, seed=0)
    with pytest.raises(OSError, match="gone"):
        next(pipeline)
    assert pipeline.state() == {"examples_seen": 0}
    pipeline.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=0), "batch size 0"),
        (dict(batch_size=5, process_count=2), "multiple of 2 hosts"),
        (dict(process_index=2, process_count=2), "process_index 2"),
        (dict(process_count=0), "process_count"),
        (dict(seed=-1), "seed -1"),
    ],
)
def test_bad_arguments_are_named(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        Pipeline(source, **dict(batch_size=4, seed=0) | arguments)


def test_conditions_may_be_any_pytree_or_none():
    x, text = np.zeros((COUNT, 2, 3, 1), np.uint8), np.arange(COUNT * 4.0).reshape(COUNT, 4)
    source = Source("text", (2, 3, 1), x=x, condition={"text": text, "length": np.arange(COUNT)})
    pipeline = Pipeline(source, 4, seed=0)
    batch = next(pipeline)["condition"]
    pipeline.close()
    assert batch.keys() == {"text", "length"}
    np.testing.assert_array_equal(batch["text"], text[batch["length"]])
    none = Pipeline(Source("none", (2, 3, 1), x=x), 4, seed=0)
    assert next(none)["condition"] is None
    none.close()
    with pytest.raises(ValueError, match="9 conditions cannot go with 10 examples"):
        Source("odd", (2, 3, 1), x=x, condition=np.arange(9))


def test_a_source_is_known_by_its_content_and_printed_without_its_arrays(source):
    again = dataclasses.replace(source, name="moved", x=source.x.copy())
    assert again.identity() == source.identity()
    other = dataclasses.replace(source, condition=source.condition[::-1].copy())
    assert other.identity() != source.identity()
    assert repr(source) == "Source(ten: 10 examples of (2, 3, 1), 10 classes)"
    json.dumps([source.identity(), load_source("digits").identity()])
    assert load_source("digits").identity() != load_source("digits", "test").identity()
    by_records = Source("slow", (2, 3, 1), COUNT, records=Slow())
    assert by_records.identity() == dataclasses.replace(by_records, name="other").identity()


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("out/set", True),
        ("out/deeper/set", True),
        ("nowhere/at/all", True),
        ("./set", True),
        ("{}/set", True),
        ("~/guidestar_has_no_such/set", True),
        ("nowhere/set", False),  # may be a set of TFDS and its config
        ("nothing", False),
    ],
)
def test_a_folder_that_was_moved_or_is_gone_is_said_to_be(tmp_path, monkeypatch, name, gone, made):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "out").mkdir()
    name = name.format(tmp_path)
    if made:
        Path(name).expanduser().mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        load_source(name)
    said = "there is no such folder (any more): if it was moved, give the path where it lies now"
    assert (said in str(raised.value)) == (gone and not made) and name in str(raised.value)


OWN = """
import numpy as np
from guidestar import register
from guidestar.data.source import Source

class Records:
    def __len__(self):
        return 3

    def read(self, indices):
        return np.zeros((len(indices), 2, 2, 1), np.uint8), None

@register("source")
def own_source(kept: bool = False):  # version {version}
    given = dict(x=Records().read(range(3))[0]) if kept else dict(records=Records())
    return Source("own", (2, 2, 1), **given)
"""


def test_code_tells_a_set_from_outside_where_its_contents_do_not(tmp_path, monkeypatch):
    def identity(version, kept):
        text = OWN.format(version=version)
        registered(monkeypatch, tmp_path, "source", "own_source", text)
        return load_source("own_source", kept=kept).identity()

    assert identity(1, False) == identity(1, False) != identity(2, False)
    assert identity(1, True) == identity(2, True)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(name="digits", dir="somewhere"), "data.dir 'somewhere' has no effect on digits"),
        (dict(name="digits", most_damaged=0.5), "data.most_damaged 0.5 has no effect"),
        (dict(name="digits", shuffle=True), "digits has no argument 'shuffle'"),
    ],
)
def test_fields_of_a_section_without_effect_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        load_source(**section)


def test_a_registered_source_is_found_by_name_with_its_own_arguments():
    @register("source", name="test_only_stripes")
    def stripes(size: int = 4, split: str = "train"):
        return Source(f"stripes {split}", (size, 1, 1), x=np.zeros((3, size, 1, 1), np.uint8))

    source = load_source("test_only_stripes", size=2, flip=True)
    assert source.shape == (2, 1, 1) and source.name == "stripes train"
    with pytest.raises(ValueError, match="takes a whole number"):
        load_source("test_only_stripes", size="2")


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train[:50%]", range(721)),
        ("train[90%:]", range(1298, 1442)),
        ("train[10:20]", range(10, 20)),
        ("train[-5:]", range(1437, 1442)),
        ("test[ 1 : 2 ]", range(1, 2)),
        ("train[:]", range(1442)),
    ],
)
def test_parts_of_a_split_are_chosen_as_tfds_does(split, rows):
    whole = load_source("digits", split.partition("[")[0])
    np.testing.assert_array_equal(load_source("digits", split).x, whole.x[rows.start : rows.stop])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train+test", "no split 'train\\+test'"),
        ("train[:2000]", "reaches beyond"),
        ("train[:200%]", "reaches beyond"),
        ("train[5:5]", "chooses none"),
        ("train[:5][:2]", "no split"),
        ("", "no split"),
    ],
)
def test_parts_that_cannot_be_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        load_source("digits", split)


@pytest.mark.parametrize("label", [-1, COUNT])
def test_labels_outside_of_the_classes_are_refused_by_example(source, label):
    labels = np.where(source.condition == 7, np.int32(label), source.condition)
    pipeline = Pipeline(dataclasses.replace(source, condition=labels), COUNT, seed=0)
    with pytest.raises(ValueError, match=f"example 7 of ten has the label {label}, .* 0 to 9"):
        next(pipeline)
    pipeline.close()


def test_an_empty_set_is_refused():
    empty = Source("none", (1,), 1, x=np.zeros((0, 1), np.uint8))
    with pytest.raises(ValueError, match="none is empty"):
        Pipeline(empty, 4, seed=0)


def test_digits_are_uint8_and_split_once_and_for_all():
    train, test = load_source("digits"), load_source("digits", "test")
    assert train.shape == (8, 8, 1) and train.num_classes == 10
    assert (train.num_examples, test.num_examples) == (1442, 355)
    assert train.x.dtype == np.uint8 and train.x.max() == 255 and train.x.min() == 0
    for part in (train, test):
        share = np.bincount(part.condition, minlength=10) / part.num_examples
        np.testing.assert_allclose(share, 0.1, atol=0.01)
    seen = {image.tobytes() for image in train.x}
    assert not any(image.tobytes() in seen for image in test.x)
    with pytest.raises(ValueError, match="train, test"):
        load_source("digits", "validation")


@pytest.mark.longer
def test_fractal_points_pass_through_unscaled_by_class_and_cannot_be_mirrored(monkeypatch):
    monkeypatch.setattr(fractal2d, "POINTS", 4096)
    source = load_source("fractal2d")
    assert source.shape == (2,) and source.num_classes == 2 and source.num_examples == 4096
    assert source.x.dtype == np.float32 and np.abs(source.x).max() > 1
    batch = take(Pipeline(source, 512, seed=0), 1)
    np.testing.assert_array_equal(batch["x"], source.x[epoch_order(0, 0, 4096)[:512]])
    assert set(batch["condition"]) == {0, 1}
    assert set(load_source("fractal2d", "B").condition) == {1}
    with pytest.raises(ValueError, match="flip"):
        Pipeline(source, 4, seed=0, flip=True)
    with pytest.raises(ValueError, match="choose one of train, A, B"):
        load_source("fractal2d", "test")
