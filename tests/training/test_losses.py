"""Denoising losses: EDM's normalisation, every prediction and weight, flows, learned variances."""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm
from tables.everyday import few
from tables.loss_examples import Stub, fixed, gradient_of, images, keys, mean_of, only

from guidestar.models import preconditioning as p
from guidestar.models.conditions import Values, described
from guidestar.training.losses import Denoising, FlowMatching, Hybrid, Uncertainty
from guidestar.training.losses.hybrid import reverse_steps
from guidestar.training.noise import levels, weightings
from guidestar.training.noise.corruption import Corruption, pfgmpp

EDM = p.EDM(0.5)
ZERO = Stub(lambda params, x, time: jnp.zeros_like(x))


def guess(params, x, time):
    """Return an output that depends on everything."""
    return jnp.sin(3 * x) + 0.1 * jnp.cos(time).reshape(-1, 1, 1, 1)


@pytest.mark.longer
@pytest.mark.parametrize("sigma", few(2, [0.01, 0.5, 3.0, 80.0]))
def test_edm_has_loss_one_at_every_noise_level_before_training(sigma):
    loss = mean_of(Denoising(EDM, fixed(sigma)))
    assert float(loss(ZERO, {}, images(4000), keys(4000))[0]) == pytest.approx(1.0, abs=0.01)


PRECONDITIONERS = {
    "edm": EDM,
    "vp": p.VP(),
    "ve": p.VE(),
    "iddpm": p.IDDPM(),
    "noise": p.Discrete(),
    "velocity": p.Discrete(predicts="velocity"),
    "flow": p.Flow(),
    "direct": p.Direct(),
}
WEIGHTINGS = {
    "network": weightings.uniform(),
    "min_snr": weightings.min_snr(),
    "p2": weightings.p2(),
}


