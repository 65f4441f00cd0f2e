"""Where consistency functions in continuous time and flow maps end: Gaussians, in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles.few_step import M1, heun_product, line, one_step_law
from tables.few_step_networks import Net, data, exact_role, gradient_of, keys, spec_of

from guidestar import guidance, samplers
from guidestar.core.errors import UserError
from guidestar.core.random import fold_each, normal_like
from guidestar.models import create
from guidestar.models.denoiser import Denoiser
from guidestar.models.exact import gaussian
from guidestar.models.preconditioning import EDM, Direct, FlowMap, TrigFlow
from guidestar.models.scalar_inputs import ScalarInput
from guidestar.training.distillation.ctm import ctm
from guidestar.training.distillation.mean_flow import HIGH, LOW, mean_flow
from guidestar.training.distillation.pairs import Grid, any_two
from guidestar.training.distillation.scm import scm
from guidestar.training.distillation.shortcut import shortcut
from guidestar.training.distillation.tangents import value_and_tangent
from guidestar.training.distillation.teacher import TEACHER
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.noise.corruption import NOISE, SIGMA
from guidestar.training.noise.levels import draw, log_normal

STD = 0.5
LEVELS = log_normal(-0.4, 1.2)
UNGUIDED, CFG = {"name": "unguided"}, {"name": "cfg"}
TRIG, FLOW = TrigFlow(STD), FlowMap()
SCALE = ("scale", ScalarInput(1.0, 4.0))
ENDS = ((LOW, ScalarInput(0.0, 0.5)), (HIGH, ScalarInput(0.5, 1.0)))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def longer(*row):
    """Return a row of a table that is not for every day."""
    return pytest.param(*row, marks=pytest.mark.longer)


def at(loss, net, gain, batch=None, *, step=0, target=None, teacher=None, made=FLOW):
    """Return the gradient by the factor on a network's output, and the metrics."""
    params = {"gain": jnp.asarray(gain, float)}
    held = None if target is None else {"gain": jnp.asarray(target, float)}
    roles = {MAIN: Role(net, params, (), made, held, step)}
    roles[TEACHER] = exact_role() if teacher is None else teacher
    batch = data(256) if batch is None else batch
    gradient, metrics = gradient_of(loss, roles, params, batch, keys(len(batch["x"])))
    return float(gradient["gain"]), metrics


def in_errors(loss, net, gain, draw=data, made=FLOW, rounds=20, count=1000):
    """Return the mean gradient from fresh data, in standard errors."""

    def each(number):
        params = {"gain": jnp.asarray(gain, float)}
        roles = {MAIN: Role(net, params, (), made)}
        found, _ = gradient_of(loss, roles, params, draw(count, number + 50), keys(count, number))
        return found["gain"]

    found = jax.lax.map(each, jnp.arange(rounds))
    return float(found.mean() / (found.std() / np.sqrt(rounds)))


def trig_net(function):
    """Return a network whose output is a function of the angle times its input."""
    return Net(lambda p, x, time, c: p["gain"] * function(time)[:, None] * x, num_classes=0)


def exact_trig(std):
    """Return the network of the exact consistency function of data of a std."""

    def function(angle):
        size = jnp.sqrt((std * jnp.cos(angle)) ** 2 + (STD * jnp.sin(angle)) ** 2)
        return (jnp.cos(angle) - std / size) / jnp.sin(angle)

    return trig_net(function)


def specs_of(made, inputs=(), condition=None):
    net = Net(None, inputs, condition or 0)
    plain = Net(None, (), condition or 0)
    main = spec_of(net, made, inputs, condition)
    return main, {MAIN: main, TEACHER: spec_of(plain, condition=condition)}


def scm_of(rule=None, **given):
    spec, specs = specs_of(TRIG)
    return scm(spec, LEVELS, specs, rule=rule, **{"normalise": "none", "warm_up": 0} | given)


