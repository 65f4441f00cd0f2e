"""Weight files: layers stacked or not, written one array at a time, refused by name."""

import json
import shutil
import weakref

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_configs.configs import write_untrained

from guidestar import models
from guidestar.core.errors import UserError
from guidestar.core.files import Array, write_pair
from guidestar.models.checkpoints import load, resolve, save
from guidestar.models.checkpoints.published import OTHERS, edm2, find, folder, lookup
from guidestar.models.checkpoints.readers import open_weights
from guidestar.models.checkpoints.stacking import Place, places

TINY = dict(
    name="dit", image_size=8, channels=1, num_classes=3, patch_size=4, width=16, depth=2, heads=2
)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return write_untrained(tmp_path_factory.mktemp("weights") / "tiny.safetensors", TINY)


@pytest.fixture
def tiny(untrained, tmp_path):
    """A weight file of a tiny network."""
    for path in (untrained, untrained.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    return tmp_path / untrained.name


@jax.jit
def estimate(denoiser, x, labels):
    return denoiser(x, 0.7, labels)


def predictions(denoiser, labels=(0, 3)):
    x = jnp.linspace(-2, 2, 2 * 8 * 8).reshape(2, 8, 8, 1)
    return estimate(denoiser, x, None if labels is None else jnp.array(labels))


def test_layers_are_found_alone_stacked_and_in_a_stack():
    file = ("a/blocks/0/k", "a/blocks/1/k", "b/k", "c/2/k")
    wanted = ("a/blocks/k", "b/0/k", "b/1/k", "c/k", "a/blocks/0/k", "d")
    assert places(wanted, file) == {
        "a/blocks/k": Place(("a/blocks/0/k", "a/blocks/1/k"), stacks=True),
        "b/0/k": Place(("b/k",), layer=0),
        "b/1/k": Place(("b/k",), layer=1),
        "c/k": None,  # layers 0 and 1 are missing
        "a/blocks/0/k": Place(("a/blocks/0/k",)),
        "d": None,
    }


def test_ten_layers_are_stacked_in_their_order():
    arrays = {f"blocks/{n}/k": np.full(3, n) for n in range(12)}
    place = places(["blocks/k"], arrays)["blocks/k"]
    shapes = {name: array.shape for name, array in arrays.items()}
    assert place.shape(shapes) == (12, 3)
    np.testing.assert_array_equal(place.read(arrays.get)[:, 0], np.arange(12))


@pytest.mark.longer
def test_a_network_is_the_same_with_its_layers_stacked_or_not(tiny, tmp_path):
    alone, stacked = load(tiny), load(tiny, scan_layers=True)
    np.testing.assert_allclose(
        predictions(stacked.denoiser), predictions(alone.denoiser), atol=2e-6
    )
    again = tmp_path / "stacked.safetensors"
    save(again, stacked.params, stacked.sidecar["model"], {})
    back = load(again, scan_layers=False)
    np.testing.assert_array_equal(predictions(back.denoiser), predictions(alone.denoiser))


def test_load_returns_what_a_user_asks_of_a_denoiser(tiny):
    denoiser = models.load(tiny, dtype="bfloat16")
    assert denoiser.shape == (8, 8, 1) and denoiser.null_condition == 3
    assert denoiser.sigma_range == (0.002, 80.0) and denoiser.macs == models.macs(denoiser) > 0
    assert denoiser.params["patch_in"]["kernel"].dtype == jnp.float32
    full = predictions(models.load(tiny))
    half = predictions(denoiser)
    assert half.dtype == jnp.float32 and 0 < abs(half - full).max() < 0.05
    np.testing.assert_array_equal(
        predictions(models.load(tiny), None), predictions(models.load(tiny), (3, 3))
    )


def test_a_classifier_is_no_denoiser():
    with pytest.raises(UserError, match=r"no denoiser but a classifier.*checkpoints\.load"):
        models.load("fashion_mnist_classifier")


def test_arrays_are_read_one_after_another_as_they_are_written(tmp_path):
    before = []

    def read(n):
        assert all(one() is None for one in before)  # forgotten
        value = np.full((2, 3), n, ml_dtypes.bfloat16)
        before.append(weakref.ref(value))
        return value

    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    arrays = {f"layer/{n}": Array((2, 3), bfloat16, lambda n=n: read(n)) for n in range(5)}
    write_pair(tmp_path / "a.safetensors", arrays, {"model": {}})
    stored = load_file(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(stored["layer/3"].astype(np.float32), np.full((2, 3), 3.0))


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_pair(
        path,
        {"k": Array((1,), np.dtype(np.float32), lambda: np.ones(1, np.float32))},
        {"model": {}},
    )
    before = [one.read_bytes() for one in (path, path.with_suffix(".json"))]

    def broken():
        raise UserError("k is damaged")

    with pytest.raises(UserError, match="damaged"):
        write_pair(
            path, {"k": Array((1,), np.dtype(np.float32), broken)}, {"model": {"name": "other"}}
        )
    assert [one.read_bytes() for one in (path, path.with_suffix(".json"))] == before
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("alone", [".safetensors", ".json"])
def test_one_of_a_pair_that_was_replaced_alone_is_refused(alone, tiny, tmp_path):
    other = tmp_path / "other.safetensors"
    save(other, {"k": np.ones(2)}, TINY | {"depth": 1}, {})
    shutil.copy(other.with_suffix(alone), tiny.with_suffix(alone))
    with pytest.raises(UserError, match=r"tiny\.json is of other arrays than those in .*tiny"):
        load(tiny)


def test_arrays_are_kept_whatever_their_memory_layout(tmp_path):
    kept = {"columns": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    kept |= {"steps": np.arange(10)[::2], "turned": np.arange(6, dtype=np.uint8).reshape(2, 3).T}
    write_pair(tmp_path / "a.safetensors", kept, {})
    found = load_file(tmp_path / "a.safetensors")
    for name, value in kept.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_tilde_is_home_wherever_weights_are_named(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve("~/tiny.safetensors") == tiny
    assert open_weights("~/tiny.safetensors").path == tiny
    monkeypatch.setenv("GUIDESTAR_WEIGHTS", "~/published")
    assert folder() == tiny.parent / "published"
    save("~/saved.safetensors", {"k": np.ones(2)}, TINY, {})
    assert (tiny.parent / "saved.json").exists()


def rewritten(path, change):
    """Write a file's arrays again, after ``change`` has been made to them."""
    arrays = {name: value.astype(np.float32) for name, value in load_file(path).items()}
    change(arrays)
    lazy = {k: Array(v.shape, v.dtype, lambda v=v: v) for k, v in arrays.items()}
    write_pair(path, lazy, json.loads(path.with_suffix(".json").read_text()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("final/bias"), r"final/bias has shape None .*\(16,\) in the network"),
        (lambda a: a.update(extra=np.ones(2)), r"extra has shape \(2,\) .*None of that name"),
        (
            lambda a: a.update({"final/bias": np.ones(5)}),
            r"final/bias has shape \(5,\) in the file and \(16,\)",
        ),
        (lambda a: a.update({"final/bias": np.full(16, np.nan)}), "final/bias has 16 of 16 values"),
        (lambda a: a.pop("blocks/0/mlp_in/bias"), "blocks/0/mlp_in/bias has shape None"),
    ],
)
def test_arrays_that_do_not_fit_are_named_with_both_shapes(tiny, change, message):
    rewritten(tiny, change)
    with pytest.raises(UserError, match=message):
        load(tiny)


def test_a_stack_of_more_layers_than_the_network_has_is_refused(tiny, tmp_path):
    stacked = load(tiny, scan_layers=True)
    path = tmp_path / "stacked.safetensors"
    save(path, stacked.params, stacked.sidecar["model"], {})
    with pytest.raises(UserError, match="2 layers in the file, more than"):
        load(path, scan_layers=False, depth=1)


def test_a_sidecar_that_describes_nothing_is_refused(tiny):
    tiny.with_suffix(".json").write_text('{"modell": 1}')
    with pytest.raises(UserError, match=r"tiny\.json does not describe"):
        load(tiny)


def test_published_files_are_known_by_name_and_missing_ones_say_where_they_are(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GUIDESTAR_WEIGHTS", str(tmp_path))
    small = edm2("edm2-img512-s-2147483-0.130.pkl")
    assert small.size == 2 * 280_212_837 and lookup("tiny.pt") is None
    for entry in (small, *OTHERS.values()):
        with pytest.raises(UserError) as refused:
            load(entry.file)
        for part in (entry.url, f"{entry.size / 1e9:.2f} GB", "sha256", entry.licence):
            assert part in str(refused.value)
    (tmp_path / small.file).write_bytes(b"x")
    assert find(small.file) == tmp_path / small.file


def test_a_published_file_of_another_checksum_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDESTAR_WEIGHTS", str(tmp_path))
    file = "DiT-XL-2-256x256.pt"
    known = OTHERS[file]
    monkeypatch.setitem(OTHERS, file, known.__class__(**{**vars(known), "sha256": "0" * 64}))
    (tmp_path / file).write_bytes(b"not the weights")
    with pytest.raises(UserError, match=r"has sha256 .* download it again from https"):
        find(file)
