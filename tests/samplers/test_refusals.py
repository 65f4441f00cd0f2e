"""Steps of a wrong kind are refused before anything runs, with the fix named."""

import inspect
import typing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from oracles.analytic import keys
from oracles.toy_network import Toy
from tables.everyday import few
from tables.solver_table import SOLVERS
from tiny_configs.configs import trained

from guidestar import guidance, samplers
from guidestar.commands.sample import job_from_config
from guidestar.core.constructors import KINDS
from guidestar.core.errors import UserError
from guidestar.core.registry import registry
from guidestar.guidance import Rule
from guidestar.samplers import Prior, Solver, tuning

SHORT = sorted(name for name, entry in SOLVERS.items() if entry.least > 1)


class Known(Toy):
    """A network that knows what it was trained on."""

    sigma_range = (0.002, 80.0)


class Latent(Toy):
    """A network of latents."""

    latent = True


def run(network, sigmas, rule=None, solver=None, noise=None, **options):
    return samplers.sample(
        network,
        guidance.unguided() if rule is None else rule,
        samplers.euler() if solver is None else solver,
        sigmas,
        jnp.ones((2, 4, 4, 1)) if noise is None else noise,
        jnp.arange(2),
        options.get("key", keys(2)),
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


@pytest.mark.longer
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


def upward(x, network=None, entry=samplers.invert):
    sigmas = samplers.karras(3, final_zero=False)
    return entry(network or Toy(), guidance.unguided(), sigmas, x, jnp.arange(2), keys(2))


def calibrated(x, network=None):
    options = dict(intervals=2, samples=2, sigma_max=5.0)
    rule, key = guidance.unguided(), jax.random.key(0)
    return samplers.calibrate(network or Toy(), rule, x, jnp.arange(2), key, **options)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_a_state_of_few_bits(kind):
    x = jnp.ones((2, 4, 4, 1), kind)
    with pytest.raises(ValueError, match=r"samplers\.sample: noise must be float32"):
        run(Toy(), samplers.karras(3), noise=x)
    for entry in (upward, partial(upward, entry=samplers.log_likelihood), calibrated):
        with pytest.raises(ValueError, match="must be float32"):
            entry(x)


@pytest.mark.parametrize("name", few(40, SOLVERS))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: out[..., 0], r"float32 of shape \(4, 4, 4, 1\), and returns .*\(4, 4, 4\)"),
        (lambda out: out.mean(axis=0, keepdims=True), "must return the x0 estimates"),
        (lambda out: out.astype(jnp.bfloat16), "returns bfloat16"),
        (lambda out: (out, out), "returns tuple"),
    ],
)
def test_a_prediction_that_is_none_of_the_samples(name, change, message):
    class Wrong(Toy):
        def __call__(self, *args, **options):
            return change(super().__call__(*args, **options))

    entry = SOLVERS[name]
    with pytest.raises(ValueError, match=message):
        steps = entry.steps or entry.least
        run(Wrong(), samplers.karras(steps), guidance.cfg(2.0), entry.solver)


def test_a_prediction_that_is_none_of_the_samples_elsewhere():
    def wrong(x, sigma, condition):
        return x[..., 0]

    x = jnp.ones((2, 4, 4, 1))
    for entry in (upward, partial(upward, entry=samplers.log_likelihood), calibrated):
        with pytest.raises(ValueError, match="must return the x0 estimates"):
            entry(x, wrong)


@pytest.mark.parametrize("size", [80.0, 0.05, float("nan")])
def test_noise_that_is_not_of_unit_size(size):
    noise = size * np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    with pytest.raises(ValueError, match="noise must be of unit size"):
        run(Toy(), samplers.karras(3), noise=noise)


def test_noised_data_over_a_low_noise_level_is_noise():
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    data = np.ones_like(noise)
    assert np.isfinite(run(Toy(), [0.1, 0.05, 0.0], noise=data / 0.1 + noise)).all()


