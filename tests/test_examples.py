"""The examples run and do what they say."""

import runpy

import jax
import numpy as np
import pytest
from places import ROOT
from tiny_configs.configs import setup, tiny

from guidestar import guidance, samplers
from guidestar.core.registry import registry

EXAMPLES = ROOT / "examples"


@pytest.mark.longer
def test_a_loop_of_ones_own_separates_the_classes():
    images = runpy.run_path(str(EXAMPLES / "own_sampler.py"))["main"]()
    means = np.asarray(images).mean(axis=(1, 2, 3))
    assert (means[::2] < -0.5).all() and (means[1::2] > 0.5).all()


@pytest.mark.parametrize(("name", "kind"), [("own_solver", "solver"), ("own_schedule", "schedule")])
def test_a_part_of_ones_own_is_known_by_its_name(name, kind):
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    registered = {"solver": "noisy", "schedule": "halving"}[kind]
    assert registered in registry(kind)
    assert (EXAMPLES / f"{name}.py").read_text().count("\n") <= 40
    images = np.asarray(example["main"]())
    # A first-order solver's noise is a little too small, a few per cent at this many steps.
    np.testing.assert_allclose([images.mean(), images.std()], [1.0, 0.5], atol=0.05)


@pytest.mark.longer
def test_a_reward_of_ones_own_is_steered_by():
    example = runpy.run_path(str(EXAMPLES / "own_reward.py"))
    assert "brightness" in registry("reward")
    assert (EXAMPLES / "own_reward.py").read_text().count("\n") <= 40
    plain, steered = (np.asarray(example["main"](particles)) for particles in (1, 128))
    # Values are independent: the tilt by the sum of 16 of them, each over 16, adds a variance.
    assert abs(plain.mean() - 1) < 0.02
    assert abs(steered.mean() - plain.mean() - plain.var()) < 0.05


def test_a_data_set_of_ones_own_is_known_by_its_name():
    source, batch = runpy.run_path(str(EXAMPLES / "own_data.py"))["main"]()
    assert "boards" in registry("source")
    assert (EXAMPLES / "own_data.py").read_text().count("\n") <= 40
    assert source.identity()["examples"] == 1000 and batch["x"].shape == (16, 4, 4, 1)
    wide = (batch["x"][:, 0, 0, 0] == batch["x"][:, 0, 1, 0]).astype(np.int32)
    np.testing.assert_array_equal(batch["condition"], wide)


def test_a_metric_of_ones_own_is_chosen_by_its_name():
    random, mirrored = runpy.run_path(str(EXAMPLES / "own_metric.py"))["main"]()
    assert "asymmetry" in registry("metric")
    assert (EXAMPLES / "own_metric.py").read_text().count("\n") <= 40
    assert random["asymmetry"] == pytest.approx(1 / 3, abs=0.02)  # of two uniform numbers
    assert mirrored["asymmetry"] == 0 and set(mirrored) == {"asymmetry", "contrast"}


@pytest.mark.parametrize("name", ["own_denoiser", "own_network"])
def test_a_network_of_ones_own_is_sampled_by_its_weights(name):
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert (EXAMPLES / f"{name}.py").read_text().count("\n") <= 40
    first, second = (np.asarray(example["main"](seed)) for seed in (0, 1))
    assert first.shape == (4, 8, 8, 1) and np.isfinite(first).all()
    assert np.abs(first - second).max() > 0.1


@pytest.mark.longer
@pytest.mark.parametrize(
    ("file", "sections", "metric"),
    [
        ("own_loss", {"loss": {"name": "huber", "delta": 0.5}}, "far_share"),
        ("own_noise", {"noise": {"name": "spike", "at": 0.4}}, "loss"),
    ],
)
def test_a_part_of_ones_own_is_trained_by_name(file, sections, metric):
    runpy.run_path(str(EXAMPLES / f"{file}.py"))
    assert (EXAMPLES / f"{file}.py").read_text().count("\n") <= 40
    config = tiny()
    for name, section in sections.items():
        config.training[name] = section
    start = setup(config)
    batch = {
        "x": jax.ShapeDtypeStruct((8, 8, 8, 1), np.float32),
        "condition": jax.ShapeDtypeStruct((8,), np.int32),
    }
    _, metrics = jax.eval_shape(start.step(0), start.abstract, batch)
    assert metrics[metric].shape == ()


def mirrored(x, given, null):
    return x / 2 + 2.0  # the lean cancels, the condition's 1 is doubled


def clipped(x, given, null):
    return given + 2.0 * np.clip(given - null, -0.5, 0.5)


def coarse(x, given, null):
    cells = x.reshape(2, 2, 2, 2, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    push = given - (given - x / 2 + cells / 2)
    along = (push * given).sum((1, 2, 3), keepdims=True) / (given**2).sum((1, 2, 3), keepdims=True)
    return given + push - along * given


@pytest.mark.parametrize(
    ("name", "kind", "expected", "cost"),
    [
        ("own_rule", "mirrored", mirrored, "0.1 < sigma <= 5: main 4"),
        ("own_transform", "clip_values", clipped, "one prediction: main 2"),
        ("own_reference", "coarse", coarse, "one prediction: main 2"),
    ],
)
def test_a_part_of_a_rule_of_ones_own_is_built_described_and_counted(name, kind, expected, cost):
    rule = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    assert kind in registry("rule")
    assert (EXAMPLES / f"{name}.py").read_text().count("\n") <= 40
    assert f"{kind}(" in guidance.describe(rule) and cost in guidance.describe(rule)
    assert guidance.from_config(guidance.to_config(rule)) == rule
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype(np.float32)

    def denoise(x, sigma, condition):
        lean = np.linspace(-1, 1, 4, dtype=np.float32)[:, None]
        return x / 2 + lean + (0.0 if condition is None else 1.0)

    given, null = denoise(x, 1.0, 0), denoise(x, 1.0, None)
    end = np.array([1.0, 0.0])  # to noise level 0, a step of Euler's is the prediction
    keys = samplers.sample_keys(samplers.root_key(0), samplers.STEPS, np.arange(2))
    labels = np.zeros(2, np.int32)
    guided = samplers.sample(denoise, rule, samplers.euler(), end, x, labels, keys)
    np.testing.assert_allclose(guided, expected(x, given, null), atol=1e-5)
