"""Where few-step students end: exact data, exact teachers, and networks of one number a level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.few_step import euler_product, guided_heun_product, heun_product
from tables.few_step_networks import (
    MEANS,
    SCALE,
    STDS,
    Net,
    data,
    exact_role,
    gradient_of,
    keys,
    params_for,
    slope_of,
    slopes,
    spec_of,
    teacher,
)

from guidestar import guidance, samplers
from guidestar.core.errors import UserError
from guidestar.models.exact import gaussian
from guidestar.models.preconditioning import Consistency, Direct
from guidestar.models.scalar_inputs import ScalarInput
from guidestar.training.distillation.consistency import (
    consistency_distillation,
    consistency_training,
    ect,
    ict,
)
from guidestar.training.distillation.curricula import ect_end
from guidestar.training.distillation.guided import guided_distillation
from guidestar.training.distillation.pairs import Grid
from guidestar.training.distillation.progressive import StepGrid, progressive
from guidestar.training.distillation.teacher import TEACHER
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.noise.corruption import Corruption
from guidestar.training.noise.levels import log_normal
from guidestar.training.noise.weightings import truncated_snr, uniform

STD = 0.5
BOUNDARY = Consistency(STD, 0.002)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def nodes(count):
    """Return Karras' levels as the losses have them, increasing: float32 numbers."""
    return np.asarray(Grid().level(np.arange(count), count - 1), np.float64)


class TestConsistencyDistillation:
    """On data of one Gaussian, a consistency function of one slope a node."""

    def of(self, count, solver="heun", **given):
        levels = nodes(count)
        net = slopes(levels)
        specs = {
            MAIN: spec_of(net, BOUNDARY, condition=None),
            TEACHER: spec_of(net, condition=None),
        }
        loss = consistency_distillation(
            specs[MAIN], specs, nodes=count, solver={"name": solver}, **given
        )

        def roles(params, target=None):
            main = Role(net, params, (), BOUNDARY, target)
            return {MAIN: main, TEACHER: exact_role()}

        return levels, loss, roles

    @pytest.mark.parametrize("distance", ["squared", "pseudo_huber"])
    @pytest.mark.parametrize(
        ("solver", "product"), [("euler", euler_product), ("heun", heun_product)]
    )
    @pytest.mark.parametrize("count", [3, 5, 18])
    def test_the_gradient_is_zero_at_the_solvers_product(self, count, solver, product, distance):
        levels, loss, roles = self.of(count, solver, distance=distance)
        factors = [product(STD, levels[: n + 1]) for n in range(count)]
        params = params_for(factors, levels)
        gradient, metrics = gradient_of(loss, roles(params), params, data(256), keys(256))
        assert float(jnp.abs(gradient["slope"]).max()) < 1e-10
        assert float(metrics["loss"]) < 1e-10
        moved = {"slope": params["slope"] * 1.05 + 0.01}
        gradient, _ = gradient_of(loss, roles(moved), moved, data(256), keys(256))
        assert float(jnp.abs(gradient["slope"]).max()) > 1e-4

    @pytest.mark.parametrize(
        ("solver", "product"), [("euler", euler_product), ("heun", heun_product)]
    )
    def test_a_trained_student_lands_there(self, solver, product):
        levels, loss, roles = self.of(5, solver)
        params = params_for(np.ones(5), levels)
        size = 1 / jnp.asarray(BOUNDARY.coefficients(jnp.asarray(levels)).out ** 2 + 1e-12)

        @jax.jit
        def descend(number, params):
            batch, own = data(256), keys(256)
            gradient, _ = gradient_of(loss, roles(params), params, batch, own)
            # Each node in its own units: one rate for all.
            return {"slope": params["slope"] - 1.5 * size * gradient["slope"]}

        params = jax.lax.fori_loop(0, 300, descend, params)
        expected = [product(STD, levels[: n + 1]) for n in range(5)]
        np.testing.assert_allclose(slope_of(params, levels), expected, rtol=2e-3, atol=1e-5)

    def test_no_gradient_comes_through_the_target(self):
        """Against the derivative of the student's own output alone, by hand."""
        levels, loss, roles = self.of(3)
        params = params_for(np.array([1.0, 0.7, 0.2]), levels)
        batch, own = data(64), keys(64)
        gradient, _ = gradient_of(loss, roles(params), params, batch, own)
        fixed = jax.tree.map(lambda leaf: leaf + 0, params)

        def by_hand(params):
            values, _ = loss(roles(params, fixed), batch, own)
            return jnp.mean(values)

        np.testing.assert_allclose(gradient["slope"], jax.grad(by_hand)(params)["slope"], rtol=1e-9)

    @pytest.mark.longer
    def test_the_student_as_its_target_is_an_average_without_memory(self):
        levels, loss, roles = self.of(5)
        params = params_for(np.linspace(1, 0.1, 5), levels)
        own = keys(32)
        plain, _ = loss(roles(params), data(32), own)
        average, _ = loss(roles(params, params), data(32), own)
        np.testing.assert_array_equal(plain, average)
        assert float(loss.target_average(1)) == 0.95
        assert self.of(5, target_decay=0.0)[1].target_average is None


