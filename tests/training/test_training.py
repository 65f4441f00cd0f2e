"""Training runs: resumed ones equal uninterrupted ones, records are whole, bad ones stop early."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from places import ROOT
from tiny_configs.configs import last_checkpoint, recipe, tiny, write_untrained

from guidestar.commands.config import overrides
from guidestar.commands.export import run as export
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.models.checkpoints import load
from guidestar.runtime import checkpointer as checkpoints_module
from guidestar.training.losses import Denoising
from guidestar.training.optimizers import learning_rate

# Steps of a run that is killed on its way.
LONG = 60


def numbers(state):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(state))])


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run and where it is."""
    workdir = tmp_path_factory.mktemp("finished")
    return train(tiny(), workdir), workdir


def test_a_run_stopped_and_continued_equals_an_uninterrupted_one(finished, tmp_path):
    whole, _ = finished
    train(tiny(steps=6), tmp_path)
    continued = train(tiny(), tmp_path)
    np.testing.assert_array_equal(numbers(continued), numbers(whole))
    assert [record["step"] for record in records(tmp_path)] == [2, 4, 6, 8, 10, 12]


@pytest.mark.longer
def test_another_seed_gives_another_result(finished, tmp_path):
    config = tiny()
    config.seed = 1
    assert np.abs(numbers(train(config, tmp_path)) - numbers(finished[0])).max() > 1e-3


def test_a_finished_run_started_again_changes_nothing(finished, capsys):
    whole, workdir = finished
    again = train(tiny(), workdir)
    np.testing.assert_array_equal(numbers(again), numbers(whole))
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.longer
def test_the_first_line_says_what_will_run(finished, tmp_path, capsys):
    train(tiny(steps=1), tmp_path)
    line = capsys.readouterr().out.splitlines()[0]
    for part in ("digits", "parameters", "images", "batch 8", "steps 0 to 1", str(tmp_path)):
        assert part in line


def test_records_carry_loss_speed_and_finite_numbers(finished):
    for record in records(finished[1]):
        assert {"loss", "gradient_norm", "images_per_second", "input_wait_share"} <= record.keys()
        assert all(np.isfinite(value) for value in record.values())


