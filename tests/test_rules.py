"""Properties that every guidance rule keeps, and each rule's own identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Labelled, gaussian, keys, mixture_denoiser, two_classes, weak

from guidestar import guidance, samplers
from guidestar.guidance.protocol import Branch

SHAPES = {"points": (6, 2), "images": (6, 4, 4, 1)}
INTERVAL = (0.2, 3.0)
INSIDE, OUTSIDE = 1.0, 10.0

# name -> (constructor from a scale, the branch it pushes away from): affine in the predictions.
AFFINE = {
    "cfg": (guidance.cfg, "null"),
    "autoguidance": (guidance.autoguidance, "guide"),
    "between(cfg)": (lambda s: guidance.between(guidance.cfg(s), *INTERVAL), "null"),
    "between(autoguidance)": (
        lambda s: guidance.between(guidance.autoguidance(s), *INTERVAL),
        "guide",
    ),
}
RULES = AFFINE | {
    "apg": (lambda s: guidance.apg(s, eta=0.2, norm=1.5, momentum=-0.5), "null"),
    "cfg_rescale": (guidance.cfg_rescale, "null"),
    "cfg_zero_star": (lambda s: guidance.cfg_zero_star(s, zero_init_steps=0), "null"),
    "magnitude_aware": (lambda s: guidance.magnitude_aware(s, alpha=0.1), "null"),
    "tcfg": (guidance.tcfg, "null"),
    "between(apg)": (lambda s: guidance.between(guidance.apg(s), *INTERVAL), "null"),
    "chain on autoguidance": (
        lambda s: guidance.Push(
            guidance.chain(guidance.clip_norm(1.0), guidance.project(0.3), guidance.scale(s)),
            guidance.Branch(network="guide"),
        ),
        "guide",
    ),
    "channels": (
        lambda s: guidance.Push(
            guidance.chain(guidance.scale(s), guidance.channels(1)),
            guidance.Branch(condition="null"),
        ),
        "null",
    ),
}
EVERY = {name: make(2.5) for name, (make, _) in RULES.items()} | {
    "unguided": guidance.unguided(),
    "cfg_zero_star with zero_init": guidance.cfg_zero_star(2.5, zero_init_steps=2),
}
# Equal predictions do not pass through: the first evaluations are zeroed whatever they are.
EQUAL = {name: rule for name, rule in EVERY.items() if name != "cfg_zero_star with zero_init"}
NETWORKS = {"main": Labelled(gaussian), "guide": weak}


def predictions(shape=(6, 4, 4, 1), seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {n: random.normal(size=shape).astype(dtype) for n in ("given", "null", "guide")}


def run(rule, noise, condition, key, networks=NETWORKS, steps=8, **options):
    sigmas = samplers.karras(steps, 0.02, 20.0)
    return samplers.sample(
        networks, rule, samplers.heun(), sigmas, noise, condition, key, **options
    )


def combined(rule, arrays, sigma=INSIDE):
    return guidance.combine(rule, arrays, sigma=sigma, key=jax.random.key(0))[0]


@pytest.mark.parametrize("name", RULES)
def test_scale_one_is_the_main_prediction_bit_for_bit(name):
    arrays = predictions()
    guided = combined(RULES[name][0](1.0), arrays)
    np.testing.assert_array_equal(guided.denoised, arrays["given"])


@pytest.mark.parametrize("name", AFFINE)
def test_scale_zero_is_the_reference(name):
    make, reference = RULES[name]
    arrays = predictions()
    np.testing.assert_allclose(combined(make(0.0), arrays).denoised, arrays[reference], atol=1e-6)


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("scale", [-1.0, 0.5, 7.0])
def test_the_scale_moves_along_the_line_through_reference_and_main(name, scale):
    make, reference = RULES[name]
    arrays = predictions()
    guided = combined(make(scale), arrays).denoised
    along = (guided - arrays[reference]) / (arrays["given"] - arrays[reference])
    np.testing.assert_allclose(along, scale, rtol=2e-2)
    np.testing.assert_allclose(np.median(along), scale, rtol=1e-5)


@pytest.mark.parametrize("name", EQUAL)
def test_equal_branches_give_that_branch(name):
    one = predictions()["given"]
    guided = combined(EQUAL[name], dict.fromkeys(("given", "null", "guide"), one))
    np.testing.assert_allclose(guided.denoised, one, atol=1e-5)
    assert all(np.isfinite(value).all() for value in guided.info.values())


@pytest.mark.parametrize("name", EVERY)
def test_predictions_of_zero_stay_finite(name):
    zero = np.zeros((2, 4, 4, 1), np.float32)
    guided = combined(EVERY[name], dict.fromkeys(("given", "null", "guide"), zero))
    np.testing.assert_array_equal(guided.denoised, zero)
    assert all(np.isfinite(value).all() for value in guided.info.values())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_does_something(name):
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    condition = jnp.arange(6) % 2
    guided = run(RULES[name][0](2.5), noise, condition, keys(6))
    plain = run(guidance.unguided(), noise, condition, keys(6))
    assert np.abs(guided - plain).max() > 0.05


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("branches", ["fused", "sequential"])
def test_a_sample_alone_equals_the_same_sample_in_a_batch(name, branches):
    noise = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    condition = jnp.arange(6) % 2
    batch = run(EVERY[name], noise, condition, keys(6), branches=branches)
    for i in (0, 4):
        alone = run(
            EVERY[name],
            noise[i : i + 1],
            condition[i : i + 1],
            keys(6)[i : i + 1],
            branches=branches,
        )
        np.testing.assert_allclose(alone[0], batch[i], atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_permuting_a_batch_permutes_the_result(name):
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    condition, order = jnp.arange(6) % 2, jnp.array([3, 1, 5, 0, 2, 4])
    straight = run(EVERY[name], noise, condition, keys(6))
    permuted = run(EVERY[name], noise[order], condition[order], keys(6)[order])
    np.testing.assert_allclose(permuted, straight[order], atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_a_new_scale_compiles_nothing(name, compilations):
    make, _ = RULES[name]
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    first = run(make(2.0), noise, jnp.arange(6) % 2, keys(6))
    with compilations() as compiled:
        again = run(make(2.0), noise, jnp.arange(6) % 2, keys(6))
        other = run(make(3.0), noise, jnp.arange(6) % 2, keys(6))
    assert not compiled
    np.testing.assert_array_equal(first, again)
    assert np.abs(other - first).max() > 0.01


def test_no_two_kinds_of_rule_share_a_structure():
    # Compiled programs are found by structure: rules that differ in class alone must not be
    # taken for each other.
    kinds = [guidance.momentum(1.0), guidance.project(1.0), guidance.clip_norm(1.0)]
    kinds += [guidance.scale(1.0), guidance.std_rescale(1.0), guidance.cfg(1.0)]
    kinds += [guidance.tcfg(1.0), guidance.cfg_zero_star(1.0, 0), guidance.unguided()]
    structures = [jax.tree.structure(kind) for kind in kinds]
    assert not any(a == b for i, a in enumerate(structures) for b in structures[:i])


@pytest.mark.parametrize("name", RULES)
def test_a_row_of_scales_runs_as_one_vmapped_program(name):
    make, _ = RULES[name]
    noise = jax.random.normal(jax.random.key(0), (3, 2))
    condition, scales = jnp.arange(3) % 2, jnp.array([1.0, 2.0, 4.0])
    row = jax.vmap(lambda scale: run(make(scale), noise, condition, keys(3)))(scales)
    for scale, result in zip(scales, row, strict=True):
        np.testing.assert_allclose(result, run(make(scale), noise, condition, keys(3)), atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("sigma", [1e-3, 80.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_outputs_are_finite_at_the_ends_of_the_range(name, sigma, shape):
    arrays = {n: sigma * value for n, value in predictions(shape).items()}
    guided = combined(EVERY[name], arrays, sigma)
    assert np.isfinite(guided.denoised).all()
    assert guided.denoised.shape == shape


@pytest.mark.parametrize("name", EVERY)
def test_the_scan_equals_a_python_loop(name):
    rule, condition = EVERY[name], jnp.arange(6) % 2
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    sigmas = samplers.karras(8, 0.02, 20.0)
    x, state = noise * np.float32(sigmas[0]), rule.init(noise)
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        arrays = {
            "given": gaussian(x, start, condition),
            "null": gaussian(x, start, None),
            "guide": weak(x, start, condition),
        }
        guided, state = guidance.combine(rule, arrays, x=x, sigma=start, state=state)
        assert guided.denoised.dtype == jnp.float32
        x = guided.denoised + end / start * (x - guided.denoised)
    networks = {"main": gaussian, "guide": weak}
    scanned = samplers.sample(networks, rule, samplers.euler(), sigmas, noise, condition, keys(6))
    np.testing.assert_allclose(scanned, x, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_cost_counts_the_reference_only_where_the_rule_holds(name):
    make, reference = RULES[name]
    inside = {"main": 2} if reference == "null" else {"main": 1, "guide": 1}
    outside = {"main": 1} if name.startswith("between") else inside
    assert guidance.cost(make(2.0), [OUTSIDE, INSIDE]) == [outside, inside]


def test_the_interval_is_half_open_and_ignores_the_reference_outside():
    rule = guidance.between(guidance.cfg(3.0), 0.5, 2.0)
    given = {"given": predictions()["given"]}
    for sigma in (0.5, 2.0001, 80.0):
        np.testing.assert_array_equal(combined(rule, given, sigma).denoised, given["given"])
    for sigma in (0.5001, 2.0):
        with pytest.raises(ValueError, match="needs the prediction 'null'"):
            combined(rule, given, sigma)


def test_an_open_interval_is_the_rule_itself():
    arrays = predictions()
    rule = guidance.between(guidance.cfg(3.0), 0, np.inf)
    np.testing.assert_array_equal(
        combined(rule, arrays, 80.0).denoised, combined(guidance.cfg(3.0), arrays).denoised
    )


def test_an_interval_decides_once_a_step_from_its_starting_sigma():
    # The step from 2 to 1 starts inside (1.5, 3]: both evaluations of Heun are guided, though the
    # second one is at sigma = 1.
    rule = guidance.between(guidance.cfg(2.0), 1.5, 3.0)
    steps = samplers.plan(samplers.heun(), np.array([4.0, 2.0, 1.0, 0.0]), rule).evaluations
    assert steps == [{"main": 2}, {"main": 4}, {"main": 1}]


def test_two_intervals_nest():
    rule = guidance.between(guidance.between(guidance.cfg(2.0), 0.5, 5.0), 1.0, 10.0)
    assert guidance.cost(rule, [7.0, 3.0, 0.7]) == [{"main": 1}, {"main": 2}, {"main": 1}]


def test_cfg_of_an_exact_mixture_is_space_invariant():
    # Guiding x0 predictions equals guiding the noise they imply: the weights sum to one.
    denoise, sigma = mixture_denoiser(), 0.7
    x = jax.random.normal(jax.random.key(0), (6, 2))
    label = jnp.arange(6) % 2
    given, null = denoise(x, sigma, label), denoise(x, sigma, None)
    in_x0 = combined(guidance.cfg(3.0), {"given": given, "null": null}).denoised
    noise = {n: (x - d) / sigma for n, d in (("given", given), ("null", null))}
    in_noise = x - sigma * combined(guidance.cfg(3.0), noise).denoised
    np.testing.assert_allclose(in_x0, in_noise, atol=1e-5)


def test_exact_posteriors_weight_the_conditional_denoisers_to_the_unconditional_one():
    denoise, sigma = mixture_denoiser(), 0.7
    first, second, both = two_classes()
    x = jax.random.normal(jax.random.key(0), (16, 2))
    odds = jnp.stack([m.log_density(x, sigma) for m in (first, second)])
    posterior = jax.nn.softmax(odds, axis=0)
    mean = sum(p[:, None] * denoise(x, sigma, jnp.full(16, k)) for k, p in enumerate(posterior))
    np.testing.assert_allclose(mean, both.denoise(x, sigma), atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("make", [guidance.cfg, guidance.autoguidance])
def test_a_scale_that_is_not_finite_is_refused(make, bad):
    with pytest.raises(ValueError, match="scale must be a finite number"):
        make(bad)


@pytest.mark.parametrize("ends", [(2.0, 1.0), (1.0, 1.0), (-0.1, 1.0), (float("nan"), 1.0)])
def test_an_interval_with_nothing_in_it_is_refused(ends):
    with pytest.raises(ValueError, match="need 0 <= low < high"):
        guidance.between(guidance.cfg(2.0), *ends)


def test_a_traced_interval_is_refused():
    with pytest.raises(ValueError, match="plain numbers"):
        jax.jit(lambda low: guidance.between(guidance.cfg(2.0), low, 3.0).low)(0.5)


def test_combine_names_what_is_missing():
    arrays = predictions()
    with pytest.raises(ValueError, match="needs the prediction 'guide'"):
        guidance.combine(guidance.autoguidance(2.0), {"given": arrays["given"]})
    with pytest.raises(ValueError, match="pass sigma"):
        guidance.combine(EVERY["between(cfg)"], arrays)
    with pytest.raises(ValueError, match="one shape"):
        guidance.combine(EVERY["cfg"], arrays | {"null": arrays["null"][:2]})


def test_branches_are_named_after_what_differs_from_the_plain_pass():
    assert [
        Branch().name,
        Branch(condition="null").name,
        Branch(network="guide").name,
        Branch(network="guide", condition="null").name,
    ] == ["given", "null", "guide", "guide_null"]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "cfg", "scale": 2.0}, guidance.cfg(2.0)),
        (
            {"name": "between", "rule": {"name": "autoguidance", "scale": 3}, "low": 0, "high": 1},
            guidance.between(guidance.autoguidance(3), 0, 1),
        ),
        ({"name": "unguided"}, guidance.unguided()),
    ],
)
def test_rules_are_built_from_nested_dictionaries(section, expected):
    assert guidance.from_config(section) == expected


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "cgf"}, "not one of"),
        ({"scale": 2.0}, "not one of"),
        ({"name": "cfg", "scael": 2.0}, "scael"),
        ({"name": "cfg", "scale": float("nan")}, "finite"),
    ],
)
def test_a_wrong_dictionary_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        guidance.from_config(section)
