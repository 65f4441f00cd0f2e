"""Solver, noise levels and prior of a scheduler's config as the diffusers library writes it.

Its schedulers work in the coordinates of a variance-preserving process or of a flow; in
``x = x0 + sigma * noise`` each is one of the solvers here on a grid of its own. Grids follow
diffusers 0.42, float32 tables included up to rounding.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..core.errors import UserError
from ..core.files import home
from ..core.noise_levels import flow_time
from .checks import positive, whole
from .config import Sampler
from .priors import Prior, gaussian, variance_preserving
from .solvers.ancestral import ancestral
from .solvers.deis import deis
from .solvers.dpm_solver import dpm_2, dpm_solver
from .solvers.dpmpp import dpmpp
from .solvers.dpmpp_sde import dpmpp_2m_sde
from .solvers.euler import euler
from .solvers.heun import heun
from .solvers.lms import lms
from .solvers.pndm import pndm
from .solvers.solver import Solver
from .solvers.unipc import unipc

FILE = "scheduler_config.json"
# Schedules of fewer steps end in lower orders, where `lower_order_final` says so.
FEW_STEPS = 15
# What schedulers have in common, where one does not say it.
DEFAULTS: dict[str, Any] = dict(
    num_train_timesteps=1000,
    beta_start=0.0001,
    beta_end=0.02,
    beta_schedule="linear",
    trained_betas=None,
    timestep_spacing="linspace",
    steps_offset=0,
    solver_order=2,
    lower_order_final=True,
    final_sigmas_type="zero",
    shift=1.0,
    flow_shift=1.0,
    set_alpha_to_one=True,
)
LATENT_BETAS = dict(beta_start=0.00085, beta_end=0.012)
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "HeunDiscreteScheduler": LATENT_BETAS,
    "KDPM2DiscreteScheduler": LATENT_BETAS,
    "DDIMScheduler": dict(timestep_spacing="leading", clip_sample=True),
    "PNDMScheduler": dict(timestep_spacing="leading", set_alpha_to_one=False, skip_prk_steps=False),
}
# What changes predictions or adds noise of its own, and is nothing that a solver here does.
REFUSED = {
    "thresholding": "wrap the rule in guidance.dynamic_threshold and set it to false",
    "clip_sample": "wrap the rule in guidance.static_threshold and set it to false",
    "rescale_betas_zero_snr": "the first noise level is infinite: sample from a finite one",
    "invert_sigmas": "turn the network's time round (models.wrap) and set it to false",
    "stochastic_sampling": "use samplers.ancestral",
    "use_lu_lambdas": "use samplers.log_snr for the schedule",
    "use_beta_sigmas": "use samplers.explicit for the schedule",
}


def like_diffusers(
    scheduler: Mapping[str, Any] | str | os.PathLike,
    steps: int,
    *,
    mu: float | None = None,
    sigma_max: float = 999.0,
) -> Sampler:
    """Return the solver, noise levels and prior that a diffusers scheduler stands for.

    ``solver, sigmas, prior = samplers.like_diffusers("model/scheduler", steps=30)`` go to
    `samplers.sample`. Euler, Euler ancestral, Heun, DPM-2, LMS, DDIM, PNDM (PLMS),
    DPM-Solver(++) multistep and its SDE form of order 2, DEIS, UniPC, and flow matching by Euler.
    (Flow matching by Heun takes its mean in the flow's time, which is another method than `heun`
    in sigma.)

    Args:
        scheduler: a scheduler's config, as a mapping, the path of its JSON file, or of the folder
            with ``scheduler_config.json``. The prediction type is the network's matter.
        steps: ``num_inference_steps``.
        mu: of schedulers with ``use_dynamic_shifting``, the shift that a pipeline computes from
            the image's size.
        sigma_max: of flows, the noise level that time 1 stands for, which has none: 999 is time
            0.999.

    Raises:
        UserError: no such file, a scheduler that is not known, an option that no solver here
            stands for, or fewer steps than the order.
    """
    options = _read(scheduler)
    whole("like_diffusers", steps=steps)
    positive("like_diffusers", sigma_max=sigma_max)
    name = str(options.get("_class_name", ""))
    if name not in SCHEDULERS:
        raise UserError(
            f"samplers.like_diffusers: the scheduler {name!r} is not one of {', '.join(SCHEDULERS)}"
        )
    options = DEFAULTS | OWN_DEFAULTS.get(name, {}) | options
    if options.get("interpolation_type", "linear") != "linear":
        raise UserError(
            f"samplers.like_diffusers: {name} with interpolation_type "
            f"{options['interpolation_type']!r} asks the network at other levels than it steps "
            f"through: set it to linear"
        )
    for field, remedy in REFUSED.items():
        if options.get(field):
            raise UserError(
                f"samplers.like_diffusers: {name} with {field} is not had here: {remedy}"
            )
    solver, sigmas, prior = SCHEDULERS[name](options, int(steps), mu, float(sigma_max))
    return Sampler(solver, _decreasing(name, sigmas), prior)


def _read(scheduler: Mapping[str, Any] | str | os.PathLike) -> dict[str, Any]:
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    path = home(scheduler)
    path = path / FILE if path.is_dir() else path
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"samplers.like_diffusers: {path} is not readable as JSON ({error}): give a "
            f"scheduler's {FILE}, its folder, or a dictionary"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"samplers.like_diffusers: {path} holds no scheduler's config")
    return found


def _decreasing(name: str, sigmas: np.ndarray) -> Float[np.ndarray, " levels"]:
    if len(sigmas) < 2 or not np.isfinite(sigmas).all() or (np.diff(sigmas) >= 0).any():
        raise UserError(
            f"samplers.like_diffusers: the noise levels of {name} with these options and so many "
            f"steps do not decrease: ask for fewer steps"
        )
    return sigmas


def _table(options: Mapping[str, Any]) -> Float[np.ndarray, " steps"]:
    """Return the noise level of every training step, increasing."""
    count, betas = options["num_train_timesteps"], options["beta_schedule"]
    if options["trained_betas"] is not None:
        each = np.asarray(options["trained_betas"], np.float64)
    elif betas in ("linear", "scaled_linear"):
        power = 2 if betas == "scaled_linear" else 1
        first, last = (options[name] ** (1 / power) for name in ("beta_start", "beta_end"))
        each = np.linspace(first, last, count) ** power
    elif betas == "squaredcos_cap_v2":
        # Nichol and Dhariwal, arXiv 2102.09672, eq. 17.
        places = np.arange(count + 1) / count
        alpha_bar = np.cos((places + 0.008) / 1.008 * math.pi / 2) ** 2
        each = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    else:
        raise UserError(
            f"samplers.like_diffusers: beta_schedule {betas!r} is not one of linear, "
            f"scaled_linear, squaredcos_cap_v2"
        )
    return np.sqrt(np.expm1(-np.cumsum(np.log1p(-each))))


def _spaced(options: Mapping[str, Any], steps: int, *, beyond: bool) -> np.ndarray:
    """Return the training steps of a grid, from high to low.

    Args:
        options: of the scheduler.
        steps: how many.
        beyond: whether the grid is that of one step more, without its lowest.
    """
    count, spacing = options["num_train_timesteps"], options["timestep_spacing"]
    if spacing == "trailing":
        return np.round(count - np.arange(steps) * (count / steps)) - 1
    wanted = steps + beyond
    if spacing == "linspace":
        grid = np.linspace(0, count - 1, wanted)
        grid = grid.round() if beyond else grid
    elif spacing == "leading":
        grid = np.arange(wanted) * (count // wanted) + options["steps_offset"]
    else:
        raise UserError(
            f"samplers.like_diffusers: timestep_spacing {spacing!r} is not one of linspace, "
            f"leading, trailing"
        )
    return grid[::-1][: steps if beyond else None]


def _levels(table: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    return np.interp(timesteps, np.arange(len(table)), table)


def _respaced(options: Mapping[str, Any], high: float, low: float, steps: int) -> np.ndarray | None:
    """Return the grid that replaces the timesteps' own; None where none does."""
    low = options.get("sigma_min") or low
    high = options.get("sigma_max") or high
    if options.get("use_karras_sigmas"):
        return np.linspace(high ** (1 / 7), low ** (1 / 7), steps) ** 7
    if options.get("use_exponential_sigmas"):
        return np.exp(np.linspace(math.log(high), math.log(low), steps))
    return None