class TestContinuousConsistency:
    """In TrigFlow's angle, on data of one Gaussian."""

    def test_data_of_the_assumed_size_have_the_half_angles_tangent(self):
        angle = jnp.array([0.1, 0.9, 1.5])
        ours = exact_trig(STD).function({"gain": 1.0}, jnp.ones((3, 1)), angle, None)
        np.testing.assert_allclose(ours[:, 0], -jnp.tan(angle / 2), rtol=1e-12)

    @pytest.mark.parametrize(
        ("std", "normalise"), [(STD, "none"), (0.3, "none"), (0.3, "norm"), (0.3, "rms")]
    )
    def test_the_gradient_is_zero_at_the_exact_function(self, std, normalise):
        loss, net = scm_of(UNGUIDED, normalise=normalise), exact_trig(std)
        given = dict(batch=data(256, std=std), teacher=exact_role(stds=(std,)), made=TRIG)
        gradient, metrics = at(loss, net, 1.0, **given)
        assert float(metrics["tangent"]) < 1e-24 and abs(gradient) < 1e-12
        assert at(loss, net, 1.1, **given)[0] > 1e-4

    @pytest.mark.longer
    def test_from_data_the_expected_gradient_is_zero_there(self):
        assert abs(in_errors(scm_of(), exact_trig(STD), 1.0, made=TRIG)) < 4
        assert in_errors(scm_of(), exact_trig(STD), 1.1, made=TRIG) > 8

    def test_a_warm_up_that_ends_early_ends_at_another_function(self):
        """At half of it: -y / sin^2(a) times the integral of sin^2, in closed form."""

        def half(angle):
            return -(angle - jnp.sin(angle) * jnp.cos(angle)) / (2 * jnp.sin(angle) ** 2)

        # Of record at this angle, over the whole warm-up's.
        ratio = float(half(jnp.asarray(0.9)) / -np.tan(0.45))
        assert ratio == pytest.approx(0.8752 / 1.2559, abs=1e-4)
        loss, net = scm_of(UNGUIDED, warm_up=10), trig_net(half)
        gradient, metrics = at(loss, net, 1.0, step=5, made=TRIG)
        assert float(metrics["tangent"]) < 1e-24 and abs(gradient) < 1e-12
        assert float(at(loss, net, 1.0, step=6, made=TRIG)[1]["tangent"]) > 1e-6

    @pytest.mark.parametrize("step", [0, 5, 10])
    def test_no_gradient_comes_through_its_target(self, step):
        """By hand, for ``F = p a^2 y / sigma_data``; before the warm-up it matches velocities."""
        gain, count = 0.7, 64
        net = trig_net(jnp.square)
        loss, batch, own = scm_of(UNGUIDED, warm_up=10), data(count), keys(count)
        params = {"gain": jnp.asarray(gain)}
        roles = {MAIN: Role(net, params, (), TRIG, None, step), TEACHER: exact_role(stds=(0.3,))}
        values, _ = loss(roles, batch, own)
        angle = TRIG.angle(draw(LEVELS, fold_each(own, SIGMA)).astype(float))[:, None]
        noise = STD * normal_like(fold_each(own, NOISE), batch["x"])
        y = jnp.cos(angle) * batch["x"] + jnp.sin(angle) * noise
        x = y / STD
        cos, sin = np.cos(angle), np.sin(angle)
        size = (0.3 * cos) ** 2 + (STD * sin) ** 2
        velocity = y * sin * cos * (STD**2 - 0.3**2) / size
        output, slope = gain * angle**2 * x, gain * (2 * angle * x + angle**2 * velocity / STD)
        tangent = -(cos**2) * (STD * output - velocity)
        tangent -= step / 10 * cos * sin * (y + STD * slope)
        np.testing.assert_allclose(values, tangent[:, 0] ** 2, rtol=1e-9)
        gradient, _ = gradient_of(loss, roles, params, batch, own)
        by_hand = np.mean(-2 * tangent * angle**2 * x)
        np.testing.assert_allclose(gradient["gain"], by_hand, rtol=1e-9)

    @pytest.mark.longer
    def test_learned_weights_and_the_inverse_of_sigma_count(self):
        class Weighing(Net):
            def log_variance(self, time):
                return 0.3 * time

            def module(self, params):
                return self

        net = Weighing(exact_trig(STD).function, num_classes=0)
        spec = spec_of(net, TRIG, condition=None)
        given = dict(normalise="none", warm_up=0)
        plain = scm(spec, LEVELS, {MAIN: spec}, **given)
        roles = {MAIN: Role(net, {"gain": jnp.asarray(0.8)}, (), TRIG)}
        error, _ = plain(roles, data(8), keys(8))
        by_sigma, _ = scm(spec, LEVELS, {MAIN: spec}, by_sigma=True, **given)(
            roles, data(8), keys(8)
        )
        angle = jnp.arctan(error / by_sigma / STD)
        weighed, _ = scm(spec, LEVELS, {MAIN: spec}, learned_weight=True, **given)(
            roles, data(8), keys(8)
        )
        np.testing.assert_allclose(weighed, jnp.exp(-0.3 * angle) * error + 0.3 * angle)


def average(std, z, t, r, mean=0.0):
    """Return ``u(z, t, r)`` of a Gaussian, without a division by ``t - r``."""
    size, end = (jnp.sqrt((std * (1 - one)) ** 2 + one**2) for one in (t, r))
    slope = ((1 + std**2) * (t + r) - 2 * std**2) / (size * (size + end))
    column = (-1,) + (1,) * (z.ndim - 1)
    mean = jnp.broadcast_to(jnp.asarray(mean, z.dtype), t.shape).reshape(column)
    return slope.reshape(column) * (z - (1 - t).reshape(column) * mean) - mean


def flow_net(mean=lambda condition, given: 0.0, inputs=(), num_classes=0):
    """Return the network of a Gaussian's exact average velocity, its mean by label and inputs."""

    def call(params, z, time, condition, to, **given):
        found = average(STD, z, time, time - to, mean(condition, given | {"time": time}))
        return params["gain"] * found

    return Net(call, inputs, num_classes)