@pytest.mark.parametrize(("name", "weighting"), list(product(PRECONDITIONERS, WEIGHTINGS)))
def test_every_loss_is_the_weighted_error_of_the_denoiser(name, weighting):
    """Against ``w |c_skip x + c_out F - y|^2``, computed from what the network was given."""
    preconditioner, weigh = PRECONDITIONERS[name], WEIGHTINGS[weighting]
    batch, sigma = images(3), 0.7
    network = Stub(guess)
    values, _ = Denoising(preconditioner, fixed(sigma), weigh)(only(network, {}), batch, keys(3))
    column = jnp.full((3, 1, 1, 1), sigma)
    skip, out, inside, time = preconditioner.coefficients(column)
    given = network.seen[0]
    np.testing.assert_allclose(given["time"], time.reshape(-1), rtol=1e-5)
    denoised = skip * given["x"] / inside + out * guess({}, given["x"], time.reshape(-1))
    expected = (weigh(column, preconditioner) * (denoised - batch["x"]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(values, expected, rtol=2e-4)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_edms_loss_is_the_plain_error_of_the_networks_output(sigma):
    batch, network = images(3), Stub(guess)
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda a: a.astype(float) if a.dtype == np.float32 else a, batch)
        values, _ = Denoising(EDM, fixed(sigma))(only(network, {}), batch, keys(3))
        given = network.seen[0]
        skip, out, inside, time = EDM.coefficients(jnp.full((3, 1, 1, 1), jnp.float32(sigma)))
        target = (batch["x"] - skip * given["x"] / inside) / out
        expected = ((guess({}, given["x"], time.reshape(-1)) - target) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(values, expected, rtol=1e-6 if sigma > 0.01 else 1e-4)


@pytest.mark.longer
def test_an_optimal_denoiser_of_gaussian_data_has_its_posterior_variance():
    """D = c_skip x for data of std 1/2: an output of zeros."""
    sigma = 0.8
    loss = mean_of(Denoising(EDM, fixed(sigma), weightings.uniform("x0")))
    found = float(loss(ZERO, {}, images(4000), keys(4000))[0])
    assert found == pytest.approx(0.25 * sigma**2 / (0.25 + sigma**2), rel=0.02)


@pytest.mark.longer
def test_an_unconditional_network_gets_no_label_and_a_conditional_one_its_own():
    for classes in (0, 3):
        network = Stub(guess, num_classes=classes)
        batch = images(2) | {"condition": jnp.array([2, 3])}
        Denoising(EDM, fixed(1.0))(only(network, {}), batch, keys(2))
        condition = network.seen[0]["condition"]
        assert condition is None if not classes else condition.tolist() == [2, 3]


@pytest.mark.longer
def test_another_kind_of_condition_comes_with_the_batch():
    network, text = Stub(guess), jnp.ones((2, 5))
    network.condition = described({"text": Values((5,))})
    Denoising(EDM, fixed(1.0))(
        only(network, {}), images(2) | {"condition": {"text": text}}, keys(2)
    )
    assert network.seen[0]["condition"]["text"] is text


class TestFlowMatching:
    """Velocities of the three paths, in both directions of time."""

    @pytest.mark.parametrize(
        ("path", "sigma"), [("linear", 0.6), ("linear", 1e-4), ("gvp", 0.6), ("vp", 0.6)]
    )
    def test_the_target_is_the_paths_velocity(self, path, sigma):
        """For a network of zeros the loss is the mean of the squared velocity."""
        batch, network = images(2), Stub(lambda params, x, time: jnp.zeros_like(x))
        corruption = fixed(sigma)
        values, _ = FlowMatching(p.Flow(path), corruption)(only(network, {}), batch, keys(2))
        given = corruption(network, batch, keys(2))
        time = float(p.Flow(path).network_time(jnp.float32(sigma)))
        with jax.enable_x64(True):
            velocity = path_velocity(path, time, np.asarray(batch["x"], float), given.noise)
        np.testing.assert_allclose(values, (velocity**2).mean((1, 2, 3)), rtol=1e-3)

    def test_the_other_direction_of_time_turns_the_velocity_round(self):
        batch = images(2)
        to_data, to_noise = (p.Flow(time=time) for time in ("to_data", "to_noise"))
        one = Stub(lambda params, x, time: jnp.tanh(x) * time.reshape(-1, 1, 1, 1))
        other = Stub(lambda params, x, time: -jnp.tanh(x) * (1 - time).reshape(-1, 1, 1, 1))
        losses = [
            FlowMatching(flow, Corruption(levels.flow_times()))(only(network, {}), batch, keys(2))[
                0
            ]
            for flow, network in ((to_data, one), (to_noise, other))
        ]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)

    @pytest.mark.parametrize(("factor", "direction"), [(2.0, 0.0), (-1.0, 2.0)])
    def test_the_cosine_sees_directions_alone(self, factor, direction):
        batch, corruption = images(3), fixed(0.5)
        given = corruption(ZERO, batch, keys(3))
        velocity = batch["x"] - given.noise
        network = Stub(lambda params, x, time: factor * velocity)
        values, metrics = FlowMatching(p.Flow(), corruption, cosine=0.5)(
            only(network, {}), batch, keys(3)
        )
        np.testing.assert_allclose(metrics["direction_error"], direction, atol=2e-3)
        error = ((factor - 1) ** 2 * velocity**2).mean((1, 2, 3))
        np.testing.assert_allclose(metrics["velocity_error"], error, rtol=1e-3)
        np.testing.assert_allclose(values, error + 0.5 * direction, rtol=2e-3)

    @pytest.mark.longer
    def test_the_gradient_at_a_zero_output_is_finite(self):
        network = Stub(lambda params, x, time: params * jnp.ones_like(x))
        loss = FlowMatching(p.Flow(), fixed(0.5), cosine=1.0)
        gradient, _ = gradient_of(loss, network, jnp.zeros(()), images(4), keys(4))
        assert np.isfinite(gradient)


def path_velocity(path, time, data, noise):
    """Return d x_t / dt by central differences, time 1 being data (SiT's)."""

    def at(t):
        if path == "linear":
            alpha, spread = t, 1 - t
        elif path == "gvp":
            alpha, spread = math.sin(math.pi * t / 2), math.cos(math.pi * t / 2)
        else:
            log_alpha = -(((1 - t) ** 2) * (20 - 0.1)) / 4 - (1 - t) * 0.1 / 2
            alpha, spread = math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha))
        return alpha * data + spread * np.asarray(noise, float)

    return (at(time + 1e-6) - at(time - 1e-6)) / 2e-6


