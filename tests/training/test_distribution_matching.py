"""Generators that learn a law: exact teachers, ideal fake denoisers, fixed points on the line."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles.few_step import line
from scipy.stats import norm
from tables.everyday import few
from tables.few_step_networks import Net, spec_of

from guidestar import guidance, samplers
from guidestar.core.errors import UserError
from guidestar.core.random import fold_each, normal_like
from guidestar.models.autoencoders.discriminator import ROLE as DISCRIMINATOR
from guidestar.models.exact import Gaussian
from guidestar.models.preconditioning import EDM, Consistency, Direct
from guidestar.models.scalar_inputs import ScalarInput
from guidestar.training.distillation import matching
from guidestar.training.distillation.dmd import diff_instruct, dmd
from guidestar.training.distillation.fake import FAKE
from guidestar.training.distillation.score_difference import (
    kernel_denoise,
    score_difference,
    score_difference_flow,
)
from guidestar.training.distillation.score_identity import sid, sim
from guidestar.training.distillation.teacher import TEACHER
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.noise.corruption import NOISE, Corruption
from guidestar.training.noise.levels import karras_times, log_normal
from guidestar.training.noise.weightings import uniform
from guidestar.training.objectives.objective import Mean
from guidestar.training.state import Recipe, Update, initial_state, make_step

STD, START = 0.5, 2.5
ONE_JUMP = Consistency(STD, 0.0)
LOSSES = {"dmd": dmd, "diff_instruct": diff_instruct, "sid": sid, "sim": sim}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


def at(sigma):
    """Return the section of one noise level."""
    return {"name": "log_normal", "mean": float(np.log(sigma)), "std": 0.0}


def generate(params, x, sigma, condition, **inputs):
    """Make ``a n`` of ``START n``."""
    return params["a"] * x / START


def denoise(params, x, sigma, condition, **inputs):
    """Denoise a centred Gaussian of std ``params["std"]``."""
    return Gaussian(0.0, params["std"]).denoise(x, sigma)


def by_class(params, x, sigma, condition):
    """Denoise centred Gaussians whose variances are those of ``params``, the last the null's."""
    variance = params["variances"][condition][:, None]
    return x * variance / (variance + jnp.asarray(sigma, x.dtype)[:, None] ** 2)


def specs_of(classes=None, inputs=()):
    main = spec_of(Net(None, inputs, classes or 0), ONE_JUMP, inputs, classes)
    other = spec_of(Net(None, (), classes or 0), condition=classes)
    fake = spec_of(Net(None, inputs, classes or 0), None, inputs, classes)
    return {MAIN: main, FAKE: fake, TEACHER: other}


MADE = {}


def loss_of(name, specs=None, **given):
    """Return a loss; the same one for the same arguments, so that its program is compiled once."""
    if specs is None:
        said = repr((name, sorted(given.items())))
        if said not in MADE:
            MADE[said] = loss_of(name, specs_of(), **given)
        return MADE[said]
    levels = given.pop("levels", at(1.0))
    first = (specs[MAIN],) if name == "dmd" else ()
    corruption = Corruption(log_normal(0.0, 1.0))
    return LOSSES[name](
        *first, specs, corruption, uniform("x0"), levels=levels, sigma=START, **given
    )


def roles_of(width, fake=None, real=STD):
    """Return a generator of std ``width``, an ideal fake denoiser and an exact teacher."""
    params = {MAIN: {"a": jnp.asarray(width, float)}}
    params[FAKE] = {"std": jnp.asarray(width if fake is None else fake, float)}
    params[TEACHER] = {"std": jnp.asarray(real, float)}
    functions = {MAIN: generate, FAKE: denoise, TEACHER: denoise}
    return {
        role: Role(Net(functions[role], num_classes=0), params[role], (), Direct())
        for role in params
    }


@cache
def program(loss, count):
    """Return ``(params by role, keys) -> gradients by role, metrics`` of `roles_of`."""
    roles = roles_of(1.0)
    batch = {"x": jnp.zeros((count, 1)), "condition": None}
    return jax.jit(lambda params, own: Mean(loss).gradient(roles, (), params, batch, own))


def gradients(loss, roles, count=2**14):
    """Return gradients of the mean loss by role, and the metrics."""
    params = {role: one.params for role, one in roles.items()}
    return program(loss, count)(params, keys(count))