def test_average_velocities_are_those_of_the_exact_flow_map():
    z, t, r = (
        jnp.array([[0.3], [-1.0], [2.0]]),
        jnp.array([0.9, 0.5, 0.99]),
        jnp.array([0.2, 0, 0.6]),
    )
    sigma, to = t / (1 - t), r / (1 - r)
    end = gaussian(0.4, STD).flow_map(z / (1 - t)[:, None], sigma, to) * (1 - r)[:, None]
    np.testing.assert_allclose(average(STD, z, t, r, 0.4), (z - end) / (t - r)[:, None], rtol=1e-10)
    one, zero = jnp.ones(3), jnp.zeros(3)
    np.testing.assert_allclose(average(STD, z, one, zero), (1 - STD) * z)
    np.testing.assert_allclose(average(STD, z, one, zero, 0.4), (1 - STD) * z - 0.4)


def mean_flow_of(rule=None, inputs=(), condition=None, **given):
    spec, specs = specs_of(FLOW, inputs, condition)
    return mean_flow(spec, LEVELS, specs, rule=rule, **{"power": 0.0} | given)


M = 0.8


def two_means(count, seed):
    """Return data whose class has the mean M, and as many without a class, of the mean 0."""
    label = jnp.arange(count) % 2
    return {"x": data(count, seed)["x"] + M * (1 - label)[:, None], "condition": label}


def guided(condition, given):
    """Return the mean at which guidance with a scale ends, where both have one std."""
    return jnp.where(condition == 0, given["scale"] * M, 0.0)


class TestMeanFlow:
    """Average velocities on a Gaussian."""

    @pytest.mark.parametrize(("tangent", "power"), [("target", 0.0), ("target", 1.0), ("own", 0.0)])
    def test_the_gradient_is_zero_at_the_exact_map(self, tangent, power):
        loss = mean_flow_of(UNGUIDED, tangent=tangent, power=power, equal=0.25)
        gradient, metrics = at(loss, flow_net(), 1.0)
        assert float(metrics["velocity_error"]) < 1e-24 and abs(gradient) < 1e-12
        assert at(loss, flow_net(), 1.1)[0] > 1e-3

    @pytest.mark.parametrize("tangent", [longer("target"), "own"])
    def test_from_data_the_expected_gradient_is_zero_there(self, tangent):
        loss = mean_flow_of(tangent=tangent, equal=0.25)
        assert abs(in_errors(loss, flow_net(), 1.0)) < 4
        assert in_errors(loss, flow_net(), 1.1) > 8

    def test_no_gradient_comes_through_the_tangent(self):
        """By hand: errors times the derivative of the network's own output alone."""
        loss, net, gain = mean_flow_of(UNGUIDED, equal=0.0), flow_net(), 0.7
        params, batch, own = {"gain": jnp.asarray(gain)}, data(32), keys(32)
        roles = {MAIN: Role(net, params, (), FLOW), TEACHER: exact_role()}
        gradient, _ = gradient_of(loss, roles, params, batch, own)
        pair = any_two(LEVELS, fold_each(own, SIGMA))
        t, r = (one.astype(float) / (1 + one.astype(float)) for one in pair)
        z = (1 - t)[:, None] * batch["x"] + t[:, None] * normal_like(
            fold_each(own, NOISE), batch["x"]
        )
        velocity = average(STD, z, t, t)
        u, slope = jax.jvp(lambda z, t: average(STD, z, t, r), (z, t), (velocity, jnp.ones_like(t)))
        error = gain * u - velocity + gain * (t - r)[:, None] * slope
        np.testing.assert_allclose(gradient["gain"], np.mean(2 * error * u), rtol=1e-9)

    @pytest.mark.longer
    def test_a_guided_teacher_moves_the_mean_to_the_scale_times_it(self):
        """The scale is an input; u_w(z, 1, 0) = (1 - std) z - w m."""
        loss = mean_flow_of(CFG, (SCALE,), 1)
        net = flow_net(guided, (SCALE,), 1)
        batch = {"x": data(256)["x"] + M, "condition": jnp.zeros(256, jnp.int32)}
        teacher = exact_role(1, (STD, STD), (M, 0.0))
        gradient, metrics = at(loss, net, 1.0, batch, teacher=teacher)
        assert float(metrics["velocity_error"]) < 1e-12 and abs(gradient) < 1e-6
        assert at(loss, net, 1.1, batch, teacher=teacher)[0] > 1e-3

    @pytest.mark.parametrize("scales", [longer("uniform"), "log"])
    def test_its_own_guidance_ends_there_too(self, scales):
        """Improved MeanFlow's: from data, the scale an input."""
        loss = mean_flow_of(None, (SCALE,), 1, scales=scales, tangent="own", equal=0.5)
        net = flow_net(guided, (SCALE,), 1)
        assert abs(in_errors(loss, net, 1.0, two_means)) < 4
        assert in_errors(loss, net, 1.1, two_means) > 8

    @pytest.mark.longer
    def test_fixed_shares_guide_at_omega_over_1_less_kappa(self):
        loss = mean_flow_of(None, (), 1, omega=0.5, kappa=0.75)

        def net(scale):
            return flow_net(lambda c, given: guided(c, {"scale": scale}), (), 1)

        assert abs(in_errors(loss, net(2.0), 1.0, two_means)) < 4
        assert abs(in_errors(loss, net(1.5), 1.0, two_means)) > 8

    @pytest.mark.longer
    def test_no_gradient_comes_through_its_own_guidance(self):
        """By hand, at r = t."""
        gain, batch, own = 0.7, two_means(64, 3), keys(64)
        loss = mean_flow_of(None, (), 1, omega=0.5, kappa=0.75, equal=1.0)
        net = flow_net(lambda c, given: guided(c, {"scale": 1.0}), (), 1)
        params = {"gain": jnp.asarray(gain)}
        gradient, _ = gradient_of(loss, {MAIN: Role(net, params, (), FLOW)}, params, batch, own)
        sigma = any_two(LEVELS, fold_each(own, SIGMA)).sigma.astype(float)
        t, noise = sigma / (1 + sigma), normal_like(fold_each(own, NOISE), batch["x"])
        z = (1 - t)[:, None] * batch["x"] + t[:, None] * noise
        main = average(STD, z, t, t, jnp.where(batch["condition"] == 0, M, 0.0))
        reference = average(STD, z, t, t)
        target = 0.5 * (noise - batch["x"]) + gain * (0.75 * main - 0.25 * reference)
        by_hand = np.mean(2 * (gain * main - target) * main)
        np.testing.assert_allclose(gradient["gain"], by_hand, rtol=1e-9)

    @pytest.mark.longer
    @pytest.mark.parametrize("rule", [None, CFG])
    def test_guidance_keeps_to_an_interval_that_is_an_input(self, rule):
        """At r = t, where the interval is all, and for the others inside it alone."""
        inputs = (SCALE, *ENDS)
        loss = mean_flow_of(rule, inputs, 1, equal=1.0)

        def mean(condition, given):
            inside = (given["time"] > given[LOW]) & (given["time"] <= given[HIGH])
            seen.append((given[LOW], given[HIGH]))
            return guided(condition, {"scale": jnp.where(inside, given["scale"], 1.0)})

        seen = []
        net = flow_net(mean, inputs, 1)
        params = {"gain": jnp.ones(())}
        roles = {MAIN: Role(net, params, (), FLOW), TEACHER: exact_role(1, (STD, STD), (M, 0.0))}
        values, _ = loss(roles, two_means(64, 3), keys(64))
        if rule is not None:
            assert float(values.max()) < 1e-10
        low, high = (np.asarray(one) for one in seen[-1])
        np.testing.assert_array_equal(low, 0)
        np.testing.assert_array_equal(high, 1)
        other = mean_flow_of(rule, inputs, 1, equal=0.0)
        other(roles, two_means(64, 3), keys(64))
        low, high = (np.asarray(one) for one in seen[-1])
        assert 0.4 < low.max() <= 0.5 <= high.min() < 0.6


