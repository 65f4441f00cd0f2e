"""Feynman-Kac steering: the exact tilt, its evidence, and that all of a particle is resampled."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, keys, weak
from oracles.particle_runs import LEVELS, LINE, TILTED, Exact, Linear, exact_value, on_the_line, run

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree
from guidestar.models.exact import soft_value, tilted
from guidestar.samplers.solvers.solver import Kernel

SUM = Linear()
SHORT = np.array([5.0, 2.0, 1.0, 0.5, 0.0])
RULES = {
    "cfg": guidance.cfg(2.0),
    "apg": guidance.apg(2.0),
    "between": guidance.between(guidance.cfg(3.0), 0.7, 3.0),
    "autoguidance": guidance.autoguidance(2.0),
}
# What remembers most, each day, and all now and then.
EACH = [
    one if one == ("apg", 0.0, 4) else pytest.param(*one, marks=pytest.mark.longer)
    for one in itertools.product(RULES, (0.0, 3.0), (4, 1))
    if one[1:] != (3.0, 4)
]


def labelled(solver, rule, count=8, sigmas=SHORT, **options):
    """Run two classes, a group of four particles each."""
    noise, labels = jax.random.normal(jax.random.key(3), (count, 2)), jnp.arange(count) // 4 % 2
    networks = {"main": Labelled()} | ({"guide": weak} if rule is RULES["autoguidance"] else {})
    return samplers.sample(networks, rule, solver, sigmas, noise, labels, keys(count), **options)


def groups(values, size):
    return np.asarray(values, np.float64).reshape(-1, size)


def test_tilted_mixtures_are_those_of_the_table():
    for scale, (mean, variance, log_normaliser) in TILTED.items():
        mixture, total = tilted(LINE, np.ones(1), scale)
        weights, means = np.exp(mixture.log_weights), mixture.means[:, 0]
        np.testing.assert_allclose(weights @ means, mean, atol=2e-6)
        second = weights @ (means**2 + mixture.eigenvalues[:, 0])
        np.testing.assert_allclose(second - mean**2, variance, atol=5e-6)
        np.testing.assert_allclose(total, log_normaliser, atol=2e-6)


@pytest.mark.longer
def test_the_soft_value_is_what_the_posterior_expects():
    x, sigma, scale = jnp.array([[-1.3], [0.2], [2.0]]), 0.8, 1.5
    values = LINE.eigenvalues[:, 0]
    shrink = values / (values + sigma**2)
    offset = x - LINE.means[:, 0]
    joint = LINE.log_weights - (offset**2 / (values + sigma**2) + jnp.log(values + sigma**2)) / 2
    exponent = scale * (LINE.means[:, 0] + shrink * offset) + scale**2 * shrink * sigma**2 / 2
    expected = jax.nn.logsumexp(jax.nn.log_softmax(joint) + exponent, axis=1) / scale
    np.testing.assert_allclose(soft_value(LINE, x, sigma, np.ones(1), scale), expected, rtol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize(("rule", "scale", "particles"), EACH)
def test_without_reward_or_with_one_particle_it_is_the_kernel_bit_for_bit(rule, scale, particles):
    kernel = samplers.euler_maruyama(norm=0.25) if rule == "cfg" else samplers.ancestral()
    plain = labelled(kernel, RULES[rule])
    same = labelled(samplers.steer(SUM, scale, particles, kernel), RULES[rule])
    # With a second network the compiler fuses otherwise, and the last bit may differ.
    np.testing.assert_array_max_ulp(same, plain, maxulp=2 if rule == "autoguidance" else 0)
    if particles > 1:
        # In the program of the first.
        steered = labelled(samplers.steer(SUM, 3.0, particles, kernel), RULES[rule])
        assert (np.abs(steered - plain).max(axis=1) > 0.01).sum() > 1


@pytest.mark.parametrize(
    "options",
    [
        {"potential": "difference"},
        {"potential": "max", "every": 2},
        pytest.param({"potential": "sum", "low": 0.3, "high": 5.0}, marks=pytest.mark.longer),
        pytest.param({"value": "many", "draws": 3}, marks=pytest.mark.longer),
    ],
)
def test_potentials_together_are_the_reward_of_what_comes_out(options, x64):
    # One particle is never resampled, so that its weight is the product of all potentials.
    noise = jax.random.normal(jax.random.key(0), (5, 1), jnp.float64)
    x, kept = run(samplers.steer(SUM, 1.7, 1, **options), 5, noise=noise, save="info")
    assert x.dtype == jnp.float64
    weights = kept["info"]["log_weight"]
    np.testing.assert_allclose(weights[-1], 1.7 * x[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(kept["info"]["log_evidence"], weights, rtol=0, atol=1e-12)
    assert np.abs(weights[:-1] - weights[-1]).max() > 0.01


def test_many_draws_find_the_soft_value_of_a_gaussian():
    # Of x0 ~ N(D, v sigma^2 / (v + sigma^2)) and a reward a x0: scale D + scale^2 r^2 / 2.
    denoised, draws = jnp.array([[-1.0], [0.5], [2.0]]), 4000
    tilt = samplers.steer(SUM, 1.5, 1, value="many", draws=draws, variance=4.0).tilt
    found = tilt.ahead(None, jnp.float32(1.0), denoised, None, keys(3))
    np.testing.assert_allclose(found, 1.5 * denoised[:, 0] + 1.5**2 * 0.8 / 2, atol=0.15)


@pytest.mark.longer
def test_values_are_weighed_where_it_is_said():
    sigmas = np.append(np.arange(9.0, 0.0, -1), 0.0)
    solver = samplers.steer(SUM, 1.0, 1, every=2, low=2.0, high=7.0)
    _, kept = run(solver, 3, sigmas=sigmas, save="info")
    changes = np.abs(np.diff(kept["info"]["log_weight"], axis=0, prepend=0)).max(axis=1) > 0
    # Every second step from the first, 9: those at 7, 5 and 3, and the end.
    np.testing.assert_array_equal(changes, [0, 0, 1, 0, 1, 0, 1, 0, 1])


def sampled(scale, particles, count, **options):
    """Return group means, all draws, and the log evidence of the exact kernel's steering."""
    solver = samplers.steer(SUM, scale, particles, Exact(LINE), **options)
    x, kept = run(solver, particles * count, save="info")
    evidence = groups(kept["info"]["log_evidence"][-1], particles)
    assert (evidence == evidence[:, :1]).all()
    return groups(x, particles), evidence[:, 0], kept["info"]