def test_training_lowers_the_loss(tmp_path):
    config = tiny(steps=150, batch_size=32)
    config.optimizer.decay_steps = 150
    config.checkpoint.every_steps = 150
    config.optimizer.learning_rate = 5e-3
    train(config, tmp_path)
    losses = [record["loss"] for record in records(tmp_path)]
    assert np.mean(losses[-15:]) < 0.85 * np.mean(losses[:3])


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The state in which an uninterrupted run of many steps ends."""
    return train(tiny(steps=LONG), tmp_path_factory.mktemp("long"))


@pytest.mark.longer
@pytest.mark.parametrize("moment", [0.35, 0.8])
def test_a_run_killed_at_any_moment_continues_bit_for_bit(long, tmp_path, moment):
    """Kill -9 a training process at a random step, start it again, compare every number."""
    steps = LONG
    command = [
        *(sys.executable, "main.py", "--config=tests/tiny_configs/command_line.py", "--mode=train"),
        f"--config.training.steps={steps}",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def start(workdir):
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    victim = tmp_path / "victim"
    process = start(victim)
    goal = int(moment * steps) + random.randrange(6)
    log = victim / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and log.read_text().count("\n") * 2 >= goal:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert start(victim).wait() == 0
    found = last_checkpoint(tiny(steps=steps), victim)
    assert found[0] == steps
    np.testing.assert_array_equal(numbers(found[1]), numbers(long))
    assert [r["step"] for r in records(victim)] == list(range(2, steps + 1, 2))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    train(tiny(steps=4), tmp_path)
    config = tiny()

    def broken(self, roles, batch, keys, span):
        total = sum(leaf.sum() for leaf in jax.tree.leaves(roles["main"].params))
        return total * jax.numpy.full(8, np.nan), {}

    monkeypatch.setattr(Denoising, "__call__", broken)
    with pytest.raises(
        UserError, match=r"loss is nan at step 6; the last good checkpoint is step 4"
    ):
        train(config, tmp_path)
    assert (tmp_path / "checkpoints" / "4").is_dir()
    assert not (tmp_path / "checkpoints" / "8").exists()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("model", "width", 32), ("optimizer", "learning_rate", 1e-4), ("training", "batch_size", 16)],
)
def test_a_workdir_of_another_run_is_refused_and_left_alone(finished, section, field, value):
    _, workdir = finished
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    config = tiny()
    config[section][field] = value
    with pytest.raises(UserError, match=rf"another run: {section}.*Choose another --workdir"):
        train(config, workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before


@pytest.mark.longer
def test_a_full_disk_is_noticed_before_a_checkpoint_is_started(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="free some space and run the same command again"):
        train(tiny(), tmp_path)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("training", "loss", {"name": "elbo"}, "training.loss.name 'elbo' is not one of"),
        ("optimizer", "schedule", "linear", "optimizer.schedule 'linear' is not one of"),
        ("optimizer", "decay_steps", 0, "decay_steps must be positive"),
        ("ema", "profile", "none", "ema.profile 'none' is not one of"),
        ("data", "name", "digitz", "digitz"),
        ("model", "name", "unet", "model.name 'unet' is not one of"),
        ("model", "image_size", 16, "set model.image_size"),
        ("model", "num_classes", 3, "set model.num_classes"),
    ],
)
def test_a_config_that_cannot_run_is_refused_by_field(tmp_path, section, field, value, message):
    config = tiny()
    config[section][field] = value
    with pytest.raises(UserError, match=message):
        train(config, tmp_path)


def test_export_writes_what_load_reads(finished):
    state, workdir = finished
    path = export(tiny(), workdir)
    loaded = load(path)
    assert loaded.sidecar["steps"] == 12 and loaded.sidecar["data"] == "digits"
    for a, b in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(state.main.ema[0]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def overridden(tmp_path_factory):
    """A run whose command line said more than its config, and where it is."""
    folder = tmp_path_factory.mktemp("overridden")
    weights = write_untrained(folder / "teacher.safetensors", tiny().model.to_dict())
    fields = {
        "name": "mine",
        "model.width": 8,
        "training.steps": 2,
        "training.loss.name": "denoising_to_teacher",
        "roles.teacher.init_from": str(weights),
        "ema.profile": "constant",
        "optimizer.b2": 0.9,
    }
    given = [overrides.override(name, value) for name, value in fields.items()]
    state = train(overrides.apply(tiny(), given), folder / "run")
    weights.unlink()
    return state, folder / "run"


@pytest.mark.longer
@pytest.mark.parametrize("again", [{}, {"model.width": 8}, {"model.width": 8, "name": "other"}])
def test_export_needs_nothing_of_what_the_run_s_command_line_said(overridden, again):
    state, workdir = overridden
    given = [overrides.override(name, value) for name, value in again.items()]
    path = export(overrides.apply(tiny(), given), workdir)
    assert path.name == f"{again.get('name', 'mine')}.safetensors"
    loaded = load(path)
    path.unlink()
    assert loaded.sidecar["model"]["width"] == 8 and loaded.sidecar["data"] == "digits"
    for a, b in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(state.main.ema[0]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.longer
def test_export_refuses_fields_that_are_not_the_run_s(overridden):
    other = overrides.apply(tiny(), [overrides.override("model.width", 16)])
    with pytest.raises(UserError, match="another run: model.width was 8 there and is 16 here"):
        export(other, overridden[1])


@pytest.mark.longer
def test_export_of_an_earlier_release_s_run_goes_by_what_its_record_keeps(tmp_path):
    config = tiny(steps=1)
    config.model.width = 8
    train(config, tmp_path)
    record = tmp_path / "run.json"
    stored = json.loads(record.read_text())
    del stored["begun"], stored["identity"]["outside"]
    record.write_text(json.dumps(stored))
    assert load(export(tiny(), tmp_path)).sidecar["model"]["width"] == 8
    stored["begun"] = {"config": tiny().to_dict() | {"imports": ["mine.py"]}}
    record.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="was begun with --config.imports=mine.py: give it again"):
        export(tiny(), tmp_path)


def test_export_of_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="--mode=train"):
        export(tiny(), tmp_path)


def test_learning_rates_follow_their_formulas():
    fields = dict(learning_rate=2.0, warmup_steps=10)
    constant = learning_rate(**fields)
    assert float(constant(4)) == pytest.approx(1.0)
    assert float(constant(5000)) == pytest.approx(2.0)
    cosine = learning_rate(**fields, schedule="cosine", decay_steps=100)
    assert float(cosine(50)) == pytest.approx(1.0)
    assert float(cosine(100)) == pytest.approx(0.0, abs=1e-6)
    root = learning_rate(**fields, schedule="inverse_sqrt", decay_steps=100)
    assert float(root(400)) == pytest.approx(1.0)


def test_every_shipped_config_makes_a_recipe():
    from guidestar.configs import (
        cifar10_dit,
        digits,
        fashion_mnist_classifier,
        fashion_mnist_dit,
        fashion_mnist_dit_unmirrored,
        fashion_mnist_guide,
        fashion_mnist_guide_unmirrored,
        fractal2d,
    )

    for module in (
        cifar10_dit,
        digits,
        fashion_mnist_classifier,
        fashion_mnist_dit,
        fashion_mnist_dit_unmirrored,
        fashion_mnist_guide,
        fashion_mnist_guide_unmirrored,
        fractal2d,
    ):
        config = module.get_config()
        assert 0 <= float(recipe(config).main.averages.schedules[0](1)) < 1