def drawn_noise(count):
    """Return the noise of the generator and of its judges, as the losses draw them."""
    own, like = keys(count), jnp.zeros((count, 1))
    judged = fold_each(own, matching.JUDGED)
    return (normal_like(fold_each(k, NOISE), like)[:, 0] for k in (own, judged))


SETTINGS = [
    ("dmd", {}),
    ("dmd", dict(normalised=False)),
    ("dmd", dict(regression=0.5, steps=300)),
    ("diff_instruct", {}),
    ("sid", {}),
    ("sid", dict(alpha=1.2)),
    ("sim", {}),
    ("sim", dict(distance="squared")),
]


@pytest.mark.longer
@pytest.mark.parametrize("sigma", few(1, [1.0, 0.05, 20.0]))
@pytest.mark.parametrize(
    ("name", "given"), few(2, [SETTINGS[4], SETTINGS[0], *SETTINGS[5:], SETTINGS[1], SETTINGS[3]])
)
def test_every_gradient_is_zero_where_the_generators_law_is_the_teachers(name, given, sigma):
    loss = loss_of(name, levels=at(sigma), **given)
    found, metrics = gradients(loss, roles_of(STD))
    assert float(found[MAIN]["a"]) == 0 and float(metrics["gap"]) == 0
    found, metrics = gradients(loss, roles_of(1.3 * STD))
    assert abs(float(found[MAIN]["a"])) > 1e-7 and float(metrics["gap"]) > 0


class TestIdentities:
    """Gradients in closed form for the Gaussian N(0, C) and a generator of std a."""

    C, WIDTH, SIGMA = 0.25, 1.7, 1.0
    REAL = C / (C + SIGMA**2)
    FALSE = WIDTH**2 / (WIDTH**2 + SIGMA**2)

    def gradient(self, name, **given):
        found, _ = gradients(loss_of(name, **given), roles_of(self.WIDTH))
        return float(found[MAIN]["a"])

    def samples(self, count=2**14):
        """Return the noise n, the samples a n and what they become with noise."""
        noise, further = map(np.asarray, drawn_noise(count))
        return noise, self.WIDTH * noise, self.WIDTH * noise + self.SIGMA * further

    @pytest.mark.longer
    def test_dmds_is_that_of_the_divergence(self):
        """``sigma^2 d/da KL(q_sigma | p_sigma) = a (k_fake - k_real)``."""
        noise, _, x = self.samples()
        found = self.gradient("dmd", normalised=False)
        assert found == pytest.approx(np.mean((self.FALSE - self.REAL) * x * noise), rel=1e-6)
        kl = jax.grad(
            lambda a: (
                self.SIGMA**2
                * (
                    (a**2 + self.SIGMA**2) / (self.C + self.SIGMA**2)
                    - jnp.log((a**2 + self.SIGMA**2) / (self.C + self.SIGMA**2))
                )
                / 2
            )
        )(self.WIDTH)
        exact = self.WIDTH * (self.FALSE - self.REAL)
        assert exact == pytest.approx(float(kl), rel=1e-12)
        assert found == pytest.approx(exact, rel=0.02)

    def test_the_published_normaliser_is_a_positive_factor_of_every_sample(self):
        noise, made, x = self.samples()
        size = np.abs(made - self.REAL * x)
        expected = np.mean((self.FALSE - self.REAL) * x / size * noise)
        assert self.gradient("dmd") == pytest.approx(expected, rel=1e-6)

    def test_diff_instruct_is_dmd_without_its_normaliser(self):
        assert self.gradient("diff_instruct") == self.gradient("dmd", normalised=False)

    @pytest.mark.parametrize("alpha", few(1, [1.2, 0.5, 1.0]))
    def test_sids_gradient_passes_through_both_denoisers(self, alpha):
        """``2 a k (k_real - 1 - alpha k)``, k the difference of the factors."""
        noise, made, x = self.samples()
        k = self.REAL - self.FALSE
        slope = k * noise * (self.REAL * x - made - alpha * k * x)
        slope += k * x * (self.REAL * noise - noise - alpha * k * noise)
        found = self.gradient("sid", alpha=alpha, normalised=False, levels=at(1.0))
        assert found == pytest.approx(slope.mean(), rel=1e-6)
        exact = 2 * self.WIDTH * k * (self.REAL - 1 - alpha * k)
        assert found == pytest.approx(exact, rel=0.05, abs=0.01)

    @pytest.mark.longer
    def test_an_alpha_above_1_leads_a_wide_generator_away(self):
        assert self.WIDTH > STD
        self.WIDTH = 3.0
        given = dict(levels=at(1.0), normalised=False)
        down, up = (self.gradient("sid", alpha=alpha, **given) for alpha in (1.0, 1.2))
        assert down == pytest.approx(0.42, abs=0.02) and up == pytest.approx(-0.168, abs=0.02)

    def test_sids_value_is_no_measure_of_progress(self):
        """``(1 - alpha) E |D_real - D_fake|^2`` at the ideal fake denoiser."""
        for alpha in (1.0, 1.2):
            loss = loss_of("sid", alpha=alpha, normalised=False, levels=at(1.0))
            _, metrics = gradients(loss, roles_of(self.WIDTH))
            expected = (1 - alpha) * float(metrics["gap"])
            assert float(metrics["matching"]) == pytest.approx(expected, abs=0.02)

    @pytest.mark.longer
    def test_sim_with_a_square_is_sid_at_1(self):
        given = dict(levels=at(1.0))
        square = self.gradient("sim", distance="squared", **given)
        plain = self.gradient("sid", alpha=1.0, normalised=False, **given)
        assert square / 2 == pytest.approx(plain, rel=1e-6)

    @pytest.mark.longer
    def test_a_bounded_distance_is_a_square_near_the_optimum(self):
        """``sqrt(s^2 + c^2) - c`` is ``s^2 / 2c`` where scores differ little."""
        bounded = self.gradient("sim", c=1e4)
        square = self.gradient("sim", distance="squared", levels=at(1.0))
        assert bounded == pytest.approx(square / 2e4, rel=1e-5)