@pytest.mark.parametrize(
    ("scale", "particles", "value"),
    [
        (2.0, 64, "mean"),
        pytest.param(4.0, 64, "mean", marks=pytest.mark.longer),
        pytest.param(1.0, 64, "mean", marks=pytest.mark.longer),
        pytest.param(2.0, 64, "exact", marks=pytest.mark.longer),
        pytest.param(0.5, 64, "exact", marks=pytest.mark.longer),
        pytest.param(1.0, 256, "mean", marks=pytest.mark.longer),
        pytest.param(2.0, 256, "exact", marks=pytest.mark.longer),
        pytest.param(4.0, 256, "mean", marks=pytest.mark.longer),
    ],
)
def test_many_particles_sample_the_exact_tilt_and_its_evidence(scale, particles, value):
    mean, variance, log_normaliser = TILTED[scale]
    value = exact_value(scale) if value == "exact" else value
    draws, evidence, _ = sampled(scale, particles, 200, value=value, resample_below=1.0)
    # Four standard errors of independent groups, and what is left of the bias of one over
    # the number of particles.
    error = draws.mean(axis=1).std() / np.sqrt(len(draws))
    assert abs(draws.mean() - mean) < 4 * error + 0.6 / particles
    square = ((draws - mean) ** 2).mean(axis=1)
    assert abs(square.mean() - variance) < 4 * square.std() / np.sqrt(len(draws)) + 0.6 / particles
    if particles == 256:
        assert abs(draws.mean() / mean - 1) < 0.02
    ratio = np.exp(evidence - log_normaliser)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))


