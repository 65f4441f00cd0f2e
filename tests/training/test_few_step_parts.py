"""What few-step methods share: teachers of any rule, pairs, curricula, distances, tangents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from tables.few_step_networks import SCALE, Net, role_of, spec_of, teacher

from guidestar import guidance, samplers
from guidestar.core.errors import UserError
from guidestar.models import create
from guidestar.training.distillation import curricula, distances, pairs
from guidestar.training.distillation.scales import drawn
from guidestar.training.distillation.tangents import value_and_tangent
from guidestar.training.distillation.teacher import TEACHER, teacher_of
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.noise.levels import log_normal

SIGMAS = jnp.array([0.05, 0.6, 2.0, 30.0])
X = jnp.array([[0.3], [-1.0], [2.0], [-25.0]])
LABELS = jnp.array([0, 1, 1, 0])
SCALES = jnp.array([1.0, 1.5, 2.0, 3.0])
STUDENT = spec_of(Net(None))
# Rules as a config has them, open in their scale, and as a person makes them.
RULES = {
    "cfg": (dict(name="cfg"), guidance.cfg),
    "apg": (
        dict(name="apg", eta=0.2, norm=1.5, momentum=0.0),
        lambda s: guidance.apg(s, eta=0.2, norm=1.5, momentum=0.0),
    ),
    "autoguidance": (dict(name="autoguidance"), guidance.autoguidance),
    "between": (
        dict(name="between", rule=dict(name="cfg"), low=0.3, high=5.0),
        lambda s: guidance.between(guidance.cfg(s), 0.3, 5.0),
    ),
}


def specs_of(*roles):
    return {MAIN: STUDENT} | {role: spec_of(Net(None)) for role in roles}


def field_of(rule, solver=None, scale=None):
    """Return the field of a rule's section over the exact networks."""
    made = teacher_of(rule, solver, specs=specs_of(TEACHER, "guide"), scaled=scale is not None)
    roles = {MAIN: None, TEACHER: role_of(teacher()), "guide": role_of(teacher(1.4))}
    return made.field({name: roles[name] for name in roles}, LABELS, scale=scale)


def sampled(rule, solver, sigmas, x, label):
    """Return what the sampler makes of one sample: another way to the same numbers."""
    networks = {"main": teacher(), "guide": teacher(1.4)}
    asked = networks if "autoguidance" in repr(rule) else networks["main"]
    noise = jnp.asarray(x)[None] / sigmas[0]
    return samplers.sample(
        asked, rule, solver, sigmas, noise, jnp.array([label]), jax.random.key(0)
    )[0]