WIDER = [("0.02 to 0.2", 0), ("0.02 to 1", 1), ("0.02 to 5", 2)]
VARIANCES = jnp.array([0.25, 1.0])
# scale -> the variance that DMD ends at, by the distribution of noise levels.
RANGES = {
    "0.02 to 0.2": dict(name="log_uniform", low=0.02, high=0.2),
    "0.02 to 1": dict(name="log_uniform", low=0.02, high=1.0),
    "0.02 to 5": dict(name="log_uniform", low=0.02, high=5.0),
    "karras": dict(name="karras_times"),
}
ENDS = {
    1.0: (0.25, 0.25, 0.25, 0.25),
    1.5: (0.179, 0.157, 0.145, 0.138),
    2.0: (0.138, 0.105, 0.089, 0.080),
    3.0: (0.093, 0.057, 0.046, 0.039),
}


def guided_roles(variance):
    """Return a generator with an ideal fake denoiser, and a teacher of class 0 and of the null."""
    functions = {MAIN: generate, FAKE: denoise, TEACHER: by_class}
    width = jnp.sqrt(variance)
    params = {
        MAIN: {"a": width},
        FAKE: {"std": width},
        TEACHER: {"variances": VARIANCES},
    }
    return {
        role: Role(Net(functions[role], num_classes=1), params[role], (), Direct())
        for role in params
    }


@cache
def slope_at(levels, count=256, dim=256):
    """Return ``(scale, variance) -> gradient`` of DMD with the published normaliser.

    Samples have many elements, so that a sample's normaliser is near its mean, and each takes its
    own share of the noise levels.
    """
    shares = jnp.arange(count + 1) / count
    batch = {"x": jnp.zeros((count, dim)), "condition": jnp.zeros(count, jnp.int32)}
    specs = specs_of(1)

    @jax.jit
    def slope(scale, variance):
        loss = loss_of("dmd", specs, rule=dict(name="cfg", scale=2.0), levels=RANGES[levels])
        rule = guidance.cfg(scale)
        loss = matching.dataclasses.replace(
            loss, teacher=matching.dataclasses.replace(loss.teacher, rule=lambda _: rule)
        )
        roles = guided_roles(variance)

        def value(params):
            seen = roles | {MAIN: roles[MAIN]._replace(params=params)}
            return jnp.mean(loss(seen, batch, keys(count), (shares[:-1], shares[1:]))[0])

        return jax.grad(value)(roles[MAIN].params)["a"]

    return slope


