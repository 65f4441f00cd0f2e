"""Rules of measurements and rewards on Gaussian data, where posteriors have closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys
from tables.everyday import rows

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree, static
from guidestar.guidance import operators
from guidestar.samplers.evaluator import Evaluator

# Two values of unit variance and a correlation of 0.8; the first is measured as 1.5.
COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])
FIRST, Y = operators.matrix([[1.0, 0.0]]), [1.5]
COUNT = 20_000
POOL = operators.average_pool(2)
MASK = operators.mask(np.array([[1.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]]))
EULER, HEUN, ANCESTRAL = samplers.euler(), samplers.heun(), samplers.ancestral()


@jax.tree_util.Partial
def correlated(x, sigma, condition):
    """Denoise the pair."""
    noisy = COVARIANCE + sigma**2 * jnp.eye(2, dtype=x.dtype)
    return x @ jnp.linalg.solve(noisy, jnp.asarray(COVARIANCE, x.dtype))


@jax.tree_util.Partial
def narrow(x, sigma, condition):
    """Denoise independent values of variance 1/4."""
    return x * 0.25 / (0.25 + sigma**2)


@jax.tree_util.Partial
def curved(x, sigma, condition):
    """Denoise as no Gaussian is denoised, every value by its neighbours too."""
    return jnp.tanh(x + 0.3 * jnp.roll(x, 1, axis=1)) / (1 + sigma**2)


@pytree
class Linear:
    """The reward ``a . x0``."""

    a: jax.Array
    differentiable: bool = static(default=True)

    def __call__(self, x0, condition, key):
        return jnp.sum(x0 * self.a, axis=tuple(range(1, x0.ndim)))


@pytree
class Brightest:
    """A reward that is not linear."""

    differentiable: bool = static(default=True)

    def __call__(self, x0, condition, key):
        return jax.nn.logsumexp(x0.reshape(x0.shape[0], -1), axis=1)


def pairs(rule, steps, solver=EULER, network=correlated, shape=(2,)):
    """Return mean and variance of samples."""
    noise = jax.random.normal(jax.random.key(0), (COUNT, *shape))
    sigmas = samplers.karras(steps, 0.002, 80.0)
    x = samplers.sample(network, rule, solver, sigmas, noise, None, jax.random.key(1))
    return np.mean(x, axis=0), np.var(x, axis=0)


def guided(rule, network=curved, shape=(4, 4, 1), sigma=0.8, end=0.5, batch=3):
    """Apply a rule once."""
    x = jax.random.normal(jax.random.key(2), (batch, *shape))
    level = jnp.float32(sigma)
    evaluate = Evaluator({"main": network}, x, level, None, "fused", end=jnp.float32(end))
    return x, rule.apply(evaluate, x, level, rule.init(x), keys(batch))[0]


# The exact posterior of the second value is N(1.2, 0.36) without noise; with a noise of 0.5 the
# means are 1.2 and 0.96, the variances 0.2 and 0.488. Biases are those of the methods, by an
# independent computation in float64.
EVERY_BIAS = [
    (guidance.ddnm(FIRST, Y, eta=0.0), 20, EULER, (1.5, 0.851), (0, 0.410)),
    (guidance.ddnm(FIRST, Y, eta=0.0), 100, EULER, (1.5, 1.151), (0, 0.369)),
    (guidance.ddnm(FIRST, Y), 100, EULER, (1.5, 1.092), (0, 0.285)),
    (guidance.ddnm(FIRST, Y, eta=1.0), 100, EULER, (1.5, 1.086), (0, 0.187)),
    (guidance.ddrm(FIRST, Y), 20, EULER, (1.5, 0.636), (0, 0.339)),
    (guidance.ddrm(FIRST, Y), 100, EULER, (1.5, 0.986), (0, 0.305)),
    (guidance.ddrm(FIRST, Y, 0.5), 20, EULER, (1.063, 0.562), (0.083, 0.369)),
    (guidance.ddrm(FIRST, Y, 0.5), 100, EULER, (1.328, 0.861), (0.029, 0.362)),
    (guidance.steered(FIRST, Y), 250, ANCESTRAL, (1.5, 0.748), (0, 0.534)),
    (guidance.pigdm(FIRST, Y, 0.5), 100, HEUN, (1.153, 0.914), (0.225, 0.513)),
    (guidance.pigdm(FIRST, Y, 0.1), 100, HEUN, (1.460, 1.126), (0.0147, 0.397)),
    # The likelihood without a spread of the prediction is biased the most.
    (guidance.universal(FIRST, Y, 4.0), 200, HEUN, (1.87, 1.86), (0.031, 0.255)),
    (guidance.dps(FIRST, Y, 0.03), 250, ANCESTRAL, (1.469, 0.578), None),
    (guidance.dps(FIRST, Y, 0.1), 250, ANCESTRAL, (1.5, 1.262), (None, 0.349)),
    (guidance.dps(FIRST, Y, 0.3), 250, ANCESTRAL, (1.5, 1.446), (0.030, 0.290)),
    (guidance.dps(FIRST, Y, 1.0), 250, ANCESTRAL, (1.5, 1.46), (0.319, None)),
]


@pytest.mark.parametrize(
    ("rule", "steps", "solver", "mean", "variance"),
    rows(EVERY_BIAS, lambda rule, steps, solver, *expected: steps < 100 or solver is HEUN),
)
def test_methods_are_exact_or_biased_by_as_much_as_is_known(rule, steps, solver, mean, variance):
    found_mean, found_variance = pairs(rule, steps, solver)
    np.testing.assert_allclose(found_mean, mean, atol=0.02)
    for found, expected in zip(found_variance, variance or (None, None), strict=True):
        assert expected is None or abs(found - expected) < 0.02


@pytest.mark.longer
def test_null_space_guidance_without_fresh_noise_becomes_exact():
    mean, variance = pairs(guidance.ddnm(FIRST, Y, eta=0.0), 1000)
    np.testing.assert_allclose(mean, (1.5, 1.197), atol=0.015)
    np.testing.assert_allclose(variance, (0, 0.360), atol=0.015)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("operator", [POOL, MASK, operators.gray((0.6,))])
def test_pseudo_inverse_guidance_is_the_kalman_filter_of_data_of_its_variance(operator, skip):
    shape, noise, sigma = (4, 4, 1), 0.3, 0.8
    size = int(np.prod(shape))
    a = np.asarray(operator.forward(jnp.eye(size).reshape(size, *shape))).reshape(size, -1).T
    y = operator.forward(jnp.linspace(-1, 1, size).reshape(1, *shape))
    rule = guidance.pigdm(operator, y, noise, variance=0.25, skip=skip)
    x, found = guided(rule, narrow, shape, sigma)
    mean = np.asarray(narrow(x, sigma, None), np.float64).reshape(-1, size)
    spread = 0.25 * sigma**2 / (0.25 + sigma**2)
    gain = spread * a.T @ np.linalg.inv(spread * a @ a.T + noise**2 * np.eye(len(a)))
    expected = mean + (np.asarray(y).reshape(1, -1) - mean @ a.T) @ gain.T
    np.testing.assert_allclose(found.denoised.reshape(-1, size), expected, atol=2e-6)


def test_pseudo_inverse_guidance_samples_the_posterior_of_white_data():
    # y = mean of two values + noise of 0.5; the posterior along the mean and across it.
    operator, noise = operators.matrix([[0.5, 0.5]]), 0.5
    rule = guidance.pigdm(operator, [0.6], noise, variance=0.25)
    sigmas = samplers.karras(60, 0.002, 80.0)
    draws = jax.random.normal(jax.random.key(0), (COUNT, 2))
    x = samplers.sample(narrow, rule, HEUN, sigmas, draws, None, jax.random.key(1))
    prior, a = 0.25 * np.eye(2), np.array([[0.5, 0.5]])
    covariance = np.linalg.inv(np.linalg.inv(prior) + a.T @ a / noise**2)
    mean = covariance @ a.T @ np.array([0.6]) / noise**2
    np.testing.assert_allclose(np.mean(x, axis=0), mean, atol=4 * 0.5 / np.sqrt(COUNT))
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=0.012)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_universal_guidance_tilts_gaussian_data_by_a_linear_reward_exactly(sigma):
    a = jnp.array([0.7, -0.3])
    x, found = guided(guidance.universal(Linear(a)), correlated, (2,), sigma)
    mean = COVARIANCE @ a  # of the tilted data, which have the same covariance
    np.testing.assert_allclose(
        found.denoised, mean + correlated(x - mean, sigma, None), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("end", [0.8, 0.1])
@pytest.mark.parametrize("trust", [1.0, 0.7])
def test_each_direction_of_ddrm_has_the_noise_of_the_level_whatever_is_known_of_it(end, trust):
    # Singular values 2 and 1/4 and none: with a noise of 0.1 the second is too noisy at end 0.1.
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    operator = operators.matrix(np.diag([2.0, 0.25]) @ rotation[:2])
    noise, sigma = 0.1, 1.5
    truth = jnp.array([0.4, -0.7, 0.2])
    keys_of = jax.random.split(jax.random.key(5), 2)
    u = operator.forward(truth[None])
    y = u + noise * jax.random.normal(keys_of[0], (COUNT, 2))
    x = truth + sigma * jax.random.normal(keys_of[1], (COUNT, 3))
    rule = guidance.ddrm(operator, y, noise, eta=0.6, trust=trust)
    known = jax.tree_util.Partial(lambda x, sigma, condition: jnp.broadcast_to(truth, x.shape))
    evaluate = Evaluator(
        {"main": known}, x, jnp.float32(sigma), None, "fused", end=jnp.float32(end)
    )
    found, _ = rule.apply(evaluate, x, jnp.float32(sigma), (), keys(COUNT))
    after = found.denoised + end * (x - found.renoise_from) / sigma
    directions = (np.asarray(after) - np.asarray(truth)) @ rotation.T
    np.testing.assert_allclose(directions.std(axis=0), end, rtol=0.02)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=5 * end / np.sqrt(COUNT))


@pytest.mark.longer
def test_a_measurement_without_noise_comes_out_exactly():
    y = np.array([[[0.5], [-1.0]], [[0.2], [1.5]]])
    sigmas = samplers.karras(6, 0.02, 20.0)
    noise = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    for rule in (guidance.ddnm(POOL, y), guidance.ddrm(POOL, y), guidance.steered(POOL, y)):
        x = samplers.sample(curved, rule, EULER, sigmas, noise, None, jax.random.key(1))
        np.testing.assert_allclose(POOL.forward(x), jnp.broadcast_to(y, (3, 2, 2, 1)), atol=1e-6)
    everything = operators.mask(np.ones((4, 4)))
    whole = jax.random.normal(jax.random.key(3), (4, 4, 1))
    rule = guidance.ddnm(everything, whole)
    x = samplers.sample(curved, rule, EULER, sigmas, noise, None, jax.random.key(1))
    np.testing.assert_allclose(x, jnp.broadcast_to(whole, x.shape), atol=1e-6)


def test_one_measurement_a_sample_is_the_samples_own():
    y = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
    _, every = guided(guidance.ddnm(POOL, y, eta=0.0))
    for row in range(3):
        _, alone = guided(guidance.ddnm(POOL, y[row], eta=0.0))
        np.testing.assert_allclose(every.denoised[row], alone.denoised[row], atol=1e-6)


def test_ddrm_and_ddnm_agree_where_nothing_is_measured():
    y = jnp.ones((2, 2, 1))
    one, two = (guided(make(POOL, y, eta=0.7))[1] for make in (guidance.ddnm, guidance.ddrm))
    for a, b in zip(one[:2], two[:2], strict=True):
        # What of each prediction the measurement does not tell.
        np.testing.assert_allclose(a - POOL.projected(a), b - POOL.projected(b), atol=1e-5)
    noisy = guidance.ddnm(POOL, y, 0.2, eta=0.7), guidance.ddrm(POOL, y, 0.2, eta=0.7)
    np.testing.assert_array_equal(*(guided(rule)[1].renoise_from for rule in noisy))


BRIGHT = Brightest()
SQUARES = (POOL, np.ones((2, 2, 1)))


@pytest.mark.parametrize(
    ("rule", "point"),
    [
        (guidance.dps(BRIGHT, scale=0.4), dict(rho=0.4, mu=0.0, strength="residual")),
        (guidance.universal(BRIGHT, scale=0.4), dict(rho=0.4, mu=0.0, strength="tilt")),
        (guidance.freedom(BRIGHT, scale=0.4), dict(rho=0.4, mu=0.0, strength="share")),
        (guidance.steered(BRIGHT, scale=0.4), dict(rho=0.4, mu=0.0, strength="noise")),
        (guidance.mpgd(BRIGHT, scale=0.4, steps=3), dict(rho=0.0, mu=0.4, steps=3)),
        (
            guidance.lgd(BRIGHT, scale=0.4, draws=3),
            dict(rho=0.4, mu=0.0, spread=1.0, draws=3, strength="tilt"),
        ),
        (
            guidance.universal(BRIGHT, scale=0.4, steps=2, size=0.2),
            dict(rho=0.4, mu=0.2, steps=2, strength="tilt"),
        ),
    ],
)
def test_published_rules_are_points_of_training_free_guidance(rule, point):
    (_, one), (_, two) = guided(rule), guided(guidance.tfg(BRIGHT, **point))
    np.testing.assert_array_equal(one.denoised, two.denoised)
    assert (one.renoise_from is None) == (two.renoise_from is None)
    plain = guided(guidance.unguided())[1].denoised
    assert np.abs(one.denoised - plain).max() > 1e-3


def test_the_parts_of_training_free_guidance_add_up_as_its_equation_says():
    (x, both) = guided(guidance.tfg(BRIGHT, rho=0.3, mu=0.2, steps=2))
    plain = curved(x, 0.8, None)
    value = lambda at: jnp.sum(BRIGHT(at, None, None))  # noqa: E731
    through = jax.grad(lambda at: value(curved(at, 0.8, None)))(x)
    delta = 0.2 * jax.grad(value)(plain)
    delta = delta + 0.2 * jax.grad(value)(plain + delta)
    expected = plain + 0.3 * (1 + 0.8**2) * through + delta
    np.testing.assert_allclose(both.denoised, expected, atol=1e-5)
    np.testing.assert_allclose(both.renoise_from, plain, atol=1e-6)


@pytest.mark.parametrize("schedule", ["increase", "decrease"])
def test_schedules_of_training_free_guidance_have_a_mean_of_one(schedule):
    sigmas = (4.0, 2.0, 1.0, 0.0)
    rule = guidance.tfg(BRIGHT, rho=1.0, mu=0.0, schedule=schedule, sigmas=sigmas)
    weights = []
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        x, found = guided(rule, sigma=start, end=end)
        base = guided(guidance.tfg(BRIGHT, rho=1.0, mu=0.0), sigma=start, end=end)[1].denoised
        plain = curved(x, start, None)
        weights.append(float(jnp.vdot(found.denoised - plain, base - plain)))
        weights[-1] /= float(jnp.vdot(base - plain, base - plain))
    assert np.mean(weights) == pytest.approx(1, abs=1e-3)
    share = [(1 + end**2) / (1 + start**2) for start, end in zip(sigmas, sigmas[1:], strict=False)]
    expected = np.array(share if schedule == "increase" else [1 - one for one in share])
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-3)


def test_a_spread_of_nothing_makes_pseudo_inverse_guidance_the_plain_likelihood():
    operator, y = SQUARES
    _, one = guided(guidance.pigdm(operator, y, 0.5, variance=1e-6))
    _, two = guided(guidance.universal(operator, y, 4.0))
    np.testing.assert_allclose(one.denoised, two.denoised, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: guidance.dps(*SQUARES, **o),
        lambda **o: guidance.pigdm(*SQUARES, **o),
        lambda **o: guidance.universal(*SQUARES, **o),
    ],
)
def test_computing_again_on_the_way_back_changes_no_number(make):
    (_, kept), (_, again) = guided(make()), guided(make(remat=True))
    np.testing.assert_allclose(again.denoised, kept.denoised, atol=1e-6)


def test_backward_passes_are_as_many_as_are_planned():
    seen = {"forward": 0, "backward": 0}

    @jax.custom_vjp
    def passed(x):
        return x

    def forward(x):
        return x, None

    def backward(_, g):
        jax.debug.callback(lambda: seen.__setitem__("backward", seen["backward"] + 1))
        return (g,)

    passed.defvjp(forward, backward)

    def network(x, sigma, condition):
        jax.debug.callback(lambda: seen.__setitem__("forward", seen["forward"] + 1))
        return passed(curved(x, sigma, condition))

    sigmas = samplers.karras(3, 0.02, 20.0)
    rule = guidance.between(guidance.dps(*SQUARES), 0.1, 100.0)
    noise = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))
    samplers.sample(network, rule, EULER, sigmas, noise, None, jax.random.key(1))
    jax.effects_barrier()
    totals = samplers.plan(EULER, sigmas, rule, (4, 4, 1)).totals
    assert totals == {"main": 3, "main+grad": 2}
    assert seen == {"forward": totals["main"], "backward": totals["main+grad"]}


def test_the_multiply_adds_of_a_backward_pass_are_those_of_two_forward():
    plan = samplers.plan(
        EULER, np.array([2.0, 0.0]), guidance.pigdm(*SQUARES), (4, 4, 1), macs={"main": 10}
    )
    assert plan.macs == 30


def test_rewards_are_counted_and_linear_maps_are_not():
    rule = guidance.tfg(BRIGHT, rho=1.0, mu=0.1, spread=0.1, draws=2, steps=3)
    assert guidance.cost(rule, [1.0]) == [
        {"main": 1, "main+grad": 1, "reward": 6, "reward+grad": 6}
    ]
    assert guidance.cost(guidance.mpgd(*SQUARES), [1.0], (4, 4, 1)) == [{"main": 1}]


def test_a_stitched_network_is_the_one_whose_backward_passes_are_counted():
    rule = guidance.stitched(guidance.dps(*SQUARES), "small", 0.1, 10.0)
    assert guidance.cost(rule, [1.0], (4, 4, 1)) == [{"small": 1, "small+grad": 1}]


HOST = dataclasses.replace(BRIGHT, differentiable=False)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guidance.dps(HOST), "guidance.dps: the reward Brightest has no gradient"),
        (lambda: guidance.mpgd(POOL), "guidance.mpgd: measurement is missing"),
        (lambda: guidance.lgd(BRIGHT, [1.0]), "guidance.lgd: measurement goes with an operator"),
        (lambda: guidance.ddnm(POOL, [np.nan]), "guidance.ddnm: measurement has numbers that"),
        (lambda: guidance.ddnm(POOL, [1.0], -1.0), "guidance.ddnm: noise is a standard deviation"),
        (lambda: guidance.ddrm(POOL, [1.0], eta=2.0), "guidance.ddrm: eta is a share"),
        (lambda: guidance.pigdm(POOL, [1.0], variance=0.0), "guidance.pigdm: variance must be"),
        (lambda: guidance.tfg(BRIGHT, rho=0.0, mu=0.0), "guidance.tfg: rho and mu are both 0"),
        (lambda: guidance.tfg(BRIGHT, schedule="increase"), "guidance.tfg: sigmas belong to"),
        (lambda: guidance.tfg(BRIGHT, schedule="up"), "guidance.tfg: schedule 'up' is not one"),
        (lambda: guidance.tfg(BRIGHT, strength="much"), "guidance.tfg: strength 'much' is not"),
        (lambda: guidance.tfg(BRIGHT, draws=3), "guidance.tfg: draws=3 with spread=0"),
        (lambda: guidance.universal(BRIGHT, steps=-1), "guidance.universal: steps must be"),
        (lambda: guidance.steered(*SQUARES, remat=True), "guidance.steered: remat belongs to"),
        (lambda: guidance.feature(np.ones((1, 1)), -1), "guidance.feature"),
    ],
)
def test_what_cannot_be_climbed_or_measured_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (guidance.ddnm(POOL, np.ones((3, 3, 1))), "guidance.ddnm: the measurement has shape"),
        (guidance.dps(operators.gray(), np.ones((4, 4, 1))), "guidance.gray: 3 weights"),
        (guidance.pigdm(POOL, np.ones((2, 2, 2, 1))), "guidance.pigdm: the measurement has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_compiled(rule, message):
    def never(x, sigma, condition):
        raise AssertionError("the network was called")

    noise = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 1)), jnp.float32)
    sigmas = samplers.karras(3)
    with pytest.raises(ValueError, match=message):
        samplers.sample(never, rule, EULER, sigmas, noise, None, jax.random.key(0))


def test_a_reward_of_another_shape_is_refused():
    @pytree
    class Sum:
        differentiable: bool = static(default=True)

        def __call__(self, x0, condition, key):
            return jnp.sum(x0)

    with pytest.raises(ValueError, match="must return one number a sample"):
        guided(guidance.mpgd(Sum()))


@pytest.mark.longer
def test_rules_that_ask_where_a_step_ends_are_told_by_combine_or_refuse():
    given = {"given": jnp.ones((1, 4, 4, 1))}
    rule = guidance.ddrm(*SQUARES)
    with pytest.raises(ValueError, match="guidance.ddrm: what it does depends on the noise level"):
        guidance.combine(rule, given, key=jax.random.key(0))
    found, _ = guidance.combine(rule, given, end=0.5, key=jax.random.key(0))
    np.testing.assert_allclose(POOL.forward(found.denoised), 1, atol=1e-6)


@pytest.mark.longer
def test_features_rise_towards_their_target_and_a_head_is_applied():
    from oracles.toy_network import NETWORKS

    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    labels, level = jnp.array([0, 1, 0]), jnp.float32(0.5)

    def likeness(at, **options):
        evaluate = Evaluator(NETWORKS, at, level, labels, "fused")
        rule = guidance.feature(jnp.eye(4)[:1], 1, 0.5, **options)
        return rule.apply(evaluate, at, level, (), None)[0]

    found = likeness(x)
    up = found.denoised - NETWORKS["main"](x, level, labels)
    before, after = (likeness(at).info["likeness"] for at in (x, x + 1e-2 * up))
    assert (after > before).all()
    halved = likeness(x, head=jax.tree_util.Partial(lambda tokens: tokens[..., ::-1]))
    assert np.abs(halved.denoised - found.denoised).max() > 1e-3
    with pytest.raises(ValueError, match="guidance.feature: target has shape"):
        rule = guidance.feature(jnp.ones((3, 5)), 1)
        rule.apply(Evaluator(NETWORKS, x, level, labels, "fused"), x, level, (), None)
