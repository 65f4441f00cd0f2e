#!/usr/bin/env bash
# diffusers 0.42.1: FlowMatchEulerDiscreteScheduler(shift=3.0).set_timesteps(n) shifts its times
# twice at the low end: the ends of the grid are taken from the table of training times, which the
# constructor has shifted already, and the grid is shifted again. The lowest time of 10 steps is
# shift(shift(1/1000)) = 0.0089, where shift(1/1000) = 0.0030 or shift(1/10) = 0.25 would be guessed.
# Source: the output below.
# Seen: lowest time 0.008929, once shifted 0.002994, of a plain grid of 10 steps 0.250000
source "$(dirname "$0")/common.sh"
python_with torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$python" - <<'PY'
from diffusers import FlowMatchEulerDiscreteScheduler


def shifted(t: float) -> float:
    return 3 * t / (1 + 2 * t)


scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
scheduler.set_timesteps(10)
lowest = float(scheduler.sigmas[-2])
print(f"lowest time {lowest:.6f}, once shifted {shifted(1e-3):.6f}, of a plain grid of 10 steps "
      f"{shifted(0.1):.6f}")
assert abs(lowest - shifted(shifted(1e-3))) < 1e-6, "no longer as described"
PY