def _end(options: Mapping[str, Any], lowest: float) -> float:
    if options["final_sigmas_type"] == "zero":
        return 0.0
    if options["final_sigmas_type"] == "sigma_min":
        return lowest
    raise UserError(
        f"samplers.like_diffusers: final_sigmas_type {options['final_sigmas_type']!r} is not zero "
        f"or sigma_min"
    )


def _sigma_space(solver: Callable[[Mapping[str, Any]], Solver], *, ends: bool = False) -> Callable:
    """Return the reader of a scheduler that works in sigma: Euler's, Heun's, LMS."""

    def read(options, steps, mu, sigma_max):
        del mu, sigma_max
        table = _table(options)
        levels = _levels(table, _spaced(options, steps, beyond=False))
        again = _respaced(options, levels[0], levels[-1], steps)
        levels = levels if again is None else again
        end = _end(options, table[0]) if ends else 0.0
        leading = options["timestep_spacing"] == "leading"
        prior: Prior = variance_preserving() if leading else gaussian()
        return solver(options), _ended(levels, end), prior

    return read


def _ended(levels: np.ndarray, end: float) -> np.ndarray:
    """Return levels with their end; a last step between equal levels changes nothing."""
    return levels if math.isclose(end, levels[-1], rel_tol=1e-9) else np.append(levels, end)


