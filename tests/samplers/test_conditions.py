"""Conditions: labels in range, arrays that fit, and guidance that has something to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, Unchanging, keys

from guidestar import guidance, samplers

SIGMAS = samplers.karras(3, 0.1, 5.0)
UPWARD = samplers.karras(3, 0.1, 5.0, final_zero=False)
NOISE = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
KEYS = keys(4)


class Classes(Unchanging):
    """Data of 3 classes at 0, 1, 2, and of mean 1 over all; label 3 is none."""

    num_classes, null_condition = 3, 3
    means = (0.0, 1.0, 2.0, 1.0)

    def __call__(self, x, sigma, condition):
        condition = jnp.full(x.shape[:1], 3) if condition is None else condition
        mean = jnp.asarray(self.means, x.dtype)[condition][:, None]
        return mean + (x - mean) * 0.25 / (0.25 + sigma**2)


class Five(Classes):
    """A network of another data set."""

    num_classes, null_condition = 5, 5
    means = (0.0,) * 6


class Unlearnt(Classes):
    """A network that was trained without dropped labels."""

    null_condition = None


class Unconditional(Unchanging):
    """A network that takes no condition, and says so."""

    num_classes, null_condition = 0, None

    def __call__(self, x, sigma, condition):
        assert condition is None
        return 1 + (x - 1) * 0.5 / (0.5 + sigma**2)


class Texts(Unchanging):
    """A network of an array and a label."""

    null_condition = {"text": 0.0, "size": 0}  # noqa: RUF012  (never written to)

    def condition_like(self, batch):
        return {
            "text": jax.ShapeDtypeStruct((batch, 2), jnp.float32),
            "size": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }

    def __call__(self, x, sigma, condition):
        return condition["text"] + condition["size"][:, None] + 0 * x


CLASSES = Classes()


def sample(labels, rule=None, network=CLASSES, solver=None):
    rule = guidance.cfg(2.0) if rule is None else rule
    return samplers.sample(network, rule, solver or samplers.euler(), SIGMAS, NOISE, labels, KEYS)


def invert(labels, rule=None, network=CLASSES):
    rule = guidance.cfg(2.0) if rule is None else rule
    return samplers.invert(network, rule, UPWARD, NOISE, labels, KEYS)


def log_likelihood(labels, rule=None, network=CLASSES):
    rule = guidance.cfg(2.0) if rule is None else rule
    return samplers.log_likelihood(network, rule, UPWARD, NOISE, labels, KEYS)


def calibrate(labels, rule=None, network=CLASSES):
    rule = guidance.cfg(2.0) if rule is None else rule
    options = dict(intervals=2, samples=4, sigma_min=0.1, sigma_max=5.0)
    return samplers.calibrate(network, rule, NOISE, labels, jax.random.key(0), **options)


def teacher(labels, rule=None, network=CLASSES):
    rule = guidance.cfg(2.0) if rule is None else rule
    return samplers.tuning.teacher(network, rule, NOISE, labels, KEYS, fine=SIGMAS)


def align(labels, rule=None, network=CLASSES):
    rule = guidance.cfg(2.0) if rule is None else rule
    return samplers.tuning.align(network, rule, 2, NOISE, labels, KEYS, fine=SIGMAS)


def endpoint_error(labels, rule=None, network=CLASSES):
    rule = guidance.cfg(2.0) if rule is None else rule
    judge = samplers.tuning.endpoint_error(network, rule, NOISE, labels, KEYS, NOISE)
    return judge(samplers.euler(), SIGMAS)


ENTRIES = (sample, invert, log_likelihood, calibrate, teacher, align, endpoint_error)
WRONG = {
    "above the null label": (np.array([0, 1, 4, 2]), "0 to 2, or 3 for no class, got 4 for sample"),
    "far above": (np.full(4, 1000), "0 to 2"),
    "negative": (np.array([0, -1, 1, 2]), "got -1 for sample 1"),
    "fractional": (np.array([0.0, 0.5, 1.0, 2.0]), "labels .* got float64"),
    "floats": (np.full(4, 1.0, np.float32), "labels.astype"),
    "switches": (np.array([True, False, True, True]), "got bool"),
    "rows of one-hot": (np.eye(3, dtype=int)[[0, 1, 2, 2]], "one label a sample"),
    "a list of floats": ([0.0, 1.0, 2.0, 1.0], "label"),
    "words": (["cat", "dog", "cat", "dog"], "label"),
    "a dictionary": ({"label": np.arange(4) % 3}, "label"),
    "a number": (np.int32(1), "one label a sample"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("wrong", WRONG)
def test_labels_that_a_network_does_not_know_are_refused_wherever_they_enter(entry, wrong):
    labels, message = WRONG[wrong]
    if entry is calibrate and wrong in ("a dictionary", "a number", "words", "a list of floats"):
        message = "."
    with pytest.raises(ValueError, match=message):
        entry(labels)


@pytest.mark.parametrize("entry", [one for one in ENTRIES if one is not calibrate])
def test_labels_of_another_count_are_refused(entry):
    with pytest.raises(ValueError, match=r"one label a sample, of shape \(4,\), got .*\(3,\)"):
        entry(np.array([0, 1, 2]))


def test_lists_and_every_integer_type_are_labels():
    expected = sample(jnp.array([0, 1, 2, 3]))
    assert np.isfinite(expected).all()
    for labels in (
        [0, 1, 2, 3],
        (0, 1, 2, 3),
        np.arange(4),
        np.arange(4, dtype=np.uint8),
        list(np.arange(4)),
    ):
        np.testing.assert_array_equal(sample(labels), expected)


@pytest.mark.parametrize(
    "rule", [guidance.unguided(), guidance.cfg(2.0), guidance.negative(2.0, 1)]
)
def test_traced_labels_that_are_not_known_give_nan_and_no_other_class(rule):
    traced = jax.jit(lambda labels: sample(labels, rule))
    labels = jnp.array([0, 7, -1, 3])
    ends = traced(labels)
    np.testing.assert_array_equal(np.isnan(ends).all(axis=1), [False, True, True, False])
    np.testing.assert_allclose(ends[::3], sample(jnp.array([0, 1, 2, 3]), rule)[::3], rtol=1e-6)
    with pytest.raises(ValueError, match="labels"):
        traced(labels.astype(float))


def test_labels_that_a_rule_holds_are_labels_too():
    for make in (
        lambda label: guidance.negative(2.0, label),
        lambda label: guidance.compose_and(["given", label], [1.0, 1.0]),
        lambda label: guidance.between(guidance.negative(2.0, label), 0.0, 9.0),
    ):
        assert np.isfinite(sample(jnp.arange(4) % 3, make(2))).all()
        for wrong in (4, -1, jnp.array([0, 1, 2, 9])):
            with pytest.raises(ValueError, match=r"a condition of the rule .*0 to 2"):
                sample(jnp.arange(4) % 3, make(wrong))
    with pytest.raises(ValueError, match="draws from 4 classes, and the network 'main' knows 3"):
        sample(jnp.arange(4) % 3, guidance.icg(2.0, classes=4))
    assert np.isfinite(sample(jnp.arange(4) % 3, guidance.icg(2.0, classes=3))).all()


def test_a_guide_of_another_data_set_is_refused():
    rule, labels = guidance.autoguidance(2.0), jnp.arange(4) % 3
    with pytest.raises(ValueError, match="different numbers of classes, .*'main' 3.*"):
        sample(labels, rule, {"main": CLASSES, "guide": Five()})
    # One that knows none is not asked about them.
    ends = sample(labels, rule, {"main": CLASSES, "guide": Unconditional()})
    assert np.isfinite(ends).all()
    # Its own null condition means the same to both.
    ends = sample(
        labels, guidance.cfg(2.0, network="guide"), {"main": CLASSES, "guide": Unconditional()}
    )
    assert np.isfinite(ends).all()


IDLE = {
    "no condition": (None, CLASSES, "no condition is given.*Give labels"),
    "no condition, nothing known": (None, lambda x, s, c: 0.5 * x, "no condition is given"),
    "a network without classes": (None, Unconditional(), "'main' takes no condition"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", IDLE)
def test_guidance_that_can_do_nothing_is_refused(entry, case):
    labels, network, message = IDLE[case]
    with pytest.raises(ValueError, match=message + ".*unguided"):
        entry(labels, guidance.between(guidance.cfg(3.0), 0.0, 9.0), network)
    entry(labels, guidance.unguided(), network)


def test_a_scale_of_one_and_other_references_need_no_condition():
    for rule in (guidance.cfg(1.0), guidance.icg(2.0, classes=3)):
        assert np.isfinite(sample(None, rule)).all()


def test_a_condition_that_no_network_takes_is_refused():
    with pytest.raises(ValueError, match="no network takes one: pass condition=None"):
        sample(jnp.arange(4), guidance.unguided(), Unconditional())


def test_a_null_condition_that_was_not_learnt_is_refused():
    network, labels = Unlearnt(), jnp.arange(4) % 3
    with pytest.raises(ValueError, match=r"never learnt .*guidance.icg"):
        sample(labels, guidance.cfg(2.0), network)
    with pytest.raises(ValueError, match="never learnt to do without one .*give labels"):
        sample(None, guidance.unguided(), network)
    with pytest.raises(ValueError, match="whole numbers from 0 to 2, got 3"):
        sample(jnp.arange(4), guidance.unguided(), network)
    for rule in (guidance.unguided(), guidance.icg(2.0, classes=3)):
        assert np.isfinite(sample(labels, rule, network)).all()


def test_arrays_by_name_must_be_those_that_the_network_takes():
    good = {"text": np.ones((4, 2), np.float32), "size": np.arange(4)}
    assert np.isfinite(sample(good, network=Texts())).all()
    for wrong in (
        {"text": good["text"]},
        good | {"more": np.arange(4)},
        good | {"text": np.ones((3, 2), np.float32)},
        good | {"text": np.ones((4, 3), np.float32)},
        np.arange(4),
    ):
        with pytest.raises(ValueError, match=r"takes a condition of shapes .*text.*\(4, 2\), got"):
            sample(wrong, network=Texts())


def test_a_fit_by_class_is_asked_about_labels_too():
    fit = samplers.fit_gaussian(np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2)

    def run(labels):
        prior = samplers.teleport(fit, sigma_max=9.0)
        rule, solver = guidance.unguided(), samplers.euler()
        return samplers.sample(CLASSES, rule, solver, SIGMAS, NOISE, labels, KEYS, prior=prior)

    with pytest.raises(ValueError, match="different numbers of classes"):
        run(jnp.arange(4) % 2)


def test_labels_of_a_network_that_does_not_say_how_many_it_knows_are_counted():
    class Some(Labelled):
        num_classes = None

    with pytest.raises(ValueError, match="one label a sample"):
        sample(np.array([0, 1, 1]), network=Some())
    assert np.isfinite(sample(np.array([0, 1, 1, 0]), network=Some())).all()