@pytest.mark.filterwarnings("ignore:samplers.sample")
class TestTeacher:
    """A field of any rule, at each sample's own noise level and scale."""

    @pytest.mark.parametrize("name", RULES)
    def test_it_predicts_what_the_rule_does_in_sampling(self, name):
        section, make = RULES[name]
        found = field_of(section, scale=SCALES).denoise(X, SIGMAS)
        for i, scale in enumerate(SCALES):
            rule, levels = make(float(scale)), [float(SIGMAS[i]), 0.0]
            expected = sampled(rule, samplers.euler(), levels, X[i], int(LABELS[i]))
            np.testing.assert_allclose(found[i], expected, rtol=2e-5, atol=1e-5)

    @pytest.mark.longer
    @pytest.mark.parametrize("solver", ["euler", "heun"])
    def test_its_step_is_the_samplers(self, solver):
        field = field_of(RULES["between"][0], dict(name=solver), SCALES)
        to = SIGMAS * jnp.array([0.5, 0.1, 0.0, 0.9])
        found = field.step(X, SIGMAS, to)
        make = {"euler": samplers.euler(), "heun": samplers.heun()}[solver]
        for i, scale in enumerate(SCALES):
            rule = RULES["between"][1](float(scale))
            levels = [float(SIGMAS[i]), float(to[i])]
            expected = sampled(rule, make, levels, X[i], int(LABELS[i]))
            np.testing.assert_allclose(found[i], expected, rtol=2e-5, atol=1e-5)

    def test_a_walk_is_its_steps(self):
        field = field_of(RULES["cfg"][0], scale=SCALES)
        levels = jnp.stack([SIGMAS, SIGMAS / 2, SIGMAS / 2, SIGMAS / 9])
        expected = field.step(field.step(X, SIGMAS, SIGMAS / 2), SIGMAS / 2, SIGMAS / 9)
        np.testing.assert_allclose(field.walk(X, levels), expected, rtol=1e-5)

    def test_no_gradient_reaches_its_networks_or_comes_through_it(self):
        made = teacher_of(dict(name="cfg"), specs=specs_of(TEACHER), scaled=True)

        def value(params, x):
            roles = {TEACHER: role_of(teacher())._replace(params=params)}
            field = made.field(roles, LABELS, scale=SCALES)
            return jnp.sum(field.denoise(x, SIGMAS)) + jnp.sum(field.step(x, SIGMAS, SIGMAS / 2))

        slopes = jax.grad(value, (0, 1))(teacher().params, X)
        assert all(not np.any(slope) for slope in jax.tree.leaves(slopes))

    @pytest.mark.parametrize(
        ("rule", "word"),
        [
            (dict(name="apg", scale=2.0, momentum=-0.5), "keeps a memory"),
            (dict(name="cfg_zero_star", scale=2.0, zero_init_steps=2), "keeps a memory"),
            (dict(name="higs", rule=dict(name="cfg", scale=2.0)), "keeps a memory"),
            (dict(name="icg", scale=2.0, classes=2), "draws numbers"),
            (
                dict(name="cads", rule=dict(name="cfg", scale=2.0), tau1=0.1, tau2=0.8),
                "draws numbers",
            ),
            (dict(name="classifier", scale=2.0), "asks a classifier"),
        ],
    )
    def test_what_is_no_field_is_refused_by_name(self, rule, word):
        with pytest.raises(UserError, match=rf"training\.loss\.rule: .*{rule['name']}.* {word}"):
            teacher_of(rule, specs=specs_of(TEACHER, "guide"))

    @pytest.mark.parametrize("rule", [dict(name="unguided"), dict(name="cfg", scale=2.0)])
    def test_a_rule_without_an_open_scale_is_no_teacher_of_a_student_that_takes_one(self, rule):
        with pytest.raises(UserError, match="has none left open"):
            teacher_of(rule, specs=specs_of(TEACHER), scaled=True)

    @pytest.mark.parametrize("solver", ["dpmpp", "lms", "unipc", "deis"])
    def test_a_solver_without_a_step_of_its_own_is_refused(self, solver):
        with pytest.raises(UserError, match="take euler or heun"):
            teacher_of(dict(name="unguided"), dict(name=solver), specs=specs_of(TEACHER))