@pytest.mark.longer
@pytest.mark.parametrize(("levels", "place"), few(1, [("karras", 3), *WIDER]))
def test_where_guided_dmd_ends_depends_on_the_noise_levels(levels, place):
    for scale, ends in ENDS.items():
        low, high = np.log(0.01), np.log(0.6)
        for _ in range(12):
            middle = (low + high) / 2
            below = float(slope_at(levels)(scale, float(np.exp(middle)))) < 0
            low, high = (middle, high) if below else (low, middle)
        assert np.exp(low) == pytest.approx(ends[place], rel=0.04), scale


class TestWhoLearnsFromWhom:
    """No gradient passes between the networks."""

    @pytest.mark.longer
    @pytest.mark.parametrize(("name", "given"), few(2, [SETTINGS[4], SETTINGS[2], SETTINGS[6]]))
    def test_only_the_fake_denoisers_own_loss_moves_it(self, name, given):
        roles = roles_of(0.9, fake=0.7)
        found, _ = gradients(loss_of(name, **given), roles)
        assert float(found[TEACHER]["std"]) == 0

        def own(params):
            held = {role: one._replace(learns=role == FAKE) for role, one in roles.items()}
            held[FAKE] = held[FAKE]._replace(params=params)
            loss = loss_of(name, **given)
            batch = {"x": jnp.zeros((2**14, 1)), "condition": None}
            return jnp.mean(loss(held, batch, keys(2**14))[0])

        expected = jax.jit(jax.grad(own))(roles[FAKE].params)["std"]
        assert float(expected) != 0
        assert float(found[FAKE]["std"]) == pytest.approx(float(expected), rel=1e-12)

    def test_the_fake_denoiser_learns_the_generators_law(self):
        """Its gradient changes its sign where its std is the generator's."""
        for fake, sign in ((0.8, -1), (1.2, 1)):
            found, _ = gradients(loss_of("dmd"), roles_of(1.0, fake))
            assert np.sign(float(found[FAKE]["std"])) == sign

    @pytest.mark.longer
    def test_dmds_gradient_does_not_pass_through_the_denoisers(self):
        """What SiD's does: the direction of a sample is held."""
        loss = loss_of("dmd", normalised=False)
        assert not loss.through and loss_of("sid").through
        roles = roles_of(1.7)
        batch = {"x": jnp.zeros((1, 1)), "condition": None}

        def value(a):
            changed = roles | {MAIN: roles[MAIN]._replace(params={"a": a})}
            return loss(changed, batch, keys(1))[1]["matching"][0]

        noise, further = (float(one[0]) for one in drawn_noise(1))
        way = (1.7**2 / (1.7**2 + 1) - 0.2) * (1.7 * noise + further)
        assert float(jax.jit(jax.grad(value))(1.7)) == pytest.approx(way * noise, rel=1e-6)


@pytest.mark.longer
def test_the_regression_leads_to_where_the_flow_leads_from_the_same_noise():
    """Whose width is that of the noise level: ``a n = START n sqrt(C / (C + START^2))``."""
    width = START * STD / np.sqrt(STD**2 + START**2)
    loss = loss_of("dmd", regression=1.0, steps=400)
    _, metrics = gradients(loss, roles_of(width))
    assert float(metrics["regression"]) < 1e-9
    _, metrics = gradients(loss, roles_of(1.2 * width))
    assert float(metrics["regression"]) == pytest.approx((0.2 * width) ** 2, rel=0.15)


@pytest.mark.filterwarnings("ignore:samplers.sample. the schedule starts")
def test_a_generator_is_sampled_by_consistency_with_one_level():
    from guidestar.models.denoiser import Denoiser

    params = {"a": jnp.asarray(0.7)}
    made = Denoiser(params, Net(_raw, num_classes=0), ONE_JUMP)
    noise = jax.random.normal(jax.random.key(0), (4, 1))
    found = samplers.sample(
        made,
        guidance.unguided(),
        samplers.consistency(),
        [START, 0.0],
        noise,
        None,
        jax.random.key(1),
    )
    np.testing.assert_allclose(found, 0.7 * noise, rtol=1e-6)


def _raw(params, x, time, condition):
    """Return the output with which the preconditioner makes ``a n`` of START n."""
    skip, out, inside, _ = ONE_JUMP.coefficients(jnp.asarray(START))
    start = x / inside
    return (params["a"] * start / START - skip * start) / out


