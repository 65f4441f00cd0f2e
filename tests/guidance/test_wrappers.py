"""Rules around rules: rectified gradients, history, skipping, thresholds; and energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import (
    SPREAD,
    Labelled,
    gaussian,
    gaussian_posterior,
    keys,
    mixture_denoiser,
    weak,
)
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.core.noise_levels import flow_time, vp_sigma
from guidestar.guidance.pushes import norm
from guidestar.guidance.references.cfgpp import cfgpp, renoised
from guidestar.guidance.references.classifier import classifier
from guidestar.guidance.references.gfcg import gfcg
from guidestar.guidance.references.windows import swg
from guidestar.guidance.transforms.energy import energy_preserving, ep_cfg
from guidestar.guidance.wrappers.history import high_pass, higs
from guidestar.guidance.wrappers.rectified import reg
from guidestar.guidance.wrappers.skipping import skip_aligned
from guidestar.guidance.wrappers.thresholding import dynamic_threshold, static_threshold
from guidestar.samplers.evaluator import Evaluator

NETWORKS = {"main": Labelled(gaussian), "guide": weak, "classifier": gaussian_posterior}
# name -> constructor from a scale
RULES = {
    "reg": lambda s: reg(guidance.cfg(s)),
    "reg(apg)": lambda s: reg(guidance.apg(s, norm=1.5)),
    "higs": lambda s: higs(guidance.cfg(s), eta=0.5),
    "higs(gfcg)": lambda s: higs(gfcg(s), time="flow"),
    "skip_aligned": lambda s: skip_aligned(guidance.autoguidance(s)),
    "skip_aligned(apg)": lambda s: skip_aligned(guidance.apg(s)),
    "static_threshold": lambda s: static_threshold(guidance.cfg(s), 0.8),
    "dynamic_threshold": lambda s: dynamic_threshold(guidance.cfg(s), 0.7, 0.5),
    "ep_cfg": ep_cfg,
    "ep_cfg shrinking": lambda s: ep_cfg(s, only_shrink=True),
}


def images(count=6, seed=0, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), (count, 4, 4, 1))


def predictions(seed=0):
    given, null, guide = (images(seed=3 * seed + i) for i in range(3))
    return {"given": given, "null": null, "guide": guide}


def combined(rule, arrays, **options):
    return jax.jit(lambda: guidance.combine(rule, arrays, **options)[0])()


def guided(rule, networks, x, sigma, condition):
    def apply(x):
        evaluate = Evaluator(networks, x, jnp.asarray(sigma, x.dtype), condition, "fused")
        return rule.apply(evaluate, x, evaluate.sigma, rule.init(x), None)

    return jax.jit(apply)(x)


def sample(rule, noise, condition, networks=NETWORKS, steps=6, **options):
    sigmas = samplers.karras(steps, 0.02, 20.0)
    return samplers.sample(
        networks, rule, samplers.heun(), sigmas, noise, condition, keys(len(noise)), **options
    )


# Rectified gradients.


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_reg_multiplies_the_push_of_a_gaussian_by_its_shrinkage(sigma):
    x, labels = images(), jnp.arange(6) % 2
    given, null = gaussian(x, sigma, labels), gaussian(x, sigma, None)
    shrinkage = SPREAD**2 / (SPREAD**2 + sigma**2)
    out, _ = guided(reg(guidance.cfg(3.0)), NETWORKS, x, sigma, labels)
    np.testing.assert_allclose(out.denoised, given + 2 * shrinkage * (given - null), atol=1e-5)


@pytest.mark.longer
def test_reg_of_a_mixture_uses_the_column_sums_of_the_jacobian():
    denoise = mixture_denoiser()
    x, labels = jax.random.normal(jax.random.key(0), (4, 2)), jnp.arange(4) % 2

    def one(point, label):
        return denoise(point[None], 0.7, label[None])[0]

    sums = jax.jit(jax.vmap(jax.jacobian(one)))(x, labels).sum(axis=1)
    given, null = denoise(x, 0.7, labels), denoise(x, 0.7, None)
    out, _ = guided(reg(guidance.cfg(3.0)), {"main": denoise}, x, 0.7, labels)
    np.testing.assert_allclose(out.denoised, given + 2 * sums * (given - null), atol=1e-5)


def test_reg_rectifies_before_the_transforms():
    x, labels = images(), jnp.arange(6) % 2
    rule = reg(guidance.push(guidance.null(), guidance.scale(1e4), guidance.clip_norm(0.3)))
    out, _ = guided(rule, NETWORKS, x, 1.0, labels)
    np.testing.assert_allclose(out.info["push_norm"], 0.3, rtol=1e-5)


@pytest.mark.parametrize("inner", [guidance.cfg(2.0), guidance.autoguidance(2.0)])
def test_reg_needs_no_further_forward_pass(inner):
    (forward,) = guidance.cost(inner, [1.0])
    assert guidance.cost(reg(inner), [1.0]) == [forward | {"main+grad": 1}]
    calls = []

    def counting(network):
        def denoise(x, sigma, condition):
            calls.append(network)
            return NETWORKS[network](x, sigma, condition)

        return Labelled(denoise)

    networks = {name: counting(name) for name in ("main", "guide")}
    guided(reg(inner), networks, images(), 1.0, jnp.arange(6) % 2)
    assert len(calls) == 2


def test_reg_keeps_the_state_of_the_push_inside():
    x, labels = images(), jnp.arange(6) % 2
    rule = guidance.apg(3.0)
    _, state = guided(reg(rule), NETWORKS, x, 1.0, labels)
    assert jax.tree.structure(state) == jax.tree.structure(rule.init(x))


def test_reg_goes_inside_an_interval_and_works_with_windows():
    rule = guidance.between(reg(guidance.cfg(2.0)), 0.5, 2.0)
    assert guidance.cost(rule, [1.0, 3.0]) == [{"main": 2, "main+grad": 1}, {"main": 1}]
    noise, labels = images(), jnp.arange(6) % 2
    assert np.isfinite(sample(rule, noise, labels)).all()
    out, _ = guided(reg(swg(2.0, 3)), NETWORKS, noise, 1.0, labels)
    assert np.isfinite(out.denoised).all()


def test_reg_refuses_what_is_no_push_of_the_plain_prediction():
    with pytest.raises(
        TypeError, match=r"reg: rule takes a push .* got a rule \(between\); .*between\(reg\(cfg"
    ):
        reg(guidance.between(guidance.cfg(2.0), 0.1, 1.0))
    with pytest.raises(TypeError, match="classifier does not push the plain prediction"):
        guided(reg(classifier(2.0)), NETWORKS, images(), 1.0, jnp.arange(6) % 2)


def test_reg_cannot_differentiate_ready_made_predictions():
    with pytest.raises(ValueError, match="run it in samplers.sample"):
        combined(reg(guidance.cfg(2.0)), predictions())


# History.

INSIDE = float(vp_sigma(0.675))


def run_higs(rule, sequence, sigma=INSIDE):
    step = jax.jit(lambda arrays, state: guidance.combine(rule, arrays, sigma=sigma, state=state))
    state, out = rule.init(sequence[0]["given"]), []
    for arrays in sequence:
        result, state = step(arrays, state)
        out.append(result.denoised)
    return out, state


def test_the_first_evaluation_has_no_history():
    arrays = predictions()
    (first,), state = run_higs(higs(guidance.cfg(2.0)), [arrays])
    plain = combined(guidance.cfg(2.0), arrays).denoised
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_allclose(state.average, plain, atol=1e-6)


def test_history_pushes_away_from_the_average_of_the_past():
    sequence = [predictions(seed) for seed in range(3)]
    g = [np.asarray(combined(guidance.cfg(2.0), arrays).denoised) for arrays in sequence]
    out, state = run_higs(higs(guidance.cfg(2.0), weight=1.6, alpha=0.75), sequence)
    # Halfway through the window the weight is sqrt(1/2) of its full value.
    weight = 1.6 * np.sqrt(0.5)
    h = g[0]
    np.testing.assert_allclose(out[1], g[1] + weight * (g[1] - h), atol=1e-4)
    h = 0.25 * h + 0.75 * g[1]
    np.testing.assert_allclose(out[2], g[2] + weight * (g[2] - h), atol=1e-4)
    np.testing.assert_allclose(state.average, 0.25 * h + 0.75 * g[2], atol=1e-5)


def test_a_constant_prediction_has_nothing_to_be_pushed_from():
    arrays = predictions()
    out, _ = run_higs(higs(guidance.cfg(2.0), high_pass=0.05, eta=0.0), [arrays] * 3)
    for one in out:
        np.testing.assert_allclose(one, out[0], atol=1e-6)


def test_weight_zero_is_the_rule_inside():
    sequence = [predictions(seed) for seed in range(2)]
    out, _ = run_higs(higs(guidance.cfg(2.0), weight=0.0), sequence)
    np.testing.assert_array_equal(out[1], combined(guidance.cfg(2.0), sequence[1]).denoised)


@pytest.mark.parametrize(
    ("t", "share"), [(0.2, 0), (0.4, 0), (0.95, 1), (0.96, 0), (0.55, np.sqrt(3 / 11))]
)
def test_the_weight_grows_with_a_root_inside_a_half_open_window(x64, t, share):
    sequence = [predictions(seed) for seed in range(2)]
    sigma = t / (1 - t)
    # The end points themselves, as the rule rounds them.
    window = tuple(float(flow_time(s)) for s in (0.4 / 0.6, 0.95 / (1 - 0.95)))
    rule = higs(guidance.cfg(2.0), weight=1.5, window=window, time="flow")
    out, _ = run_higs(rule, sequence, sigma)
    g = [combined(guidance.cfg(2.0), arrays).denoised for arrays in sequence]
    np.testing.assert_allclose(out[1], g[1] + 1.5 * share * (g[1] - g[0]), atol=1e-6)


def test_eta_zero_pushes_across_the_prediction_alone():
    sequence = [predictions(seed) for seed in range(2)]
    out, _ = run_higs(higs(guidance.cfg(2.0), eta=0.0), sequence)
    g = combined(guidance.cfg(2.0), sequence[1]).denoised
    along = jnp.sum((out[1] - g) * g, axis=(1, 2, 3)) / norm(g).reshape(-1)
    np.testing.assert_allclose(along, 0, atol=1e-4)
    assert norm(out[1] - g).min() > 0.5


def test_the_high_pass_filter_damps_flat_images_and_keeps_fine_patterns():
    def column(*values):
        return jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1) * jnp.ones((1, 8, 6, 1))

    filtered, rows = jax.jit(high_pass), np.arange(8)
    flat = column(*[2.0] * 8)
    np.testing.assert_allclose(filtered(flat, 0.05), flat / (1 + np.exp(50 * 0.05)), rtol=1e-5)
    stripes = column(*(-1.0) ** rows)
    np.testing.assert_allclose(filtered(stripes, 0.05), stripes, atol=0.01)
    # One cosine along the rows has the radius 3/8, damped by the sigmoid of 50 (3/8 - 0.4).
    wave = column(*np.cos(np.pi * (rows + 0.5) * 3 / 8))
    np.testing.assert_allclose(filtered(wave, 0.4), wave / (1 + np.exp(1.25)), atol=1e-5)


@pytest.mark.longer
def test_history_is_filtered_before_it_pushes():
    sequence = [predictions(seed) for seed in range(2)]
    out, _ = run_higs(higs(guidance.cfg(2.0), weight=1.0, high_pass=0.3), sequence)
    g = [combined(guidance.cfg(2.0), arrays).denoised for arrays in sequence]
    expected = g[1] + np.sqrt(0.5) * high_pass(g[1] - g[0], 0.3)
    np.testing.assert_allclose(out[1], expected, atol=1e-4)


@pytest.mark.parametrize("wrap", [higs, static_threshold, dynamic_threshold])
def test_wrappers_keep_where_the_noise_is_taken_from(wrap):
    arrays = predictions()
    result = combined(wrap(cfgpp(0.6)), arrays, sigma=1.0)
    np.testing.assert_array_equal(result.renoise_from, arrays["null"])
    assert "push_norm" in result.info


@pytest.mark.parametrize("wrap", [higs, static_threshold, dynamic_threshold])
def test_wrappers_go_around_an_interval(wrap):
    rule = wrap(guidance.between(guidance.cfg(2.0), 0.5, 2.0))
    assert guidance.cost(rule, [1.0, 3.0]) == [{"main": 2}, {"main": 1}]
    assert np.isfinite(sample(rule, images(), jnp.arange(6) % 2)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": float("nan")}, "weight must be a finite number"),
        ({"alpha": 0.0}, "alpha must be in"),
        ({"alpha": 1.5}, "alpha must be in"),
        ({"high_pass": -0.1}, "high_pass must not be negative"),
        ({"window": (0.9, 0.4)}, "window needs"),
        ({"window": (0.4, 1.2)}, "window needs"),
        ({"time": "ddpm"}, "time must be one of"),
    ],
)
def test_higs_refuses_numbers_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=f"guidance.higs: {message}"):
        higs(guidance.cfg(2.0), **options)


def test_the_high_pass_filter_refuses_points():
    points = {"given": jnp.ones((3, 2)), "null": jnp.zeros((3, 2))}
    with pytest.raises(ValueError, match="give high_pass=None"):
        combined(higs(guidance.cfg(2.0), high_pass=0.05), points)


# Adaptive skipping.


def aligned(angles):
    """Return predictions of unit vectors that enclose the given angles."""
    given = jnp.broadcast_to(jnp.array([1.0, 0.0]), (len(angles), 2))
    return {"given": given, "null": jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)}


def test_a_sample_is_pushed_until_it_has_been_aligned_once():
    rule, state = skip_aligned(guidance.cfg(3.0), threshold=0.9), None
    pushed, skipped = [], []
    # The first sample is aligned in the second evaluation alone, the second one never.
    for angles in ([0.8, 1.0], [0.1, 0.7], [0.8, 0.9], [0.8, 0.9]):
        arrays = aligned(jnp.array(angles))
        result, state = guidance.combine(rule, arrays, state=state)
        full = combined(guidance.cfg(3.0), arrays).denoised
        pushed.append(np.abs(result.denoised - full).max(axis=1) < 1e-6)
        plain = (np.asarray(result.denoised) == np.asarray(arrays["given"])).all(axis=1)
        assert np.all(plain | pushed[-1])
        skipped.append(result.info["skipped"])
    assert np.array(pushed).tolist() == [[True, True], [True, True], [False, True], [False, True]]
    assert np.array(skipped).tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]


def test_a_threshold_of_one_never_skips():
    rule, state = skip_aligned(guidance.cfg(3.0), threshold=1.0), None
    arrays = {"given": images(64), "null": 0.3 * images(64)}
    for _ in range(2):
        result, state = guidance.combine(rule, arrays, state=state)
    assert not result.info["skipped"].any()
    assert not state[1].any()


@pytest.mark.parametrize("threshold", [-2.0, 2.0])
def test_the_reference_is_evaluated_until_all_samples_have_dropped_it(threshold):
    evaluated = []

    def counting(x, sigma, condition):
        jax.debug.callback(lambda: evaluated.append(1))
        return weak(x, sigma, condition)

    rule = skip_aligned(guidance.autoguidance(2.0), threshold)
    noise, labels = images(), jnp.arange(6) % 2
    networks = {"main": NETWORKS["main"], "guide": counting}
    sample(rule, noise, labels, networks).block_until_ready()
    jax.effects_barrier()
    # Heun's method with six steps makes eleven evaluations.
    assert len(evaluated) == (1 if threshold < 0 else 11)


@pytest.mark.longer
def test_one_sample_that_is_not_aligned_keeps_the_reference_for_itself_alone():
    rule, labels = skip_aligned(guidance.cfg(2.0), 0.95), jnp.arange(6) % 2
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    batch, kept = sample(rule, noise, labels, save="info")
    dropped = kept["info"]["skipped"].sum(axis=0)
    assert len(np.unique(dropped)) > 1
    for i in (0, 1, 4):
        alone = sample(rule, noise[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(alone[0], batch[i], atol=1e-5)


def test_cost_counts_a_reference_that_may_be_skipped():
    assert guidance.cost(skip_aligned(guidance.cfg(2.0)), [1.0]) == [{"main": 2}]


def test_a_dropped_reference_is_no_longer_what_the_noise_is_taken_from():
    rule = skip_aligned(renoised(guidance.cfg(3.0)), threshold=0.9)
    arrays = aligned(jnp.array([0.1, 1.0]))
    first, state = guidance.combine(rule, arrays)
    np.testing.assert_array_equal(first.renoise_from, arrays["null"])
    second, _ = guidance.combine(rule, arrays, state=state)
    expected = jnp.stack([arrays["given"][0], arrays["null"][1]])
    np.testing.assert_array_equal(second.renoise_from, expected)


def test_skipping_refuses_what_has_no_single_reference():
    with pytest.raises(TypeError, match="guidance.skip_aligned: rule takes a push"):
        skip_aligned(guidance.between(guidance.cfg(2.0), 0.1, 1.0))
    with pytest.raises(TypeError, match="takes more than one branch"):
        skip_aligned(classifier(2.0))
    with pytest.raises(ValueError, match="threshold must be a finite number"):
        skip_aligned(guidance.cfg(2.0), float("nan"))


# Thresholds.


def test_predictions_within_the_range_stay_as_they_are_bit_for_bit():
    arrays = {"given": jnp.clip(images(), -0.9, 0.9), "null": jnp.zeros((6, 4, 4, 1))}
    for wrap in (static_threshold, dynamic_threshold):
        out = combined(wrap(guidance.cfg(1.0)), arrays).denoised
        np.testing.assert_array_equal(out, arrays["given"])


@pytest.mark.parametrize("bound", [1.0, 2.5])
@pytest.mark.parametrize("wrap", [static_threshold, dynamic_threshold])
def test_nothing_leaves_the_range(wrap, bound):
    arrays = {"given": images(scale=20.0), "null": images(seed=1)}
    rule = wrap(guidance.cfg(4.0), bound=bound)
    out = combined(rule, arrays).denoised
    np.testing.assert_allclose(np.abs(out).max(axis=(1, 2, 3)), bound, rtol=1e-6)
    again = combined(wrap(guidance.unguided(), bound=bound), {"given": out}).denoised
    np.testing.assert_allclose(again, out, rtol=1e-6)


def test_the_static_threshold_clips():
    given = jnp.array([[-3.0, -0.5, 0.2, 1.7]])
    out = combined(static_threshold(guidance.unguided(), 1.5), {"given": given}).denoised
    np.testing.assert_allclose(out, [[-1.5, -0.5, 0.2, 1.5]])


def test_the_dynamic_threshold_scales_by_each_samples_own_quantile():
    # |D| sorted is 0, 1, 2, 4: the quantile 0.75 lies a quarter of the way from 2 to 4.
    given = jnp.array([[0.0, -1.0, 2.0, -4.0], [0.0, 0.1, 0.2, -0.4]])
    out = combined(dynamic_threshold(guidance.unguided(), 0.75), {"given": given}).denoised
    expected = [[0.0, -1 / 2.5, 2 / 2.5, -1.0], [0.0, 0.1, 0.2, -0.4]]
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("percentile", [0.0, -0.5, 1.1, float("nan")])
def test_a_percentile_that_is_none_is_refused(percentile):
    with pytest.raises(ValueError, match="percentile must be in"):
        dynamic_threshold(guidance.cfg(2.0), percentile)


@pytest.mark.parametrize("wrap", [static_threshold, dynamic_threshold])
def test_a_range_that_is_none_is_refused(wrap):
    for bound, message in ((0.0, "must be positive"), (float("inf"), "finite")):
        with pytest.raises(ValueError, match=f"guidance.{wrap.__name__}: bound.*{message}"):
            wrap(guidance.cfg(2.0), bound=bound)


# Energy.


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 20.0])
def test_energy_preserving_keeps_the_norm_of_the_main_prediction(scale):
    arrays = predictions()
    out = combined(ep_cfg(scale), arrays).denoised
    np.testing.assert_allclose(norm(out), norm(arrays["given"]), rtol=1e-5)
    direction = combined(guidance.cfg(scale), arrays).denoised
    np.testing.assert_allclose(out / norm(out), direction / norm(direction), atol=1e-5)


def test_only_shrinking_leaves_shorter_predictions_alone():
    arrays = {"given": images(), "null": 0.5 * images()}
    # Towards the reference the prediction gets shorter, away from it longer.
    shorter = combined(ep_cfg(0.5, only_shrink=True), arrays).denoised
    np.testing.assert_allclose(shorter, 0.75 * arrays["given"], atol=1e-6)
    longer = combined(ep_cfg(4.0, only_shrink=True), arrays).denoised
    np.testing.assert_allclose(longer, arrays["given"], atol=1e-5)


@pytest.mark.parametrize("only_shrink", [False, True])
def test_energy_preserving_gives_no_push_back_bit_for_bit(only_shrink):
    arrays = predictions()
    np.testing.assert_array_equal(
        combined(ep_cfg(1.0, only_shrink), arrays).denoised, arrays["given"]
    )


def test_norms_of_zero_stay_finite():
    zero, one = jnp.zeros((2, 4)), jnp.ones((2, 4))
    for arrays in ({"given": zero, "null": zero}, {"given": zero, "null": one}):
        for only_shrink in (False, True):
            out = combined(ep_cfg(3.0, only_shrink), arrays).denoised
            np.testing.assert_array_equal(out, zero)
    # The push leads exactly to zero: no length can be given back to it.
    out = combined(ep_cfg(2.0), {"given": one, "null": 2 * one}).denoised
    np.testing.assert_array_equal(out, zero)


def test_energy_preserving_works_on_any_reference():
    arrays = predictions()
    rule = guidance.push(guidance.weak(), guidance.scale(3.0), energy_preserving())
    out = combined(rule, arrays).denoised
    np.testing.assert_allclose(norm(out), norm(arrays["given"]), rtol=1e-5)


# What holds for all of them.


@pytest.mark.parametrize("name", few(3, RULES))
def test_a_sample_does_not_depend_on_the_others_of_its_batch(name):
    noise, labels, rule = images(), jnp.arange(6) % 2, RULES[name](2.0)
    batch = sample(rule, noise, labels)
    assert batch.dtype == jnp.float32
    assert np.isfinite(batch).all()
    others = images(seed=9, scale=3.0).at[3].set(noise[3])
    np.testing.assert_allclose(sample(rule, others, labels)[3], batch[3], atol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, ["reg(apg)", "higs", "skip_aligned", "dynamic_threshold"]))
def test_new_numbers_compile_nothing_and_a_row_of_scales_is_one_program(name, compilations):
    noise, labels = jax.random.normal(jax.random.key(0), (4, 2)), jnp.arange(4) % 2
    make = RULES[name]
    first, second = (sample(make(scale), noise, labels) for scale in (1.0, 2.0))
    with compilations() as compiled:
        third = sample(make(2.5), noise, labels)
    assert not compiled
    assert np.abs(third - second).max() > 1e-4
    row = jax.vmap(lambda s: sample(make(s), noise, labels))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(row, jnp.stack([first, second]), atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_double_precision_is_kept(name, x64):
    x = images().astype(float)
    labels = jnp.arange(6) % 2
    out = jax.eval_shape(lambda x: guided(RULES[name](2.0), NETWORKS, x, 0.7, labels), x)
    assert out[0].denoised.dtype == jnp.float64


@pytest.mark.parametrize("name", [name for name in RULES if "reg" not in name])
def test_predictions_of_zero_stay_finite(name):
    zero = jnp.zeros((2, 4, 4, 1))
    arrays = dict.fromkeys(("given", "null", "guide", "confused"), zero)
    arrays["classifier"] = gaussian_posterior
    out = combined(RULES[name](2.5), arrays, condition=jnp.zeros(2, int))
    np.testing.assert_array_equal(out.denoised, zero)
    assert all(np.isfinite(value).all() for value in out.info.values())


@pytest.mark.longer
@pytest.mark.parametrize("name", ["higs", "skip_aligned"])
def test_the_scan_equals_a_python_loop(name):
    rule, labels = RULES[name](2.0), jnp.arange(6) % 2
    noise, sigmas = images(), samplers.karras(6, 0.02, 20.0)
    x, state = noise * np.float32(sigmas[0]), None
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        arrays = {
            "given": gaussian(x, start, labels),
            "null": gaussian(x, start, None),
            "guide": weak(x, start, labels),
        }
        result, state = guidance.combine(rule, arrays, x=x, sigma=start, state=state)
        x = result.denoised + end / start * (x - result.denoised)
    scanned = samplers.sample(NETWORKS, rule, samplers.euler(), sigmas, noise, labels, keys(6))
    np.testing.assert_allclose(scanned, x, atol=1e-5)