class TestCurricula:
    """Numbers of the papers."""

    def test_intervals_grow_as_published(self):
        # In closed form at the ends and the middle: s0 = 2, s1 = 150.
        found = [int(curricula.growing_intervals(k, 1000, 2, 150)) for k in (0, 500, 1000)]
        assert found == [1, 106, 150]
        decays = [float(curricula.target_decay(n, 2, 0.9)) for n in (1, 150)]
        assert decays == pytest.approx([0.81, 0.9 ** (2 / 150)], rel=1e-6)

    def test_intervals_double_in_equal_stages(self):
        every = [int(curricula.doubling_intervals(k, 400_000)) for k in range(0, 400_000, 50_000)]
        assert [n + 1 for n in every] == [11, 21, 41, 81, 161, 321, 641, 1281]
        assert int(curricula.doubling_intervals(49_999, 400_000)) == 10
        assert int(curricula.doubling_intervals(10**9, 400_000)) == 1280

    def test_pairs_of_ect_go_from_the_data_to_neighbours(self):
        sigma = jnp.array([0.5, 1.9459, 1.95, 10.0])
        first = curricula.ect_end(sigma, 0)
        np.testing.assert_allclose(first[:2], 0, atol=1e-4)
        assert (first[2:] > 0).all()
        count = 1 + 8 / (1 + np.exp(0.5))
        last = curricula.ect_end(sigma, 7)
        assert float(last[0]) == pytest.approx(0.5 * (1 - count / 256), rel=1e-6)

    def test_steps_are_halved_and_tangents_warmed_up(self):
        found = [int(curricula.halved_steps(k, 16, 10)) for k in (0, 9, 10, 25, 30, 1000)]
        assert found == [8, 8, 4, 2, 1, 1]
        assert [float(curricula.warm_up(k, 100)) for k in (0, 50, 300)] == [0, 0.5, 1]
        assert float(curricula.warm_up(0, 0)) == 1

    def test_a_new_stage_compiles_nothing(self, compilations):
        run = jax.jit(lambda k: curricula.doubling_intervals(k, 400_000))
        run(jnp.int32(0))
        with compilations() as compiled:
            run(jnp.int32(399_999))
        assert not compiled


KEYS = jax.random.split(jax.random.key(3), 20_000)


class TestPairs:
    """Noise levels of one trajectory."""

    @pytest.mark.parametrize("count", [2, 18, 40])
    def test_levels_are_those_of_the_schedule(self, count):
        grid = pairs.Grid()
        found = grid.level(np.arange(count)[::-1], count - 1)
        np.testing.assert_allclose(found, samplers.karras(count)[:-1], rtol=2e-5)
        assert float(grid.level(0, count - 1)) == np.float32(0.002)
        middle = grid.level(jnp.arange(count - 1) + 0.5, count - 1)
        np.testing.assert_array_equal(grid.index(middle, count - 1), np.arange(count - 1))

    def test_every_interval_is_drawn_equally_often(self):
        pair = pairs.neighbours(pairs.Grid(), 8, KEYS)
        _, counts = np.unique(np.asarray(pair.sigma), return_counts=True)
        assert len(counts) == 8 and np.abs(counts / len(KEYS) - 1 / 8).max() < 0.01
        assert (pair.to < pair.sigma).all()

    @pytest.mark.longer
    def test_log_normal_mass_decides_how_often(self):
        grid, count = pairs.Grid(), 10
        pair = pairs.log_normal_neighbours(grid, count, KEYS)
        levels = np.asarray(grid.level(np.arange(count + 1), count), float)
        mass = np.diff(norm.cdf((np.log(levels) + 1.1) / 2.0))
        place = np.searchsorted(levels[1:], np.asarray(pair.sigma) * (1 - 1e-6))
        found = np.bincount(place, minlength=count) / len(KEYS)
        np.testing.assert_allclose(found, mass / mass.sum(), atol=0.012)

    def test_intervals_of_a_flow_map_are_in_order_and_some_are_none(self):
        pair = pairs.any_two(log_normal(-0.4, 1.0), KEYS, equal=0.25)
        same = pair.sigma == pair.to
        assert (pair.to <= pair.sigma).all()
        assert float(same.mean()) == pytest.approx(0.25, abs=0.02)

    def test_a_table_has_its_neighbours(self):
        pair = pairs.of_table([0.1, 1.0, 5.0], KEYS[:100])
        found = np.unique(np.stack(pair, axis=1), axis=0)
        np.testing.assert_allclose(found, [[1.0, 0.1], [5.0, 1.0]], rtol=1e-6)