@pytest.mark.parametrize("scale", [1.5, 2.0, 3.0])
def test_guided_students_end_at_the_guided_solvers_product(scale):
    """Centred Gaussians of variances 1 and 1/4 and CFG's field: the guided trajectory's law."""
    levels = nodes(18)
    net = Net(slopes(levels).function)

    guide = exact_role(1, (0.5, 1.0), (0.0, 0.0))
    net.condition = guide.network.condition
    specs = {MAIN: spec_of(net, BOUNDARY, condition=1), TEACHER: spec_of(net, condition=1)}
    rule = {"name": "cfg", "scale": scale}
    loss = consistency_distillation(specs[MAIN], specs, nodes=18, rule=rule)
    factors = [guided_heun_product(1.0, 0.25, scale, levels[: n + 1]) for n in range(18)]
    params = params_for(factors, levels)
    roles = {MAIN: Role(net, params, (), BOUNDARY), TEACHER: guide}
    batch = data(256) | {"condition": jnp.zeros(256, jnp.int32)}
    gradient, metrics = gradient_of(loss, roles, params, batch, keys(256))
    assert float(metrics["loss"]) < 1e-10 and float(jnp.abs(gradient["slope"]).max()) < 1e-10
    # With ever more nodes the variance is the geometric A^(1 - w) B^w.
    variance = (80.0 * guided_heun_product(1.0, 0.25, scale, nodes(641))) ** 2
    assert variance == pytest.approx(0.25**scale, rel=5e-3)


def test_the_variance_of_a_guided_heun_student_is_the_one_of_record():
    """Variances 1 and 1/4, scale 2, 18 nodes."""
    found = (80.0 * guided_heun_product(1.0, 0.25, 2.0, nodes(18))) ** 2
    assert found == pytest.approx(0.07744, rel=2e-3)


class TestConsistencyTraining:
    """From data alone: the expected gradient is zero at Euler's product."""

    @pytest.mark.longer
    @pytest.mark.parametrize("make", ["consistency_training", "ict"])
    def test_the_expected_gradient_is_zero_at_eulers_product(self, make):
        count = 5
        levels = nodes(count)
        net = slopes(levels)
        spec = spec_of(net, BOUNDARY, condition=None)
        if make == "ict":
            loss = ict(spec, steps=8, start=count - 1, end=count - 1, distance="squared")
        else:
            loss = consistency_training(spec, steps=10, start=count - 1, end=count - 1)
        params = params_for([euler_product(STD, levels[: n + 1]) for n in range(count)], levels)

        def each(params, number):
            own = keys(2000, number)
            batch = data(2000, seed=number + 50)
            roles = {MAIN: Role(net, params, (), BOUNDARY, step=10)}
            return gradient_of(loss, roles, params, batch, own)[0]["slope"]

        every = jax.lax.map(lambda n: each(params, n), jnp.arange(40))
        mean, error = every.mean(0), every.std(0) / np.sqrt(40) + 1e-12
        assert float(jnp.abs(mean / error).max()) < 4
        off = {"slope": params["slope"] * 1.06}
        moved = jax.lax.map(lambda n: each(off, n), jnp.arange(40)).mean(0)
        assert float(jnp.abs(moved / error).max()) > 8

    def test_the_target_of_ct_follows_its_curriculum_and_ict_has_none(self):
        spec = spec_of(Net(None), BOUNDARY, condition=None)
        loss = consistency_training(spec, steps=100)
        assert float(loss.target_average(1)) == pytest.approx(0.81)
        assert float(loss.target_average(101)) == pytest.approx(0.9 ** (2 / 150))
        assert ict(spec, steps=100).target_average is None

    @pytest.mark.longer
    def test_icts_pairs_count_by_the_inverse_of_their_distance(self):
        spec = spec_of(Net(None), BOUNDARY, condition=None)
        loss = ict(spec, steps=100)
        pair = loss.pairs(0, keys(50), (0.0, 1.0))
        np.testing.assert_allclose(loss.weight(pair), 1 / (pair.sigma - pair.to), rtol=1e-6)


