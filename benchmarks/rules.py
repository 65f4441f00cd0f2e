"""What guidance costs beside the network: each transform of the push against plain CFG.

    python benchmarks/rules.py [--pairs=15] [--out=benchmarks/rules.json]

DiT-S/2 on 32x32x4 latents, float32. In every pair, plain CFG and the rule run in turn, in an order
that alternates, and their ratio is kept: what disturbs the machine for longer than a pair disturbs
both. Reported are the median ratio and the quartiles.
"""

import datetime
import json
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from guidestar import guidance, samplers
from guidestar.models.denoiser import Denoiser, initialise
from guidestar.models.dit import DiT
from guidestar.models.macs import macs
from guidestar.models.preconditioning import EDM

PAIRS = flags.DEFINE_integer("pairs", 15, "paired runs a rule", lower_bound=3)
BATCH = flags.DEFINE_integer("batch", 2, "samples a batch", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 3, "Euler steps a run", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "JSON file for the results")

SHAPE, CLASSES, SCALE = (32, 32, 4), 1000, 3.0


def transforms() -> dict[str, guidance.Rule]:
    """Return plain CFG's push through each transform, at settings where it does its work."""
    return {
        "momentum, clip_norm, project (apg)": guidance.apg(SCALE),
        "std_rescale": guidance.cfg_rescale(SCALE),
        "cfg_zero_star": guidance.cfg_zero_star(SCALE),
        "tcfg": guidance.tcfg(SCALE),
        "frequency_decoupled, 2 bands": guidance.frequency_decoupled((4.0, 2.0)),
        "frequency_decoupled, 4 bands, weights": guidance.frequency_decoupled(
            (4.0, 3.0, 2.0, 2.0), (0.5, 0.5, 1.0, 1.0)
        ),
        "magnitude_aware": guidance.magnitude_aware(SCALE),
        "channels": guidance.push(
            guidance.null(), guidance.scale(SCALE), guidance.channels(3)
        ),
        "scheduled": guidance.push(guidance.null(), guidance.scheduled(SCALE, "cosine")),
        "energy_preserving": guidance.push(
            guidance.null(), guidance.scale(SCALE), guidance.energy_preserving()
        ),
        "higs": guidance.higs(guidance.cfg(SCALE)),
        "dynamic_threshold": guidance.dynamic_threshold(guidance.cfg(SCALE)),
        "cads": guidance.cads(guidance.cfg(SCALE)),
    }


def network() -> Denoiser:
    """Return a DiT-S/2 of random weights, its blocks scanned."""
    structure, params = initialise(
        lambda rngs: DiT.from_name("S/2", scan_layers=True, learn_variance=False, rngs=rngs),
        jax.random.key(0),
        num_classes=CLASSES,
        shape=SHAPE,
    )
    return Denoiser(params, structure, EDM(0.5, noise_scale=250.0))


def runner(denoiser, rule, sigmas):
    """Return a function that samples once and waits for the result."""
    noise = jax.random.normal(jax.random.key(1), (BATCH.value, *SHAPE))
    labels = jnp.arange(BATCH.value) % CLASSES

    def run():
        out = samplers.sample(
            denoiser, rule, samplers.euler(), sigmas, noise, labels, jax.random.key(2)
        )
        return jax.block_until_ready(out)

    return run


def paired(first, second, pairs: int) -> np.ndarray:
    """Return ``time(second) / time(first)`` of each pair of runs, compilation excluded."""
    first(), second()
    ratios = []
    for pair in range(pairs):
        seconds = {}
        for run in (first, second) if pair % 2 else (second, first):
            started = time.perf_counter()
            run()
            seconds[run] = time.perf_counter() - started
        ratios.append(seconds[second] / seconds[first])
    return np.array(ratios)


def summary(ratios: np.ndarray) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def main(_):
    """Run every comparison and print one line each."""
    denoiser, sigmas = network(), samplers.karras(STEPS.value)
    plain = runner(denoiser, guidance.cfg(SCALE), sigmas)
    results = {}
    for name, rule in transforms().items():
        results[name] = summary(paired(plain, runner(denoiser, rule, sigmas), PAIRS.value))
        row = results[name]
        print(
            f"{name:40s} {row['median']:.4f} of CFG's time ({row['low']:.4f} to {row['high']:.4f})",
            flush=True,
        )

    # An interval over half of the evaluations: CFG there, one evaluation elsewhere.
    grid = samplers.karras(6)
    inside = guidance.between(guidance.cfg(SCALE), float(grid[4]), float(grid[1]))
    counts = samplers.plan(samplers.euler(), grid, inside).totals["main"]
    full = samplers.plan(samplers.euler(), grid, guidance.cfg(SCALE)).totals["main"]
    ratios = paired(
        runner(denoiser, guidance.cfg(SCALE), grid), runner(denoiser, inside, grid), PAIRS.value
    )
    interval = summary(ratios)
    interval |= {"counted": counts / full, "share_of_saving": float(
        (1 - interval["median"]) / (1 - counts / full)
    )}
    print(
        f"interval: {counts} of {full} evaluations, {interval['median']:.4f} of CFG's time, "
        f"{interval['share_of_saving']:.1%} of the saving that the count predicts"
    )

    # A row of scales as one program, against one run for each.
    scales = jnp.array([1.5, 3.0, 6.0])
    tiny = samplers.karras(2)

    def one(scale):
        return runner_of(denoiser, guidance.cfg(scale), tiny)

    def row():
        return jax.block_until_ready(vmapped(scales))

    def each():
        return [jax.block_until_ready(one(float(scale))) for scale in scales]

    vmapped = jax.jit(jax.vmap(one))
    sweep = summary(paired(each, row, max(3, PAIRS.value // 3)))
    print(f"three scales as one vmapped program: {sweep['median']:.3f} of three runs' time")
    if OUT.value:
        record = {
            "command": f"python benchmarks/rules.py --pairs={PAIRS.value}",
            "date": datetime.date.today().isoformat(),
            "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
            "jax": jax.__version__,
            "network": f"DiT-S/2, {macs(denoiser) / 1e9:.2f} G multiply-adds, batch {BATCH.value}",
            "transforms": results,
            "interval": interval,
            "vmapped_scales": sweep,
        }
        with open(OUT.value, "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")


def runner_of(denoiser, rule, sigmas):
    """Sample once, inside another transformation."""
    noise = jax.random.normal(jax.random.key(1), (1, *SHAPE))
    return samplers.sample(
        denoiser, rule, samplers.euler(), sigmas, noise, jnp.zeros(1, jnp.int32), jax.random.key(2)
    )


if __name__ == "__main__":
    app.run(main)
