"""Guidance by a classifier, against exact posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import (
    MEANS,
    SPREAD,
    Labelled,
    gaussian,
    gaussian_posterior,
    keys,
    mixture_denoiser,
    mixture_posterior,
)
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.core.noise_levels import BETA_MAX, BETA_MIN, vp_sigma
from guidestar.guidance.pushes import norm
from guidestar.guidance.references.classifier import classifier, classifier_gradient
from guidestar.guidance.references.elucd import calibrated_classifier, elucd, step_size
from guidestar.guidance.references.gfcg import confused_class, gfcg
from guidestar.samplers.evaluator import Evaluator

MIXTURE = {"main": mixture_denoiser(), "classifier": mixture_posterior}
GAUSSIAN = {"main": Labelled(gaussian), "classifier": gaussian_posterior}
UNSURE = GAUSSIAN | {"classifier": lambda x, sigma: 0.02 * gaussian_posterior(x, sigma)}
# Less sure of clean images than the exact posterior, which hardly ever confuses its two classes.
DOUBTFUL = MIXTURE | {"classifier": lambda x, sigma: 0.05 * mixture_posterior(x, sigma)}
RULES = {"classifier": classifier, "elucd": elucd, "gfcg": gfcg}
SIGMAS = [0.05, 0.7, 5.0]


def points(count=16, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, 2)), jnp.arange(count) % 2


def guided(rule, networks, x, sigma, condition):
    def apply(x):
        evaluate = Evaluator(networks, x, jnp.asarray(sigma, x.dtype), condition, "fused")
        return rule.apply(evaluate, x, evaluate.sigma, rule.init(x), None)[0].denoised

    return jax.jit(apply)(x)


def sample(rule, networks, noise, condition, steps=6):
    return samplers.sample(
        networks,
        rule,
        samplers.heun(),
        samplers.karras(steps, 0.02, 20.0),
        noise,
        condition,
        keys(len(noise)),
    )


def undifferentiable(function):
    """Return the function, with an error where somebody differentiates it."""
    guarded = jax.custom_jvp(function)

    @guarded.defjvp
    def jvp(primals, tangents):
        raise AssertionError("differentiated")

    return guarded


@pytest.mark.parametrize("sigma", SIGMAS)
def test_an_exact_posterior_at_scale_one_gives_the_conditional_denoiser(sigma):
    x, labels = points()
    out = guided(classifier(1.0), MIXTURE, x, sigma, labels)
    np.testing.assert_allclose(out, MIXTURE["main"](x, sigma, labels), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", [classifier(0.0), elucd(0.0)], ids=["classifier", "elucd"])
def test_scale_zero_is_the_base_prediction(rule):
    x, labels = points()
    out = guided(rule, MIXTURE, x, 0.7, labels)
    np.testing.assert_allclose(out, MIXTURE["main"](x, 0.7, None), atol=1e-6)


@pytest.mark.longer
def test_sampling_by_the_exact_posterior_is_sampling_the_class():
    noise, labels = points(8)
    by_classifier = sample(classifier(1.0), MIXTURE, noise, labels)
    np.testing.assert_allclose(
        by_classifier, sample(guidance.unguided(), MIXTURE, noise, labels), atol=2e-3
    )


@pytest.mark.longer
def test_a_linear_classifier_moves_a_gaussian_by_the_closed_form():
    # log p(y | x) has the gradient (m_y - sum_k p_k m_k) / (A + sigma^2).
    sigma, scale = 0.8, 3.0
    x = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
    labels = jnp.arange(6) % 2
    p = jax.nn.softmax(gaussian_posterior(x, sigma))
    means = jnp.asarray(MEANS)
    slope = (means[labels] - p @ means) / (SPREAD**2 + sigma**2)
    expected = gaussian(x, sigma, None) + scale * sigma**2 * slope[:, None, None, None]
    out = guided(classifier(scale), GAUSSIAN, x, sigma, labels)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("make", [classifier, elucd], ids=["classifier", "elucd"])
def test_a_conditional_base_is_guided_from_the_conditional_prediction(make):
    x, labels = points()
    base = MIXTURE["main"](x, 0.7, labels)
    at_zero = guided(make(0.0, condition="given"), MIXTURE, x, 0.7, labels)
    np.testing.assert_allclose(at_zero, base, atol=1e-6)
    further = guided(make(2.0, condition="given"), MIXTURE, x, 0.7, labels)
    assert np.abs(further - base).max() > 0.05
    counted = {"main": 1, "classifier": 1, "classifier+grad": 1}
    assert guidance.cost(make(2.0, condition="given"), [1.0]) == [counted]


@pytest.mark.longer
@pytest.mark.parametrize(
    "reference", few(1, [classifier_gradient(), calibrated_classifier(), confused_class()])
)
def test_transforms_work_on_a_classifiers_push(reference):
    x, labels = points()
    rule = guidance.push(reference, guidance.scale(9.0), guidance.clip_norm(0.1))
    unclipped = guidance.push(reference, guidance.scale(9.0))
    evaluate = Evaluator(DOUBTFUL, x, jnp.float32(0.7), labels, "fused")
    result, _ = rule.apply(evaluate, x, evaluate.sigma, rule.init(x), None)
    assert result.info["push_norm"].max() < 0.1001
    longer, _ = unclipped.apply(evaluate, x, evaluate.sigma, unclipped.init(x), None)
    assert longer.info["push_norm"].max() > 0.2


@pytest.mark.parametrize(("tau1", "tau2"), [(1.0, 1.0), (1.3, 0.0), (1.0, 0.5)])
def test_the_calibrated_gradient_is_taken_at_the_predicted_image(tau1, tau2):
    x, labels = points()
    base = MIXTURE["main"](x, 0.7, None)

    @jax.jit
    @jax.vmap
    @jax.grad
    def slope(point, label):
        logits = mixture_posterior(point[None], 0.0)[0]
        if tau1 == tau2 == 1:
            return jax.nn.log_softmax(logits)[label]
        marginal = jnp.log(jnp.exp(tau2 * logits[0]) + jnp.exp(tau2 * logits[1]))
        return tau1 * logits[label] - (marginal if tau2 else 0)

    expected = base + 1.5 * 0.49 / np.sqrt(1.49) * slope(base, labels)
    out = guided(elucd(1.5, tau1=tau1, tau2=tau2, sine=0.0), MIXTURE, x, 0.7, labels)
    np.testing.assert_allclose(out, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.8, 0.99])
@pytest.mark.parametrize("sine", [0.0, 0.3])
def test_the_step_shifts_the_mean_of_a_ddpm_step_as_published(x64, t, sine):
    # mu = ... + sqrt(alpha_bar_before) beta / (1 - alpha_bar) x0 has to move by Sigma_t plus the
    # sine term, Sigma_t the posterior variance of a short step.
    dt = 1e-6
    alpha_bar, before = (1 / (1 + vp_sigma(np.float64(s)) ** 2) for s in (t, t - dt))
    beta = 1 - alpha_bar / before
    variance = beta * (1 - before) / (1 - alpha_bar)
    largest = BETA_MAX * dt
    shift = np.sqrt(before) * beta / (1 - alpha_bar) * step_size(jnp.asarray(vp_sigma(t)), sine)
    published = variance + sine * largest * np.sin(np.pi * t)
    np.testing.assert_allclose(shift, published, rtol=3e-4)


def test_the_sine_term_vanishes_at_both_ends_of_the_noise_range():
    for sigma in (1e-4, float(vp_sigma(1.0))):
        with_sine, without = (step_size(jnp.float32(sigma), sine) for sine in (0.3, 0.0))
        np.testing.assert_allclose(with_sine, without, rtol=1e-2)
    middle = jnp.float32(vp_sigma(0.5))
    rise = step_size(middle, 0.3) / step_size(middle, 0.0)
    np.testing.assert_allclose(rise, 1 + 0.3 * BETA_MAX / (BETA_MIN + BETA_MAX) * 2, rtol=1e-3)


def test_the_calibrated_classifier_does_not_differentiate_the_denoiser():
    x, labels = points()
    networks = {"main": Labelled(undifferentiable(MIXTURE["main"].denoise))}
    networks["classifier"] = mixture_posterior
    expected = guided(elucd(2.0), MIXTURE, x, 0.7, labels)
    np.testing.assert_allclose(guided(elucd(2.0), networks, x, 0.7, labels), expected, atol=1e-6)
    with pytest.raises(AssertionError, match="differentiated"):
        guided(
            classifier(2.0),
            networks | {"classifier": undifferentiable(mixture_posterior)},
            x,
            0.7,
            labels,
        )


def test_huge_logits_stay_finite():
    x, labels = points()
    loud = MIXTURE | {"classifier": lambda x, sigma: 1e4 * mixture_posterior(x, sigma)}
    for make in RULES.values():
        assert np.isfinite(guided(make(2.0), loud, x, 0.7, labels)).all()


def test_the_confused_class_is_the_most_likely_wrong_one():
    # The prediction is the label itself, so that it shows which classes were asked for.
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    labels, confused = jnp.array([0, 1, 2]), np.array([1.0, 0.0, 1.0])
    networks = {
        "main": lambda x, sigma, condition: jnp.ones_like(x) * condition[:, None],
        "classifier": lambda x, sigma: logits,
    }
    p = np.array([0.5, 0.3, 0.7])
    out = guided(gfcg(3.0), networks, jnp.zeros((3, 2)), 1.0, labels)
    expected = labels + 2.0 * (1 - p) * (labels - confused)
    np.testing.assert_allclose(out[:, 0], expected, atol=1e-5)


def test_the_classifier_of_gfcg_sees_the_predicted_image_without_noise():
    seen = []

    def watching(x, sigma):
        jax.debug.callback(lambda *what: seen.append(what), x, sigma)
        return mixture_posterior(x, sigma)

    x, labels = points()
    guided(gfcg(2.0), MIXTURE | {"classifier": watching}, x, 0.7, labels)
    jax.effects_barrier()
    ((where, sigma),) = seen
    np.testing.assert_allclose(where, MIXTURE["main"](x, 0.7, labels), atol=1e-6)
    assert float(sigma) == 0


def test_gfcg_leaves_alone_what_the_classifier_is_sure_of():
    x, labels = points()
    sure = MIXTURE | {"classifier": lambda x, sigma: 1e4 * jax.nn.one_hot(labels, 2)}
    plain = guided(guidance.unguided(), MIXTURE, x, 0.7, labels)
    np.testing.assert_array_equal(guided(gfcg(5.0), sure, x, 0.7, labels), plain)


def test_gfcg_pushes_more_the_more_confused_the_classifier_is():
    x, labels = points()
    main = MIXTURE["main"](x, 0.7, labels)
    lengths = []
    for certainty in (4.0, 1.0, 0.0, -2.0):
        logits = certainty * jax.nn.one_hot(labels, 2)
        networks = MIXTURE | {"classifier": lambda x, sigma, logits=logits: logits}
        lengths.append(norm(guided(gfcg(3.0), networks, x, 0.7, labels) - main))
    assert np.all(np.diff(np.stack(lengths), axis=0) > 0)


def test_gfcg_at_scale_one_is_the_plain_prediction_bit_for_bit():
    x, labels = points()
    plain = guided(guidance.unguided(), MIXTURE, x, 0.7, labels)
    np.testing.assert_array_equal(guided(gfcg(1.0), MIXTURE, x, 0.7, labels), plain)


def test_gfcg_takes_no_gradient():
    x, labels = points()
    networks = {
        "main": Labelled(undifferentiable(MIXTURE["main"].denoise)),
        "classifier": undifferentiable(mixture_posterior),
    }
    expected = guided(gfcg(2.0), MIXTURE, x, 0.7, labels)
    np.testing.assert_allclose(guided(gfcg(2.0), networks, x, 0.7, labels), expected, atol=1e-6)


def test_gfcg_makes_the_given_class_more_certain():
    x, labels = points(64)
    own = jnp.arange(64), labels
    plain = guided(guidance.unguided(), UNSURE, x, 1.0, labels)
    pushed = guided(gfcg(4.0), UNSURE, x, 1.0, labels)
    before, after = (jax.nn.log_softmax(gaussian_posterior(d, 1.0))[own] for d in (plain, pushed))
    assert np.all(after > before)


@pytest.mark.longer
def test_rules_with_a_classifier_combine_ready_made_predictions():
    x, labels = points()
    predictions = {
        "null": MIXTURE["main"](x, 0.7, None),
        "given": MIXTURE["main"](x, 0.7, labels),
        "confused": MIXTURE["main"](x, 0.7, 1 - labels),
        "classifier": mixture_posterior,
    }
    for make in RULES.values():
        out, _ = guidance.combine(make(2.0), predictions, x=x, sigma=0.7, condition=labels)
        expected = guided(make(2.0), MIXTURE, x, 0.7, labels)
        np.testing.assert_allclose(out.denoised, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (classifier, {"main": 1, "classifier": 1, "classifier+grad": 1}),
        (elucd, {"main": 1, "classifier": 1, "classifier+grad": 1}),
        (gfcg, {"main": 2, "classifier": 1}),
    ],
)
def test_cost_counts_the_classifier(make, expected):
    assert guidance.cost(make(2.0), [1.0]) == [expected]


@pytest.mark.parametrize("name", few(2, RULES))
@pytest.mark.parametrize("shape", [(2,), (4, 4, 1)], ids=["points", "images"])
def test_a_sample_does_not_depend_on_the_others_of_its_batch(name, shape):
    noise = jax.random.normal(jax.random.key(0), (6, *shape))
    labels = jnp.arange(6) % 2
    batch = sample(RULES[name](1.5), UNSURE, noise, labels)
    assert batch.dtype == jnp.float32
    assert np.isfinite(batch).all()
    others = jax.random.normal(jax.random.key(1), noise.shape).at[3].set(noise[3])
    alike = sample(RULES[name](1.5), UNSURE, others, labels)
    np.testing.assert_allclose(alike[3], batch[3], atol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, RULES))
def test_new_numbers_compile_nothing_and_a_row_of_scales_is_one_program(name, compilations):
    noise, labels = points(4)
    make = RULES[name]
    one, two = (sample(make(scale), UNSURE, noise, labels) for scale in (1.0, 2.0))
    with compilations() as compiled:
        sample(make(2.5), UNSURE, noise, labels)
    assert not compiled
    row = jax.vmap(lambda s: sample(make(s), UNSURE, noise, labels))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(row, jnp.stack([one, two]), atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_double_precision_is_kept(name, x64):
    x, labels = points()
    out = jax.eval_shape(
        lambda x: guided(RULES[name](2.0), GAUSSIAN, x, 0.7, labels), x.astype(float)
    )
    assert out.dtype == jnp.float64


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "needs to know which class"),
        (jnp.ones((16, 3)), "must be integer labels"),
        (jnp.ones(16), "must be integer labels"),
        (jnp.ones((), int), "must be integer labels"),
        ({"label": jnp.ones(16, int)}, "got a mapping"),
    ],
    ids=["none", "embedding", "floats", "scalar", "mapping"],
)
def test_labels_that_are_missing_or_no_integers_are_refused(name, condition, message):
    x, _ = points()
    networks = MIXTURE | {"main": lambda x, sigma, condition: x}
    with pytest.raises(ValueError, match=f"guidance.{name}.*{message}"):
        guided(RULES[name](2.0), networks, x, 0.7, condition)


@pytest.mark.parametrize("name", RULES)
def test_a_scale_that_is_not_finite_is_refused(name):
    with pytest.raises(ValueError, match=f"guidance.{name}: scale must be a finite number"):
        RULES[name](float("nan"))


@pytest.mark.parametrize(
    "make",
    [
        lambda c: classifier(1.0, condition=c),
        lambda c: elucd(1.0, condition=c),
        classifier_gradient,
        lambda c: calibrated_classifier(condition=c),
    ],
)
def test_an_unknown_base_is_refused(make):
    with pytest.raises(ValueError, match="condition is 'null' or 'given'"):
        make("nothing")


def test_a_missing_classifier_is_named():
    noise, labels = points(4)
    with pytest.raises(ValueError, match="needs a network named 'classifier'"):
        sample(classifier(1.0), {"main": MIXTURE["main"]}, noise, labels)
