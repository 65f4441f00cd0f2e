"""What guidance costs beside the network: each transform of the push against plain CFG.

    python benchmarks/rules.py --out=benchmarks/rules.json

DiT-S/2 on 32x32x4 latents, float32. In every pair, plain CFG and the rule run in turn, in an order
that alternates, and their ratio is kept: what disturbs the machine for longer than a pair disturbs
both. Reported are the median ratio and the quartiles.
"""

import datetime
import json
import os
import pathlib

import jax
import jax.numpy as jnp
from absl import app, flags
from networks import CLASSES, LATENTS, dit_s2
from pairs import paired, summary

from guidestar import guidance, samplers
from guidestar.core.macs import macs

PAIRS = flags.DEFINE_integer("pairs", 21, "paired runs a rule", lower_bound=3)
STEPS = flags.DEFINE_integer("steps", 2, "Euler steps a run", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "JSON file for the results")

SCALE = 3.0


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
        "channels": guidance.push(guidance.null(), guidance.scale(SCALE), guidance.channels(3)),
        "scheduled": guidance.push(guidance.null(), guidance.scheduled(SCALE, "cosine")),
        "energy_preserving": guidance.push(
            guidance.null(), guidance.scale(SCALE), guidance.energy_preserving()
        ),
        "higs": guidance.higs(guidance.cfg(SCALE)),
        "dynamic_threshold": guidance.dynamic_threshold(guidance.cfg(SCALE)),
        "cads": guidance.cads(guidance.cfg(SCALE)),
    }


def runner(denoiser, rule, sigmas, batch: int):
    """Return a function that samples once and waits for the result."""
    return lambda: jax.block_until_ready(sampled(denoiser, rule, sigmas, batch))


def sampled(denoiser, rule, sigmas, batch: int):
    """Sample once; also inside another transformation."""
    noise = jax.random.normal(jax.random.key(1), (batch, *LATENTS))
    labels = jnp.arange(batch) % CLASSES
    return samplers.sample(
        denoiser, rule, samplers.euler(), sigmas, noise, labels, jax.random.key(2)
    )


def transforms_against_cfg(denoiser) -> dict:
    """Measure every transform at batch 1, where what it adds weighs most."""
    sigmas = samplers.karras(STEPS.value)
    plain, results = runner(denoiser, guidance.cfg(SCALE), sigmas, 1), {}
    for name, rule in transforms().items():
        row = results[name] = summary(paired(plain, runner(denoiser, rule, sigmas, 1), PAIRS.value))
        spread = f"({row['low']:.4f} to {row['high']:.4f})"
        print(f"{name:40s} {row['median']:.4f} of CFG's time {spread}", flush=True)
    return {"batch": 1, "pairs": PAIRS.value, "steps": STEPS.value, "ratios": results}


def interval_against_count(denoiser) -> dict:
    """Measure what an interval saves, at a batch where time goes with the count of evaluations."""
    batch, pairs, sigmas = 4, max(3, PAIRS.value // 3), samplers.karras(6)
    everywhere = guidance.cfg(SCALE)
    inside = guidance.between(everywhere, float(sigmas[4]), float(sigmas[1]))
    counts, full = (
        samplers.plan(samplers.euler(), sigmas, rule).totals["main"]
        for rule in (inside, everywhere)
    )
    runs = (runner(denoiser, rule, sigmas, batch) for rule in (everywhere, inside))
    row = summary(paired(*runs, pairs))
    share = (1 - row["median"]) / (1 - counts / full)
    print(
        f"interval: {counts} of {full} evaluations, {row['median']:.4f} of CFG's time, "
        f"{share:.1%} of the saving that the count predicts"
    )
    counted = {"evaluations": counts, "without": full, "share_of_saving": share}
    return {"batch": batch, "pairs": pairs, **row, **counted}


def scales_as_one_program(denoiser) -> dict:
    """Measure a row of scales under `jax.vmap` against one run for each."""
    scales, sigmas = jnp.array([1.5, 3.0, 6.0]), samplers.karras(2)

    def one(scale):
        return sampled(denoiser, guidance.cfg(scale), sigmas, 1)

    row = jax.jit(jax.vmap(one))
    result = summary(
        paired(
            lambda: [jax.block_until_ready(one(float(scale))) for scale in scales],
            lambda: jax.block_until_ready(row(scales)),
            max(3, PAIRS.value // 3),
        )
    )
    print(f"three scales as one vmapped program: {result['median']:.3f} of three runs' time")
    return result


SECTIONS = {
    "transforms": transforms_against_cfg,
    "interval": interval_against_count,
    "vmapped_scales": scales_as_one_program,
}
ONLY = flags.DEFINE_multi_enum("only", list(SECTIONS), list(SECTIONS), "what to measure")


def main(_):
    """Run the comparisons, print them, and write or update the results file."""
    denoiser = dit_s2()
    path = pathlib.Path(OUT.value) if OUT.value else None
    record = json.loads(path.read_text()) if path and path.exists() else {}
    record |= {
        "command": "python benchmarks/rules.py --out=benchmarks/rules.json",
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "network": f"DiT-S/2, {macs(denoiser) / 1e9:.2f} G multiply-adds an evaluation",
    }
    for name in ONLY.value:
        record[name] = SECTIONS[name](denoiser)
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
