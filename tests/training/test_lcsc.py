"""Combinations of saved weights: averages among them, and better ones by evolution."""

import json

import jax
import numpy as np
import pytest
from tiny_configs.configs import tiny, write_untrained

from guidestar.commands.lcsc import run as search
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.core.files import write_pair
from guidestar.models.checkpoints import load
from guidestar.training.averages import ema, lcsc
from guidestar.training.averages.weight_sums import WeightSum

COUNT = 6
POINTS = np.random.default_rng(0).normal(size=(COUNT, 8))
# The best combination has a negative coefficient and does not sum to 1.
BEST = np.array([0.1, -0.3, 0.2, 0.5, 0.9, 0.2])
STARTS = [np.eye(COUNT)[-1], lcsc.ema_coefficients(COUNT, 0.1), lcsc.ema_coefficients(COUNT, 0.2)]


def distance(coefficients):
    return float(np.sum((coefficients @ POINTS - BEST @ POINTS) ** 2))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three weight files of one network."""
    folder, paths = tmp_path_factory.mktemp("files"), []
    model = tiny().model.to_dict()
    for number in range(3):
        path = write_untrained(folder / f"{number}.safetensors", model)
        loaded = load(path)
        params = jax.tree.map(lambda a, n=number: a * (1 + n), loaded.params)
        write_pair(path, WeightSum([path]).arrays([1 + number]), loaded.sidecar)
        paths.append((path, params))
    return paths


@pytest.mark.longer
def test_coefficients_of_an_average_give_that_averages_weights(files):
    paths, trees = zip(*files, strict=True)
    schedule = ema.power_function(0.2)
    averages = ema.Averages((schedule,), (0.2,))
    state = averages.init(trees[0])
    for step, params in enumerate(trees, 1):
        state = averages.update(state, params, step)
    made = WeightSum(paths).params(lcsc.ema_coefficients(3, 0.2))
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(averages.main(state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.longer
def test_coefficients_may_be_negative_and_need_not_sum_to_one(files):
    paths, trees = zip(*files, strict=True)
    made = WeightSum(paths).params([0.5, -2.0, 1.0])
    expected = jax.tree.map(lambda a, b, c: 0.5 * a - 2 * b + c, *trees)
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.longer
def test_weights_of_another_network_are_not_added(files, tmp_path):
    config = tiny()
    config.model.width = 32
    other = write_untrained(tmp_path / "other.safetensors", config.model.to_dict())
    with pytest.raises(UserError, match="not of one network: .* has shapes"):
        WeightSum([files[0][0], other])


@pytest.mark.longer
def test_a_sum_that_half_precision_does_not_hold_is_refused_by_name(files):
    arrays = WeightSum([files[0][0]]).arrays([1e9], np.float16)
    with pytest.raises(UserError, match="which float16 does not hold"):
        for array in arrays.values():
            array.read()


def test_evolution_beats_every_average_it_starts_from():
    found = lcsc.evolve(distance, STARTS, evaluations=600, spread=0.2)
    assert found.start == min(map(distance, STARTS)) and found.evaluations == 600
    assert found.score == distance(found.coefficients)
    assert found.score < 0.05 * found.start
    assert (found.coefficients < 0).any() and abs(found.coefficients.sum() - 1) > 0.1


def test_a_search_repeats_itself_and_another_seed_does_not():
    one, two, other = (lcsc.evolve(distance, STARTS, evaluations=40, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.coefficients, two.coefficients)
    assert np.abs(one.coefficients - other.coefficients).max() > 1e-6


@pytest.mark.parametrize("cut", [5, 17])
def test_an_interrupted_search_goes_on_without_scoring_anything_twice(tmp_path, cut):
    record, scored = tmp_path / "lcsc.jsonl", []

    def counted(coefficients):
        scored.append(coefficients)
        if len(scored) == cut:
            raise KeyboardInterrupt
        return distance(coefficients)

    with pytest.raises(KeyboardInterrupt):
        lcsc.evolve(counted, STARTS, evaluations=30, record=record)
    with record.open("a") as file:
        file.write('{"coefficients": [0.1, ')  # a line cut short by a kill
    found = lcsc.evolve(counted, STARTS, evaluations=30, record=record)
    assert len(scored) == 30 + 1  # the interrupted one was begun twice
    whole = lcsc.evolve(distance, STARTS, evaluations=30)
    np.testing.assert_array_equal(found.coefficients, whole.coefficients)
    assert len(record.read_text().splitlines()) == 30


def test_a_record_of_another_search_is_refused(tmp_path):
    record = tmp_path / "lcsc.jsonl"
    lcsc.evolve(distance, STARTS, evaluations=10, record=record)
    with pytest.raises(UserError, match="is of another search"):
        lcsc.evolve(distance, STARTS, evaluations=12, seed=3, record=record)


def test_scores_that_are_not_finite_are_worst():
    found = lcsc.evolve(
        lambda c: np.nan if c[0] else distance(c), [*STARTS, np.zeros(COUNT)], evaluations=20
    )
    assert np.isfinite(found.score) and found.coefficients[0] == 0


@pytest.mark.parametrize("bad", [{"evaluations": 2}, {"evaluations": 9, "population": 1}])
def test_a_search_without_room_is_refused(bad):
    with pytest.raises(UserError, match="allow one evaluation a start at least"):
        lcsc.evolve(distance, STARTS, **bad)


@pytest.mark.longer
def test_the_verb_combines_a_runs_weights(tmp_path, capsys):
    config = tiny(steps=24)
    config.ema.update(snapshot_images=64, snapshot_weights=True)
    config.checkpoint.every_steps = 24
    config.guidance = config.guidance.__class__(dict(name="unguided"))
    config.sampler.schedule.steps = 3
    train(config, tmp_path)
    config.lcsc.update(images=80, evaluations=9, population=4)
    path = search(config, tmp_path)
    about = json.loads(path.with_suffix(".json").read_text())["lcsc"]
    assert about["files"] == [f"{n:012d}-weights.safetensors" for n in (64, 128, 192)]
    assert about["frechet_distance"] <= about["best_start"]
    assert "Frechet distance" in capsys.readouterr().out
    _, *scores = [json.loads(line) for line in (tmp_path / "lcsc.jsonl").read_text().splitlines()]
    assert len(scores) == 9 and min(one["score"] for one in scores) == about["frechet_distance"]
    made = load(path).params
    weights = WeightSum([tmp_path / "ema_snapshots" / name for name in about["files"]])
    expected = weights.params(about["coefficients"])
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


def test_a_run_that_stored_no_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"are 0 files: train with .*snapshot_weights=True"):
        search(tiny(), tmp_path)