@pytest.mark.parametrize(
    "scheme",
    [
        "systematic",
        *(
            pytest.param(scheme, marks=pytest.mark.longer)
            for scheme in ("ssp", "residual", "stratified", "multinomial")
        ),
    ],
)
def test_the_evidence_of_few_particles_is_unbiased_and_its_logarithm_too_low(scheme):
    if scheme == "systematic":
        options = {"resample_below": 0.5}
    else:
        options = {"resample_below": 1.0, "scheme": scheme}
    draws, evidence, info = sampled(2.0, 4, 2500, **options)
    ratio = np.exp(evidence - TILTED[2.0][2])
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))
    assert evidence.mean() < TILTED[2.0][2] - 0.1
    # Four particles fall short, and few of them are left.
    assert TILTED[2.0][0] - draws.mean() > 0.04
    distinct = groups(info["distinct"][-1], 4)
    assert 1 < distinct.mean() < 3 and distinct.min() >= 1 and distinct.max() <= 4


@pytest.mark.longer
@pytest.mark.parametrize(("potential", "scale", "fits"), [("max", 0.5, True), ("sum", 1.0, False)])
def test_other_potentials_are_for_small_scales(potential, scale, fits):
    draws, _, _ = sampled(scale, 256, 60, potential=potential, resample_below=1.0)
    assert (abs(draws.mean() - TILTED[scale][0]) < 0.03) == fits


@pytest.mark.longer
def test_weighing_at_the_end_alone_is_importance_sampling():
    solver = samplers.steer(SUM, 1.0, 32, Exact(LINE), resample_below=0.0)
    draws = groups(run(solver, 3200)[:, 0], 32)
    plain = groups(run(Exact(LINE), 3200)[:, 0], 32)
    shares = np.exp(plain) / np.exp(plain).sum(axis=1, keepdims=True)
    # The comb draws each of the plain sampler's own ends floor(n w) or ceil(n w) times.
    for drawn, ends, share in zip(draws, plain, shares, strict=True):
        counts = (np.abs(drawn[:, None] - ends) < 1e-5).sum(axis=0)
        assert counts.sum() == 32 and (np.abs(counts - 32 * share) < 1.001).all()


@pytree
class Still(Kernel):
    """A kernel that leaves particles where they are."""

    order = 1
    random = True

    def transition(self, x, guided, interval):
        return x, jnp.zeros_like(interval.start)


@pytree
class Tagging:
    """A rule that remembers each sample's first value, and counts its calls."""

    def init(self, x):
        return {"tag": jnp.zeros((1, x.shape[0]), x.dtype), "calls": jnp.zeros((), jnp.int32)}

    def apply(self, evaluate, x, sigma, state, key):
        guided, _ = guidance.unguided().apply(evaluate, x, sigma, (), key)
        tag = jnp.where(state["calls"] == 0, x[None, :, 0], state["tag"])
        info = {"tag": tag[0], "log_weight_rate": 0.3 * x[:, 0] / sigma**2}
        return guided._replace(info=info), {"tag": tag, "calls": state["calls"] + 1}

    def at(self, sigma):
        del sigma
        return self


@pytest.mark.longer
@pytest.mark.parametrize(
    "solver",
    [
        samplers.steer(SUM, 2.0, 8, Still(), resample_below=1.0),
        samplers.feynman_kac(8, resample_below=1.0),
    ],
)
def test_what_a_rule_remembers_follows_the_particle(solver):
    still = solver.__class__.__name__ == "Steering"
    x, kept = run(solver, 24, rule=Tagging(), save=("x", "info"))
    tags = kept["info"]["tag"]
    first = np.asarray(kept["x"][0])[:, 0]
    assert len(np.unique(tags[-1])) < 24 and np.isin(tags, first).all()
    if still:
        np.testing.assert_array_equal(tags, kept["x"][:, :, 0])
        distinct = [len(np.unique(group)) for group in groups(x, 8)]
        np.testing.assert_array_equal(groups(kept["info"]["distinct"][-1], 8)[:, 0], distinct)
    # Particles stay in their groups.
    assert all(np.isin(tags[-1][i : i + 8], first[i : i + 8]).all() for i in (0, 8, 16))


