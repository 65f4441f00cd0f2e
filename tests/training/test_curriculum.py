"""Difficulty curriculum: high noise first, and one more part whenever the loss stands still."""

import jax.numpy as jnp
import numpy as np
import pytest
from tables.loss_examples import MAIN, Stub, images, keys, only

from guidestar.models.preconditioning import EDM
from guidestar.training.losses import Denoising
from guidestar.training.noise.corruption import Corruption
from guidestar.training.noise.levels import Levels, discrete
from guidestar.training.objectives.curriculum import Curriculum


def curriculum(loss=None, **fields):
    return Curriculum(loss, 1.0, **{"parts": 4, "patience": 3} | fields)


def walk(objective, losses):
    """Return the stage in which each step took place."""
    memory, stages = objective.init(), []
    for loss in losses:
        _, metrics, memory = objective.settle({}, {"loss": jnp.float32(loss)}, memory, None)
        stages.append(int(metrics["stage"]))
    return stages


def test_a_stage_ends_after_as_many_steps_without_a_lower_loss_as_patience_says():
    falling, flat = [5, 4, 3], [3, 3, 3]
    # The first loss of a stage is its best yet; then `patience` steps may pass.
    assert walk(curriculum(), falling + flat + [9, 9, 9, 9, 1]) == [1] * 6 + [2] * 4 + [3]


def test_stages_never_go_back_and_stop_at_the_last():
    losses = np.random.default_rng(0).normal(size=300)
    stages = walk(curriculum(), losses)
    assert set(np.diff(stages)) <= {0, 1} and stages[0] == 1 and stages[-1] == 4


def test_a_loss_that_always_falls_stays_in_the_first_stage():
    assert set(walk(curriculum(), -np.arange(100.0))) == {1}


@pytest.mark.parametrize("stage", [1, 2, 4])
def test_a_stage_trains_the_noisiest_parts_alone(stage):
    """Of a table of T steps in N parts, stage n draws steps from T - n T / N on."""
    table = discrete()
    network = Stub(lambda params, x, time: params * jnp.zeros_like(x))
    loss = Denoising(EDM(), Corruption(table))
    objective = curriculum(loss)
    memory = objective.init() | {"stage": jnp.int32(stage)}
    roles = only(network, None)
    objective.gradient(roles, memory, {MAIN: jnp.ones(())}, images(4000, (1, 1, 1)), keys(4000))
    sigma = np.exp(4 * np.asarray(_primal(network.seen[0]["time"])))
    step = Levels(table.sigmas).index(jnp.asarray(sigma))
    assert step.min() >= 1000 - 250 * stage
    assert step.min() < 1000 - 250 * stage + 10 and step.max() >= 995


def _primal(array):
    return getattr(array, "primal", array)


@pytest.mark.parametrize("bad", [{"parts": 0}, {"patience": 0}])
def test_a_curriculum_without_parts_is_refused(bad):
    with pytest.raises(ValueError, match="count from 1"):
        curriculum(**bad)
