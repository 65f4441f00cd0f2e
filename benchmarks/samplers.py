"""What the sampling loop costs beside the network, and what a solver costs to compile.

    python benchmarks/samplers.py --out=benchmarks/samplers.json

Overhead: a whole trajectory with a denoiser that only scales its input, against one evaluation of
DiT-S/2 times the number of steps. Compilation: CFG with each solver on DiT-S/2 whose layers are
scanned, traced, lowered and compiled from empty caches, against Euler's. The two of a pair run in
turn, in an order that alternates; reported are the median ratio and the quartiles. Programs: the
same once each, as what no other work on the machine changes: matrix products of the program as
lowered, instructions of the compiled one, and CPU seconds of this process; with `--large` DDPM++
without guidance.
"""

import datetime
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from networks import CLASSES, LATENTS, ddpmpp, dit_s2
from pairs import paired, summary

from guidestar import guidance, samplers
from guidestar.core.macs import macs
from guidestar.samplers.config import SOLVERS

PAIRS = flags.DEFINE_integer("pairs", 9, "paired runs", lower_bound=3)
SOLVER = flags.DEFINE_multi_string("solver", [], "what to compile; all solvers unless given")
LARGE = flags.DEFINE_bool("large", False, "count the programs of DDPM++")
OUT = flags.DEFINE_string("out", "", "JSON file for the results")

# The overhead's trajectory: steps, and a batch of images.
STEPS, IMAGES = 32, (64, 32, 32, 3)
# What is compiled: long enough for every order.
COMPILED_STEPS = 8
# Solvers that need an argument or another network than the others.
LEFT_OUT = {
    "das": "needs a reward",
    "steer": "needs a reward",
    "svdd": "needs a reward",
    "twisted": "needs a reward",
    "consistency": "needs a consistency function",
    "ctm": "needs a flow map",
    "feynman_kac": "needs a rule with weights",
    "dpm_solver": "its parts are dpm_2 and dpmpp",
    "dpm_solver_v3": "needs statistics",
    "per_step": "needs choices",
    "recur": "takes another's steps",
    "repaint": "needs a measurement",
}


@jax.tree_util.Partial
def halve(x, sigma, condition):
    """Return no network's prediction; a pytree, so that its programs are kept."""
    del sigma, condition
    return 0.5 * x


def overhead(_) -> dict:
    """Measure a trajectory of a trivial denoiser against as many evaluations of DiT-S/2."""
    network = dit_s2(IMAGES[1:])
    noise, labels = jax.random.normal(jax.random.key(0), IMAGES), jnp.zeros(IMAGES[0], jnp.int32)
    evaluate = jax.jit(lambda network, x, labels: network(x, jnp.float32(1.0), labels))
    results = {}
    for name in ("euler", "heun", "dpmpp", "ancestral"):
        solver, sigmas = SOLVERS[name].build(), samplers.karras(STEPS)
        key, rule = jax.random.key(1), guidance.unguided()

        def trajectory(solver=solver, sigmas=sigmas, rule=rule, key=key):
            done = samplers.sample(halve, rule, solver, sigmas, noise, labels, key)
            jax.block_until_ready(done)

        count = samplers.plan(solver, sigmas, rule).totals["main"]
        ratios = paired(
            lambda: jax.block_until_ready(evaluate(network, noise, labels)), trajectory, PAIRS.value
        )
        results[name] = summary(ratios / count) | {"evaluations": count}
        print(f"{name:20s} loop {results[name]['median']:.3%} of its evaluations' time", flush=True)
    return {"steps": STEPS, "batch": IMAGES, "pairs": PAIRS.value, "share_of_network": results}


def compiler(network, solver, rule=guidance.cfg(3.0), shape=LATENTS):  # noqa: B008  (immutable)
    """Return a function that compiles a trajectory from nothing."""
    noise = jnp.zeros((2, *shape))
    labels = jnp.arange(2) % CLASSES if shape == LATENTS else None
    sigmas = samplers.karras(COMPILED_STEPS)

    def run():
        """Return the program as lowered and as compiled."""
        jax.clear_caches()
        whole = jax.jit(
            lambda network, noise, labels, key: samplers.sample(
                network, rule, solver, sigmas, noise, labels, key
            )
        )
        lowered = whole.lower(network, noise, labels, jax.random.key(0))
        return lowered, lowered.compile()

    return run


def compilation(network) -> dict:
    """Measure every solver's compile time against Euler's."""
    results = {}
    for name in SOLVER.value or sorted(set(SOLVERS) - LEFT_OUT.keys()):
        euler, other = (compiler(network, SOLVERS[one].build()) for one in ("euler", name))
        row = results[name] = summary(paired(euler, other, PAIRS.value))
        spread = f"({row['low']:.2f} to {row['high']:.2f})"
        print(f"{name:20s} {row['median']:.2f} of Euler's compile time {spread}", flush=True)
    euler = compiler(network, SOLVERS["euler"].build())
    started = time.perf_counter()
    euler()
    seconds = time.perf_counter() - started
    return {
        "steps": COMPILED_STEPS,
        "pairs": PAIRS.value,
        "euler_seconds": seconds,
        "ratios": results,
        "left_out": LEFT_OUT,
    }


def programs(network) -> dict:
    """Count what is in every solver's program, and the CPU time that it takes to compile."""
    results = {}
    how = (guidance.unguided(), (32, 32, 3)) if LARGE.value else ()
    network = ddpmpp() if LARGE.value else network
    if not LARGE.value:
        compiler(network, SOLVERS["euler"].build())()  # what a process pays once
    for name in SOLVER.value or sorted(set(SOLVERS) - LEFT_OUT.keys()):
        started = time.process_time()
        lowered, compiled = compiler(network, SOLVERS[name].build(), *how)()
        row = results[name] = {
            "cpu_seconds": time.process_time() - started,
            "products": lowered.as_text().count("stablehlo.dot_general"),
            "instructions": compiled.as_text().count(" = "),
        }
        print(name.ljust(20), *(f"{kind} {count:.4g}" for kind, count in row.items()), flush=True)
    return {"steps": COMPILED_STEPS, "counts": results}


SECTIONS = {"overhead": overhead, "compilation": compilation, "programs": programs}
ONLY = flags.DEFINE_multi_enum("only", list(SECTIONS), list(SECTIONS), "what to measure")


def main(_):
    """Run the comparisons, print them, and write or update the results file."""
    network = dit_s2(LATENTS)
    path = pathlib.Path(OUT.value) if OUT.value else None
    record = json.loads(path.read_text()) if path and path.exists() else {}
    record |= {
        "command": "python benchmarks/samplers.py --out=benchmarks/samplers.json",
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "network": f"DiT-S/2, {macs(network) / 1e9:.2f} G multiply-adds an evaluation",
    }
    for name in ONLY.value:
        record[name] = SECTIONS[name](network)
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
