"""Guidance-free training: each method's fixed point as an effective scale, on Gaussian classes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm
from tables.everyday import few
from tables.few_step_networks import Net, spec_of

from guidestar.core.errors import UserError
from guidestar.core.random import fold_each
from guidestar.models.exact import Gaussian
from guidestar.models.preconditioning import EDM, Direct
from guidestar.models.scalar_inputs import ScalarInput
from guidestar.training.averages import ema
from guidestar.training.distillation.cca import cca
from guidestar.training.distillation.guidance_free import gft, model_guidance
from guidestar.training.distillation.scales import SCALE
from guidestar.training.distillation.teacher import TEACHER
from guidestar.training.losses.denoising import Denoising
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.noise.corruption import Corruption
from guidestar.training.noise.levels import log_normal
from guidestar.training.noise.weightings import uniform
from guidestar.training.objectives.objective import Mean
from guidestar.training.state import Recipe, Update, initial_state, make_step

MEANS, STDS, NULL = np.array([0.8, -0.6]), np.array([0.5, 0.7]), 2
BETA, RANGE = ScalarInput(0.25, 1.0), ScalarInput(1.0, 4.0)
SIGMA = 0.7


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


def batch_of(count, dropped=True, seed=3):
    """Return numbers of both classes, of which every third has no label."""
    label = jnp.arange(count) % 2
    noise = jax.random.normal(jax.random.key(seed), (count, 1))
    x = jnp.asarray(MEANS)[label][:, None] + jnp.asarray(STDS)[label][:, None] * noise
    if dropped:
        label = jnp.where(jnp.arange(count) % 3 == 0, NULL, label)
    return {"x": x, "condition": label}


def corruption(sigma=SIGMA):
    return Corruption(log_normal(float(np.log(sigma)), 0.0))


def affine(params, x, sigma, condition, **inputs):
    """Predict ``(a + b g) x + c + d g`` of each label, g the scale that its input stands for."""
    (value,) = inputs.values() or (jnp.ones(len(x)),)
    gain = (1 / value if "beta" in inputs else value)[:, None]
    a, b, c, d = (params[name][condition][:, None] for name in "abcd")
    return (a + b * gain) * x + c + d * gain


def loss_of(name, **given):
    inputs = {"gft": (("beta", BETA),), "range": (("scale", RANGE),)}.get(name, ())
    spec = spec_of(Net(None, inputs), inputs=inputs)
    make = gft if name == "gft" else model_guidance
    return make(spec, Direct(), corruption(), uniform("x0"), **given)


def fits(batch, own):
    """Return slope and offset of the least squares of each label, on what the losses draw."""
    given = corruption()(Net(None), batch, own)
    x, clean = np.asarray(given.noisy)[:, 0], np.asarray(batch["x"])[:, 0]
    found = []
    for label in range(3):
        chosen = np.asarray(batch["condition"]) == label
        rows = np.stack([x[chosen], np.ones(chosen.sum())], 1)
        found.append(np.linalg.lstsq(rows, clean[chosen])[0])
    return np.array(found)


def guided(plain, scale=None):
    """Return parameters with which `affine` is guided at a scale, or at that of its input."""
    null = plain[NULL]
    away = plain - null
    if scale is None:
        (a, c), (b, d) = np.broadcast_to(null, plain.shape).T, away.T
    else:
        (a, c), b, d = (null + scale * away).T, np.zeros(3), np.zeros(3)
    return {name: jnp.asarray(v) for name, v in zip("abcd", (a, b, c, d), strict=True)}


def gradient_of(loss, params, batch, own, target=None, step=0):
    """Return the gradient of the mean loss, and the loss."""
    roles = {MAIN: Role(Net(affine), params, (), Direct(), target, step)}
    run = jax.jit(lambda params: Mean(loss).gradient(roles, (), {MAIN: params}, batch, own))
    gradient, metrics = run(params)
    return gradient[MAIN], float(metrics["loss"])


class TestFixedPoints:
    """The gradient is zero, in float64, where the network is the guided prediction.

    A network that is affine in x: on a batch, its plain prediction is a least squares fit.
    """

    @pytest.mark.parametrize("scale", few(1, [2.0, 1.0, 3.5]))
    def test_model_guidances_is_its_scale(self, scale):
        batch, own = batch_of(600), keys(600)
        params = guided(fits(batch, own), scale)
        loss = loss_of("one", scale=scale, target_decay=0.0)
        gradient, _ = gradient_of(loss, params, batch, own)
        assert max(float(jnp.abs(g).max()) for g in gradient.values()) < 1e-12
        other = guided(fits(batch, own), 1.1 * scale)
        gradient, _ = gradient_of(loss, other, batch, own)
        assert float(jnp.abs(gradient["c"]).max()) > 1e-3

    @pytest.mark.longer
    def test_a_range_of_scales_is_their_input(self):
        batch, own = batch_of(600), keys(600)
        params = guided(fits(batch, own))
        gradient, _ = gradient_of(loss_of("range", target_decay=0.0), params, batch, own)
        # Weighted by the scales that were drawn, fits of a class differ from its plain one.
        assert float(jnp.abs(gradient["c"]).max()) < 0.01
        plain = guided(fits(batch, own), 1.0)
        gradient, _ = gradient_of(loss_of("range", target_decay=0.0), plain, batch, own)
        assert float(jnp.abs(gradient["c"]).max()) > 0.03

    def test_gfts_residual_is_the_plain_denoisers_whatever_beta_is(self):
        """At ``D = D_u + (D_c - D_u) / b``, sample by sample; any b has the same optimum."""
        batch, own = batch_of(600), keys(600)
        plain = fits(batch, own)
        roles = {MAIN: Role(Net(affine), guided(plain), (), Direct())}
        found, _ = jax.jit(lambda: loss_of("gft")(roles, batch, own))()
        roles = {MAIN: Role(Net(affine), guided(plain, 1.0), (), Direct())}
        expected, _ = jax.jit(
            lambda: Denoising(Direct(), corruption(), uniform("x0"))(roles, batch, own)
        )()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    def test_gfts_gradient_carries_the_factor_beta(self):
        """Of each sample, times a residual that is the plain denoiser's at the optimum."""
        batch, own = batch_of(600), keys(600)
        plain = fits(batch, own)
        gradient, _ = gradient_of(loss_of("gft"), guided(plain), batch, own)
        given = corruption()(Net(None), batch, own)
        beta = 0.25 + 0.75 * jax.vmap(jax.random.uniform)(fold_each(own, SCALE))
        label = np.asarray(batch["condition"])
        beta = np.where(label == NULL, 1.0, beta)
        x = np.asarray(given.noisy)[:, 0]
        residual = plain[label, 0] * x + plain[label, 1] - np.asarray(batch["x"])[:, 0]
        for name, factor in (("a", beta * x), ("b", x), ("c", beta), ("d", np.ones(600))):
            terms = 2 * residual * factor / 600
            expected = [terms[label == one].sum() for one in range(3)]
            np.testing.assert_allclose(gradient[name], expected, atol=1e-9)

    @pytest.mark.parametrize("name", ["gft", "one", "range"])
    def test_nothing_of_what_is_held_learns(self, name):
        """Without unlabelled samples the null label's parameters receive no gradient."""
        given = {} if name == "gft" else dict(target_decay=0.0)
        given |= dict(scale=2.0) if name == "one" else {}
        batch, own = batch_of(64, dropped=False), keys(64)
        params = {n: jax.random.normal(jax.random.key(ord(n)), (3,)) for n in "abcd"}
        gradient, _ = gradient_of(loss_of(name, **given), params, batch, own)
        assert all(float(g[NULL]) == 0 and float(jnp.abs(g[0])) > 0 for g in gradient.values())

    def test_the_average_stands_for_the_network_in_its_target(self):
        batch, own = batch_of(600), keys(600)
        plain = fits(batch, own)
        loss = loss_of("one", scale=2.0)
        assert float(loss.target_average(7)) == pytest.approx(0.9999)
        # From an average without guidance the first fit is at scale 1 + (1 - 1/2).
        params = guided(plain, 1.5)
        gradient, _ = gradient_of(loss, params, batch, own, target=guided(plain, 1.0))
        assert max(float(jnp.abs(g).max()) for g in gradient.values()) < 1e-12

    def test_the_first_steps_are_plain_training(self):
        batch, own = batch_of(600), keys(600)
        params = guided(fits(batch, own), 1.0)
        loss = loss_of("one", scale=3.0, start=10, target_decay=0.0)
        for step, zero in ((9, True), (10, False)):
            gradient, _ = gradient_of(loss, params, batch, own, step=step)
            assert (max(float(jnp.abs(g).max()) for g in gradient.values()) < 1e-12) == zero


