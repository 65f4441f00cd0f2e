"""Steps of a wrong kind are refused before anything runs, with the fix named."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from oracles.analytic import keys
from oracles.toy_network import Toy
from tables.solver_table import SOLVERS
from tiny_configs.configs import trained

from guidestar import guidance, samplers
from guidestar.commands.sample import job_from_config
from guidestar.core.errors import UserError

SHORT = sorted(name for name, entry in SOLVERS.items() if entry.least > 1)


class Known(Toy):
    """A network that knows what it was trained on."""

    sigma_range = (0.002, 80.0)


class Latent(Toy):
    """A network of latents."""

    latent = True


def run(network, sigmas, rule=None, solver=None):
    return samplers.sample(
        network,
        guidance.unguided() if rule is None else rule,
        samplers.euler() if solver is None else solver,
        sigmas,
        jnp.ones((2, 4, 4, 1)),
        jnp.arange(2),
        keys(2),
    )


@pytest.mark.parametrize("name", SHORT)
def test_fewer_steps_than_a_solvers_order(name):
    solver, least = SOLVERS[name].solver, SOLVERS[name].least
    assert np.isfinite(run(Toy(), samplers.karras(least), solver=solver)).all()
    sigmas = samplers.karras(least)[1:]
    with pytest.raises(ValueError, match=rf"take {least} steps or more, or a solver of order"):
        run(Toy(), sigmas, solver=solver)
    with pytest.raises(ValueError, match=f"take {least} steps or more"):
        samplers.plan(solver, sigmas, guidance.unguided())


def test_increasing_sigmas():
    with pytest.raises(ValueError, match="sort the schedule from high to low"):
        run(Toy(), samplers.karras(4)[::-1])


def test_a_schedule_above_what_a_network_knows():
    with pytest.raises(ValueError, match="lower the schedule's sigma_max to 80"):
        run(Known(), samplers.vp(5))
    with pytest.raises(ValueError, match=r"samplers\.invert: .*sigma_max to 80"):
        x = jnp.ones((2, 4, 4, 1))
        sigmas = samplers.vp(5, final_zero=False)
        samplers.invert(Known(), guidance.unguided(), sigmas, x, jnp.arange(2), keys(2))
    assert np.isfinite(run(Known(), samplers.karras(3))).all()
    assert np.isfinite(run(Toy(), samplers.vp(3))).all()


def test_an_expert_is_held_to_what_it_knows_where_it_is_asked():
    networks = {"main": Toy(), "expert": Known()}
    rule = guidance.stitched(guidance.cfg(2.0), "expert", high=50.0)
    assert np.isfinite(run(networks, samplers.vp(5), rule)).all()
    with pytest.raises(ValueError, match="'expert' at sigma 1.*guidance.stitched"):
        run(networks, samplers.vp(5), guidance.stitched(guidance.cfg(2.0), "expert"))


@pytest.mark.parametrize("threshold", ["static_threshold", "dynamic_threshold"])
def test_thresholding_of_latents(threshold):
    wrap, sigmas = getattr(guidance, threshold), samplers.karras(2)
    for rule in (wrap(guidance.cfg(2.0)), guidance.higs(wrap(guidance.cfg(2.0)))):
        with pytest.raises(ValueError, match="pass latents=True with a bound"):
            run(Latent(), sigmas, rule)
        assert np.isfinite(run(Toy(), sigmas, rule)).all()
    allowed = wrap(guidance.cfg(2.0), bound=1.0, latents=True)
    np.testing.assert_array_equal(
        run(Latent(), sigmas, allowed), run(Toy(), sigmas, wrap(guidance.cfg(2.0), bound=1.0))
    )


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (dict(name="vp", steps=4), "lower the schedule's sigma_max to 80"),
        (dict(name="karras", steps=4, sigma_min=0.5, final_zero=False), "final_zero=True"),
        (dict(name="karras", steps=1, final_zero=True), "take 2 steps or more"),
    ],
)
def test_a_job_whose_images_would_come_out_wrong(schedule, message):
    config = trained()
    config.sampler = ConfigDict(dict(solver=dict(name="dpmpp"), schedule=schedule))
    with pytest.raises(UserError, match=message):
        job_from_config(config)