def longer(*row):
    """Return a row of a table that takes minutes."""
    return pytest.param(*row, marks=pytest.mark.longer)


# Stage -> std over the exact one of a Gaussian's student, in one step and in two (middle 0.821).
ECT = {
    0: (0.5970, 0.4727),
    1: (0.6780, 0.6280),
    2: (0.8615, 0.8502),
    3: (0.9365, 0.9312),
    4: (0.9695, 0.9669),
    5: (0.9850, 0.9837),
    6: (0.9926, 0.9919),
    7: (0.9963, 0.9960),
    8: (0.9982, 0.9980),
}


class TestEct:
    """Easy consistency tuning."""

    def of(self, stage, sigma, net, preconditioner=None):
        spec = spec_of(net, preconditioner or Consistency(STD, 0.0), condition=None)
        levels = log_normal(float(np.log(sigma)), 0.0)
        return ect(spec, levels, {MAIN: spec}, every=1, stages=9, distance="squared")

    @pytest.mark.parametrize("stage", [*range(6), *(longer(n) for n in (6, 7, 8))])
    def test_a_stages_law_is_that_of_its_pairs(self, stage):
        """By the recursion of the levels that it pairs."""
        end = jax.jit(lambda sigma: ect_end(sigma, stage))

        def slope(sigma):
            value = 1.0
            while sigma > 1e-6:
                to = float(end(sigma))
                value *= (STD**2 + sigma * to) / (STD**2 + sigma**2)
                sigma = to
            return value

        pair = self.of(stage, 3.0, Net(None)).pairs(stage, keys(1), (0.0, 1.0))
        np.testing.assert_allclose(pair.to, end(pair.sigma), rtol=1e-6)
        one = slope(80.0) * np.sqrt(STD**2 + 80.0**2)
        assert one / STD == pytest.approx(ECT[stage][0], abs=2e-3)
        middle = 0.821
        two = slope(middle) * np.sqrt(one**2 + middle**2)
        assert two / STD == pytest.approx(ECT[stage][1], abs=2e-3)

    @pytest.mark.longer
    def test_its_first_stage_is_denoising_below_the_logarithm_of_7(self):
        sigma, exact = 1.0, STD**2 / (STD**2 + 1.0)
        net = Net(lambda params, x, time, condition: params["slope"] * x, num_classes=0)
        loss = self.of(0, sigma, net)
        skip, out, inside, _ = Consistency(STD, 0.0).coefficients(jnp.asarray(sigma))
        params = {"slope": (exact - skip) / (out * inside)}
        batch, own = data(4000), keys(4000)
        roles = {MAIN: Role(net, params, (), Consistency(STD, 0.0))}
        values, _ = loss(roles, batch, own)
        expected = STD**2 * sigma**2 / (STD**2 + sigma**2) / sigma
        assert float(values.mean()) == pytest.approx(expected, rel=0.05)


