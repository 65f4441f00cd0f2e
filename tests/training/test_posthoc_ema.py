"""Averages of any width from snapshots of two: the reference's numbers, and a run's own average."""

import json
from pathlib import Path

import jax
import numpy as np
import places
import pytest
from tiny_configs.configs import recipe, tiny

from guidestar.commands.config.training import identity_of, networks_of
from guidestar.commands.ema import run as reconstruct
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.models.checkpoints import load, save
from guidestar.training.averages import posthoc_ema as p
from guidestar.training.averages.ema import exponent_of_std

GOLDEN = np.load(places.GOLDEN / "posthoc_ema.npz")


def evenly(count, widths=(0.05, 0.10), end=1.0):
    return [(std, end * (i + 1) / count) for i in range(count) for std in widths]


def test_combinations_are_the_reference_implementations():
    stored = list(zip(GOLDEN["in_std"].tolist(), GOLDEN["in_ofs"].tolist(), strict=True))
    for std, expected in zip(GOLDEN["out_std"], GOLDEN["coeffs"].T, strict=True):
        found = p.coefficients(stored, float(std), float(GOLDEN["out_ofs"]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_inner_products_are_integrals_of_profiles():
    a, b = [(0.05, 0.4), (0.2, 1.0)], [(0.1, 0.7), (0.05, 0.4)]
    tau = (np.arange(200_000) + 0.5) / 200_000

    def profile(std, t):
        gamma = exponent_of_std(std)
        return np.where(tau < t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0)

    expected = [[np.mean(profile(*one) * profile(*other)) for other in b] for one in a]
    np.testing.assert_allclose(p.inner_products(a, b), expected, rtol=1e-4)


@pytest.mark.parametrize("which", range(6))
def test_a_stored_average_is_its_own_reconstruction(which):
    stored = evenly(3)
    found = p.coefficients(stored, *stored[which]) if stored[which][1] == 1 else None
    if found is None:
        stored = [one for one in stored if one[1] <= stored[which][1]]
        found = p.coefficients(stored, *evenly(3)[which])
    expected = [float(one == evenly(3)[which]) for one in stored]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("std", [0.03, 0.05, 0.15, 0.25])
def test_combinations_sum_to_one_and_know_no_unit_of_time(std):
    found = p.coefficients(evenly(8), std, 1.0)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    in_images = p.coefficients(evenly(8, end=2.0**31), std, 2.0**31)
    np.testing.assert_allclose(in_images, found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("std", "errors"),
    [
        (0.15, (3.3e-2, 9.0e-3, 2.3e-3, 5.8e-4)),
        (0.13, (1.9e-2, 5.3e-3, 1.3e-3)),
        (0.20, (7.5e-2, 2.3e-2, 6.4e-3)),
        (0.25, (0.17, 0.077, 0.034)),
        (0.03, (0.10, 0.039, 0.011)),
    ],
)
def test_profiles_are_met_as_closely_as_published(std, errors):
    found = [p.profile_error(evenly(8 * 2**i), std, 1.0) for i in range(len(errors))]
    np.testing.assert_allclose(found, errors, rtol=0.08)


@pytest.mark.longer
def test_a_random_walks_average_is_met_to_the_third_power_of_the_number_of_snapshots():
    steps = 16_384
    walk = np.cumsum(np.random.default_rng(0).normal(size=(steps, 256)), axis=0)

    def average(std, end):
        edges = (np.arange(end + 1) / end) ** (exponent_of_std(std) + 1)
        return np.diff(edges) @ walk[:end]

    tracked, errors = average(0.15, steps), []
    for count in (8, 16, 32, 64):
        stored = [(std, round(end)) for std, end in evenly(count, end=steps)]
        weights = p.coefficients(stored, 0.15, steps)
        made = sum(w * average(*one) for w, one in zip(weights, stored, strict=True))
        errors.append(np.linalg.norm(made - tracked) / np.linalg.norm(tracked))
    np.testing.assert_allclose(errors, (2.6e-3, 3.1e-4, 3.1e-5, 3.5e-6), rtol=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 0.1, 1.0), "no snapshot is given"),
        (([(0.05, 1.0), (0.05, 1.0)], 0.1, 1.0), "given twice"),
        (([(0.05, 2.0)], 0.1, 1.0), "leave the later ones out"),
        (([(0.05, 1.0)], 0.4, 1.0), "must lie between 0 and 0.2887"),
    ],
)
def test_what_no_combination_is_of_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        p.coefficients(*arguments)


@pytest.mark.parametrize(
    ("name", "std", "images"),
    [
        ("edm2-img512-s-2147483-0.130.pkl", 0.130, 2**31),
        ("network-snapshot-0008388-0.050.pkl", 0.05, 2**23),
        ("network-snapshot-0016777-0.100.pkl", 0.1, 2**24),
    ],
)
def test_published_names_say_width_and_whole_batches_of_images(name, std, images):
    assert p.snapshot_of_name(Path(name)) == p.Snapshot(Path(name), std, images)


def test_another_name_is_refused():
    with pytest.raises(UserError, match="not named"):
        p.snapshot_of_name(Path("model.pkl"))