def euler_net(steps, latest, inputs=()):
    """Return the network whose jumps are Euler's steps of the exact velocity, on their grid."""
    times = latest * np.arange(steps + 1) / steps
    spread = (1 - times) ** 2 * STD**2 + times**2
    slope = (times - (1 - times) * STD**2) / spread
    factors = np.cumprod(1 - latest / steps * slope[1:])
    factors = np.concatenate([[1.0], factors])

    def call(params, z, time, condition, to):
        begin, count = (jnp.round(one / latest * steps).astype(int) for one in (time, to))
        # Shorter than the grid's steps: none that is learnt from.
        count = jnp.maximum(count, 1)
        table = jnp.asarray(factors)
        ratio = table[begin] / table[begin - count]
        return params["gain"] * z * ((1 - ratio) / to)[:, None]

    return Net(call, inputs, num_classes=0), factors


def shortcut_of(steps, top=80.0, rule=None, **given):
    spec, specs = specs_of(FLOW)
    main = type(spec)(None, None, (1,), FLOW, sigma_range=(0.002, top))
    teacher = type(specs[TEACHER])(
        None, None, (1,), specs[TEACHER].preconditioner, sigma_range=(0.002, top)
    )
    return shortcut(main, {MAIN: main, TEACHER: teacher}, steps=steps, rule=rule, **given)


# Uniform steps of the way -> std of the one-step map over the data's.
ONE_STEP = {2: 0.40000, 8: 0.82957, 32: 0.95473, 64: 0.97711, 128: 0.98849}


