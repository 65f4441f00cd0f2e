"""Results are written whole, and known by what they are made of and hold, not by names."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from guidestar.core.errors import UserError
from guidestar.runtime import distributed
from guidestar.runtime.store import RECORD, Store

MADE_OF = {"seed": 0, "weights": {"main": {"sha256": "a" * 64}}, "sigmas": [80.0, 1.0, 0.0]}
SAID = {"weights.main": "net.safetensors"}


def image(index):
    return np.full((4, 6, 1), index * 10, np.uint8)


def make(indices):
    return np.stack([image(index) for index in indices]), np.asarray(indices % 3, np.int32)


def claim(folder, format="png", count=6, *, told=None, **changes):
    fields = dict(made_of=MADE_OF, said=SAID, shape=(4, 6, 1)) | changes
    say = [].append if told is None else told.append
    return Store.claimed(folder, format, count, say=say, **fields)


def fill(folder, format="png", count=6, batch_size=2, **changes):
    store, made = claim(folder, format, count, **changes), []
    complete = store.fill(store.share(), make, batch_size, made.append)
    assert complete
    return sum(made)


@pytest.mark.parametrize("format", ["png", "npz"])
def test_what_is_written_is_read_and_not_made_again(tmp_path, format):
    assert fill(tmp_path, format, 3) == 3
    assert fill(tmp_path, format, 6) == 3 and fill(tmp_path, format, 4) == 0
    store = Store.open(tmp_path, 6)
    np.testing.assert_array_equal(store.read(np.array([5, 0])), make(np.array([5, 0]))[0])
    labels = store.labels(np.arange(6))
    assert labels is None if format == "png" else labels.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(UserError, match="image 6 .* is missing"):
        store.read(np.array([6]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seed=1), r"seed was 0 and is 1\. Give again what they were made of, or choose"),
        (
            dict(weights={"main": {"sha256": "b" * 64}}),
            r"weights\.main\.sha256 was 'aaa.*\(net\.safetensors\) and is 'bbb.*\(elsewhere\)",
        ),
        (dict(weights={}, seed=2), r"seed was 0 and is 2 \(1 more differ\)"),
        (dict(sigmas=[80.0, 1.1, 0.0]), "sigmas was"),
        (dict(decoder="c"), "decoder was not set and is 'c'"),
    ],
)
def test_results_made_of_something_else_are_refused(tmp_path, change, message):
    fill(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        claim(tmp_path, made_of=MADE_OF | change, said={"weights.main": "elsewhere"})
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_other_places_of_the_same_things_and_last_bits_go_on(tmp_path):
    fill(tmp_path, count=3)
    sigmas = [80.0, float(np.nextafter(1.0, 2.0)), 0.0]
    changes = dict(made_of=MADE_OF | dict(sigmas=sigmas), said={"weights.main": "moved"})
    assert fill(tmp_path, count=6, **changes) == 3
    assert json.loads((tmp_path / RECORD).read_text())["said"] == {"weights.main": "moved"}


def test_where_nothing_was_made_anything_may_begin(tmp_path):
    claim(tmp_path)
    assert fill(tmp_path, "npz", made_of=MADE_OF | dict(seed=5)) == 6


@pytest.mark.parametrize("record", [None, "", "[]", '{"format": "png"}'])
def test_images_of_which_nothing_is_known_are_refused(tmp_path, record):
    fill(tmp_path)
    path = tmp_path / RECORD
    path.unlink() if record is None else path.write_text(record)
    with pytest.raises(UserError, match="choose another --workdir, or restore that file"):
        claim(tmp_path)


def test_another_format_is_refused_with_the_one_that_is_there(tmp_path):
    fill(tmp_path)
    with pytest.raises(UserError, match="kept as png: set sampling.format=png"):
        claim(tmp_path, "npz")
    with pytest.raises(UserError, match="'jpeg' is not one of png, npz"):
        claim(tmp_path, "jpeg")


STRANGE = (
    *("._00000001.png", "00000001 copy.png", "00000001(1).png", "(1).png", "contact_sheet.png"),
    *("Thumbs.db", ".DS_Store", "1.png", "000000001.png", "00000000-2 copy.npz", "notes.txt"),
)


@pytest.mark.parametrize("format", ["png", "npz"])
@pytest.mark.parametrize("name", STRANGE)
def test_files_that_are_no_results_are_passed_over_and_named(tmp_path, format, name):
    fill(tmp_path, format, 4)
    first = min((tmp_path / "images").iterdir())
    (tmp_path / "images" / name).write_bytes(first.read_bytes())
    told = []
    assert fill(tmp_path, format, told=told) == 2
    assert len(told) == 1 and name in told[0]
    assert (tmp_path / "images" / name).read_bytes() == first.read_bytes()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    fill(tmp_path, count=4)
    for name in ("00000004.png.0123.partial", "00000002-2.npz.0123456789ab.partial"):
        (tmp_path / "images" / name).touch()
    told = []
    assert fill(tmp_path, told=told) == 2 and not told
    assert len(list((tmp_path / "images").iterdir())) == 6


def cut(data):
    return data[: len(data) // 2]


def empty(data):
    return b""


def tail_lost(data):
    return data[:-20] + b"\0" * 20


def head_lost(data):
    return b"\0" * 20 + data[20:]


@pytest.mark.parametrize("format", ["png", "npz"])
@pytest.mark.parametrize("harm", [cut, empty, tail_lost, head_lost])
def test_damaged_results_are_made_again_wherever_they_are(tmp_path, format, harm):
    fill(tmp_path, format)
    last = max((tmp_path / "images").iterdir())
    whole = last.read_bytes()
    last.write_bytes(harm(whole))
    told = []
    # In batches of another size: a shard that replaces another has another name.
    assert fill(tmp_path, format, batch_size=3, told=told) == (1 if format == "png" else 2)
    assert len(told) == 1 and last.name in told[0]
    assert fill(tmp_path, format) == 0
    store = Store.open(tmp_path, 6)
    np.testing.assert_array_equal(store.read(np.arange(6)), make(np.arange(6))[0])


def as_png(image, mode=None):
    def write(path):
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(path)

    return write


def shard(**arrays):
    return lambda path: np.savez(path, **arrays)


IMAGES = np.stack([image(4), image(5)])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("00000005.png", as_png(image(5)[:3, :, 0])),
        ("00000005.png", as_png(image(5)[..., 0], "RGB")),
        ("00000005.png", as_png(image(5)[..., 0], "P")),
        ("00000005.png", as_png(image(5)[..., 0].astype(np.uint16))),
        ("00000004-2.npz", shard(images=IMAGES[:, :3], indices=np.array([4, 5]))),
        ("00000004-2.npz", shard(images=IMAGES, indices=np.array([4, 4]))),
        ("00000004-2.npz", shard(images=IMAGES, indices=np.array([4, -5]))),
        ("00000004-2.npz", shard(images=IMAGES, indices=np.array([4.0, 5.0]))),
        ("00000004-2.npz", shard(images=IMAGES, indices=np.array([4]))),
        ("00000004-2.npz", shard(images=IMAGES)),
        ("00000004-2.npz", shard(indices=np.array([4, 5]))),
        ("00000004-2.npz", shard(images=np.array([{}, {}]), indices=np.array([4, 5]))),
    ],
)
def test_results_not_as_they_are_written_are_made_again(tmp_path, name, write):
    format = name[-3:]
    fill(tmp_path, format)
    write(tmp_path / "images" / name)
    assert fill(tmp_path, format) == (1 if format == "png" else 2)
    store = Store.open(tmp_path, 6)
    np.testing.assert_array_equal(store.read(np.arange(6)), make(np.arange(6))[0])


def test_two_shards_of_one_image_are_named_and_following_the_advice_goes_on(tmp_path):
    fill(tmp_path, "npz")
    images = tmp_path / "images"
    np.savez(images / "00000003-2.npz", images=IMAGES, indices=np.array([3, 4]))
    with pytest.raises(UserError, match=r"00000002-2.npz and 00000003-2.npz both hold image 3"):
        claim(tmp_path, "npz")
    (images / "00000002-2.npz").unlink()
    with pytest.raises(UserError, match=r"00000003-2.npz and 00000004-2.npz both hold image 4"):
        claim(tmp_path, "npz")
    (images / "00000003-2.npz").rename(tmp_path / "away.npz")
    assert fill(tmp_path, "npz") == 2


def test_an_earlier_releases_folder_is_compared_as_far_as_it_says(tmp_path):
    fill(tmp_path)
    path = tmp_path / RECORD
    path.write_text(json.dumps({"seed": 0, "sampling": {"format": "png"}}))
    with pytest.raises(UserError, match="says nothing of the images"):
        claim(tmp_path)
    with pytest.raises(UserError, match="seed was 7 and is 0"):
        claim(tmp_path, older=lambda stored: {"seed": 7})
    store = claim(tmp_path, older=lambda stored: {"seed": stored["seed"]})
    assert not store.compared and "made_of" not in json.loads(path.read_text())
    with pytest.raises(UserError, match="image 0 comes out otherwise now"):
        store.adopt(lambda indices: make(indices + 1), MADE_OF, SAID)
    store.adopt(make, MADE_OF, SAID)
    assert json.loads(path.read_text())["made_of"] == MADE_OF
    assert claim(tmp_path).compared


def test_processes_share_what_the_first_finds_whenever_they_look(tmp_path, monkeypatch):
    fill(tmp_path, count=3)
    store = claim(tmp_path, count=20)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    found, shares = {}, {}

    def broadcast(array):
        return found.setdefault("list", np.array(array))

    monkeypatch.setattr(distributed, "array_from_primary", broadcast)
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        shares[index] = store.share()
        # Whoever looks after this finds less.
        store.write(shares[index], *make(shares[index]))
    parts = [set(share.tolist()) for share in shares.values()]
    assert sorted(i for part in parts for i in part) == list(range(3, 20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_that_fails_is_heard_by_the_others(tmp_path, monkeypatch):
    store = claim(tmp_path)
    monkeypatch.setattr(distributed, "from_all", lambda number: [number, 1])
    with pytest.raises(UserError, match="process 1 could not make its part"):
        store.fill(store.share(), make, 2, lambda count: None)
    monkeypatch.setattr(distributed, "from_all", lambda number: [number, number + 1])
    with pytest.raises(UserError, match="process 1 differs from process 0 in what the results"):
        claim(tmp_path)


def test_what_fails_half_way_leaves_whole_results(tmp_path):
    def failing(indices):
        if indices[0] >= 4:
            raise UserError("not finite")
        return make(indices)

    store = claim(tmp_path)
    with pytest.raises(UserError, match="not finite"):
        store.fill(store.share(), failing, 2, lambda count: None)
    assert claim(tmp_path).missing().tolist() == [4, 5]