class TestDistances:
    """One number a sample."""

    def test_their_values_by_hand(self):
        made, target = jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))
        assert float(distances.squared(made, target)[0]) == 12.5
        assert float(distances.norm()(made, target)[0]) == pytest.approx(5)
        huber = distances.pseudo_huber(12.0)
        assert float(huber(made, target)[0]) == pytest.approx(1)
        each = distances.pseudo_huber(1.0, "element")
        expected = (np.sqrt(10) + np.sqrt(17) - 2) / 2
        assert float(each(made, target)[0]) == pytest.approx(expected)
        images = jnp.ones((1, 32, 32, 3)), jnp.zeros((1, 32, 32, 3))
        c = 0.02993
        found = distances.pseudo_huber()(*images)[0]
        assert float(found) == pytest.approx(np.sqrt(3072 + c**2) - c, rel=1e-6)

    @pytest.mark.parametrize("distance", [distances.norm(), distances.pseudo_huber(1e-3)])
    def test_their_gradient_is_finite_where_they_are_zero(self, distance):
        slope = jax.grad(lambda x: distance(x, jnp.zeros((1, 3)))[0])(jnp.zeros((1, 3)))
        np.testing.assert_array_equal(slope, 0)

    def test_the_adaptive_weights_gradient_is_that_of_a_logarithm(self):
        error = jnp.array([0.5, 3.0])
        slope = jax.grad(lambda e: distances.adaptive(e, 0.1).sum())(error)
        np.testing.assert_allclose(slope, 1 / (error + 0.1), rtol=1e-6)

    @pytest.mark.parametrize(
        ("section", "word"),
        [
            ("huber", "is not one of"),
            (dict(name="pseudo_huber", c=-1.0), "from 0"),
            (dict(name="pseudo_huber", per="pixel"), "sample or element"),
            (dict(name="norm", c=1.0), "unexpected keyword"),
            (dict(name="perceptual", features="digits_classifier"), "between images"),
        ],
    )
    def test_others_are_refused(self, section, word):
        with pytest.raises(UserError, match=word):
            distances.distance_of(section, STUDENT)


class TestTangents:
    """Forward mode through a network's scanned layers and attention."""

    @staticmethod
    def network():
        fields = dict(image_size=4, channels=1, num_classes=2, patch_size=2, width=8, heads=2)
        made = create("dit", key=jax.random.key(0), depth=2, scan_layers=True, **fields)
        keys = iter(jax.random.split(jax.random.key(1), 99))
        params = jax.tree.map(
            lambda leaf: 0.3 * jax.random.normal(next(keys), leaf.shape), made.params
        )
        return made.network, params

    @pytest.mark.longer
    def test_it_is_the_slope_along_the_flow_and_leaves_the_gradient_alone(self):
        net, params = self.network()
        x, time = jax.random.normal(jax.random.key(2), (2, 4, 4, 1)), jnp.array([0.3, 0.8])
        way = jax.random.normal(jax.random.key(3), x.shape), jnp.ones(2)

        def run(params, x, time):
            return net(params, x, time, jnp.array([0, 1]))

        @jax.jit
        def both(params):
            value, tangent = value_and_tangent(lambda *at: run(params, *at), (x, time), way)
            return jnp.sum(value * tangent), tangent

        @jax.jit
        def apart(params, tangent):
            return jnp.sum(run(params, x, time) * tangent)

        (_, tangent), gradient = jax.value_and_grad(both, has_aux=True)(params)
        step = 1e-2
        ahead, behind = (run(params, x + s * way[0], time + s) for s in (step, -step))
        np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), rtol=0.02, atol=0.02)
        plain = jax.grad(apart)(params, tangent)
        for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_target_is_the_average_or_the_student_itself_and_held():
    role = Role(None, {"w": jnp.float32(2.0)})
    assert role.target_role.params["w"] == 2
    assert role._replace(target={"w": jnp.float32(3.0)}).target_role.params["w"] == 3
    slope = jax.grad(lambda p: role._replace(params=p).target_role.params["w"])(role.params)
    assert slope["w"] == 0


def test_scales_are_drawn_from_the_range_of_the_input():
    found = drawn(dict(SCALE)["scale"], KEYS)["scale"]
    assert float(found.min()) >= 0 and float(found.max()) <= 4
    assert float(found.mean()) == pytest.approx(2, abs=0.03)
    assert drawn(None, KEYS) == {}
