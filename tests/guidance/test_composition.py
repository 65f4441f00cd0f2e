"""Several conditions, windows, and several rules at once: identities and refusals."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, gaussian, keys, mixture_denoiser, weak

from guidestar import guidance, samplers
from guidestar.samplers.evaluator import Evaluator

LABELS = jnp.array([0, 1, 1, 0])


def apply(rule, networks=None, shape=(2,), condition=LABELS, sigma=0.8):
    """Return a rule's prediction at one noise level, in double precision where it is on."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(len(LABELS), *shape)))
    networks = networks or {"main": mixture_denoiser()}
    level = jnp.asarray(sigma, x.dtype)
    evaluate = Evaluator(networks, x, level, condition, "fused")
    holds = rule.at(sigma)
    return holds.apply(evaluate, x, level, rule.init(x), keys(len(x)))[0].denoised


def denoised(condition, sigma=0.8):
    """Return the exact prediction for one label, or None."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(len(LABELS), 2)))
    label = None if condition is None else jnp.full(len(LABELS), condition)
    return mixture_denoiser()(x, jnp.asarray(sigma, x.dtype), label)


def close(a, b, atol=1e-9):
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.fixture(autouse=True)
def double(x64):
    """Compare in float64."""


@pytest.mark.longer
def test_the_conjunction_of_one_condition_is_cfg():
    close(apply(guidance.compose_and(["given"], [2.5])), apply(guidance.cfg(2.5)))


def test_a_conjunction_adds_what_each_condition_adds():
    null, first, second = denoised(None), denoised(0), denoised(1)
    expected = null + 2.0 * (first - null) - 0.5 * (second - null)
    close(apply(guidance.compose_and([0, 1], [2.0, -0.5])), expected)
    scaled = null + 3.0 * (expected - null)
    close(apply(guidance.compose_and([0, 1], [2.0, -0.5], 3.0)), scaled)


def test_a_conjunction_takes_labels_per_sample():
    by_sample = apply(guidance.compose_and([LABELS], [2.0]))
    close(by_sample, apply(guidance.cfg(2.0)))


def test_negation_starts_from_the_null_prediction():
    given, null, other = apply(guidance.unguided()), denoised(None), denoised(1)
    close(apply(guidance.compose_not(2.0, 1)), null + 2.0 * (given - other))


def test_a_negative_condition_is_the_reference():
    given, other = apply(guidance.unguided()), denoised(1)
    close(apply(guidance.negative(3.0, 1)), other + 3.0 * (given - other))
    close(apply(guidance.negative(3.0, 2)), apply(guidance.cfg(3.0)))


def test_perp_neg_without_weight_is_cfg():
    close(apply(guidance.perp_neg(2.0, [1], [0.0])), apply(guidance.cfg(2.0)))


def test_perp_neg_moves_away_across_the_positive_push_alone():
    given, null, other = apply(guidance.unguided()), denoised(None), denoised(1)
    added = apply(guidance.perp_neg(2.0, [1], [0.7])) - apply(guidance.cfg(2.0))
    positive = given - null
    close(jnp.sum(added * positive, axis=1), 0)
    # Samples of class 1 have the negative as their own condition: nothing of it is across.
    close(added[LABELS == 1], 0)
    away = (other - null)[0]
    unit = positive[0] / jnp.linalg.norm(positive[0])
    close(added[0], -2.0 * 0.7 * (away - jnp.dot(away, unit) * unit))


class Parts:
    """A denoiser of two conditions, each its own mean."""

    null_condition = {"image": 2, "text": 2}  # noqa: RUF012  (never written to)

    def __call__(self, x, sigma, condition):
        return gaussian(x, sigma, condition["image"]) + 0.5 * gaussian(x, sigma, condition["text"])


@pytest.mark.longer
def test_instruct_scales_image_and_text_by_themselves():
    networks, parts = {"main": Parts()}, {"image": LABELS, "text": 1 - LABELS}

    def only(**given):
        condition = {"image": jnp.full(4, 2), "text": jnp.full(4, 2)} | given
        return apply(guidance.unguided(), networks, condition=condition)

    null, image, both = only(), only(image=LABELS), only(**parts)
    expected = null + 1.5 * (image - null) + 7.5 * (both - image)
    close(apply(guidance.instruct(7.5, 1.5), networks, condition=parts), expected)
    equal = apply(guidance.instruct(3.0, 3.0), networks, condition=parts)
    close(equal, apply(guidance.cfg(3.0), networks, condition=parts))


def test_instruct_needs_a_condition_of_two_parts():
    with pytest.raises(ValueError, match="pass a dictionary"):
        apply(guidance.instruct())


def test_domain_guidance_goes_from_the_base_network_to_the_other():
    networks = {"main": Labelled(gaussian), "guide": Labelled(weak)}
    base = apply(guidance.cfg(0.0, network="guide"), networks)
    tuned = apply(guidance.unguided(), networks)
    close(apply(guidance.domain(1.0), networks), tuned)
    close(apply(guidance.domain(1.5), networks), base + 1.5 * (tuned - base))


def crops(x, sigma, condition):
    """Denoise pixel by pixel, and by the mean of whatever window is seen."""
    return 0.5 * x + 0.1 * x.mean(axis=(1, 2, 3), keepdims=True)


def pixelwise(x, sigma, condition):
    return 0.5 * x


IMAGE = (8, 6, 1)


def test_windows_change_nothing_for_a_network_that_looks_at_pixels_alone():
    for masked in (False, True):
        rule = guidance.swg(3.0, 4, 3, masked)
        plain = apply(guidance.unguided(), {"main": pixelwise}, IMAGE)
        close(apply(rule, {"main": pixelwise}, IMAGE), plain)


def test_a_window_as_large_as_the_image_changes_nothing():
    square, networks = (6, 6, 1), {"main": crops}
    plain = apply(guidance.unguided(), networks, square)
    close(apply(guidance.swg(3.0, 6, 1), networks, square), plain)


def test_windows_are_averaged_where_they_overlap():
    x = np.random.default_rng(0).normal(size=(4, *IMAGE))
    total, count = np.zeros_like(x), np.zeros((1, *IMAGE))
    for row in (0, 4):
        for column in (0, 2):
            window = np.s_[:, row : row + 4, column : column + 4]
            total[window] += crops(x[window], None, None)
            count[window] += 1
    reference, plain = total / count, crops(x, None, None)
    networks = {"main": crops}
    close(apply(guidance.swg(0.0, 4), networks, IMAGE), reference)
    close(apply(guidance.swg(2.5, 4), networks, IMAGE), reference + 2.5 * (plain - reference))
    masked = apply(guidance.swg(2.5, 4, 2, True), networks, IMAGE)
    expected = np.where(count > 1, reference + 2.5 * (plain - reference), plain)
    close(masked, expected)
    assert (count == 1).any() and (count > 1).any()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: guidance.swg(2.0, 9), "do not fit"),
        (lambda: guidance.swg(2.0, 2, 2), "leave gaps"),
        (lambda: guidance.swg(2.0, 0), "at least 1"),
        (lambda: guidance.swg(float("nan"), 4), "finite"),
        (lambda: guidance.compose_and([], []), "must be a list"),
        (lambda: guidance.compose_and("given", [1.0]), "must be a list"),
        (
            lambda: guidance.compose_and(["gievn"], [1.0]),
            "conditions are .given., .null., labels or arrays, got .gievn",
        ),
        (lambda: guidance.compose_and(["given"], [1.0, 2.0]), "must be one number a condition"),
        (lambda: guidance.compose_and(["given"], [float("nan")]), "finite"),
        (lambda: guidance.perp_neg(2.0, [1], [1.0, 2.0]), "must be one number a condition"),
        (lambda: guidance.negative(float("inf"), 1), "finite"),
        (lambda: guidance.instruct(2.0, float("nan")), "finite"),
        (lambda: guidance.domain(float("nan")), "finite"),
        (lambda: guidance.together(), "at least one rule"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(rule, message):
    with pytest.raises(ValueError, match=message):
        apply(rule(), {"main": pixelwise}, IMAGE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guidance.together(guidance.scale(2.0)), "takes a rule here, got a transform"),
        (lambda: guidance.push(guidance.scale(2.0)), "takes a reference here, got a tr"),
        (
            lambda: guidance.push(guidance.null(), guidance.cfg(2.0)),
            "takes a transform of .* got a rule",
        ),
        (lambda: guidance.chain(guidance.null()), "takes a transform of .* got a reference"),
    ],
)
def test_parts_in_each_others_places_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


NETWORKS = {"main": Labelled(gaussian), "guide": weak}


def test_rules_together_add_what_each_does_alone():
    rules = guidance.cfg(2.0), guidance.autoguidance(1.5), guidance.apg(3.0)
    plain = apply(guidance.unguided(), NETWORKS)
    added = sum(apply(rule, NETWORKS) - plain for rule in rules)
    close(apply(guidance.together(*rules), NETWORKS), plain + added)


def test_rules_together_share_a_reference():
    assert guidance.cost(guidance.together(guidance.cfg(2.0), guidance.apg(2.0)), [1.0]) == [
        {"main": 2}
    ]


def test_rules_together_share_nothing_across_a_conditional_or_a_derivative():
    rules = [
        guidance.skip_aligned(guidance.cfg(2.0), 0.99),
        guidance.reg(guidance.cfg(1.5)),
        guidance.cfg(3.0),
        guidance.skip_aligned(guidance.autoguidance(2.0), 0.99),
    ]
    plain = apply(guidance.unguided(), NETWORKS)
    added = sum(apply(rule, NETWORKS) - plain for rule in rules)
    for order in (rules, rules[::-1]):
        close(apply(guidance.together(*order), NETWORKS), plain + added)


def test_rules_together_keep_their_own_intervals():
    rule = guidance.together(
        guidance.between(guidance.cfg(2.0), 1.0, 5.0),
        guidance.between(guidance.autoguidance(2.0), 0.1, 2.0),
    )
    assert guidance.cost(rule, [10.0, 3.0, 1.5, 0.5, 0.05]) == [
        {"main": 1},
        {"main": 2},
        {"main": 2, "guide": 1},
        {"main": 1, "guide": 1},
        {"main": 1},
    ]
    close(apply(rule, NETWORKS, sigma=0.5), apply(guidance.autoguidance(2.0), NETWORKS, sigma=0.5))


def test_states_pass_through_rules_that_rest():
    # Momentum inside an interval, beside a rule that holds throughout, as the loop runs it.
    rule = guidance.together(guidance.between(guidance.apg(3.0), 0.5, 3.0), guidance.cfg(1.5))
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))
    sigmas = samplers.karras(8, 0.02, 20.0)
    result = samplers.sample(NETWORKS, rule, samplers.euler(), sigmas, noise, LABELS, keys(4))
    x, state = noise * sigmas[0], rule.init(noise)
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        evaluate = Evaluator(NETWORKS, x, jnp.asarray(start), LABELS, "fused")
        guided, state = rule.at(start).apply(evaluate, x, jnp.asarray(start), state, keys(4))
        x = guided.denoised + end / start * (x - guided.denoised)
    close(result, x, 1e-8)


def test_cfg_and_autoguidance_share_a_scale():
    for mix, alone in ((0.0, guidance.cfg(3.0)), (1.0, guidance.autoguidance(3.0))):
        close(apply(guidance.cfg_and_autoguidance(3.0, mix), NETWORKS), apply(alone, NETWORKS))
    half = guidance.together(guidance.cfg(2.0), guidance.autoguidance(2.0))
    close(apply(guidance.cfg_and_autoguidance(3.0, 0.5), NETWORKS), apply(half, NETWORKS))
