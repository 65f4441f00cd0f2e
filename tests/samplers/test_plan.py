"""What a run will evaluate, step by step, in evaluations and in multiply-adds."""

import numpy as np
import pytest

from guidestar import guidance, samplers

SIGMAS = np.array([8.0, 4.0, 2.0, 1.0, 0.0])
MACS = {"main": 3_000_000_000, "small": 1_000_000_000}


def rule():
    """Return CFG below sigma 4, by a small network above 2."""
    return guidance.stitched(guidance.between(guidance.cfg(2.0), 0.0, 4.0), "small", low=2.0)


def test_each_step_names_its_networks_and_their_multiply_adds():
    plan = samplers.plan(samplers.heun(), SIGMAS, rule(), (4, 4, 1), macs=MACS)
    assert plan.evaluations == [{"small": 2}, {"small": 4}, {"main": 4}, {"main": 2}]
    assert plan.totals == {"small": 6, "main": 6}
    assert plan.macs == 6 * 3e9 + 6 * 1e9
    head, *steps, total = str(plan).splitlines()
    assert "evaluations" in head and "multiply-adds" in head
    assert [line.split()[0] for line in steps] == ["0", "1", "2", "3"]
    assert steps[1].split()[1:3] == ["4.0000", "2.0000"]
    assert "4 small" in steps[1] and steps[1].endswith(" 4.000")
    assert "4 main" in steps[2] and steps[2].endswith(" 12.000")
    assert "6 main + 6 small" in total and total.endswith(" 24.000")


def test_a_plan_without_multiply_adds_counts_evaluations_alone():
    plan = samplers.plan(samplers.euler(), SIGMAS, rule(), (4, 4, 1))
    assert "multiply-adds" not in str(plan)
    assert str(plan).splitlines()[-1].endswith("4 main + 3 small")
    with pytest.raises(ValueError, match="multiply-adds of the network 'small' are not known"):
        _ = plan.macs


def test_a_network_whose_multiply_adds_are_missing_is_named():
    plan = samplers.plan(samplers.euler(), SIGMAS, rule(), (4, 4, 1), macs={"main": 1})
    with pytest.raises(ValueError, match="pass macs=.'small': models.macs"):
        _ = plan.macs