def test_samples_of_other_channels_than_the_networks():
    class Shaped(Toy):
        shape = (4, 4, 3)

    with pytest.raises(ValueError, match=r"takes samples of shape \(4, 4, 3\), got \(4, 4, 1\)"):
        run(Shaped(), samplers.karras(3))


@pytest.mark.untyped
@pytest.mark.parametrize("key", [3, None, "seed", np.arange(2), jnp.zeros((2, 2))])
def test_what_is_no_key(key):
    with pytest.raises(ValueError, match=r"samplers\.sample: .* is no random key: make one by"):
        run(Toy(), samplers.karras(3), key=key)


def test_keys_of_another_generator():
    key = jax.random.key(0, impl="rbg")
    for one in (key, jax.random.split(key, 2)):
        with pytest.raises(ValueError, match="of the generator rbg"):
            run(Toy(), samplers.karras(3), key=one)
    x = jnp.ones((2, 4, 4, 1))
    with pytest.raises(ValueError, match=r"samplers\.calibrate: the key is of the generator rbg"):
        samplers.calibrate(Toy(), guidance.unguided(), x, jnp.arange(2), key)


@pytest.mark.untyped
@pytest.mark.parametrize("network", [None, 3, {"main": None}, {"main": Toy(), "guide": "guide"}])
def test_a_network_that_cannot_be_called(network):
    with pytest.raises(ValueError, match="must be a callable"):
        run(network, samplers.karras(3))


def test_a_misspelt_network_is_named():
    with pytest.raises(ValueError, match="needs a network named 'guide'.*you gave 'guid'"):
        run({"main": Toy(), "guid": Toy()}, samplers.karras(3), guidance.autoguidance(2.0))


def test_a_misspelt_main_network_is_named():
    with pytest.raises(ValueError, match=r"pass denoise=\{'main': \.\.\.\}; you gave 'man'"):
        run({"man": Toy()}, samplers.karras(3), guidance.cfg(2.0))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(solver="heun"), "takes a solver here, got 'heun'"),
        (dict(solver=guidance.cfg(2.0)), r"takes a solver here, got a rule \(cfg\)"),
        (dict(rule="apg"), "takes a rule here, got 'apg'"),
        (dict(rule=samplers.heun()), r"takes a rule here, got a solver \(heun\)"),
        (dict(rule=3.0), "got 3.0"),
    ],
)
def test_what_is_no_rule_or_solver(changes, message):
    sigmas = samplers.karras(3)
    with pytest.raises(UserError, match=f"^samplers.sample: .*{message}"):
        run(Toy(), sigmas, **changes)
    parts = dict(rule=guidance.cfg(2.0), solver=samplers.euler()) | changes
    with pytest.raises(UserError, match=f"^samplers.plan: .*{message}"):
        samplers.plan(parts["solver"], sigmas, parts["rule"])


# A constructor of each type of part, not called.
UNCALLED = {Rule: guidance.apg, Solver: samplers.heun, Prior: samplers.teleport}
PACKAGES = {"guidance": guidance, "samplers": samplers, "samplers.tuning": tuning}


def declared():
    """Yield every public function that takes parts: its package, name, argument and type."""
    for package, module in PACKAGES.items():
        for name in module.__all__:
            function = getattr(module, name)
            if not inspect.isfunction(function) or any(name in registry(kind) for kind in KINDS):
                continue
            for argument, hint in typing.get_type_hints(function).items():
                for kind in UNCALLED:
                    if argument != "return" and kind in (hint, *typing.get_args(hint)):
                        yield package, name, argument, kind


@pytest.mark.untyped
@pytest.mark.parametrize(("package", "name", "argument", "kind"), list(declared()))
def test_a_constructor_that_was_not_called_is_named_by_every_function(
    package, name, argument, kind
):
    function, wrong = getattr(PACKAGES[package], name), UNCALLED[kind]
    parts = {"rule": guidance.cfg(2.0), "solver": samplers.heun(), "prior": samplers.gaussian()}
    required = {
        one.name: parts.get(one.name)
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    }
    said = rf"{package}.{name}: {argument} takes a .* here, got the function {wrong.__name__} itse"
    with pytest.raises(UserError, match=f"^{said}lf: call it"):
        function(**required | {argument: wrong})


