"""Properties that every guidance rule keeps, and each rule's own identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys, mixture_denoiser, two_classes
from oracles.toy_network import NETWORKS
from tables.everyday import few, one_of_each_way, rows
from tables.rule_table import (
    AFFINE,
    ATTENTION,
    BLOCK,
    CONDITION,
    CROPS,
    EVERY,
    RENOISING,
    RULES,
    TIME,
)

from guidestar import guidance, samplers
from guidestar.core.random import fold_each
from guidestar.guidance.protocol import CLASSIFIER, Branch
from guidestar.samplers.evaluator import Evaluator

SHAPE = (6, 4, 4, 1)
INSIDE, OUTSIDE = 1.0, 10.0
EQUAL = {name: EVERY[name] for name, one in RULES.items() if one.equal}


class Answers:
    """An ``evaluate`` whose prediction for a branch depends on the branch's name.

    Args:
        base: prediction by name, at the point the rule is asked about.
        slope: how predictions change with x (they are smooth, for rules that differentiate).
    """

    def __init__(self, x, base, slope=0.1):
        self.x, self.base, self.slope = x, base, slope
        self.condition = jnp.arange(x.shape[0]) % 2
        self.end = jnp.full((), 0.4, x.dtype)

    def __call__(self, branches, x=None, sigma=None):
        return tuple(self._one(branch, self.x if x is None else x) for branch in branches)

    def _one(self, branch, x):
        if branch.network == CLASSIFIER:
            mean = x.mean(axis=tuple(range(1, x.ndim)))
            return jnp.stack([mean, -mean], axis=-1)
        value = self.base(branch.name, x.shape).astype(x.dtype)
        return value if x.shape != self.x.shape else value + self.slope * (x - self.x)


def by_name(name, shape):
    """Return an array that differs from name to name."""
    return jnp.asarray(np.random.default_rng(sum(map(ord, name))).normal(size=shape))


def guided(rule, base=by_name, sigma=INSIDE, shape=SHAPE, dtype=np.float32):
    """Apply a rule once, to predictions given by name."""
    x = jnp.asarray(np.random.default_rng(9).normal(size=shape) * sigma, dtype)
    evaluate = Answers(x, base)
    holds = rule.at(sigma)
    state = rule.init(x)
    return holds.apply(evaluate, x, jnp.asarray(sigma, dtype), state, keys(shape[0]))[0]


def predictions(shape=SHAPE):
    """Return predictions by name, for `guidance.combine`."""
    return {name: by_name(name, shape).astype(jnp.float32) for name in ("given", "null", "guide")}


def combined(rule, arrays, sigma=INSIDE):
    """Apply a rule through `guidance.combine`."""
    return guidance.combine(rule, arrays, sigma=sigma, key=jax.random.key(0))[0]


def run(rule, noise, condition, key, networks=NETWORKS, steps=4, **options):
    """Sample with a rule; Euler, which every kind of rule knows."""
    sigmas = samplers.karras(steps, 0.02, 20.0)
    return samplers.sample(
        networks, rule, samplers.euler(), sigmas, noise, condition, key, **options
    )


def inputs(batch=6):
    """Return noise, labels and keys."""
    noise = jax.random.normal(jax.random.key(0), (batch, *SHAPE[1:]))
    return noise, jnp.arange(batch) % 2, keys(batch)


@pytest.mark.parametrize("name", [n for n, one in RULES.items() if one.off is not None])
def test_the_scale_that_is_off_gives_the_plain_prediction(name):
    one = RULES[name]
    result, plain = guided(one.make(one.off)).denoised, by_name("given", SHAPE)
    if one.exact:
        np.testing.assert_array_equal(result, plain.astype(np.float32))
    np.testing.assert_allclose(result, plain, atol=1e-6)


@pytest.mark.parametrize("name", AFFINE)
def test_scale_zero_is_the_reference(name):
    one = AFFINE[name]
    np.testing.assert_allclose(
        guided(one.make(0.0)).denoised, by_name(one.reference, SHAPE), atol=1e-6
    )


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("scale", [-1.0, 0.5, 7.0])
def test_the_scale_moves_along_the_line_through_reference_and_main(name, scale):
    one = AFFINE[name]
    main, reference = by_name("given", SHAPE), by_name(one.reference, SHAPE)
    result = guided(one.make(scale)).denoised
    np.testing.assert_allclose(result, reference + scale * (main - reference), atol=1e-5)


@pytest.mark.parametrize("name", EQUAL)
def test_equal_branches_give_that_branch(name):
    # The same everywhere, for rules that look at parts of an image.
    flat = CROPS in RULES[name].needs
    one = jnp.full(SHAPE, 0.7) if flat else by_name("given", SHAPE)
    result = guided(EQUAL[name], lambda _, shape: one[: shape[0], : shape[1], : shape[2]])
    np.testing.assert_allclose(result.denoised, one, atol=1e-5)
    assert all(np.isfinite(value).all() for value in result.info.values())


@pytest.mark.parametrize("name", EVERY)
def test_predictions_of_zero_stay_finite(name):
    result = guided(EVERY[name], lambda _, shape: jnp.zeros(shape))
    assert np.isfinite(result.denoised).all()
    assert all(np.isfinite(value).all() for value in result.info.values())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("sigma", [1e-3, 80.0])
def test_outputs_are_finite_at_the_ends_of_the_range(name, sigma):
    result = guided(EVERY[name], lambda *branch: sigma * by_name(*branch), sigma)
    assert np.isfinite(result.denoised).all()
    assert result.denoised.shape == SHAPE and result.denoised.dtype == np.float32


@pytest.mark.parametrize("name", rows(EVERY, one_of_each_way))
def test_double_precision_stays_double(name, x64):
    assert guided(EVERY[name], dtype=np.float64).denoised.dtype == np.float64


@pytest.mark.parametrize("name", rows(RULES, one_of_each_way))
def test_a_rule_does_something(name):
    one, arguments = RULES[name], inputs()
    plain = run(guidance.unguided(), *arguments)
    assert np.abs(run(one.make(one.typical), *arguments) - plain).max() > 3e-3


@pytest.mark.parametrize("name", rows(EVERY, one_of_each_way))
def test_a_sample_alone_equals_the_same_sample_in_a_batch(name):
    noise, condition, key = inputs()
    batch = run(EVERY[name], noise, condition, key)
    for i in (0, 4):
        own = slice(i, i + 1)
        alone = run(EVERY[name], noise[own], condition[own], key[own])
        np.testing.assert_allclose(alone[0], batch[i], atol=1e-5)


@pytest.mark.parametrize("name", rows(EVERY, one_of_each_way))
def test_branches_in_turn_give_what_they_give_together(name):
    fused = run(EVERY[name], *inputs())
    np.testing.assert_allclose(run(EVERY[name], *inputs(), branches="sequential"), fused, atol=1e-5)


@pytest.mark.parametrize("name", rows(EVERY, one_of_each_way))
def test_permuting_a_batch_permutes_the_result(name):
    order = jnp.array([3, 1, 5, 0, 2, 4])
    straight = run(EVERY[name], *inputs())
    permuted = run(EVERY[name], *(value[order] for value in inputs()))
    np.testing.assert_allclose(permuted, straight[order], atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_a_new_scale_compiles_nothing(name, compilations):
    one = RULES[name]
    first = run(one.make(one.typical), *inputs())
    with compilations() as compiled:
        again = run(one.make(one.typical), *inputs())
        other = run(one.make(one.typical + 1), *inputs())
    assert not compiled
    np.testing.assert_array_equal(first, again)
    assert np.abs(other - first).max() > 1e-3


def test_a_whole_number_compiles_nothing_beside_the_same_with_a_point(compilations):
    first = run(guidance.cfg(3.0), *inputs())
    with compilations() as compiled:
        np.testing.assert_array_equal(run(guidance.cfg(3), *inputs()), first)
    assert not compiled


def test_no_two_kinds_of_rule_share_a_structure():
    # Compiled programs are found by structure: rules that differ in class alone must not be
    # taken for each other.
    # Variants of one rule, behind a comma, may differ in numbers alone.
    kinds = [one.make(2.0) for name, one in RULES.items() if "," not in name]
    kinds += [guidance.momentum(1.0), guidance.project(1.0), guidance.clip_norm(1.0)]
    kinds += [guidance.scale(1.0), guidance.std_rescale(1.0), guidance.unguided()]
    structures = [jax.tree.structure(kind) for kind in kinds]
    alike = [
        (i, k) for i, a in enumerate(structures) for k, b in enumerate(structures[:i]) if a == b
    ]
    assert not alike


@pytest.mark.parametrize("name", rows(RULES, one_of_each_way))
def test_a_row_of_scales_runs_as_one_vmapped_program(name):
    make, scales = RULES[name].make, jnp.array([1.5, 3.0])
    row = jax.vmap(lambda scale: run(make(scale), *inputs()))(scales)
    for scale, result in zip(scales, row, strict=True):
        np.testing.assert_allclose(result, run(make(scale), *inputs()), atol=1e-5)


@pytest.mark.parametrize("name", rows(EVERY, one_of_each_way))
def test_the_scan_equals_a_python_loop(name):
    rule, (noise, condition, key) = EVERY[name], inputs()
    sigmas = samplers.karras(4, 0.02, 20.0)
    rule = guidance.along(rule, sigmas[:-1])
    x, state = noise * np.float32(sigmas[0]), rule.init(noise)
    for number, (start, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        level, until = jnp.float32(start), jnp.float32(end)
        evaluate = Evaluator(NETWORKS, x, level, condition, "fused", end=until)
        step_key = fold_each(fold_each(key, number), 0)
        holds = rule.at(float(start))
        result, state = holds.apply(evaluate, x, level, state, step_key)
        assert result.denoised.dtype == jnp.float32
        source = result.denoised if result.renoise_from is None else result.renoise_from
        x = result.denoised + end / start * (x - source)
    np.testing.assert_allclose(run(EVERY[name], *inputs()), x, atol=2e-5)


@pytest.mark.parametrize("name", RULES)
def test_the_cost_is_known_beforehand_and_only_where_the_rule_holds(name):
    one = RULES[name]
    outside = {"stitched": {"main": 2}}.get(name, one.cost)
    outside = {"main": 1} if name.startswith("between") else outside
    rule = one.make(one.typical)
    assert guidance.cost(rule, [OUTSIDE, INSIDE], SHAPE[1:]) == [outside, one.cost]


@pytest.mark.parametrize("branches", few(1, ["fused", "sequential"]))
@pytest.mark.parametrize("name", RULES)
def test_networks_are_evaluated_as_often_as_the_cost_says(name, branches):
    # Counted in samples: fused branches share a call.
    rows = dict.fromkeys(NETWORKS, 0)

    def counted(network):
        def call(x, *arguments, **options):
            rows[network] += x.shape[0]
            return NETWORKS[network](x, *arguments, **options)

        for attribute in ("null_condition", "sites"):
            if hasattr(NETWORKS[network], attribute):
                setattr(call, attribute, getattr(NETWORKS[network], attribute))
        return call

    one, (noise, condition, key) = RULES[name], inputs()
    networks = {network: counted(network) for network in NETWORKS}
    level, until = jnp.float32(INSIDE), jnp.float32(INSIDE / 2)
    evaluate = Evaluator(networks, noise, level, condition, branches, end=until)
    rule = one.make(one.typical).at(INSIDE)
    rule.apply(evaluate, noise, level, rule.init(noise), key)
    assert {n: count // len(noise) for n, count in rows.items() if count} == one.forward


@pytest.mark.parametrize("name", sorted(RENOISING))
def test_rules_that_renoise_are_refused_by_solvers_that_cannot(name):
    sigmas = samplers.karras(3)
    with pytest.raises(
        ValueError, match="not defined for Heun; solvers it is defined for: .*euler"
    ):
        samplers.sample(NETWORKS, EVERY[name], samplers.heun(), sigmas, *inputs())


def lacking(name):
    """Return what a rule needs that a plain denoiser lacks: networks, and sites of the main one."""
    one = RULES[name]
    sites = one.needs & {ATTENTION, BLOCK, CONDITION, TIME}
    return sorted(set(one.forward) - {"main"}) + sorted(sites)


@pytest.mark.parametrize("name", [name for name in RULES if lacking(name)])
def test_a_network_without_what_a_rule_needs_is_refused_by_name(name):
    plain = {"main": lambda x, sigma, condition: x / (1 + sigma**2)}
    with pytest.raises(ValueError, match=lacking(name)[0]):
        run(EVERY[name], *inputs(), networks=plain)


@pytest.mark.parametrize("name", [n for n, one in RULES.items() if CROPS in one.needs])
def test_rules_of_images_refuse_points(name):
    noise, condition, key = jnp.zeros((4, 2)), jnp.zeros(4, int), keys(4)
    with pytest.raises(ValueError, match="image"):
        run(EVERY[name], noise, condition, key)


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


@pytest.mark.longer
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


@pytest.mark.longer
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


@pytest.mark.untyped
def test_a_traced_interval_is_refused():
    with pytest.raises(ValueError, match="plain numbers"):
        jax.jit(lambda low: guidance.between(guidance.cfg(2.0), low, 3.0).low)(0.5)


def test_combine_names_what_is_missing():
    arrays = predictions()
    with pytest.raises(ValueError, match="needs the prediction 'guide'"):
        guidance.combine(guidance.autoguidance(2.0), {"given": arrays["given"]})
    with pytest.raises(ValueError, match="pass sigma"):
        guidance.combine(guidance.between(guidance.cfg(2.0), 0.5, 2.0), arrays)
    with pytest.raises(ValueError, match="one shape"):
        guidance.combine(guidance.cfg(2.0), arrays | {"null": arrays["null"][:2]})


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