class TestShortcut:
    """Longer steps of two shorter ones, down to Euler's."""

    @pytest.mark.parametrize("steps", [8, *(longer(n) for n in ONE_STEP if n != 8)])
    def test_the_gradient_is_zero_at_eulers_composition(self, steps):
        top = 1e6
        loss = shortcut_of(steps, top, UNGUIDED, share=0.5)
        net, factors = euler_net(steps, loss.latest)
        gradient, _ = at(loss, net, 1.0, target=1.0)
        moved, _ = at(loss, net, 1.1, target=1.0)
        # Noise levels are rounded to float32 on their way to the teacher.
        assert abs(gradient) < 1e-7 and moved > 1e-3
        assert factors[-1] / STD == pytest.approx(ONE_STEP[steps], abs=2e-5)

    @pytest.mark.longer
    def test_from_data_the_expected_gradient_is_zero_there(self):
        loss = shortcut_of(8, target_decay=0.0)
        net, _ = euler_net(8, loss.latest)
        assert abs(in_errors(loss, net, 1.0)) < 4
        assert in_errors(loss, net, 1.1) > 8

    def test_no_gradient_comes_through_the_shorter_steps(self):
        loss = shortcut_of(8, share=1.0, target_decay=0.0)
        net, _ = euler_net(8, loss.latest)
        assert loss.target_average is None
        assert float(shortcut_of(8).target_average(1)) == 0.999
        own, _ = at(loss, net, 0.7)
        held, _ = at(loss, net, 0.7, target=0.7)
        assert own == held != 0
        near = [float(at(loss, net, gain, target=0.7)[1]["loss"]) for gain in (0.7001, 0.6999)]
        assert own == pytest.approx((near[0] - near[1]) / 2e-4, rel=1e-6)
        other = float(at(loss, net, 0.7, target=0.9)[1]["loss"])
        assert abs(other / near[0] - 1) > 0.05

    def test_halvings_are_drawn_equally_and_begin_on_their_grids(self):
        loss = shortcut_of(8, share=0.75)
        halvings, time = loss._steps(keys(4000), (0.0, 1.0), jnp.float64)
        shares = np.bincount(np.asarray(halvings), minlength=4) / 4000
        np.testing.assert_allclose(shares, 0.25, atol=0.03)
        steps = np.asarray(time) / loss.latest * 2.0 ** np.asarray(halvings)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
        assert steps.min() >= 1 - 1e-9


class TestTrajectory:
    """CTM on a Gaussian: node to node, the teacher's solver composed."""

    NODES = 6

    def of(self, rule=UNGUIDED, inputs=(), condition=None, **given):
        spec, specs = specs_of(FlowMap("edm", STD), inputs, condition)
        given = {"nodes": self.NODES, "denoising": 0.0} | given
        return ctm(spec, LEVELS, specs, rule=rule, **given)

    def levels(self):
        return np.asarray(Grid().level(np.arange(self.NODES), self.NODES - 1), np.float64)

    def net(self):
        """Return the network whose jumps between nodes are Heun's steps composed."""
        levels = self.levels()
        factors = np.array([heun_product(STD, levels[: n + 1]) for n in range(self.NODES)])
        made, single = FlowMap("edm", STD), jnp.asarray(levels, jnp.float32)
        columns = made.coefficients(single[:, None])
        skip, out, inside, noise = (np.asarray(one[:, 0], float) for one in columns)
        times = np.asarray(single / (1 + single), float)
        # The x0 on the line to each node; of one to itself, none is asked for.
        ratio = levels[None] / levels[:, None]
        jump = factors[:, None] / factors[None]
        lower = ratio < 1
        g = np.where(lower, (jump - ratio) / np.where(lower, 1 - ratio, 1), 0.0)
        own = np.where(out > 0, out * inside, 1.0)
        table = jnp.asarray((g - skip[:, None]) / own[:, None])

        def call(params, x, time, condition, to):
            begin = jnp.argmin(jnp.abs(time[:, None] - noise), 1)
            end = jnp.argmin(jnp.abs(times[begin][:, None] - to[:, None] - times), 1)
            return params["gain"] * table[begin, end][:, None] * x

        times, noise = jnp.asarray(times), jnp.asarray(noise)
        return Net(call, num_classes=0)

    def at(self, loss, gain, target=None):
        return at(loss, self.net(), gain, target=target, made=FlowMap("edm", STD))

    @pytest.mark.parametrize("longest", [longer(1), 5])
    def test_the_gradient_is_zero_at_the_solvers_composition(self, longest):
        loss = self.of(longest=longest)
        gradient, metrics = self.at(loss, 1.0, 1.0)
        assert float(metrics["matching"]) < 1e-10 and abs(gradient) < 1e-8
        gradient, metrics = self.at(loss, 1.1, 1.1)
        assert float(metrics["matching"]) > 1e-4 and gradient > 1e-3

    @pytest.mark.longer
    def test_no_gradient_comes_through_the_other_end_or_the_average(self):
        loss = self.of(target_decay=0.0)
        assert loss.target_average is None and float(self.of().target_average(1)) == 0.999
        assert self.at(loss, 0.7)[0] == self.at(loss, 0.7, 0.7)[0] != 0
        # By hand, with all that is held held.
        net, made, batch, own = self.net(), FlowMap("edm", STD), data(64), keys(64)
        levels = self.levels()
        factors = jnp.asarray([heun_product(STD, levels[: n + 1]) for n in range(self.NODES)])

        def value(gain):
            params = {"gain": gain}
            held = jax.tree.map(jax.lax.stop_gradient, params)
            nodes = loss.nodes(own)
            t, u, s = (jnp.asarray(levels)[one] for one in nodes)
            noisy = batch["x"] + t[:, None] * normal_like(fold_each(own, NOISE), batch["x"])
            ratio = factors[nodes.begin] / factors[nodes.between]
            below = noisy * ratio[:, None]

            def jump(params, x, level, to):
                g = Denoiser(params, net, made)(x, level, to=to)
                ratio = (to / level)[:, None]
                return ratio * x + (1 - ratio) * g

            low = jnp.full_like(s, loss.grid.low)
            ours = jump(held, jump(params, noisy, t, s), s, low)
            other = jump(held, jump(held, below, u, s), s, low)
            return jnp.mean((ours - other) ** 2)

        by_hand = jax.grad(value)(jnp.asarray(0.7))
        roles = {MAIN: Role(net, {"gain": jnp.asarray(0.7)}, (), made), TEACHER: exact_role()}
        gradient, _ = gradient_of(loss, roles, roles[MAIN].params, batch, own)
        np.testing.assert_allclose(gradient["gain"], by_hand, rtol=1e-5)

    def test_places_are_in_order_and_long_walks_are_likelier(self):
        loss = self.of(longest=3)
        begin, between, end = (np.asarray(one) for one in loss.nodes(keys(6000)))
        assert begin.min() == 1 and begin.max() == 5
        assert (end >= 0).all() and (end <= between).all() and (between < begin).all()
        steps = (begin - between)[begin >= 3]
        shares = np.bincount(steps, minlength=4)[1:] / len(steps)
        np.testing.assert_allclose(shares, [1 / 6, 2 / 6, 3 / 6], atol=0.03)

    @pytest.mark.parametrize("rule", [UNGUIDED, longer({"name": "cfg", "scale": 2.0})])
    def test_its_denoising_part_is_best_at_the_denoiser(self, rule):
        """Of the data; of the rule's prediction, where it is guided."""
        made, guides = FlowMap("edm", STD), rule["name"] == "cfg"
        loss = self.of(rule, condition=1, denoising=1.0, longest=1)
        own = keys(256)

        def call(params, x, time, condition, to):
            sigma = jnp.exp(4 * time)[:, None]
            skip, out, inside, _ = made.coefficients(sigma)
            mean = (2.0 if guides else 1.0) * M
            denoised = gaussian(mean, STD).denoise(x / inside, sigma)
            return params["gain"] * (denoised - skip * x / inside) / out

        batch = {"x": data(256)["x"] + M, "condition": jnp.zeros(256, jnp.int32)}
        teacher = exact_role(1, (STD, STD), (M, 0.0))
        errors = []
        for gain in (0.9, 1.0, 1.1):
            main = Role(Net(call, num_classes=1), {"gain": jnp.asarray(gain)}, (), made)
            _, parts = loss({MAIN: main, TEACHER: teacher}, batch, own)
            errors.append(float(parts["denoising_error"].mean()))
        assert errors[1] < min(errors[0], errors[2])
        assert errors[1] < 1e-10 or not guides


