#!/usr/bin/env bash
# diffusers 0.42.1: UniPCMultistepScheduler(solver_type="bh1"), everything else as it is by default,
# ends every run in NaN: its last step goes to sigma 0 (final_sigmas_type "zero"), where the step in
# log-SNR is infinite, and `bh1` multiplies by that length. `bh2`, and `bh1` with
# final_sigmas_type="sigma_min", are finite.
# Source: the output below.
# Seen: bh1 zero: nan; bh2 zero: finite; bh1 sigma_min: finite
source "$(dirname "$0")/common.sh"
python_with torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$python" - <<'PY'
import torch
from diffusers import UniPCMultistepScheduler

found = {}
for kind, end in (("bh1", "zero"), ("bh2", "zero"), ("bh1", "sigma_min")):
    scheduler = UniPCMultistepScheduler(solver_type=kind, final_sigmas_type=end)
    scheduler.set_timesteps(8)
    x = torch.ones(1, 1, 2, 2)
    for t in scheduler.timesteps:
        x = scheduler.step(0.5 * x, t, x).prev_sample
    found[kind, end] = "finite" if bool(torch.isfinite(x).all()) else "nan"
    print(f"{kind} {end}: {found[kind, end]}")
assert list(found.values()) == ["nan", "finite", "finite"], "no longer as described"
PY