class TestGuidedDistillation:
    """Stage one: the student is the rule's prediction, whatever the scale."""

    def of(self, rule=None, inputs=SCALE, sigma=None):
        spec = spec_of(Net(None, inputs), inputs=inputs)
        specs = {MAIN: spec, TEACHER: spec_of(Net(None)), "guide": spec_of(Net(None))}
        levels = log_normal(0.0, 1.2) if sigma is None else log_normal(float(np.log(sigma)), 0.0)
        return guided_distillation(
            Direct(), Corruption(levels), uniform("x0"), specs, rule=rule or {"name": "cfg"}
        )

    @staticmethod
    def exact(params, x, sigma, condition, scale):
        """Return CFG's prediction in closed form, times what is trained."""
        mean, std = (jnp.asarray(v)[condition][:, None] for v in (MEANS, STDS))
        guided = gaussian(mean, std).guided_denoise(
            x, sigma, reference=gaussian(0.0, 1.0), scale=jnp.asarray(scale)
        )
        return params["gain"] * guided

    def roles(self, function, params, inputs=SCALE):
        return {
            MAIN: Role(Net(function, inputs), params, (), Direct()),
            TEACHER: exact_role(2, STDS, MEANS),
            "guide": exact_role(2, STDS, MEANS, 1.4),
        }

    def batch(self, count):
        label = jnp.arange(count) % 2
        return {"x": jax.random.normal(jax.random.key(5), (count, 1)), "condition": label}

    @pytest.mark.longer
    def test_its_gradient_is_zero_at_the_rules_prediction(self):
        params = {"gain": jnp.ones(())}
        roles = self.roles(self.exact, params)
        gradient, metrics = gradient_of(self.of(), roles, params, self.batch(64), keys(64))
        assert float(metrics["loss"]) < 1e-11 and abs(float(gradient["gain"])) < 1e-10
        moved = {"gain": jnp.asarray(1.1)}
        gradient, metrics = gradient_of(self.of(), roles, moved, self.batch(64), keys(64))
        assert float(metrics["loss"]) > 1e-4 and float(gradient["gain"]) > 1e-3

    @pytest.mark.longer
    @pytest.mark.parametrize("rule", ["cfg", "autoguidance"])
    def test_a_trained_student_is_linear_in_the_scale(self, rule):
        """Of one label and level: what is learnt at drawn scales holds at one never drawn."""

        def function(params, x, sigma, condition, scale):
            scale = scale[:, None]
            return (params["a"] + params["b"] * scale) * x + params["c"] + params["d"] * scale

        loss = self.of({"name": rule}, sigma=0.7)
        params = dict.fromkeys("abcd", jnp.zeros(()))
        batch = {"x": self.batch(128)["x"], "condition": jnp.zeros(128, jnp.int32)}

        def residual(params):
            roles = self.roles(function, params)
            return jnp.mean(loss(roles, batch, keys(128))[0])

        # A square in four numbers: one step of Newton's method ends at its bottom.
        flat, back = jax.flatten_util.ravel_pytree(params)
        slope = jax.grad(lambda v: residual(back(v)))(flat)
        bend = jax.hessian(lambda v: residual(back(v)))(flat)
        params = back(flat - jnp.linalg.solve(bend, slope))
        assert float(residual(params)) < 1e-9
        x = jnp.array([[0.4]])
        for scale in (1.3, 3.7):
            made = function(params, x, None, None, jnp.array([scale]))
            networks = {"main": teacher(), "guide": teacher(1.4)}
            asked = networks if rule == "autoguidance" else networks["main"]
            expected = samplers.sample(
                asked,
                getattr(guidance, rule)(scale),
                samplers.euler(),
                [0.7, 0.0],
                x / 0.7,
                jnp.array([0]),
                jax.random.key(0),
            )
            np.testing.assert_allclose(made, expected, rtol=2e-4)

    @pytest.mark.longer
    def test_a_fixed_scale_needs_no_input(self):
        loss = self.of({"name": "cfg", "scale": 2.0}, inputs=())
        function = lambda params, x, s, c: self.exact(params, x, s, c, 2.0)  # noqa: E731
        params = {"gain": jnp.ones(())}
        values, _ = loss(self.roles(function, params, ()), self.batch(16), keys(16))
        assert float(values.max()) < 1e-10

    def test_rules_name_the_networks_that_take_part(self):
        assert self.of().roles == (MAIN, TEACHER)
        assert self.of({"name": "autoguidance"}).roles == (MAIN, TEACHER, "guide")


# N -> std of the one-step student of a cosine schedule's N steps, over the data's.
COSINE = {2: 0.4000, 4: 0.6669, 8: 0.8227, 16: 0.9079, 64: 0.97619, 256: 0.99399}