class TestTrained:
    """A small network on a mixture of two Gaussians on a line, from its exact denoiser."""

    @pytest.mark.longer
    @pytest.mark.parametrize(("name", "allowed"), [("scm", 0.04), ("mean_flow", 0.04)])
    def test_one_jump_ends_near_the_exact_law(self, name, allowed):
        """Of std 0.767; Wasserstein distance to it."""
        with jax.enable_x64(False):
            mixture = line()
            made = TrigFlow(STD) if name == "scm" else FlowMap("edm", STD)

            def layers(key):
                sizes = (5, 128, 128, 128, 1)
                for pair in itertools.pairwise(sizes):
                    key, own = jax.random.split(key)
                    yield jax.random.normal(own, pair) / np.sqrt(pair[0]), jnp.zeros(pair[1])

            def call(params, x, time, condition, to=None):
                second = jnp.zeros_like(time) if to is None else to
                h = jnp.stack(
                    [x[:, 0], time, jnp.sin(2 * time), second, jnp.sqrt(second + 1e-4)], 1
                )
                for number, (weight, bias) in enumerate(params):
                    h = h @ weight + bias
                    h = jax.nn.silu(h) if number < len(params) - 1 else h
                return h

            def exact(params, x, sigma, condition):
                return mixture.denoise(x, sigma)

            net, plain = Net(call, num_classes=0), Net(exact, num_classes=0)
            spec = spec_of(net, made, condition=None)
            specs = {MAIN: spec, TEACHER: spec_of(plain, condition=None)}
            if name == "scm":
                levels = log_normal(-1.0, 1.6)
                loss = scm(spec, levels, specs, rule=UNGUIDED, warm_up=1000)
            else:
                loss = mean_flow(spec, log_normal(0.3, 1.6), specs, rule=UNGUIDED, equal=0.4)
            steps = 6000
            optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

            def step(carry, number):
                params, state = carry
                own = jax.random.split(jax.random.fold_in(jax.random.key(5), number), 512)
                first, second = jax.random.split(jax.random.fold_in(jax.random.key(6), number))
                part = jax.random.categorical(
                    first, jnp.log(jnp.asarray(M1["weights"])), shape=(512,)
                )
                mean, std = (jnp.asarray(M1[name])[part] for name in ("means", "stds"))
                x = mean + std * jax.random.normal(second, (512,))
                roles = {MAIN: Role(net, params, (), made, None, number)}
                roles[TEACHER] = Role(plain, {}, (), Direct())
                batch = {"x": x[:, None], "condition": None}
                gradient, _ = gradient_of(loss, roles, params, batch, own)
                update, state = optimizer.update(gradient, state)
                return (optax.apply_updates(params, update), state), None

            params = list(layers(jax.random.key(0)))
            carry = (params, optimizer.init(params))
            (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(carry)
            student = Denoiser(params, net, made)
            where = {} if name == "scm" else {"to": 0.0}

            def jump(x):
                return student(jnp.asarray(x, jnp.float32)[:, None], 80.0, **where)[:, 0]

            found = one_step_law(jump)
            expected = one_step_law(lambda x: mixture.consistency(jnp.asarray(x), 80.0))
            assert found.std() == pytest.approx(0.767, abs=allowed)
            assert np.abs(found - expected).mean() < allowed


class TestSampling:
    """Flow maps are sampled by `samplers.ctm`, exactly in any number of jumps."""

    @pytest.mark.longer
    @pytest.mark.parametrize("network", ["flow", "edm"])
    def test_any_number_of_jumps_ends_where_the_flow_does(self, network):
        made = FlowMap(network, STD)

        def call(params, x, time, condition, to):
            if network == "flow":
                return average(STD, x, time, time - to, M)
            sigma = jnp.exp(4 * time)
            time = sigma / (1 + sigma)
            skip, out, inside, _ = made.velocity(time)
            z = x / inside[:, None]
            return (average(STD, z, time, time - to, M) - skip[:, None] * z) / out[:, None]

        student = Denoiser({}, Net(call, (("to", made.interval_input),), 0), made)
        noise = jax.random.normal(jax.random.key(4), (5, 1), jnp.float32)
        expected = gaussian(M, STD).flow_map(80.0 * noise, 80.0, 0.0)
        for sigmas in ([80.0, 0.0], [80.0, 2.0, 0.0], [80.0, 9.0, 1.0, 0.2, 0.0]):
            found = samplers.sample(
                student, guidance.unguided(), samplers.ctm(), sigmas, noise, None, jax.random.key(0)
            )
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("network", ["flow", "edm"])
    def test_velocities_and_predictions_are_one_network(self, network):
        made = FlowMap(network, 0.7, noise_scale=3.0)
        t = jnp.array([0.01, 0.3, 0.7, 0.98])
        sigma = t / (1 - t)
        skip, out, inside, noise = made.velocity(t)
        of_g = made.coefficients(sigma)
        np.testing.assert_allclose((1 - t) * (1 - t * skip), of_g.skip, rtol=1e-9)
        np.testing.assert_allclose(-t * out, of_g.out, rtol=1e-9)
        np.testing.assert_allclose((1 - t) * inside, of_g.inside, rtol=1e-9)
        np.testing.assert_allclose(noise, of_g.noise, rtol=1e-9)


# Of a DiT.
FIELDS = dict(image_size=4, channels=1, num_classes=2, patch_size=2, width=8, heads=2, depth=2)


class TestPretrained:
    """A network of EDM's preconditioning begins as a student of either family."""

    def both(self, **preconditioner):
        plain = create("dit", key=jax.random.key(0), **FIELDS)
        own = iter(jax.random.split(jax.random.key(1), 99))
        params = jax.tree.map(
            lambda leaf: 0.3 * jax.random.normal(next(own), leaf.shape), plain.params
        )
        other = create("dit", key=jax.random.key(0), preconditioner=preconditioner, **FIELDS)
        return plain, params, other

    @pytest.mark.longer
    def test_a_flow_map_begins_as_the_denoiser_wherever_it_jumps(self):
        with jax.enable_x64(False):
            plain, params, other = self.both(name="flow_map", network="edm")
            x, sigma = (
                jax.random.normal(jax.random.key(2), (3, 4, 4, 1)),
                jnp.array([0.1, 1.0, 9.0]),
            )
            student = Denoiser(
                params | {"scalar_inputs": other.params["scalar_inputs"]},
                other.network,
                other.preconditioner,
            )
            label = jnp.array([0, 1, 2])
            jump = jax.jit(lambda student, to: student(x, sigma, label, to=to))
            made = [jump(student, to) for to in (0.0, 0.05)]
            denoise = Denoiser(params, plain.network, plain.preconditioner)
            denoised = jax.jit(lambda denoise: denoise(x, sigma, label))(denoise)
            for one in made:
                np.testing.assert_allclose(one, denoised, rtol=1e-6, atol=1e-6)
            assert student.inputs == {} and student.macs > plain.macs
            with pytest.raises(ValueError, match=r"is a flow map: say where to"):
                student(x, sigma)
            with pytest.raises(ValueError, match=r"takes no input 'to'"):
                student.bind(to=0.1)

    def test_trigflow_of_edms_network_is_edms(self):
        sigma = jnp.array([0.01, 0.5, 60.0])
        for one, other in zip(
            TrigFlow(0.7, "edm").coefficients(sigma), EDM(0.7).coefficients(sigma), strict=True
        ):
            np.testing.assert_allclose(one, other)
        made = TrigFlow(0.7)
        angle = made.angle(sigma)
        skip, out, inside, noise = made.coefficients(sigma)
        np.testing.assert_allclose(skip, np.cos(angle) ** 2)
        np.testing.assert_allclose(out, -0.7 * np.sin(angle))
        np.testing.assert_allclose(inside, np.cos(angle) / 0.7)
        np.testing.assert_allclose(noise, angle)
        np.testing.assert_allclose(
            TrigFlow(0.7, "edm").network_time(angle), jnp.log(sigma) / 4, rtol=1e-9
        )


REFUSED = {
    "scm of a denoiser": (lambda: scm(specs_of(EDM())[0], LEVELS, {}), "'name': 'trigflow'"),
    "scm at a scale from data": (
        lambda: scm(specs_of(TRIG, (SCALE,))[0], LEVELS, {}),
        "no guidance scale",
    ),
    "scm with a weight that nobody learns": (
        lambda: scm_of(learned_weight=True),
        "learns no log_variance",
    ),
    "scm normalised otherwise": (lambda: scm_of(normalise="max"), "is not one of norm"),
    "scm of a rule with memory": (
        lambda: scm_of({"name": "apg", "scale": 2.0, "momentum": -0.5}),
        "keeps a memory",
    ),
    "a mean flow of a denoiser": (
        lambda: mean_flow(specs_of(EDM())[0], LEVELS, {}),
        "'name': 'flow_map'",
    ),
    "its own guidance without a null class": (
        lambda: mean_flow_of(omega=2.0),
        "knows none: give the network a null class",
    ),
    "guided twice": (lambda: mean_flow_of(CFG, (SCALE,), 1, omega=2.0), "one fixed scale"),
    "an interval of nothing": (lambda: mean_flow_of(low=0.2), "low and high bound guidance"),
    "half an interval": (
        lambda: mean_flow_of(None, (SCALE, ENDS[0]), 1),
        "interval_low and interval_high, both",
    ),
    "a scale of 0 from data": (
        lambda: mean_flow_of(None, (("scale", ScalarInput(0.0, 4.0)),), 1),
        "want a scale above 0",
    ),
    "an interval upside down": (
        lambda: mean_flow_of(None, (), 1, omega=2.0, low=0.7, high=0.2),
        "need low < high",
    ),
    "a share above 1": (lambda: mean_flow_of(equal=1.5), r"training\.loss\.equal is 1\.5"),
    "ctm of a denoiser": (lambda: ctm(specs_of(EDM())[0], LEVELS, {}), "'name': 'flow_map'"),
    "ctm by a solver without steps": (
        lambda: TestTrajectory().of(solver={"name": "dpmpp"}),
        "take euler or heun",
    ),
    "ctm of one node": (lambda: TestTrajectory().of(nodes=1), r"training\.loss\.nodes is 1"),
    "a shortcut of a denoiser": (lambda: shortcut(specs_of(EDM())[0], {}), "'name': 'flow_map'"),
    "a shortcut of 6 steps": (lambda: shortcut_of(6), "power of two"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused(name):
    make, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        make()


@pytest.mark.longer
def test_a_flow_maps_own_input_is_not_given_twice():
    with pytest.raises(UserError, match=r"inputs\.to is the flow map's own"):
        create(
            "dit",
            key=jax.random.key(0),
            preconditioner="flow_map",
            inputs={"to": (0.0, 1.0)},
            **FIELDS,
        )


@pytest.mark.longer
def test_a_tangent_is_the_same_through_scanned_layers():
    with jax.enable_x64(False):
        own = iter(jax.random.split(jax.random.key(1), 99))
        nets = {
            scan: create("dit", key=jax.random.key(0), scan_layers=scan, **FIELDS)
            for scan in (False, True)
        }
        params = jax.tree.map(
            lambda leaf: 0.3 * jax.random.normal(next(own), leaf.shape), nets[True].params
        )
        depth = FIELDS["depth"]
        apart = {n: jax.tree.map(lambda leaf, n=n: leaf[n], params["blocks"]) for n in range(depth)}
        given = {True: params, False: params | {"blocks": apart}}
        x, time = jax.random.normal(jax.random.key(2), (2, 4, 4, 1)), jnp.array([0.3, 0.8])
        found = [
            value_and_tangent(
                lambda x, time, scan=scan: nets[scan].network(
                    given[scan], x, time, jnp.array([0, 1])
                ),
                (x, time),
                (jnp.ones_like(x), jnp.ones(2)),
            )
            for scan in (False, True)
        ]
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
