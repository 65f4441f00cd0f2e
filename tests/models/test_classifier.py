"""The classifier as a pure function of its parameters, and the loss it is trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks.filled import initialise
from tables.loss_examples import mean_of

from guidestar.models.classifiers.residual import Classifier
from guidestar.training.losses.classification import CrossEntropy, augment


def cross_entropy(**options):
    return mean_of(CrossEntropy(**options))


SHAPES = [(28, 1, 10), (32, 3, 10), (8, 1, 10)]


def initialised(image_size=8, channels=1, num_classes=4, seed=0, **sizes):
    def build(rngs):
        return Classifier(
            image_size=image_size, channels=channels, num_classes=num_classes, rngs=rngs, **sizes
        )

    shape = (image_size, image_size, channels)
    return initialise(build, jax.random.key(seed), num_classes=num_classes, shape=shape)


@pytest.fixture(scope="module")
def small():
    return initialised(widths=(8, 16), depths=(1, 0))


def images(count, size=8, channels=1, seed=0):
    shape = (count, size, size, channels)
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("size, channels, classes", SHAPES)
def test_gives_logits_and_64_features_for_every_data_set(size, channels, classes):
    def run(x):
        network, params = initialised(size, channels, classes)
        module = network.module(params)
        return module(x), module.features(x)

    logits, features = jax.eval_shape(run, images(3, size, channels))
    assert logits.shape == (3, classes) and features.shape == (3, 64)


def test_default_size_fits_half_a_megabyte_in_half_precision():
    params = jax.eval_shape(lambda: initialised(28, 1, 10)[1])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 168_450


@pytest.mark.longer
def test_logits_are_a_linear_map_of_the_features(small):
    network, params = small

    @jax.jit
    def run(params, x):
        module = network.module(params)
        return module(x), module.features(x)

    logits, features = jax.device_get(run(params, images(5)))
    head = jax.device_get(params["head"])
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-6)


def test_an_image_has_the_same_logits_alone_and_in_any_batch(small):
    network, params = small
    run = jax.jit(lambda x: network.module(params)(x))
    x = images(6)
    alone = np.concatenate([run(x[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(run(x), alone, atol=1e-5)


def test_every_parameter_takes_part(small):
    network, params = small
    # At initialisation some biases are 0; a random point shows every path.
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: np.float32(p + 0.1 * generator.normal(size=p.shape)), jax.device_get(params)
    )
    batch = {"x": images(8), "condition": np.arange(8) % 4}
    gradient = jax.jit(jax.grad(lambda p: cross_entropy()(network, p, batch, keys(8))[0]))
    gradients = jax.device_get(gradient(params))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_holds_nothing_but_parameters():
    def build():
        return Classifier(image_size=8, channels=1, num_classes=3, rngs=nnx.Rngs(0))

    _, _, rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    assert not jax.tree.leaves(rest)


@pytest.mark.longer
def test_learns_which_side_is_bright():
    network, params = initialised(num_classes=2, widths=(8,), depths=(0,))
    label = np.arange(64) % 2
    bright = (np.arange(8) < 4)[None, None, :, None] == label[:, None, None, None]
    image = 0.3 * np.where(bright, 1, -1).astype(np.float32) + 0.3 * images(64)
    batch, own = {"x": image, "condition": label}, keys(64)
    loss, optimizer = cross_entropy(), optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        gradient, metrics = jax.grad(lambda p: loss(network, p, batch, own), has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, metrics["accuracy"]

    state, accuracy = optimizer.init(params), []
    for _ in range(40):
        params, state, value = step(params, state)
        accuracy.append(float(value))
    assert accuracy[0] < 0.9 and accuracy[-1] == 1.0


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(widths=(8, 12)), "multiples of 8"),
        (dict(widths=(8, 16)), "one entry per stage"),
        (dict(widths=(), depths=()), "one entry per stage"),
        (dict(num_classes=1), "2 or more"),
    ],
)
def test_refuses_sizes_that_do_not_fit(sizes, message):
    depths = dict(depths=(1, 1)) if message == "multiples of 8" else {}
    with pytest.raises(ValueError, match=message):
        initialised(**(sizes | depths))


def test_refuses_images_of_another_size(small):
    network, params = small
    with pytest.raises(ValueError, match="takes 8x8x1 images"):
        network.module(params)(images(2, 28))


class Stub:
    """Stands for a network: logits by a function of the images."""

    def __init__(self, function):
        self.function = function

    def module(self, params):
        del params
        return self.function


def value_of(logits, labels, **options):
    """Loss and metrics when every image gets the same logits."""
    labels, logits = np.array(labels), np.float32(logits)
    network = Stub(lambda x: jnp.broadcast_to(logits, (len(x), len(logits))))
    batch = {"x": images(len(labels), size=2), "condition": labels}
    loss = cross_entropy(**options)
    return jax.device_get(jax.jit(lambda: loss(network, {}, batch, keys(len(labels))))())


class TestCrossEntropy:
    def test_is_the_negative_log_probability_of_the_labels(self):
        probability = np.array([0.7, 0.2, 0.1])
        value, metrics = value_of(np.log(probability) + 5, [0, 0, 1, 2])
        assert value == pytest.approx(-np.log(probability[[0, 0, 1, 2]]).mean(), abs=1e-6)
        assert metrics["accuracy"] == 0.5

    def test_smoothing_mixes_in_the_uniform_distribution(self):
        probability = np.array([0.7, 0.2, 0.1])
        value, _ = value_of(np.log(probability), [0], label_smoothing=0.3)
        assert value == pytest.approx(-np.log(probability) @ [0.8, 0.1, 0.1], abs=1e-6)

    @pytest.mark.parametrize("label", [-1, 3])
    def test_a_label_outside_the_range_is_not_trained_on_silently(self, label):
        assert np.isnan(value_of([0.0, 1.0, 2.0], [0, label])[0])

    def test_refuses_bad_options(self):
        with pytest.raises(ValueError, match="shift is -1"):
            CrossEntropy(shift=-1)
        with pytest.raises(ValueError, match="label_smoothing is 1"):
            CrossEntropy(label_smoothing=1)

    @pytest.mark.parametrize("options", [{}, dict(flip=True, shift=2)])
    def test_only_augmentation_uses_the_keys_and_each_sample_its_own(self, options):
        weights = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        network = Stub(lambda x: x.reshape(len(x), -1) @ weights)
        loss = jax.jit(lambda *given: cross_entropy(**options)(network, {}, *given)[0])
        batch, own = {"x": images(6), "condition": np.arange(6) % 4}, keys(6)
        singles = [jax.tree.map(lambda a, i=i: a[i : i + 1], (batch, own)) for i in range(6)]
        whole = float(loss(batch, own))
        assert np.mean([loss(*single) for single in singles]) == pytest.approx(whole, abs=1e-5)
        assert (float(loss(batch, keys(6, seed=1))) != whole) == bool(options)


def augmented(image, count, **options):
    """Many independent augmentations of one image."""
    return np.asarray(jax.jit(jax.vmap(lambda key: augment(image, key, **options)))(keys(count)))


class TestAugment:
    def test_flip_mirrors_half_of_the_images(self):
        image = images(1)[0]
        flipped = augmented(image, 400, flip=True, shift=0)
        mirrored = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
        kept = (flipped == image).all(axis=(1, 2, 3))
        assert (mirrored | kept).all()
        assert 0.4 < mirrored.mean() < 0.6

    def test_shift_reaches_every_displacement_and_fills_with_the_border(self):
        image = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1)
        seen = set()
        for moved in augmented(image, 400, flip=False, shift=2):
            row, column = moved[4, 4] - 4
            seen.add((int(row), int(column)))
            np.testing.assert_array_equal(moved[:, 4, 0], np.clip(np.arange(8) + row, 0, 7))
            np.testing.assert_array_equal(moved[4, :, 1], np.clip(np.arange(8) + column, 0, 7))
        assert seen == {(r, c) for r in range(-2, 3) for c in range(-2, 3)}

    def test_nothing_asked_nothing_done(self):
        image = images(1)[0]
        np.testing.assert_array_equal(augmented(image, 1, flip=False, shift=0)[0], image)