def _log_space(
    solver: Callable[[Mapping[str, Any], bool, float], Solver], end: str | None = None
) -> Callable:
    """Return the reader of a scheduler that works in log-SNR: DPM-Solver, DEIS, UniPC.

    Args:
        solver: from the options, whether the last steps are of lower orders, and the last level.
        end: where the grid ends, if the options do not say.
    """

    def read(options, steps, mu, sigma_max):
        options = options if end is None else options | {"final_sigmas_type": end}
        if options.get("use_flow_sigmas"):
            levels, prior = _flow_grid(options, steps, mu, sigma_max), gaussian()
            lowest = float(levels[-1])
        else:
            table, prior = _table(options), variance_preserving()
            levels = _levels(table, _spaced(options, steps, beyond=True))
            again = _respaced(options, table[-1], table[0], steps)
            lowest = float(table[0])
            levels = levels if again is None else again
        last = _end(options, lowest)
        sigmas = _ended(levels, last)
        lower = bool(options["lower_order_final"]) and steps < FEW_STEPS
        if lower and len(sigmas) <= steps:
            # The scheduler spends its last step, of order 1, on nothing.
            if options["solver_order"] > 2:
                raise UserError(
                    f"samplers.like_diffusers: {options['_class_name']} of order 3 with so few "
                    f"steps ends in a step of no length: take solver_order 2"
                )
            lower = False
        return solver(options, lower, last), sigmas, prior

    return read


def _flow_grid(options: Mapping[str, Any], steps: int, mu, sigma_max: float) -> np.ndarray:
    """Return the noise levels of a solver in log-SNR on a flow's times."""
    times = np.linspace(1, 1 / options["num_train_timesteps"], steps + 1)
    if options["_class_name"] == "UniPCMultistepScheduler":
        times = _stretched(_shifted(options, times[:-1], mu, options["flow_shift"]), options)
    else:
        times = _shifted(options, (1 - times)[::-1], mu, options["flow_shift"])[:-1]
    return _flow_levels(times, sigma_max)


def _shifted(options: Mapping[str, Any], times: np.ndarray, mu, shift: float) -> np.ndarray:
    """Return times of a flow, shifted; Esser et al., arXiv 2403.03206, eq. 23."""
    if options.get("use_dynamic_shifting"):
        if mu is None:
            raise UserError(
                "samplers.like_diffusers: the scheduler shifts by the image's size "
                "(use_dynamic_shifting): give mu, which its pipeline computes"
            )
        shift = float(mu) if options.get("time_shift_type") == "linear" else math.exp(mu)
    return shift * times / (1 + (shift - 1) * times)