@pytest.mark.longer
def test_groups_do_not_depend_on_each_other():
    solver = samplers.steer(SUM, 3.0, 4, resample_below=1.0)
    noise, every = jax.random.normal(jax.random.key(0), (12, 2)), keys(12)

    def ends(noise, chosen=slice(None)):
        return np.asarray(
            samplers.sample(
                Labelled(), RULES["apg"], solver, SHORT, noise[chosen],
                jnp.zeros(12, jnp.int32)[chosen], every[chosen],
            )
        )  # fmt: skip

    batch = ends(noise)
    np.testing.assert_allclose(ends(noise, slice(4, 8)), batch[4:8], atol=1e-5)
    moved = ends(noise.at[5].add(4.0))
    np.testing.assert_array_equal(moved[:4], batch[:4])
    np.testing.assert_array_equal(moved[8:], batch[8:])
    assert (np.abs(moved - batch)[4:8].max(axis=1) > 0.01).sum() > 1


@pytest.mark.longer
def test_it_runs_under_jit_and_over_keys():
    solver, noise = samplers.steer(SUM, 2.0, 4), jax.random.normal(jax.random.key(0), (8, 1))
    one = jax.vmap(jax.random.key)(jnp.arange(3))

    def end(key):
        return run_with(solver, noise, key)

    many = jax.jit(jax.vmap(end))(one)
    np.testing.assert_allclose(many, np.stack([end(key) for key in one]), atol=1e-5)


def run_with(solver, noise, key):
    return samplers.sample(on_the_line, guidance.unguided(), solver, SHORT, noise, None, key)


@pytest.mark.longer
def test_new_numbers_compile_nothing(compilations):
    run(samplers.steer(SUM, 2.0, 4, Exact(LINE), resample_below=0.5), 8)
    with compilations() as compiled:
        run(samplers.steer(SUM, 1.0, 4, Exact(LINE), resample_below=0.9), 8)
    assert not compiled


def test_the_plan_counts_rewards_and_particles():
    def plan(**options):
        solver = samplers.steer(SUM, 1.0, 8, **options)
        return samplers.plan(solver, LEVELS, guidance.cfg(2.0), (1,))

    assert plan().totals == {"main": 24, "reward": 12}
    assert plan().particles == 8 and "each particle of a group of 8" in str(plan())
    assert plan(every=5).totals == {"main": 24, "reward": 4}
    assert plan(value="many", draws=3).totals == {"main": 24, "reward": 34}
    assert plan(value=exact_value(1.0)).totals == {"main": 24, "reward": 1}
    assert [step.get("reward", 0) for step in plan(low=0.3, high=4.0).evaluations] == [
        0, 0, *[1] * 6, 0, 0, 0, 1,
    ]  # fmt: skip


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.steer(SUM, kernel=samplers.heun()), "evaluates once a step and then"),
        (lambda: samplers.steer(SUM, kernel=samplers.ancestral(0.0)), "adds no noise"),
        (lambda: samplers.steer(SUM, kernel=samplers.euler_maruyama("zero")), "adds no noise"),
        (lambda: samplers.steer(SUM, particles=0), "positive integer"),
        (lambda: samplers.steer(SUM, potential="mean"), "difference, max, sum"),
        (lambda: samplers.steer(SUM, value="best"), "value is 'mean', 'many' or a function"),
        (lambda: samplers.steer(SUM, draws=3), "belong to value='many'"),
        (lambda: samplers.steer(SUM, value="many", draws=0), "whole number from 1"),
        (lambda: samplers.steer(SUM, every=0), "whole number from 1"),
        (lambda: samplers.steer(SUM, low=2.0, high=1.0), "0 <= low < high"),
        (lambda: samplers.steer(SUM, scheme="branching"), "scheme must be one of multinomial"),
        (lambda: samplers.steer(SUM, resample_below=2.0), "share of the particles"),
        (lambda: run(samplers.steer(SUM, particles=4), 6), "no whole number of groups of 4"),
        (lambda: run(samplers.steer(SUM), 4, sigmas=LEVELS[:-1]), "let it end in 0"),
        (lambda: labelled(samplers.steer(SUM, particles=8), RULES["cfg"]), "need one condition"),
    ],
)
def test_what_cannot_be_steered_is_refused(make, message, compilations):
    with compilations() as compiled, pytest.raises(ValueError, match=message):
        make()
    assert len(compiled) < 30
