"""Schedulers of the diffusers library: the same noise levels, the same samples, and refusals."""

import json

import jax
import numpy as np
import pytest
from places import GOLDEN

from guidestar import guidance, samplers
from guidestar.core.errors import UserError
from guidestar.models.exact.mixture import GaussianMixture

ABOUT = json.loads((GOLDEN / "schedulers.json").read_text())
ARRAYS = np.load(GOLDEN / "schedulers.npz")
# Tables and levels of diffusers are float32: of a cosine table the highest is the less exact.
ROUNDED, COSINE = 3e-5, 5e-4


def name_of(number):
    config = ABOUT["cases"][number]["config"]
    said = [f"{key}={value}" for key, value in config.items() if key[:4] not in ("_cla", "beta")]
    return f"{number} {config['_class_name']} {' '.join(said)}"


CASES = range(len(ABOUT["cases"]))
# From the highest level of a cosine table, float32 keeps too few digits to compare samples.
COSINES = [n for n in CASES if "squaredcos_cap_v2" in ABOUT["cases"][n]["config"].values()]


def sampler_of(number):
    case = ABOUT["cases"][number]
    return samplers.like_diffusers(
        case["config"], case["steps"], mu=ABOUT["mu"], sigma_max=ABOUT["sigma_max"]
    )


@pytest.mark.parametrize("number", CASES, ids=name_of)
def test_noise_levels_are_the_schedulers(number):
    expected = ARRAYS[f"{number}/levels"]
    found = sampler_of(number).sigmas
    if expected[-1] == expected[-2]:
        expected = expected[:-1]  # a step of no length
    np.testing.assert_allclose(
        found, expected, rtol=COSINE if number in COSINES else ROUNDED, atol=1e-7
    )


@pytest.mark.parametrize("number", [n for n in CASES if n not in COSINES], ids=name_of)
def test_samples_are_the_schedulers(number, x64):
    mixture = GaussianMixture(
        np.array([0.3, 0.7]), np.array([[-1.0], [0.8]]), np.array([0.0625, 0.16])[:, None, None]
    )
    solver, sigmas, prior = sampler_of(number)
    config = ABOUT["cases"][number]["config"]
    end = samplers.sample(
        lambda x, sigma, condition: mixture.denoise(x, sigma),
        guidance.unguided(),
        solver,
        sigmas,
        ARRAYS["noise"],
        None,
        samplers.root_key(0),
        prior=prior,
    )
    # A flow's noise is its state at time 1 there, and of the first level here.
    np.testing.assert_allclose(
        end, ARRAYS[f"{number}/end"], atol=2e-3 if config.get("use_flow_sigmas") else 1e-4
    )


def test_ancestral_sampling_and_sdes_are_those_of_their_name():
    """Their noise is another's: the solver is compared, not the sample."""
    found = samplers.like_diffusers({"_class_name": "EulerAncestralDiscreteScheduler"}, 8)
    assert found.solver == samplers.ancestral()
    sde = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}
    assert samplers.like_diffusers(sde, 8).solver == samplers.dpmpp_2m_sde()


def test_a_config_is_read_from_its_file_or_folder(tmp_path):
    config = ABOUT["cases"][0]["config"]
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config | {"_diffusers_version": 1}))
    expected = samplers.like_diffusers(config, 7).sigmas
    for source in (tmp_path, tmp_path / "scheduler_config.json", str(tmp_path)):
        np.testing.assert_array_equal(samplers.like_diffusers(source, 7).sigmas, expected)


DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
FLOW = "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NoScheduler", {}, "'NoScheduler' is not one of EulerDiscreteScheduler"),
        ("DDIMScheduler", {}, "clip_sample"),
        ("PNDMScheduler", {}, "skip_prk_steps"),
        ("DDIMScheduler", dict(clip_sample=False, timestep_spacing="linspace"), "other levels"),
        ("EulerDiscreteScheduler", dict(beta_schedule="exp"), "beta_schedule 'exp'"),
        ("EulerDiscreteScheduler", dict(timestep_spacing="odd"), "timestep_spacing 'odd'"),
        ("EulerDiscreteScheduler", dict(final_sigmas_type="one"), "final_sigmas_type 'one'"),
        ("EulerDiscreteScheduler", dict(interpolation_type="log_linear"), "set it to linear"),
        ("EulerDiscreteScheduler", dict(rescale_betas_zero_snr=True), "infinite"),
        (DPM, dict(thresholding=True), "dynamic_threshold"),
        (DPM, dict(use_lu_lambdas=True), "log_snr"),
        (DPM, dict(algorithm_type="sde-dpmsolver++", solver_order=3), "is not had here"),
        (UNIPC, dict(predict_x0=False), "predict_x0"),
        (UNIPC, dict(disable_corrector=[3]), "disable_corrector"),
        (UNIPC, dict(solver_type="bh1"), "bh2"),
        ("DEISMultistepScheduler", dict(solver_order=3, use_karras_sigmas=True), "no length"),
        (FLOW, dict(use_dynamic_shifting=True), "give mu"),
        (FLOW, dict(invert_sigmas=True), "invert_sigmas"),
        (FLOW, dict(stochastic_sampling=True), "ancestral"),
    ],
)
def test_what_no_solver_stands_for_is_refused_by_name(name, options, message):
    with pytest.raises(UserError, match=message):
        samplers.like_diffusers({"_class_name": name, **options}, 10)


@pytest.mark.untyped
@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_that_cannot_be_counted_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        samplers.like_diffusers({"_class_name": "EulerDiscreteScheduler"}, steps)


def test_a_file_that_is_no_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="not readable as JSON"):
        samplers.like_diffusers(tmp_path, 5)
    (tmp_path / "scheduler_config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no scheduler"):
        samplers.like_diffusers(tmp_path, 5)


def test_published_orders_are_said_by_the_options_of_the_name():
    """The fields of a solver are what its options say, whichever comes first in the class."""
    published = samplers.dpm_solver(2, singlestep=False, as_published=True)
    assert published.as_published and not published.lower_order_final
    lowered = samplers.dpm_solver(2, singlestep=False, lower_order_final=True)
    assert lowered.lower_order_final and not lowered.as_published


def test_log_rho_is_the_multistep_solver_of_noise():
    sigmas = samplers.karras(6, final_zero=False)
    for order in (2, 3):
        one, other = samplers.deis(order, "logrho"), samplers.dpm_solver(order, singlestep=False)
        for a, b in zip(
            jax.tree.leaves(one.tables(sigmas)), jax.tree.leaves(other.tables(sigmas)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