class Counts:
    """A loss that counts how often each network learns, and draws a number in each turn."""

    roles, trained, turns = (MAIN, FAKE), (FAKE,), 5

    def __call__(self, roles, batch, own, span=(0.0, 1.0)):
        main, fake = roles[MAIN], roles[FAKE]
        value = jnp.zeros(len(own))
        if main.learns:
            value = value - main.params["count"]
        drawn = jax.vmap(jax.random.uniform)(own)
        value = value - fake.params["count"] - drawn * fake.params["drawn"]
        return value, {"fake_before": jnp.full(len(own), fake.params["count"])}


def test_the_fake_denoiser_learns_so_many_times_a_step():
    sgd = optax.sgd(1.0)
    update = Update(sgd, lambda count: count, None, lambda p: p)
    recipe = Recipe(Mean(Counts()), {MAIN: update, FAKE: update}, 5)
    params = {MAIN: {"count": jnp.zeros(())}, FAKE: {"count": jnp.zeros(()), "drawn": 0.0}}
    advance = make_step(recipe, dict.fromkeys(params, Net(None)), 0)
    state = initial_state(recipe, jax.tree.map(jnp.asarray, params))
    drawn = []
    for step in (1, 2):
        state, metrics = advance(state, {"x": jnp.zeros((2, 1)), "condition": None})
        assert float(state.main.params["count"]) == step
        assert float(state.roles[FAKE].params["count"]) == 5 * step
        # The generator's turn comes after four of the fake one's, whose schedule counts them.
        assert float(metrics["fake_before"]) == 5 * step - 1
        assert float(metrics["learning_rate_fake"]) == 5 * step - 1
        assert float(metrics["learning_rate"]) == step - 1
        drawn.append(float(state.roles[FAKE].params["drawn"]))
    # Ten turns with numbers of their own: far from ten times one of them.
    assert 0 < drawn[0] < 5 and drawn[1] != 2 * drawn[0]


def test_a_scale_is_an_input_of_generator_and_fake_denoiser():
    inputs = (("scale", ScalarInput(1.0, 4.0)),)
    specs = specs_of(1, inputs)
    loss = loss_of("dmd", specs, rule=dict(name="cfg"))
    seen = {}

    def noted(role, function):
        def call(params, x, sigma, condition, **given):
            seen.setdefault(role, []).append(given)
            return function(params, x, sigma, condition)

        return call

    functions = {MAIN: generate, FAKE: denoise, TEACHER: by_class}
    params = guided_roles(0.3)
    roles = {
        role: Role(Net(noted(role, one), num_classes=1), params[role].params, (), Direct())
        for role, one in functions.items()
    }
    batch = {"x": jnp.zeros((6, 1)), "condition": jnp.zeros(6, jnp.int32)}
    jax.eval_shape(lambda: loss(roles, batch, keys(6)))
    scales = seen[MAIN][0]["scale"]
    assert scales.shape == (6,) and len(seen[FAKE]) == 2
    assert all(one["scale"] is scales for one in seen[FAKE])
    assert all(not one for one in seen[TEACHER])


def test_noise_levels_are_karras_between_two_times():
    noise = karras_times(low=0.0, high=0.8)
    found = noise.quantile(np.array([0.0, 1.0]))
    np.testing.assert_allclose(found, [0.002, 24.4], rtol=1e-3)
    every = karras_times(low=0.0, high=1.0).quantile(np.linspace(1, 0, 1000))
    np.testing.assert_allclose(every, samplers.karras(1000)[:-1], rtol=1e-5)


class Judge(Net):
    """A discriminator of one number, as a network whose module is itself with its parameters."""

    def module(self, params):
        return lambda x: params["slope"] * x