def test_all_functions_that_take_parts_are_looked_at():
    named = {(name, argument) for _, name, argument, _ in declared()}
    assert {("cost", "rule"), ("to_config", "rule"), ("plan", "solver"), ("gits", "solver")} < named
    assert ("sample", "prior") in named and len(named) > 15


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guidance.describe(guidance.apg), "guidance.describe: takes a rule .*: call it"),
        (lambda: guidance.from_config(guidance.apg), "guidance must be a dictionary .* itself"),
        (lambda: samplers.from_config(samplers.heun), "samplers.from_config: takes .* itself"),
        (
            lambda: samplers.from_config({"solver": {"name": "heun"}}),
            "takes a dictionary of sol",
        ),
        (lambda: run(Toy(), samplers.karras), "sigmas must be a list .* karras itself: call it"),
    ],
)
def test_what_is_no_part_at_all_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_what_has_no_effect_is_said():
    sigmas = samplers.karras(3, 0.1, 5.0)
    with pytest.warns(UserWarning, match="never asks the network 'guide'"):
        run({"main": Toy(), "guide": Toy()}, sigmas, guidance.cfg(2.0))
    for rule in (
        guidance.between(guidance.cfg(2.0), 6.0, 9.0),
        guidance.higs(guidance.between(guidance.cfg(2.0), 6.0, 9.0)),
    ):
        with pytest.warns(UserWarning, match=r"between\(.*high=9.* holds at none of the schedule"):
            run(Toy(), sigmas, rule)
    with pytest.warns(UserWarning, match="starts at sigma 5, and the network 'main' was trained"):
        run(Known(), sigmas)


def test_nothing_is_said_of_what_has_an_effect(recwarn):
    run({"main": Toy(), "guide": Toy()}, samplers.karras(3), guidance.autoguidance(2.0))
    run(Known(), samplers.karras(3), guidance.between(guidance.cfg(2.0), 0.1, 80.0))
    assert not [one for one in recwarn if "samplers" in str(one.message)]


@pytest.mark.parametrize("name", few(4, SOLVERS))
def test_no_solver_asks_beyond_the_schedule_s_ends_of_a_network_that_knows_no_more(name):
    levels = []

    class Watched(Toy):
        sigma_range = (0.05, 40.0)

        def __call__(self, x, sigma, *args, **options):
            jax.debug.callback(lambda sigma: levels.append(float(sigma)), sigma)
            return super().__call__(x, sigma, *args, **options)

    entry = SOLVERS[name]
    steps = entry.steps or max(entry.least, 4)
    run(Watched(), samplers.karras(steps, 0.05, 40.0), solver=entry.solver)
    jax.effects_barrier()
    assert max(levels) <= 40.0 * (1 + 1e-6) and min(levels) >= 0.05 * (1 - 1e-6)


def test_churn_goes_up_to_what_the_network_knows_and_is_as_ever_below(x64):
    sigmas = samplers.karras(8, 0.05, 40.0)
    solver = samplers.edm_churn(8.0, 0.0, float("inf"))
    free = solver.tables(sigmas)
    same = solver.tables_within(sigmas, np.full(8, 1e3))
    np.testing.assert_array_equal(same.sigma, free.sigma)
    held = solver.tables_within(sigmas, np.full(8, 50.0))
    assert free.sigma[0] > 50.0 and held.sigma[0] == pytest.approx(50.0, rel=1e-12)
    np.testing.assert_allclose(held.noise[0], 1.003 * np.sqrt(50.0**2 - 40.0**2), rtol=1e-12)
    np.testing.assert_array_equal(held.sigma[1:], free.sigma[1:])
    np.testing.assert_array_equal(held.noise[1:], free.noise[1:])