class TestUncertainty:
    """EDM2's learned weights."""

    @pytest.mark.longer
    def test_the_learned_weight_settles_at_the_logarithm_of_the_error(self):
        """Gradient descent on u alone, the network's error being what it is."""
        log_variance = jnp.zeros(())

        def network(u):
            return Stub(guess, log_variance=lambda time: jnp.broadcast_to(u, time.shape))

        batch, own = images(64), keys(64)
        plain = float(Denoising(EDM, fixed(0.5))(only(Stub(guess), {}), batch, own)[0].mean())
        loss = Uncertainty(EDM, fixed(0.5))
        slope = jax.jit(jax.grad(lambda u: loss(only(network(u), {}), batch, own)[0].mean()))
        for _ in range(200):
            log_variance = log_variance - 0.1 * slope(log_variance)
        assert float(log_variance) == pytest.approx(math.log(plain), abs=1e-4)
        value, metrics = loss(only(network(log_variance), {}), batch, own)
        assert float(value.mean()) == pytest.approx(1 + math.log(plain), abs=1e-4)
        assert float(metrics["denoising_error"].mean()) == pytest.approx(plain, rel=1e-5)

    @pytest.mark.longer
    def test_both_the_network_and_its_uncertainty_get_a_gradient(self):
        stub = Stub(lambda params, x, time: params["w"] * jnp.ones_like(x))
        stub.module = lambda params: Stub(None, log_variance=lambda time: params["u"] * time)
        params = {"w": jnp.ones(()), "u": jnp.ones(())}
        gradient, _ = gradient_of(Uncertainty(EDM, fixed(0.1)), stub, params, images(8), keys(8))
        assert abs(gradient["w"]) > 1e-3 and abs(gradient["u"]) > 1e-3


class TestHybrid:
    """DiT's learned variance on DDPM's table."""

    levels = levels.discrete()

    def loss(self, step, **fields):
        corruption = Corruption(_OneLevel(self.levels, step))
        return Hybrid(p.Discrete(), corruption, **fields)

    def network(self, batch, step, v, error=0.0):
        """Predict the true noise, off by a constant, and a constant v."""
        given = Corruption(_OneLevel(self.levels, step))(ZERO, batch, keys(len(batch["condition"])))
        return Stub(
            lambda params, x, time: jnp.concatenate(
                [given.noise + error * params, jnp.full_like(x, v) * params], axis=-1
            )
        )

    def test_constants_of_the_reverse_steps_are_ddpms(self):
        steps = reverse_steps(self.levels)
        np.testing.assert_allclose(np.exp(steps.log_largest[[0, -1]]), [1e-4, 0.02], rtol=1e-5)
        np.testing.assert_allclose(np.exp(steps.log_smallest[:2]), 5.4532e-5, rtol=1e-4)
        assert steps.data[0] == pytest.approx(1.0, rel=1e-6)
        assert (steps.log_smallest < steps.log_largest).all()

    @pytest.mark.longer
    @pytest.mark.parametrize(("step", "v"), few(2, [(1, -1.0), (1, 1.0), (300, 0.3), (999, -1.0)]))
    def test_the_bound_of_a_perfect_mean_is_the_divergence_of_two_variances(self, step, v):
        batch = images(4)
        network = self.network(batch, step, v)
        values, metrics = self.loss(step)(only(network, 1.0), batch, keys(4))
        steps = reverse_steps(self.levels)
        large, small = float(steps.log_largest[step]), float(steps.log_smallest[step])
        log_variance = (v + 1) / 2 * large + (1 - v) / 2 * small
        gap = log_variance - small
        expected = 0.5 * (gap - 1 + math.exp(-gap)) / math.log(2)
        np.testing.assert_allclose(metrics["bound"], expected, rtol=2e-3, atol=1e-7)
        np.testing.assert_allclose(metrics["noise_error"], 0, atol=1e-8)
        np.testing.assert_allclose(values, metrics["bound"], atol=1e-7)

    @pytest.mark.longer
    def test_an_error_of_the_mean_adds_its_square_over_the_variance(self):
        batch, step, error = images(4), 300, 0.2
        network = self.network(batch, step, -1.0, error)
        _, metrics = self.loss(step)(only(network, 1.0), batch, keys(4))
        steps = reverse_steps(self.levels)
        away = steps.data[step] * self.levels.sigmas[step] * error
        expected = 0.5 * away**2 * math.exp(-steps.log_smallest[step]) / math.log(2)
        np.testing.assert_allclose(metrics["bound"], expected, rtol=1e-4)
        np.testing.assert_allclose(metrics["noise_error"], error**2, rtol=1e-4)

    @pytest.mark.longer
    def test_the_lowest_level_counts_the_bits_of_pixel_values(self):
        pixels = jnp.array([-1.0, -0.5, 0.1, 1.0]).reshape(1, 2, 2, 1)
        batch = {"x": pixels, "condition": jnp.zeros(1, jnp.int32)}
        error, v = 0.3, 0.5
        network = self.network(batch, 0, v, error)
        _, metrics = self.loss(0)(only(network, 1.0), batch, keys(1))
        steps = reverse_steps(self.levels)
        spread = math.exp((0.75 * steps.log_largest[0] + 0.25 * steps.log_smallest[0]) / 2)
        values = np.asarray(pixels, float).ravel()
        mean = values - self.levels.sigmas[0] * error
        low = np.where(values < -0.999, -np.inf, (values - mean - 1 / 255) / spread)
        high = np.where(values > 0.999, np.inf, (values - mean + 1 / 255) / spread)
        expected = -np.log2(norm.cdf(high) - norm.cdf(low)).mean()
        np.testing.assert_allclose(metrics["bound"], expected, rtol=1e-3)

    @pytest.mark.longer
    def test_the_bound_trains_the_variance_alone(self):
        batch, own, step = images(8), keys(8), 1
        given = Corruption(_OneLevel(self.levels, step))(ZERO, batch, own)

        def network(params, x, time):
            mean = given.noise + 0.2 * params["mean"]
            return jnp.concatenate([mean, params["v"] * jnp.ones_like(x)], axis=-1)

        params = {"mean": jnp.ones(()), "v": jnp.full((), 0.2)}
        loss = self.loss(step)
        bound = jax.grad(lambda q: loss(only(Stub(network), q), batch, own)[1]["bound"].mean())(
            params
        )
        assert bound["mean"] == 0 and abs(bound["v"]) > 1e-5
        whole, _ = gradient_of(loss, Stub(network), params, batch, own)
        assert whole["mean"] == pytest.approx(2 * 0.2**2, rel=1e-3)
        assert whole["v"] == pytest.approx(float(bound["v"]), rel=1e-5)

    @pytest.mark.parametrize("step", [0, 1, 999])
    def test_losses_and_gradients_are_finite_however_wrong_the_network(self, step):
        batch = images(4, std=1.0)
        network = Stub(lambda params, x, time: params * jnp.full((*x.shape[:-1], 4), 30.0))
        gradient, metrics = gradient_of(self.loss(step), network, jnp.ones(()), batch, keys(4))
        assert np.isfinite(gradient) and np.isfinite(metrics["loss"])

    def test_what_it_cannot_train_is_refused(self):
        with pytest.raises(ValueError, match="steps of a table"):
            Hybrid(p.Discrete(), Corruption(levels.log_normal()))
        with pytest.raises(ValueError, match=r"set model\.learn_variance"):
            self.loss(5)(only(ZERO, {}), images(2), keys(2))