class TestProgressive:
    """Halvings reproduce the first teacher, and never repair it."""

    @pytest.mark.parametrize("steps", COSINE)
    def test_the_grids_ddim_has_the_std_of_record(self, steps):
        levels = StepGrid().levels(steps)
        above, below = levels[:-1], levels[1:]
        factor = np.prod((STD**2 + above * below) / (STD**2 + above**2))
        std = factor * np.sqrt(STD**2 + levels[0] ** 2)
        assert std / STD == pytest.approx(COSINE[steps], abs=1e-3)

    def of(self, start, **given):
        net = Net(None, num_classes=0)
        spec = spec_of(net, condition=None)
        return progressive(spec, Direct(), uniform("x0"), start=start, updates=10, **given)

    @pytest.mark.longer
    @pytest.mark.parametrize("grid", ["cosine", "karras"])
    def test_the_gradient_is_zero_where_one_step_lands_as_two_do(self, grid):
        loss = self.of(8, grid=grid)
        levels = loss.grid.levels(8)
        euler = (STD**2 + levels[:-1] * levels[1:]) / (STD**2 + levels[:-1] ** 2)
        two = euler[::2] * euler[1::2]
        begin, end = levels[::2][:-1], levels[::2][1:]
        prediction = (two - end / begin) / (1 - end / begin)
        between = np.sqrt(begin[1:] * begin[:-1])[::-1]

        def function(params, x, time, condition):
            place = jnp.searchsorted(jnp.asarray(between), time)
            return params["slope"][place][:, None] * x

        params = {"slope": jnp.asarray(prediction[::-1])}
        teacher = Direct()
        # The teacher is the same network with other parameters: the exact denoiser's are not of
        # this form, so that its slopes are those of all eight nodes.
        middle = levels[:-1][::-1]
        at = np.sqrt(middle[1:] * middle[:-1])

        def both(params, x, time, condition):
            if params["slope"].shape == (8,):
                place = jnp.searchsorted(jnp.asarray(at), time)
                return params["slope"][place][:, None] * x
            return function(params, x, time, condition)

        net = Net(both, num_classes=0)
        exact = {"slope": jnp.asarray(STD**2 / (STD**2 + middle**2))}
        roles = {MAIN: Role(net, params, (), teacher, exact, 0)}
        gradient, metrics = gradient_of(loss, roles, params, data(256), keys(256))
        assert float(metrics["steps"]) == 4
        scale = float(jnp.mean(data(256)["x"] ** 2))
        assert float(metrics["loss"]) < 1e-7 * scale
        assert float(jnp.abs(gradient["slope"]).max()) < 1e-3
        moved = {"slope": params["slope"] * 1.1}
        assert float(gradient_of(loss, roles, moved, data(256), keys(256))[1]["loss"]) > 5e-4

    def test_the_student_becomes_the_teacher_when_steps_are_halved(self):
        loss = self.of(16)
        kept = [int(loss.target_average(step)) for step in range(1, 45)]
        assert [n + 1 for n, value in enumerate(kept) if value == 0] == [10, 20, 30]


REFUSED = {
    "cd of a denoiser": (
        lambda: consistency_distillation(spec_of(Net(None)), {}),
        "set model.preconditioner",
    ),
    "cd without a boundary": (
        lambda: consistency_distillation(spec_of(Net(None), Consistency(STD, 0.0)), {}),
        "sigma_min=0.002",
    ),
    "ct with a scale": (
        lambda: consistency_training(spec_of(Net(None, SCALE), BOUNDARY, SCALE), steps=1),
        "no guidance scale",
    ),
    "shrinking ct": (
        lambda: ict(spec_of(Net(None), BOUNDARY), steps=1, start=9, end=3),
        "grow from start",
    ),
    "pd of odd steps": (
        lambda: progressive(spec_of(Net(None)), Direct(), uniform(), start=6),
        "power of two",
    ),
    "pd of a consistency function": (
        lambda: progressive(spec_of(Net(None), BOUNDARY), BOUNDARY, uniform()),
        "steps of a denoiser",
    ),
    "a teacher of other classes": (
        lambda: guided_distillation(
            Direct(),
            Corruption(log_normal()),
            truncated_snr(),
            {MAIN: spec_of(Net(None)), TEACHER: spec_of(Net(None), condition=5)},
            rule={"name": "cfg", "scale": 2.0},
        ),
        "has num_classes 2 and roles.teacher 5",
    ),
    "a consistency function as a teacher": (
        lambda: guided_distillation(
            Direct(),
            Corruption(log_normal()),
            truncated_snr(),
            {MAIN: spec_of(Net(None)), TEACHER: spec_of(Net(None), BOUNDARY)},
            rule={"name": "cfg", "scale": 2.0},
        ),
        "estimates consistency",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused(name):
    make, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        make()


@pytest.mark.longer
def test_an_input_of_one_scale_is_a_range_of_one():
    assert ScalarInput(2.0, 2.0).middle == 2.0