def _stretched(times: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Return times that end at ``shift_terminal``."""
    terminal = options.get("shift_terminal")
    if not terminal:
        return times
    return 1 - (1 - times) * (1 - terminal) / (1 - times[-1])


def _flow_levels(times: np.ndarray, sigma_max: float) -> np.ndarray:
    times = np.minimum(times, flow_time(sigma_max))
    return times / (1 - times)


def _flow_matching(options, steps, mu, sigma_max) -> tuple[Solver, np.ndarray, Prior]:
    """Read a scheduler of flow matching, whose grid is shifted twice.

    The ends of the grid are taken from the table of training times, which is shifted already.
    """
    count, shift = options["num_train_timesteps"], options["shift"]
    ends = np.array([1.0, 1 / count])
    if not options.get("use_dynamic_shifting"):
        ends = _shifted(options, ends, mu, shift)
    grid = np.linspace(ends[0], ends[1], steps)
    times = _stretched(_shifted(options, grid, mu, shift), options)
    again = _respaced(options, times[0], times[-1], steps)
    levels = _flow_levels(times if again is None else again, sigma_max)
    return euler(), np.append(levels, 0.0), gaussian()


def _ddim(solver: Callable[[Mapping[str, Any]], Solver]) -> Callable:
    """Return the reader of a scheduler whose steps go down by equal numbers of training steps."""

    def read(options, steps, mu, sigma_max):
        del mu, sigma_max
        table, count = _table(options), options["num_train_timesteps"]
        timesteps = _spaced(options, steps, beyond=False).round().astype(int)
        # What a step leads to is found by the stride, not in the grid.
        reached = timesteps - count // steps
        if (reached[:-1] != timesteps[1:]).any():
            raise UserError(
                f"samplers.like_diffusers: {options['_class_name']} with {steps} steps of spacing "
                f"{options['timestep_spacing']} leads to other levels than it asks the network at: "
                f"choose a number of steps that divides {count}, or the spacing leading"
            )
        end = 0.0 if options["set_alpha_to_one"] else table[0]
        levels = table[np.minimum(timesteps, count - 1)]
        last = table[reached[-1]] if reached[-1] >= 0 else end
        return solver(options), _ended(levels, last), variance_preserving()

    return read


def _plms(options: Mapping[str, Any]) -> Solver:
    if not options["skip_prk_steps"]:
        raise UserError(
            "samplers.like_diffusers: PNDMScheduler without skip_prk_steps takes Runge-Kutta steps "
            "halfway in its own time: set skip_prk_steps to true, or use samplers.pndm()"
        )
    return pndm(warm_up="heun")


def _dpm_solver(options: Mapping[str, Any], lower: bool, last: float) -> Solver:
    order, kind = options["solver_order"], options.get("algorithm_type", "dpmsolver++")
    slopes = {"midpoint": "midpoint", "heun": "taylor"}
    slope = slopes.get(options.get("solver_type", "midpoint"), "midpoint")
    if options.get("euler_at_final") and not lower and last > 0 and order > 1:
        if order > 2:
            raise UserError(
                "samplers.like_diffusers: euler_at_final without lower_order_final, of order 3, is "
                "not had here: take solver_order 2, or final_sigmas_type zero"
            )
        lower = True
    if order == 1 and kind in ("dpmsolver", "dpmsolver++"):
        return euler()
    if kind == "dpmsolver++":
        as_published = order == 3
        return dpmpp(order, slope=slope, lower_order_final=lower, as_published=as_published)
    if kind == "dpmsolver" and (order == 2 or slope == "midpoint"):
        as_published = order == 3 or slope == "midpoint"
        return dpm_solver(
            order, singlestep=False, as_published=as_published, lower_order_final=lower
        )
    if kind == "sde-dpmsolver++" and order == 2 and (last == 0 or not lower):
        return dpmpp_2m_sde(slope=slope)
    raise UserError(
        f"samplers.like_diffusers: DPMSolverMultistepScheduler with algorithm_type {kind}, "
        f"solver_order {order}, solver_type {options.get('solver_type', 'midpoint')} and "
        f"final_sigmas_type {options['final_sigmas_type']} is not had here: take dpmsolver++, or "
        f"sde-dpmsolver++ of order 2 with final_sigmas_type zero"
    )


def _unipc(options: Mapping[str, Any], lower: bool, last: float) -> Solver:
    del lower
    if not options.get("predict_x0", True):
        raise UserError("samplers.like_diffusers: UniPC with predict_x0 false is not had here")
    # A first step is corrected by no scheduler.
    off = [step for step in options.get("disable_corrector") or [] if step > 0]
    if off:
        raise UserError(
            f"samplers.like_diffusers: UniPC with disable_corrector {off} is not had here: leave "
            f"it empty"
        )
    variant = options.get("solver_type", "bh2")
    if variant == "bh1" and options["solver_order"] == 2 and last == 0:
        # diffusers itself returns NaN there.
        raise UserError(
            "samplers.like_diffusers: UniPC of solver_type bh1 has no step to sigma 0: set "
            "final_sigmas_type to sigma_min, or solver_type to bh2"
        )
    return unipc(
        options["solver_order"],
        variant if variant in ("bh1", "bh2") else "bh2",
        lower_order_final=bool(options["lower_order_final"]),
    )


def _deis(options: Mapping[str, Any], lower: bool, last: float) -> Solver:
    del last
    order = options["solver_order"]
    return euler() if order == 1 else deis(order, "logrho", lower_order_final=lower)


SCHEDULERS: dict[str, Callable] = {
    "EulerDiscreteScheduler": _sigma_space(lambda options: euler(), ends=True),
    "EulerAncestralDiscreteScheduler": _sigma_space(lambda options: ancestral()),
    "HeunDiscreteScheduler": _sigma_space(lambda options: heun()),
    "KDPM2DiscreteScheduler": _sigma_space(lambda options: dpm_2()),
    "LMSDiscreteScheduler": _sigma_space(lambda options: lms(lower_order_final=False)),
    "DDIMScheduler": _ddim(lambda options: euler()),
    "PNDMScheduler": _ddim(_plms),
    "DPMSolverMultistepScheduler": _log_space(_dpm_solver),
    "DEISMultistepScheduler": _log_space(_deis, end="sigma_min"),
    "UniPCMultistepScheduler": _log_space(_unipc),
    "FlowMatchEulerDiscreteScheduler": _flow_matching,
}
