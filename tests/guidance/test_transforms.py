"""What is done to the push: published numbers, limits, and each transform's own statement."""

import json

import jax.numpy as jnp
import numpy as np
import places
import pytest

from guidestar import guidance
from guidestar.guidance.pushes import inner, norm
from guidestar.guidance.transforms.frequency import assemble, pyramid

GOLDEN = np.load(places.GOLDEN / "guidance.npz")
PARAMETERS = json.loads(str(GOLDEN["params"]))
CASES = {
    "cfg": lambda p: guidance.cfg(p["scale"]),
    "apg": lambda p: guidance.apg(p["scale"], p["eta"], p["rescale"], p["momentum"]),
    "cfg_rescale": lambda p: guidance.cfg_rescale(p["scale"], p["phi"]),
    "cfg_zero_star": lambda p: guidance.cfg_zero_star(p["scale"], zero_init_steps=0),
    "tcfg": lambda p: guidance.tcfg(p["scale"]),
    "frequency_decoupled": lambda p: guidance.frequency_decoupled(
        p["scales_high_to_low"], p["parallel_weights_high_to_low"]
    ),
}


def channels_last(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


def trajectory(rule, given, null):
    """Apply a rule over a sequence of predictions, carrying its state."""
    state, outputs = None, []
    for one, other in zip(given, null, strict=True):
        guided, state = guidance.combine(rule, {"given": one, "null": other}, state=state)
        outputs.append(guided.denoised)
    return np.stack(outputs)


def pair(seed=0, shape=(5, 8, 8, 3)):
    random = np.random.default_rng(seed)
    return tuple(jnp.asarray(random.normal(size=shape)) for _ in range(2))


def guided(rule, given, null, **options):
    return guidance.combine(rule, {"given": given, "null": null}, **options)[0].denoised


# Two of the published rules compute in float32 inside: the coefficient of CFG-Zero* and TCFG's
# singular vectors. Below, both are held to float64 by formulas of their own.
TOLERANCE = {"cfg_zero_star": 5e-6, "tcfg": 2e-5}


# The published implementation writes D_null + w * update in every band, the paper
# D_given + (w - 1) * update; they part where a parallel weight is not 1.
@pytest.mark.parametrize("case", [case for case in PARAMETERS if case != "frequency_decoupled_1"])
def test_published_implementations_agree_in_float64(case, x64):
    name = case.rsplit("_", 1)[0]
    given, null = channels_last(GOLDEN["cond"]), channels_last(GOLDEN["uncond"])
    ours = trajectory(CASES[name](PARAMETERS[case]), given, null)
    tolerance = TOLERANCE.get(name, 1e-9)
    np.testing.assert_allclose(ours, channels_last(GOLDEN[f"out/{case}"]), atol=tolerance)


def test_parallel_weights_follow_the_paper_where_the_implementation_departs(x64):
    parameters = PARAMETERS["frequency_decoupled_1"]
    given, null = channels_last(GOLDEN["cond"])[0], channels_last(GOLDEN["uncond"])[0]
    ours = guided(CASES["frequency_decoupled"](parameters), given, null)
    published = channels_last(GOLDEN["out/frequency_decoupled_1"])[0]
    assert np.abs(ours - published).max() > 0.1
    # The difference is exactly what the two forms differ by: the removed parallel part, once.
    removed = []
    weights = parameters["parallel_weights_high_to_low"]
    for push, main, eta in zip(pyramid(given - null, 2), pyramid(given, 2), weights, strict=True):
        removed.append((1 - eta) * inner(push, main) / inner(main, main) * main)
    np.testing.assert_allclose(ours - published, assemble(removed), atol=1e-9)


def test_apg_without_its_parts_is_cfg(x64):
    given, null = pair()
    for norm_off in (0.0, np.inf):
        rule = guidance.apg(4.0, eta=1.0, norm=norm_off, momentum=0.0)
        np.testing.assert_allclose(
            guided(rule, given, null), guided(guidance.cfg(4.0), given, null), atol=1e-12
        )


def test_apg_with_eta_zero_leaves_nothing_along_the_prediction(x64):
    given, null = pair()
    push = guided(guidance.apg(4.0, eta=0.0, norm=0.0, momentum=0.0), given, null) - given
    np.testing.assert_allclose(inner(push, given), 0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_apg_never_pushes_further_than_its_bound(eta, x64):
    given, null = pair()
    rule = guidance.apg(3.0, eta=eta, norm=1.7, momentum=-0.5)
    assert (norm(guided(rule, given, null) - given) <= 2 * 1.7 + 1e-9).all()


def test_momentum_of_a_constant_push_converges_to_a_geometric_sum(x64):
    given, null = pair()
    rule = guidance.apg(2.0, eta=1.0, norm=0.0, momentum=-0.75)
    outputs = trajectory(rule, [given] * 120, [null] * 120)
    np.testing.assert_allclose(outputs[-1] - given, (given - null) / 1.75, atol=1e-9)


def test_rescaling_gives_the_spread_of_the_conditional_prediction(x64):
    given, null = pair()
    full = guided(guidance.cfg_rescale(5.0, phi=1.0), given, null)
    np.testing.assert_allclose(full.std(axis=(1, 2, 3)), given.std(axis=(1, 2, 3)), rtol=1e-12)
    none = guided(guidance.cfg_rescale(5.0, phi=0.0), given, null)
    np.testing.assert_allclose(none, guided(guidance.cfg(5.0), given, null), atol=1e-12)


def test_zero_star_is_its_formula(x64):
    given, null = pair()
    coefficient = inner(given, null) / inner(null, null)
    out = guided(guidance.cfg_zero_star(3.0, 0), given, null)
    expected = coefficient * null + 3.0 * (given - coefficient * null)
    np.testing.assert_allclose(out, expected, atol=1e-9)


def test_zero_star_ignores_the_length_of_a_parallel_unconditional_velocity(x64):
    given, _ = pair()
    x, sigma = pair(1)[0], 0.7
    velocity = (x - (1 + sigma) * given) / sigma
    null = (x - sigma * 0.3 * velocity) / (1 + sigma)
    out = guided(guidance.cfg_zero_star(6.0, 0), given, null, x=x, sigma=sigma)
    np.testing.assert_allclose(out, given, atol=1e-6)


def test_zero_star_holds_a_flow_still_for_its_first_steps(x64):
    given, null = pair()
    x, state = pair(1)[0], None
    rule = guidance.cfg_zero_star(3.0, zero_init_steps=2)
    moved = []
    for sigma, after in ((4.0, 3.0), (3.0, 2.0), (2.0, 1.0)):
        one, state = guidance.combine(
            rule, {"given": given, "null": null}, x=x, sigma=sigma, state=state
        )
        stepped = one.denoised + after / sigma * (x - one.denoised)
        # The flow's own state is x / (1 + sigma).
        moved.append(float(np.abs(stepped / (1 + after) - x / (1 + sigma)).max()))
        x = stepped
    assert moved[0] < 1e-12 and moved[1] < 1e-12 and moved[2] > 0.01


def test_tangential_damping_agrees_with_a_singular_value_decomposition(x64):
    given, null = pair()
    x, sigma = pair(1)[0], 0.7
    out = guided(guidance.tcfg(3.0), given, null, x=x, sigma=sigma)
    for i in range(len(given)):
        rows = np.stack([np.ravel((x - d)[i]) / sigma for d in (given, null)])
        direction = np.linalg.svd(rows, full_matrices=False)[2][0]
        kept = rows[1] @ direction * direction
        noise = kept + 3.0 * (rows[0] - kept)
        np.testing.assert_allclose(np.ravel(x[i]) - sigma * noise, np.ravel(out[i]), atol=1e-10)


def test_tangential_damping_of_parallel_scores_is_cfg(x64):
    given, _ = pair()
    for factor in (0.4, 2.0, -0.5):
        np.testing.assert_allclose(
            guided(guidance.tcfg(3.0), given, factor * given),
            guided(guidance.cfg(3.0), given, factor * given),
            atol=1e-10,
        )


def test_magnitude_awareness_damps_long_pushes_by_the_formula(x64):
    given, null = pair()
    out = guided(guidance.magnitude_aware(10.0, alpha=0.5), given, null)
    weight = 1 + 9 * np.exp(-0.5 * norm(given - null) / norm(null))
    np.testing.assert_allclose(out, null + weight * (given - null), atol=1e-12)
    plain = guided(guidance.magnitude_aware(10.0, alpha=0.0), given, null)
    np.testing.assert_allclose(plain, guided(guidance.cfg(10.0), given, null), atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (28, 28), (5, 12), (3, 2)])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_a_pyramid_reassembles_exactly_at_any_size(size, levels, x64):
    x, _ = pair(shape=(2, *size, 3))
    bands = pyramid(x, levels)
    assert len(bands) == levels
    np.testing.assert_allclose(assemble(bands), x, atol=1e-12)


def test_equal_scales_in_every_band_are_cfg(x64):
    given, null = pair(shape=(2, 9, 14, 3))
    rule = guidance.frequency_decoupled((4.0, 4.0, 4.0))
    np.testing.assert_allclose(
        guided(rule, given, null), guided(guidance.cfg(4.0), given, null), atol=1e-10
    )


def test_a_constant_push_is_moved_by_the_lowest_band_alone(x64):
    given, _ = pair(shape=(2, 8, 8, 3))
    out = guided(guidance.frequency_decoupled((50.0, 3.0)), given, given - 0.1)
    np.testing.assert_allclose(out, given + 2 * 0.1, atol=1e-10)


def test_channels_beyond_the_chosen_ones_keep_the_conditional_prediction(x64):
    given, null = pair()
    rule = guidance.Push(
        guidance.chain(guidance.scale(4.0), guidance.channels(2)),
        guidance.Branch(condition="null"),
    )
    out = guided(rule, given, null)
    np.testing.assert_array_equal(out[..., 2], given[..., 2])
    plain = guided(guidance.cfg(4.0), given, null)
    np.testing.assert_array_equal(out[..., :2], plain[..., :2])


def test_a_chain_in_a_chain_is_the_flat_chain(x64):
    given, null = pair()
    parts = guidance.momentum(-0.5), guidance.clip_norm(2.0), guidance.project(0.0)
    flat = guidance.chain(*parts, guidance.scale(3.0))
    nested = guidance.chain(guidance.chain(*parts[:2]), parts[2], guidance.scale(3.0))
    reference = guidance.null()
    given, null = [given, null, given], [null, given, null]
    np.testing.assert_array_equal(
        *(trajectory(guidance.Push(chain, reference), given, null) for chain in (flat, nested))
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guidance.apg(float("nan")), "apg: scale"),
        (lambda: guidance.apg(2.0, norm=-1.0), "must not be negative"),
        (lambda: guidance.cfg_rescale(2.0, phi=float("inf")), "phi"),
        (lambda: guidance.cfg_zero_star(2.0, zero_init_steps=-1), "0 or more"),
        (lambda: guidance.frequency_decoupled(()), "one parallel weight a scale"),
        (lambda: guidance.frequency_decoupled((2.0, 3.0), (1.0,)), "one parallel weight a scale"),
        (lambda: guidance.channels(0), "at least 1"),
        (lambda: guidance.chain(guidance.scale(2.0), 3.0), "takes a transform"),
    ],
)
def test_numbers_that_make_no_rule_are_refused(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_frequencies_of_points_are_refused():
    points = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="must be images"):
        guided(guidance.frequency_decoupled(), points, points)
