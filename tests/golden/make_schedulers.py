"""Writes schedulers.npz and schedulers.json: what diffusers' schedulers compute.

    pip install torch diffusers==0.42.1 numpy scipy
    python make_schedulers.py

Every config is run on the exact denoiser of a mixture of two Gaussians on a line, from the same
noise: its levels, and where it ends, in x = x0 + sigma * noise.
"""

import inspect
import json
from pathlib import Path

import diffusers
import numpy as np
import torch

WEIGHTS, MEANS, SPREADS = (0.3, 0.7), (-1.0, 0.8), (0.25, 0.4)
LATENT = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DPM, UNI, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
NOISE = dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min")
FLOW = "FlowMatchEulerDiscreteScheduler"
# (class, steps, options)
CASES = [
    *(("EulerDiscreteScheduler", 10, LATENT | dict(timestep_spacing=one, steps_offset=1))
      for one in ("linspace", "leading", "trailing")),
    ("EulerDiscreteScheduler", 10, LATENT | dict(use_karras_sigmas=True)),
    ("EulerDiscreteScheduler", 10, LATENT | dict(use_exponential_sigmas=True)),
    ("EulerDiscreteScheduler", 10, LATENT | dict(final_sigmas_type="sigma_min")),
    ("HeunDiscreteScheduler", 10, LATENT),
    ("DPMSolverMultistepScheduler", 10, dict(beta_schedule="squaredcos_cap_v2")),
    ("KDPM2DiscreteScheduler", 10, LATENT),
    ("LMSDiscreteScheduler", 10, LATENT),
    ("DDIMScheduler", 10, LATENT | dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1)),
    ("DDIMScheduler", 10, dict(clip_sample=False, timestep_spacing="trailing")),
    ("PNDMScheduler", 10, LATENT | dict(skip_prk_steps=True, steps_offset=1)),
    *((DPM, steps, LATENT | dict(solver_order=order, solver_type=kind))
      for steps in (10, 20)
      for order, kind in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"))),
    *((DPM, 10, LATENT | dict(timestep_spacing=one, steps_offset=1))
      for one in ("leading", "trailing")),
    (DPM, 10, LATENT | dict(use_karras_sigmas=True)),
    (DPM, 10, LATENT | dict(final_sigmas_type="sigma_min")),
    (DPM, 20, LATENT | dict(final_sigmas_type="sigma_min", euler_at_final=True)),
    (DPM, 20, LATENT | dict(final_sigmas_type="sigma_min", lower_order_final=False)),
    (DPM, 10, LATENT | NOISE),
    (DPM, 20, LATENT | NOISE | dict(solver_order=3)),
    (DPM, 10, dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")),
    *((DEIS, steps, LATENT | dict(solver_order=order)) for steps in (10, 20) for order in (2, 3)),
    (DEIS, 10, LATENT | dict(use_karras_sigmas=True)),
    *((UNI, 10, LATENT | dict(solver_order=order, solver_type=kind))
      for order, kind in ((1, "bh2"), (2, "bh2"), (3, "bh2"))),
    (UNI, 10, LATENT | dict(final_sigmas_type="sigma_min", solver_type="bh1")),
    (UNI, 20, LATENT | dict(final_sigmas_type="sigma_min", timestep_spacing="trailing")),
    (FLOW, 10, dict(shift=3.0)),
    (FLOW, 10, dict(shift=1.0)),
    (FLOW, 10, dict(shift=3.0, shift_terminal=0.1)),
    (FLOW, 10, dict(use_dynamic_shifting=True)),
    (FLOW, 10, dict(use_dynamic_shifting=True, time_shift_type="linear")),
]  # fmt: skip
MU, SIGMA_MAX = 0.9, 1e6


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    """Return the exact prediction of x0."""
    logs, means = [], []
    for weight, mean, spread in zip(WEIGHTS, MEANS, SPREADS, strict=True):
        variance = spread**2 + sigma**2
        logs.append(np.log(weight) - ((x - mean) ** 2 / variance + np.log(variance)) / 2)
        means.append(mean + (x - mean) * spread**2 / variance)
    shares = np.exp(np.array(logs) - np.max(logs, axis=0))
    return (shares * np.array(means)).sum(axis=0) / shares.sum(axis=0)


def run(name: str, steps: int, options: dict, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scheduler's noise levels and where it ends, from the same noise for all."""
    scheduler = getattr(diffusers, name)(**options)
    flow = "Flow" in name or options.get("use_flow_sigmas", False)
    dynamic = dict(mu=MU) if options.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(steps, **dynamic)
    in_sigma = name.startswith(("Euler", "Heun", "KDPM2", "LMS"))
    x = torch.tensor(noise) * (1.0 if flow else float(scheduler.init_noise_sigma))
    levels = []
    for i, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "sigmas"):
            place = i if scheduler.step_index is None else scheduler.step_index
            sigma = float(scheduler.sigmas[place])
            if not getattr(scheduler, "state_in_first_order", True):
                between = getattr(scheduler, "sigmas_interpol", None)
                sigma = sigma if between is None else float(between[place])
            sigma = min(sigma / (1 - sigma) if sigma < 1 else np.inf, SIGMA_MAX) if flow else sigma
        else:
            alpha_bar = float(scheduler.alphas_cumprod[int(t)])
            sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
            pass  # halfway: no level of the schedule
        else:
            levels.append(sigma)
        alpha = 1 / (1 + sigma) if flow else 1.0 if in_sigma else 1 / np.sqrt(1 + sigma**2)
        here = x.numpy() / alpha
        clean = denoise(here, sigma)
        direction = (here - clean) / sigma
        kind = scheduler.config.get("prediction_type", "flow_prediction")
        output = direction - clean if flow or kind == "flow_prediction" else direction
        takes = inspect.signature(scheduler.step).parameters
        more = dict(generator=torch.Generator().manual_seed(0)) if "generator" in takes else {}
        x = scheduler.step(torch.tensor(output), t, x, return_dict=False, **more)[0].double()
    if hasattr(scheduler, "sigmas"):
        last = float(scheduler.sigmas[-1])
    else:
        last = float(scheduler.final_alpha_cumprod)
        last = np.sqrt((1 - last) / last)
    alpha = 1.0 if flow or in_sigma else 1 / np.sqrt(1 + last**2)
    # A level that is asked twice in a row is one step of two evaluations.
    kept = [
        level for level, before in zip(levels, [None, *levels], strict=False) if level != before
    ]
    return np.array([*kept, last]), x.numpy() / alpha


def main() -> None:
    """Run every case."""
    noise = np.random.default_rng(0).normal(size=(64, 1))
    arrays, about = {"noise": noise}, []
    for number, (name, steps, options) in enumerate(CASES):
        levels, end = run(name, steps, options, noise)
        arrays |= {f"{number}/levels": levels, f"{number}/end": end}
        about.append({"config": {"_class_name": name, **options}, "steps": steps})
    folder = Path(__file__).parent
    np.savez(folder / "schedulers.npz", **arrays)
    text = json.dumps(
        {"diffusers": diffusers.__version__, "mu": MU, "sigma_max": SIGMA_MAX, "cases": about},
        indent=1,
    )
    (folder / "schedulers.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