class TestAdversarial:
    """DMD with a discriminator of noised samples and data."""

    def roles(self, slope=0.8):
        judge = Role(Judge(None, num_classes=0), {"slope": jnp.asarray(slope)})
        return roles_of(1.2) | {DISCRIMINATOR: judge}

    def found(self, weight, roles, shift=0.0):
        loss = loss_of("dmd", adversarial=weight) if weight else loss_of("dmd")
        batch = {"x": jnp.full((512, 1), shift), "condition": None}
        params = {role: one.params for role, one in roles.items()}
        run = jax.jit(lambda params, own: Mean(loss).gradient(roles, (), params, batch, own))
        return loss, *run(params, keys(512))

    @pytest.mark.longer
    def test_each_learns_its_own_part(self):
        roles = self.roles()
        loss, found, metrics = self.found(0.5, roles, 1.0)
        assert loss.trained == (FAKE, DISCRIMINATOR) and DISCRIMINATOR in loss.roles
        _, without, _ = self.found(0.0, roles, 1.0)
        assert float(found[FAKE]["std"]) == pytest.approx(float(without[FAKE]["std"]), rel=1e-12)
        assert float(found[TEACHER]["std"]) == 0

        # The noised samples are of unit size: their logits are the slope times them.
        own, like = keys(512), jnp.zeros((512, 1))
        noise = normal_like(fold_each(own, NOISE), like)

        def shown(x, stream):
            given = loss.corruption(roles[MAIN].network, {"x": x}, fold_each(own, stream))
            return Direct().coefficients(given.column).inside * given.noisy

        def fooled(a):
            return jnp.mean(jax.nn.softplus(-0.8 * shown(a * noise, matching.OF_GENERATED)))

        def told(slope):
            real = shown(like + 1.0, matching.OF_DATA)
            made = shown(1.2 * noise, matching.OF_GENERATED)
            return jnp.mean(jax.nn.softplus(-slope * real) + jax.nn.softplus(slope * made)) / 2

        extra = float(found[MAIN]["a"]) - float(without[MAIN]["a"])
        assert extra == pytest.approx(0.5 * float(jax.jit(jax.grad(fooled))(1.2)), rel=1e-6)
        learnt = float(found[DISCRIMINATOR]["slope"])
        assert learnt == pytest.approx(float(jax.jit(jax.grad(told))(0.8)), rel=1e-6)
        assert float(metrics["discriminator"]) == pytest.approx(float(told(0.8)), rel=1e-6)

    def test_a_discriminator_of_other_samples_is_refused(self):
        with pytest.raises(UserError, match=r"roles\.discriminator is a denoiser .*unet_discrim"):
            specs = specs_of() | {DISCRIMINATOR: spec_of(Net(None), condition=None)}
            loss_of("dmd", specs, adversarial=0.1)


class TestScoreDifference:
    """A kernel over samples in the place of a fake denoiser."""

    @pytest.mark.longer
    def test_the_kernel_is_the_exact_denoiser_of_the_other_samples(self):
        samples = jnp.array([[0.0], [1.0], [3.0]])
        found = kernel_denoise(jnp.array([[0.2], [0.9], [2.0]]), 0.5, samples)
        weights = np.exp(-((0.2 - np.array([1.0, 3.0])) ** 2) / 0.5)
        assert float(found[0, 0]) == pytest.approx(weights @ [1.0, 3.0] / weights.sum(), rel=1e-9)
        among = jnp.array([[True, False, True], [False, True, False], [True, False, True]])
        found = kernel_denoise(samples, 0.5, samples, among)
        np.testing.assert_allclose(found[:, 0], [3.0, 1.0, 0.0])

    @pytest.mark.longer
    def test_particles_of_the_law_stay_and_with_themselves_counted_they_would_not(self):
        count = 1500
        y, noise = np.random.default_rng(0).normal(size=(2, count, 1))
        x, sigma = STD * y + 0.4 * noise, 0.4
        real = np.asarray(Gaussian(0.0, STD).denoise(x, sigma))
        points = jnp.asarray(STD * y)
        found = np.asarray(kernel_denoise(jnp.asarray(x), sigma, points))
        outward = np.mean((real - found) * y)
        weights = np.exp(-((x - STD * y.T) ** 2) / (2 * sigma**2))
        counted = weights @ (STD * y) / weights.sum(1, keepdims=True)
        assert abs(outward) < 0.01 and np.mean((real - counted) * y) < outward

    @pytest.mark.longer
    def test_particles_flow_to_the_law_of_a_denoiser(self):
        start = 2.0 + 1.5 * jax.random.normal(jax.random.key(0), (400, 1))
        sigmas = np.geomspace(3.0, 0.4, 40)
        exact = Gaussian(0.0, STD)
        run = jax.jit(lambda y, key: score_difference_flow(y, exact.denoise, sigmas, key))
        found = run(start, jax.random.key(1))
        assert float(found.mean()) == pytest.approx(0, abs=0.08)
        assert float(found.std()) == pytest.approx(STD, rel=0.1)

    @pytest.mark.longer
    def test_a_generator_learns_without_a_fake_denoiser(self):
        specs = {role: specs_of()[role] for role in (MAIN, TEACHER)}
        loss = score_difference(specs[MAIN], specs, levels=at(0.5), sigma=START)
        assert loss.roles == (MAIN, TEACHER) and loss.trained == ()
        for width in (0.7 * STD, STD, 1.3 * STD):
            found, _ = gradients(loss, roles_of(width), 1024)
            assert float(found[TEACHER]["std"]) == float(found[FAKE]["std"]) == 0
            # The direction of `dmd`, a (k_fake - k_real).
            fake = width**2 / (width**2 + 0.25)
            expected = pytest.approx(width * (fake - 0.5), abs=0.015)
            assert float(found[MAIN]["a"]) == expected

    @pytest.mark.parametrize(
        ("make", "word"),
        [
            (lambda: score_difference_flow(jnp.zeros((1, 1)), None, [1.0], None), "give two"),
            (lambda: score_difference_flow(jnp.zeros((2, 1)), None, [1.0], None, step=0.0), "step"),
            (
                lambda: score_difference(
                    *(lambda s: (s[MAIN], s))(specs_of(2, (("scale", ScalarInput(1.0, 4.0)),)))
                ),
                "samples of one scale",
            ),
        ],
    )
    def test_what_has_nothing_to_compare_is_refused(self, make, word):
        with pytest.raises(ValueError, match=word):
            make()