class MLP:
    """Two hidden layers, of x, the noise level, the label and an input."""

    sizes = (6, 64, 64, 1)

    def params(self):
        own = jax.random.split(jax.random.key(0), 3)
        return [
            {"w": jax.random.normal(k, (a, b), "f4") / np.sqrt(a), "b": jnp.zeros(b, "f4")}
            for k, a, b in zip(own, self.sizes[:-1], self.sizes[1:], strict=True)
        ]

    def __call__(self, params, x, time, condition, **inputs):
        (value,) = inputs.values() or (jnp.ones(len(x)),)
        value = 1 / value if "beta" in inputs else value
        label = jax.nn.one_hot(condition, 3, dtype=x.dtype)
        parts = [x, time[:, None], label, value[:, None].astype(x.dtype)]
        y = jnp.concatenate(parts, axis=1)
        for layer in params[:-1]:
            y = jax.nn.silu(y @ layer["w"] + layer["b"])
        return y @ params[-1]["w"] + params[-1]["b"]


TOYS = [("gft", {}, 2.0), ("one", dict(scale=2.0, target_decay=0.95), 2.0)]


@pytest.mark.longer
@pytest.mark.parametrize(("name", "given", "scale"), TOYS)
def test_a_trained_network_is_guided_at_its_scale(name, given, scale):
    """Within 4 % of the exact guided prediction's distance from the null's."""
    with jax.enable_x64(False):
        mlp, precondition, steps, count = MLP(), EDM(0.9), 5000, 2048
        inputs = (("beta", BETA),) if name == "gft" else ()
        spec = spec_of(Net(None, inputs), inputs=inputs)
        make = gft if name == "gft" else model_guidance
        loss = make(spec, precondition, Corruption(log_normal(-0.3, 0.8)), uniform(), **given)
        rate = optax.cosine_decay_schedule(3e-3, steps)
        kept = ema.Averages((ema.constant(0.999),), (None,))
        if target := getattr(loss, "target_average", None):
            kept = kept.with_target(target)
        update = Update(optax.adam(rate), rate, kept, lambda p: p)
        networks = {MAIN: Net(mlp, inputs)}
        recipe = Recipe(Mean(loss), {MAIN: update})
        advance = make_step(recipe, networks, 0, preconditioners={MAIN: precondition})
        state = initial_state(recipe, {MAIN: mlp.params()})
        means, stds = (jnp.asarray(v, jnp.float32) for v in (MEANS, STDS))

        @jax.jit
        def draw(key):
            one, two, three = jax.random.split(key, 3)
            label = jax.random.randint(one, (count,), 0, 2)
            x = means[label] + stds[label] * jax.random.normal(two, (count,))
            dropped = jax.random.uniform(three, (count,)) < 0.3
            return {"x": x[:, None], "condition": jnp.where(dropped, NULL, label)}

        for step in range(steps):
            state, _ = advance(state, draw(jax.random.key(step)))
        denoiser = Role(networks[MAIN], state.main.ema[0], (), precondition).denoiser

        def predicted(x, sigma, label, value):
            every = len(x)
            inputs = {"beta": jnp.full(every, value)} if name == "gft" else {}
            found = denoiser(x, jnp.full(every, sigma), jnp.full(every, label), **inputs)
            return np.asarray(found)

        middles = jnp.asarray(norm.ppf((np.arange(99) + 0.5) / 99), jnp.float32)[:, None]
        for sigma in (0.3, 1.0):
            for label in range(2):
                # Where the network has seen the class.
                x = means[label] + jnp.sqrt(stds[label] ** 2 + sigma**2) * middles
                without = np.asarray(mixture(x, sigma))
                error = predicted(x, sigma, NULL, 1.0) - without
                assert np.sqrt(np.mean(error**2)) < 0.03
                exact = Gaussian(means[label], stds[label]).denoise(x, sigma)
                away = np.asarray(exact) - without
                moved = predicted(x, sigma, label, 1 / scale) - without
                assert np.sum(moved * away) / np.sum(away**2) == pytest.approx(scale, rel=0.04)


