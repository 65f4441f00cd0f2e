"""Every rule and every solver gives on eight devices what it gives on one."""

import os
import subprocess
import sys

import numpy as np
import pytest
from places import PROCESSES
from processes.sharded_sampling import NETWORKS, inputs, pairs, parametric, sigmas
from tables.rule_table import EVERY
from tables.solver_table import SOLVERS

from guidestar import samplers

SCRIPT = PROCESSES / "sharded_sampling.py"


def on_eight(path, which):
    """Return results of a process with eight simulated devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, SCRIPT, path, which],
        check=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    return np.load(path)


@pytest.fixture(scope="module")
def everyday(tmp_path_factory):
    return on_eight(tmp_path_factory.mktemp("devices") / "eight.npz", "everyday")


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    return on_eight(tmp_path_factory.mktemp("devices") / "eight.npz", "longer")


def check(eight, how, rule, solver):
    networks = parametric() if how == "fsdp" else NETWORKS
    noise, *others = inputs()

    def sample(noise):
        steps = SOLVERS[solver].solver, sigmas(solver)
        return np.asarray(samplers.sample(networks, EVERY[rule], *steps, noise, *others))

    one, signs = sample(noise), np.random.default_rng(0)
    # A rule that climbs a gradient step after step makes rounding larger: as much as the last bits
    # of the noise do to it, up or down, and each of some operations a step.
    towards = [np.where(signs.random(noise.shape) < 0.5, -np.inf, np.inf) for _ in range(4)]
    moved = [sample(np.nextafter(noise, to.astype(np.float32))) for to in towards]
    rounding = max(np.abs(each - one).max() for each in moved)
    np.testing.assert_allclose(eight[f"{how}/{rule}/{solver}"], one, atol=max(1e-5, 4 * rounding))


@pytest.mark.parametrize(("how", "rule", "solver"), pairs(longer=False))
def test_eight_devices_equal_one(everyday, how, rule, solver):
    check(everyday, how, rule, solver)


@pytest.mark.longer
@pytest.mark.parametrize(("how", "rule", "solver"), pairs(longer=True))
def test_eight_devices_equal_one_in_every_way(longer, how, rule, solver):
    check(longer, how, rule, solver)