class _OneLevel(levels.Levels):
    """A table of which one level alone is drawn."""

    def __init__(self, levels, step):
        super().__init__(levels.sigmas)
        object.__setattr__(self, "step", step)

    def quantile(self, share):
        return jnp.full(jnp.shape(share), self.table[self.step])


class TestPfgmpp:
    """The noise of PFGM++."""

    @pytest.mark.parametrize("D", [8.0, 128.0, 2048.0])
    def test_its_mean_square_is_that_of_the_paper(self, D):
        batch, sigma = images(4000), 0.7
        given = fixed(sigma, kernel=pfgmpp(D))(ZERO, batch, keys(4000))
        assert float(jnp.mean(given.noise**2)) == pytest.approx(D / (D - 2), rel=0.05)
        np.testing.assert_allclose(given.noisy - batch["x"], sigma * given.noise, atol=1e-5)

    @pytest.mark.longer
    @pytest.mark.parametrize("D", [1e8, math.inf])
    def test_it_is_gaussian_in_the_limit(self, D):
        given = fixed(1.0, kernel=pfgmpp(D))(ZERO, images(500), keys(500))
        assert kstest(np.ravel(given.noise), "norm").pvalue > 1e-4

    @pytest.mark.longer
    def test_it_has_heavier_tails_than_gaussian_noise_before(self):
        given = fixed(1.0, kernel=pfgmpp(4.0))(ZERO, images(500), keys(500))
        assert kstest(np.ravel(given.noise), "norm").pvalue < 1e-6