def mixture(x, sigma):
    """Return the exact prediction without a label, of both classes equally."""
    total = STDS**2 + sigma**2
    log = -((np.asarray(x) - MEANS) ** 2) / (2 * total) - np.log(total) / 2
    share = np.exp(log - log.max(1, keepdims=True))
    mean = MEANS + STDS**2 / total * (np.asarray(x) - MEANS)
    return (share * mean).sum(1, keepdims=True) / share.sum(1, keepdims=True)


class TestContrastive:
    """CCA on two classes that are near each other: its shift of the prediction, by Newton."""

    STD, APART = 0.5, 0.06

    def loss(self, noise=None, **given):
        spec = spec_of(Net(None), EDM(self.STD))
        specs = {MAIN: spec, TEACHER: spec_of(Net(None))}
        kernel = {} if noise is None else {"kernel": lambda clean, sigma, keys: noise}
        drawn = Corruption(log_normal(float(np.log(SIGMA)), 0.0), **kernel)
        return cca(spec, specs, EDM(self.STD), drawn, uniform(), **given)

    def roles(self, shift):
        """Return the exact denoiser of both classes, moved, and the reference."""

        def exact(params, x, sigma, condition):
            mean = jnp.asarray([self.APART, -self.APART, 0.0])[condition][:, None]
            sign = jnp.asarray([1.0, -1.0, 0.0])[condition][:, None]
            return Gaussian(mean, self.STD).denoise(x, sigma) + params * sign

        def network(params, inside, time, condition):
            """Return the output with which EDM's preconditioner predicts that."""
            skip, out, factor, _ = EDM(self.STD).coefficients(jnp.asarray(SIGMA))
            x = inside / factor
            return (exact(params, x, jnp.full(len(x), SIGMA), condition) - skip * x) / out

        return {
            MAIN: Role(Net(network), shift, (), EDM(self.STD)),
            TEACHER: Role(Net(exact), jnp.zeros(()), (), Direct()),
        }

    def batch(self, noise):
        label = jnp.arange(len(noise)) % 2
        mean = jnp.asarray([self.APART, -self.APART])[label][:, None]
        return {"x": mean + self.STD * noise, "condition": label}

    @pytest.mark.longer
    @pytest.mark.parametrize("beta", few(1, [1.0, 0.5, 2.0]))
    def test_the_scale_is_one_and_the_inverse_of_beta(self, beta):
        # Quantiles of both normal numbers, for both classes, each with several wrong ones.
        middles = norm.ppf((np.arange(64) + 0.5) / 64)
        pairs = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 1, 2)
        pairs = jnp.asarray(np.repeat(pairs, 8, axis=0))
        loss = self.loss(pairs[..., 1], beta=beta)
        batch, own = self.batch(pairs[..., 0]), keys(len(pairs))

        @jax.jit
        def value(shift):
            return jnp.mean(loss(self.roles(shift), batch, own)[0])

        shift = jnp.zeros(())
        slope, bend = jax.jit(jax.grad(value)), jax.jit(jax.hessian(value))
        for _ in range(4):
            shift = shift - slope(shift) / bend(shift)
        # The reference's distance from the prediction without a class, which is in between.
        apart = self.APART * SIGMA**2 / (SIGMA**2 + self.STD**2)
        assert 1 + float(shift) / apart == pytest.approx(1 + 1 / beta, rel=0.04)

    @pytest.mark.longer
    def test_it_begins_at_the_loss_of_a_coin(self):
        found, metrics = self.loss()(
            self.roles(jnp.zeros(())), self.batch(jnp.ones((8, 1))), keys(8)
        )
        np.testing.assert_allclose(found, 2 * np.log(2), rtol=1e-6)
        np.testing.assert_allclose(metrics["ratio"], 0, atol=1e-6)

    @pytest.mark.longer
    def test_the_reference_receives_no_gradient_and_unlabelled_samples_count_nothing(self):
        roles, loss = self.roles(jnp.asarray(0.1)), self.loss()
        params = {role: one.params for role, one in roles.items()}
        batch = self.batch(jnp.ones((8, 1)))
        run = jax.jit(lambda batch: Mean(loss).gradient(roles, (), params, batch, keys(8)))
        gradient, _ = run(batch)
        assert float(gradient[TEACHER]) == 0 and abs(float(gradient[MAIN])) > 1e-3
        gradient, metrics = run(batch | {"condition": jnp.full(8, NULL)})
        assert float(metrics["loss"]) == float(gradient[MAIN]) == 0


def specs(inputs=(), condition=2):
    return spec_of(Net(None, inputs, condition or 0), inputs=inputs, condition=condition)


def refused_gft(inputs, condition=2):
    return lambda: gft(specs(inputs, condition), Direct(), corruption(), uniform())


def refused_mg(inputs=(), condition=2, **given):
    return lambda: model_guidance(
        specs(inputs, condition), Direct(), corruption(), uniform(), **given
    )


REFUSED = {
    "gft without its input": (refused_gft(()), "set model.inputs.beta"),
    "gft beyond 1": (refused_gft((("beta", ScalarInput(0.1, 2.0)),)), "to 1, which is no guidance"),
    "gft without classes": (refused_gft((("beta", BETA),), None), "with a null class"),
    "mg without a scale": (refused_mg(), "takes one scale"),
    "mg with two": (refused_mg((("scale", RANGE),), scale=2.0), "takes one scale"),
    "mg below 1": (refused_mg(scale=0.5), "1 is no guidance"),
    "mg from 2": (refused_mg((("scale", ScalarInput(2.0, 4.0)),)), "from 1"),
    "cca of nothing": (lambda: TestContrastive().loss(beta=0.0), "beta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused(name):
    make, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        make()
