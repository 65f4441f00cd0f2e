"""The loss of an autoencoder: its parts by hand, and an adversary that gets its own gradient."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from networks.autoencoders import images, judge, make, make_judged, section
from tables.everyday import few
from tables.loss_examples import only
from tiny_configs.configs import recipe, setup, tiny, write_untrained

from guidestar.commands.config.training import checkpoints_of, networks_of, restored
from guidestar.commands.export import run as export
from guidestar.core.errors import UserError
from guidestar.models.autoencoders.discriminator import ROLE
from guidestar.models.checkpoints import load
from guidestar.runtime.identity import plain
from guidestar.training.losses import Autoencoding, perceptual
from guidestar.training.losses.autoencoding import (
    charbonnier,
    discriminator,
    generator,
    high_bands,
    high_pass,
    psnr,
)
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.setup import parameters_key
from guidestar.training.state import Inside, OneNetwork, initial_state, make_step

OFF = dict(l1=0.0, perceptual=0.0, kl=0.0, wavelet=0.0, high_pass=0.0, adversarial=0.0)
KEYS = jax.random.split(jax.random.key(0), 3)
CLASSIFIER = dict(
    name="classifier",
    image_size=8,
    channels=2,
    num_classes=3,
    widths=(8, 8),
    depths=(0, 0),
    feature_width=4,
)


class Toy:
    """An autoencoder of three numbers, worked out in closed form."""

    def module(self, params):
        return SimpleNamespace(
            encode=lambda x: (params["encoder"] * x, jnp.full(x.shape, -2.0)),
            decode=lambda z: params["decoder"][0] * z + params["decoder"][1],
        )


class ToyJudge:
    """A discriminator of one number."""

    def module(self, params):
        return lambda x: jnp.sin(params * x)


TOYS = {MAIN: Toy(), ROLE: ToyJudge()}


def judged(networks, params):
    """Return the networks of a loss that sees both."""
    return {role: Role(network, params[role]) for role, network in networks.items()}


def evaluate(loss, **changes):
    network, params = make(**changes)
    return jax.jit(lambda p: loss(only(network, p), {"x": images()}, KEYS))(params)


@pytest.mark.longer
def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = dict(l1=1.0, l2=0.7, kl=0.1, wavelet=0.4, high_pass=0.3)
    values, parts = evaluate(Autoencoding(**(OFF | weights)))
    total = sum(weight * parts[name] for name, weight in weights.items())
    np.testing.assert_allclose(values, total, rtol=1e-5)
    assert values.shape == (3,) and all(part.shape == (3,) for part in parts.values())
    np.testing.assert_allclose(parts["psnr"], 10 * np.log10(4 / parts["l2"]), rtol=1e-4)


@pytest.mark.longer
def test_the_latent_is_drawn_anew_for_every_sample_from_its_own_key():
    params = {"encoder": 0.8, "decoder": jnp.array([0.9, 0.1])}
    loss, image = Autoencoding(**(OFF | dict(l1=1.0))), np.repeat(images(1), 3, axis=0)
    run = jax.jit(lambda keys: loss(only(Toy(), params), {"x": image}, keys)[0])
    first = run(KEYS)
    assert len(set(np.asarray(first).tolist())) == 3
    np.testing.assert_array_equal(run(KEYS[jnp.array([2, 1, 1])])[:2], first[jnp.array([2, 1])])


@pytest.mark.parametrize("adversary", ["hinge", "logistic"])
def test_each_side_gets_the_gradient_of_its_own_loss_alone(adversary):
    weight, image = 0.3, images()
    noise = jax.vmap(lambda key: jax.random.normal(key, image[0].shape))(KEYS)
    loss = Autoencoding(**(OFF | dict(l1=1.0, adversarial=weight)), adversary=adversary)
    params = {MAIN: {"encoder": 0.8, "decoder": jnp.array([0.9, 0.1])}, ROLE: 2.0}

    def made(params):
        z = params[MAIN]["encoder"] * image + jnp.exp(-1.0) * noise
        return params[MAIN]["decoder"][0] * z + params[MAIN]["decoder"][1]

    def judge(params, x):
        return jnp.sin(params[ROLE] * x)

    def total(params):
        return loss(judged(TOYS, params), {"x": image}, KEYS)[0].mean()

    def of_autoencoder(params):
        y = made(params)
        return jnp.abs(image - y).mean() + weight * generator(adversary, judge(params, y)).mean()

    def of_discriminator(params):
        return discriminator(adversary, judge(params, image), judge(params, made(params))).mean()

    found = jax.grad(total)(params)
    expected = {
        MAIN: jax.grad(of_autoencoder)(params)[MAIN],
        ROLE: jax.grad(of_discriminator)(params)[ROLE],
    }
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4)
        assert np.abs(wanted).min() > 1e-3


@pytest.mark.longer
def test_steps_bring_the_reconstruction_closer():
    networks, params = make_judged()
    loss = Autoencoding(**(OFF | dict(l1=1.0, wavelet=0.1, high_pass=0.1, adversarial=0.01)))
    optimizer = optax.adam(5e-3, b1=0.5, b2=0.9)

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            objective = jax.value_and_grad(
                lambda p: (lambda v, m: (v.mean(), m))(
                    *loss(judged(networks, p), {"x": images()}, jax.random.split(key, 3))
                ),
                has_aux=True,
            )
            (_, metrics), gradient = objective(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), metrics["psnr"].mean()

        keys = jax.random.split(jax.random.key(1), 100)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[1]

    curve = run(jax.tree.map(jnp.asarray, params))
    assert curve[-10:].mean() > curve[:10].mean() + 3


# Its parts.


def test_hinge_and_logistic_losses_are_those_worked_by_hand():
    real, made = jnp.array([[2.0, 0.5]]), jnp.array([[-3.0, 0.25]])
    # Real: 0 and 0.5; made: 0 and 1.25.
    assert float(discriminator("hinge", real, made)[0]) == pytest.approx((0.25 + 0.625) / 2)
    assert float(generator("hinge", made)[0]) == pytest.approx(2.75 / 2)
    even = jnp.zeros((1, 4))
    assert float(discriminator("logistic", even, even)[0]) == pytest.approx(np.log(2))
    assert float(generator("logistic", even)[0]) == pytest.approx(np.log(2))


@pytest.mark.longer
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_what_is_flat_has_no_high_frequencies(size):
    flat = jnp.full((1, *size, 2), 0.4)
    np.testing.assert_allclose(high_bands(flat), 0, atol=1e-6)
    np.testing.assert_allclose(high_pass(flat), 0, atol=1e-6)


def test_the_high_pass_takes_slow_waves_out_and_leaves_fast_ones():
    def left_of(period):
        wave = np.float32(np.cos(2 * np.pi * np.arange(64) / period))[None, :, None, None]
        # Away from the border, which is repeated outwards.
        return float(jnp.abs(high_pass(wave * np.ones((1, 1, 8, 1))))[:, 8:-8].max())

    # A Gaussian blur of one pixel leaves exp(-2 pi^2 / period^2) of a wave.
    for period in (2, 8, 32):
        assert left_of(period) == pytest.approx(1 - np.exp(-2 * (np.pi / period) ** 2), abs=0.01)


def test_charbonnier_is_smooth_at_zero_and_the_distance_beyond():
    x = jnp.array([[0.0], [3.0], [-3.0]])
    np.testing.assert_allclose(charbonnier(x), [1e-3, 3, 3], rtol=1e-5)
    assert np.isfinite(jax.grad(lambda y: charbonnier(y).sum())(jnp.zeros((1, 2)))).all()


def test_the_signal_to_noise_ratio_is_that_of_a_range_of_two():
    np.testing.assert_allclose(psnr(jnp.full((1, 4, 4, 1), 0.2)), 20, rtol=1e-5)


# Features.


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(write_untrained(tmp_path_factory.mktemp("c") / "c.safetensors", CLASSIFIER))


@pytest.mark.longer
def test_features_are_compared_by_direction_alone():
    f = jnp.array([[[[3.0, 4.0]]]])
    assert float(perceptual.feature_distance(f, 7 * f)[0]) == pytest.approx(0, abs=1e-6)
    assert float(perceptual.feature_distance(f, jnp.array([[[[4.0, -3.0]]]]))[0]) == pytest.approx(
        2
    )
    zero = jnp.zeros_like(f)
    assert float(perceptual.feature_distance(f, zero)[0]) == pytest.approx(1)
    gradient = jax.grad(lambda g: perceptual.feature_distance(f, g).sum())(zero)
    assert np.isfinite(gradient).all()


@pytest.mark.longer
def test_images_are_at_distance_zero_from_themselves_alone(classifier):
    distance = jax.jit(perceptual.from_weights(classifier, (8, 8, 2)))
    x = images()
    np.testing.assert_allclose(distance(x, x), 0, atol=1e-6)
    np.testing.assert_allclose(distance(x, x[::-1]), distance(x[::-1], x), rtol=1e-5)
    assert float(distance(x, -x).min()) > 0.01


# From a config.


TRAINED = {ROLE: {"model": judge(), "frozen": False}}
OTHERS = {ROLE: {"model": judge() | {"image_size": 16}, "frozen": False}}
NO_JUDGE = {ROLE: {"model": section(), "frozen": False}}


def configured(model=None, roles=None, **fields):
    config = tiny()
    config.roles = ConfigDict(roles or {})
    config.model = ConfigDict(section() if model is None else model)
    config.training.loss = ConfigDict(dict(name="autoencoding", **(OFF | fields)))
    return recipe(config).objective.loss


@pytest.mark.longer
def test_a_config_builds_the_loss(classifier):
    loss = configured(l1=2.0, perceptual=0.5, features=classifier)
    assert isinstance(loss, Autoencoding) and (loss.l1, loss.perceptual) == (2.0, 0.5)
    values, parts = evaluate(loss)
    np.testing.assert_allclose(values, 2 * parts["l1"] + 0.5 * parts["perceptual"], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    few(
        3,
        [
            (dict(l1=-1.0), "l1 is -1.0: give 0"),
            (dict(kl=float("nan")), "kl is nan"),
            (dict(adversary="wasserstein"), "not one of hinge, logistic"),
            (dict(perceptual=1.0), "needs features"),
            (
                dict(adversarial=0.1),
                "add a section roles.discriminator with init_from, .* or a model",
            ),
            (dict(roles=TRAINED), "roles.discriminator is a network that the loss .* does not see"),
            (
                dict(roles=OTHERS, adversarial=0.1),
                "is a discriminator of images of shape .16, 16, 2.",
            ),
            (dict(roles=NO_JUDGE, adversarial=0.1), "is a autoencoder of images"),
            (dict(model=section(discriminator=(4,))), "set roles.discriminator={'model'"),
            (dict(model=tiny().model.to_dict()), "a DiT is no autoencoder"),
            (
                dict(perceptual=1.0, features="digits"),
                "holds a dit: name the weights of a classifier",
            ),
            (dict(perceptual=1.0, features="fashion_mnist_classifier"), "those here are .8, 8, 2."),
        ],
    ),
)
def test_what_makes_no_loss_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        configured(**fields)


@pytest.mark.longer
def test_a_part_of_the_noise_levels_is_refused():
    network, params = make()
    with pytest.raises(ValueError, match="no noise levels"):
        Autoencoding(**OFF)(only(network, params), {"x": images()}, KEYS, (0.0, 0.5))


# Steps as they were, computed while the discriminator lay inside its autoencoder.
METRICS = [
    dict(loss=2.4569006, adversarial=-0.5049641, discriminator=1.0059612, psnr=3.2258925),
    dict(loss=2.2447574, adversarial=-0.5149730, discriminator=1.0104599, psnr=4.6177125),
    dict(loss=2.0753226, adversarial=-0.5263265, discriminator=1.0156444, psnr=5.6527054),
]
PARTS = dict(l1=0.8505729, l2=1.0891714, kl=2.5488889, wavelet=0.6000018, high_pass=0.5211430)
GRADIENTS = [8.0070210, 4.8844535, 3.3164895]
# Sums of the parameters' sizes after three steps, and of them each with a weight of its own. Some
# have no gradient but rounding, which Adam takes for one: these may be a few steps apart.
SUMS = {MAIN: (2963.1576837, 40.5732983), ROLE: (26.4573173, 8.7473559)}


def adversarial():
    """Return a config of an autoencoder and its discriminator."""
    config = tiny()
    config.model, config.roles = ConfigDict(section()), ConfigDict(TRAINED)
    weights = dict(l1=1.0, kl=0.1, wavelet=0.1, high_pass=0.1, adversarial=0.3)
    config.training.loss = ConfigDict(dict(name="autoencoding", **(OFF | weights)))
    config.training.update(batch_size=4, label_dropout=0.0)
    config.optimizer.update(
        learning_rate=1e-3,
        clip_norm=0.0,
        b1=0.5,
        b2=0.9,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
    )
    return config


def sums(params):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    weights = [np.cos(np.arange(leaf.size)).reshape(leaf.shape) for leaf in leaves]
    return sum(np.abs(leaf).sum() for leaf in leaves), sum(
        (leaf * weight).sum() for leaf, weight in zip(leaves, weights, strict=True)
    )


@pytest.mark.longer
def test_steps_are_what_they_were_while_the_discriminator_lay_inside_its_autoencoder():
    made = recipe(adversarial())
    networks, params = make_judged()
    state = initial_state(made, jax.tree.map(jnp.asarray, params))
    assert state.roles[ROLE].ema == () and jax.tree.leaves(state.roles[ROLE].optimizer)
    step = make_step(made, networks, 7)
    for wanted, norm in zip(METRICS, GRADIENTS, strict=True):
        state, metrics = step(state, {"x": jnp.asarray(images(4)), "condition": None})
        for name, value in wanted.items():
            assert float(metrics[name]) == pytest.approx(value, rel=2e-5), name
        both = np.hypot(metrics["gradient_norm"], metrics[f"gradient_norm_{ROLE}"])
        assert float(both) == pytest.approx(norm, rel=2e-5)
    for name, value in PARTS.items():
        assert float(metrics[name]) == pytest.approx(value, rel=2e-5), name
    for role, wanted in SUMS.items():
        assert sums(state.roles[role].params) == pytest.approx(wanted, rel=1e-5, abs=0.01)


@pytest.mark.longer
@pytest.mark.parametrize("form", [1, 2])
def test_a_run_begun_while_the_discriminator_lay_inside_goes_on_and_is_exported(tmp_path, form):
    config = adversarial()
    networks, start_of = networks_of(config), setup(config)
    state = start_of.create(parameters_key(0))
    batch = {"x": jnp.asarray(images(4)), "condition": None}
    state, _ = make_step(recipe(config), networks_by_role(networks), 7)(state, batch)
    before = checkpoints_of(config, tmp_path, networks)
    inside = Inside.of(ROLE, state).joined(state)
    assert ROLE in inside.main.params and ROLE in inside.main.ema[0]
    before._form = form
    before._identity = plain(before._identity)
    before._identity["model"][ROLE] = [4]
    before._identity["roles"] = {}
    del before._identity["outside"]
    before._begun = {}
    before.claim()
    extra = {"position": {"examples_seen": 4}}
    before.save(1, OneNetwork.of(inside) if form == 1 else inside, extra, wait=True)
    step, found, _ = restored(checkpoints_of(config, tmp_path, networks), start_of)
    assert step == 1 and jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    # Its buffers are given away by the next step, each once.
    make_step(recipe(config), networks_by_role(networks), 7)(found, batch)
    exported = load(export(tiny(), tmp_path))
    assert exported.spec.kind == "autoencoder" and ROLE not in exported.params
    config.roles[ROLE].model.widths = (8,)
    with pytest.raises(UserError, match="holds checkpoints of another run: roles.discriminator"):
        checkpoints_of(config, tmp_path, networks_of(config))


def networks_by_role(networks):
    return {role: spec.network for role, spec in networks.specs.items()}