def run(steps, every, workdir, batch_size=8):
    """Train with widths 0.05 and 0.10 stored and 0.15 tracked; return config and final state."""
    config = tiny(steps=steps, batch_size=batch_size)
    config.optimizer.update(learning_rate=5e-3, decay_steps=steps)
    config.checkpoint.every_steps = steps
    config.log.every_steps = steps
    config.ema.update(
        profile="power", std=0.15, tracked=(0.05, 0.10), snapshot_images=every * batch_size
    )
    return config, train(config, workdir)


def difference(made, tracked):
    flat = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])
        for tree in (made, tracked)
    ]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of 64 steps with 8 snapshots."""
    workdir = tmp_path_factory.mktemp("short")
    return *run(64, 8, workdir), workdir


def stored_widths(workdir):
    return [(one.std, one.images) for one in p.snapshots_below(workdir)]


def test_a_run_stores_its_averages_and_makes_one_of_another_width(short):
    _, state, workdir = short
    # The tracked one is stored as well: what it is made of must be the other two.
    assert stored_widths(workdir)[:3] == [(0.05, 64), (0.10, 64), (0.15, 64)]
    assert len(stored_widths(workdir)) == 24
    others = [one for one in p.snapshots_below(workdir) if one.std != 0.15]
    path = p.reconstruct_to(workdir / "made.safetensors", others, 0.15, dtype=np.float32)
    loaded = load(path)
    error = difference(loaded.params, state.main.ema[0])
    assert 1e-7 < error < 5e-3  # 8 snapshots: the spec's accuracy on real weights
    assert loaded.sidecar["ema"]["profile_error"] == pytest.approx(3.3e-2, rel=0.05)
    # Half precision on disk is all that a stored width loses.
    stored = load(others[-1].path).params
    assert difference(stored, state.main.ema[2]) < 5e-4


def test_a_width_needs_snapshots_of_one_run(short, tmp_path):
    config, _, workdir = short
    other = tmp_path / "other.safetensors"
    state = load(p.snapshots_below(workdir)[0].path)
    save(other, state.params, config.model.to_dict(), {"config": {"seed": 7}})
    mixed = [*p.snapshots_below(workdir)[:2], p.Snapshot(other, 0.05, 128)]
    with pytest.raises(UserError, match="of runs with different configs"):
        p.reconstruct_to(tmp_path / "x.safetensors", mixed, 0.1)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.longer
def test_the_verb_writes_weights_that_load_and_say_where_they_come_from(short, capsys):
    config, _, workdir = short
    config.ema.reconstruct = 0.08
    path = reconstruct(config, workdir)
    assert (
        path.name == "digits-0.080.safetensors"
        and "std 0.08 at 512 images" in capsys.readouterr().out
    )
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["ema"]["images"] == 512 and len(about["ema"]["snapshots"]) == 24
    assert sum(one["weight"] for one in about["ema"]["snapshots"]) == pytest.approx(1)
    assert load(path).spec.shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "ema.reconstruct is 0: say which"),
        ({"reconstruct": 0.1, "reconstruct_dtype": "int8"}, "'int8' is not one of float16"),
        ({"reconstruct": 0.1}, "holds no averages: train with ema.snapshot_images"),
    ],
)
def test_the_verb_refuses_what_it_cannot_make(tmp_path, fields, message):
    config = tiny()
    config.ema.update(fields)
    with pytest.raises(UserError, match=message):
        reconstruct(config, tmp_path)


@pytest.mark.longer
def test_snapshots_change_no_number_of_a_run_and_may_be_asked_for_later(short, tmp_path):
    config, state, _ = short
    without = tiny(steps=64)
    without.update(config)
    without.ema.snapshot_images = 0
    again = train(without, tmp_path)
    assert difference(again.main.ema, state.main.ema) == 0 and not (tmp_path / p.FOLDER).exists()
    assert identity_of(without, networks_of(without)) == identity_of(config, networks_of(config))


@pytest.mark.longer
def test_weights_themselves_are_stored_on_request_and_are_no_average(tmp_path):
    config = tiny(steps=4)
    config.ema.update(tracked=(0.1,), snapshot_images=16, snapshot_weights=True)
    state = train(config, tmp_path)
    names = sorted(path.stem for path in (tmp_path / p.FOLDER).glob("*.safetensors"))
    assert names == [f"{n:012d}-{kind}" for n in (16, 32) for kind in ("0.100", "weights")]
    stored = load(tmp_path / p.FOLDER / "000000000032-weights.safetensors")
    assert difference(stored.params, state.main.params) < 5e-4
    assert stored_widths(tmp_path) == [(0.1, 16), (0.1, 32)]
    assert recipe(config).main.averages.stds == (None, 0.1)


@pytest.mark.longer
def test_a_run_of_2000_steps_tracks_what_is_reconstructed(tmp_path):
    _, state = run(2000, 125, tmp_path, batch_size=32)
    others = [one for one in p.snapshots_below(tmp_path) if one.std != 0.15]
    path = p.reconstruct_to(tmp_path / "made.safetensors", others, 0.15, dtype=np.float32)
    assert difference(load(path).params, state.main.ema[0]) < 1e-3