REFUSED = {
    "a denoiser as a generator": (
        lambda: loss_of("dmd", specs_of() | {MAIN: spec_of(Net(None), condition=None)}),
        "sampled in one jump: set model.preconditioner",
    ),
    "a level that it does not know": (
        lambda: dmd(
            specs_of()[MAIN],
            specs_of(),
            Corruption(log_normal()),
            uniform(),
            sigma=100.0,
        ),
        "up to the 80 that the network knows",
    ),
    "no turns": (lambda: loss_of("dmd", ratio=0), "ratio"),
    "a negative weight": (lambda: loss_of("dmd", regression=-1.0), "regression"),
    "unknown levels": (lambda: loss_of("sid", levels={"name": "karras"}), "loss.levels.name"),
    "a rule with a memory": (
        lambda: loss_of("sim", specs_of(1), rule=dict(name="apg", scale=2.0, momentum=-0.5)),
        "keeps a memory",
    ),
    "another distance": (lambda: loss_of("sim", distance="norm"), "distance"),
    "alpha of 0": (lambda: loss_of("sid", alpha=0.0), "alpha"),
    "a fake of other classes": (
        lambda: loss_of("dmd", specs_of(2) | {FAKE: spec_of(Net(None), condition=3)}),
        "has num_classes 2 and roles.fake 3",
    ),
    "a fake without the generator's inputs": (
        lambda: loss_of(
            "dmd",
            specs_of(2, (("scale", ScalarInput(1.0, 4.0)),))
            | {FAKE: spec_of(Net(None), condition=2)},
            rule=dict(name="cfg"),
        ),
        "roles.fake none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_matched_is_refused(name):
    make, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        make()


def run(loss, networks, params, preconditioners, *, steps, rate, batch, dtype=float):
    """Return the networks' parameters after training, and metrics of the last step."""

    def update(updates):
        falling = optax.cosine_decay_schedule(rate, updates)
        return Update(optax.adam(falling, b1=0.5, b2=0.95), falling, None, lambda p: p)

    updates = {MAIN: update(steps), FAKE: update(steps * loss.turns)}
    recipe = Recipe(Mean(loss), updates, loss.turns)
    advance = make_step(recipe, networks, 0, preconditioners=preconditioners)
    state = initial_state(recipe, params)
    given = {"x": jnp.zeros((batch, 1), dtype), "condition": None}
    for _ in range(steps):
        state, metrics = advance(state, given)
    return {role: one.params for role, one in state.roles.items()}, metrics


# The setting, the generator's std at the start, the learning rate.
CLOSED = [
    ("dmd", dict(ratio=3), 1.5, 0.03),
    ("sid", dict(alpha=1.2, ratio=3), 0.2, 0.03),
    ("sim", dict(ratio=3), 1.5, 0.03),
    ("dmd", dict(ratio=3), 0.1, 0.03),
    ("sid", dict(alpha=1.0, ratio=3), 1.5, 0.03),
    ("diff_instruct", {}, 1.5, 0.03),
]


@pytest.mark.parametrize(("name", "given", "start", "rate"), few(1, CLOSED))
def test_a_generator_and_its_fake_denoiser_end_at_the_teachers_law(name, given, start, rate):
    """Of a Gaussian: one number each, trained by the step that trains any network."""
    roles = roles_of(start)
    networks = {role: one.network for role, one in roles.items()}
    params = {role: one.params for role, one in roles.items()}
    loss = loss_of(name, levels=dict(name="log_uniform", low=0.1, high=3.0), **given)
    found, metrics = run(
        loss, networks, params, dict.fromkeys(roles, Direct()), steps=300, rate=rate, batch=256
    )
    assert abs(float(found[MAIN]["a"])) == pytest.approx(STD, rel=0.08)
    assert float(found[FAKE]["std"]) == pytest.approx(STD, rel=0.08)
    assert float(found[TEACHER]["std"]) == STD
    assert float(metrics["gradient_norm_fake"]) > 0


class MLP:
    """Four hidden layers for numbers at a noise level."""

    def __init__(self, width=96, layers=3):
        self.sizes = (2, *[width] * layers, 1)

    def params(self, seed):
        own = jax.random.split(jax.random.key(seed), len(self.sizes))
        return [
            {"w": jax.random.normal(k, (a, b), jnp.float32) / np.sqrt(a), "b": jnp.zeros(b, "f4")}
            for k, a, b in zip(own, self.sizes[:-1], self.sizes[1:], strict=False)
        ]

    def __call__(self, params, x, time, condition):
        y = jnp.concatenate([x, jnp.broadcast_to(time[:, None], x.shape)], axis=1)
        for layer in params[:-1]:
            y = jax.nn.silu(y @ layer["w"] + layer["b"])
        return y @ params[-1]["w"] + params[-1]["b"]


def on_the_line(params, x, sigma, condition):
    """Denoise the mixture M1."""
    del params, condition
    return line().denoise(x, sigma[:, None].astype(x.dtype))


# The setting, and the distance to the data that it ends within.
TOYS = [("dmd", {}, 0.06), ("sim", dict(ratio=5), 0.06)]


@pytest.mark.longer
@pytest.mark.parametrize(("name", "given", "within"), TOYS)
def test_a_trained_generator_has_the_mixtures_law(name, given, within):
    mlp, data = MLP(), EDM(0.77)
    networks = {
        MAIN: Net(mlp, num_classes=0),
        FAKE: Net(mlp, num_classes=0),
        TEACHER: Net(on_the_line, num_classes=0),
    }
    specs = specs_of()
    loss = LOSSES[name](
        *((specs[MAIN],) if name == "dmd" else ()),
        specs,
        Corruption(log_normal(-0.5, 1.5)),
        uniform(),
        levels=dict(name="log_uniform", low=0.05, high=5.0),
        sigma=START,
        **given,
    )
    kinds = {MAIN: EDM(0.77), FAKE: data, TEACHER: Direct()}
    with jax.enable_x64(False):
        # The generator begins as the fake denoiser does: at data's own size, both untaught.
        params = {MAIN: mlp.params(1), FAKE: mlp.params(2), TEACHER: {}}
        params, _ = run(
            loss,
            networks,
            params,
            kinds,
            steps=2500,
            rate=1e-3,
            batch=512,
            dtype=jnp.float32,
        )
        noise = jax.random.normal(jax.random.key(9), (20_000, 1))
        made = loss.generator(
            Role(networks[MAIN], params[MAIN], (), kinds[MAIN]), noise, None, keys(20_000)
        )
    share = (np.arange(20_000) + 0.5) / 20_000
    exact = np.asarray(line().flow_map(80.0 * norm.ppf(share), 80.0, 0.0))
    found = np.sort(np.asarray(made.samples, float)[:, 0])
    assert np.abs(found - exact).mean() < within
    assert found.std() == pytest.approx(0.767, abs=0.03)
