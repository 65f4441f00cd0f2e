"""What solvers of particles and of candidates reach for how much: docs/howto/own_reward.md.

    python benchmarks/steering.py --out=benchmarks/steering.json

``mixture``: .3 N(-1, .25^2) + .7 N(.8, .4^2), the reward x and the inverse temperature 2, 12
ancestral steps. The target is the tilt of what these steps sample without a reward, by 400 000 of
their draws. ``images``: `fashion_mnist_dit_unmirrored` and the log-probability of each label by
`fashion_mnist_classifier`, which is the judge, too, so that it says how well the reward is followed
and not how good images are. Evaluations are per sample and of the network, backward passes apart.
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from guidestar import guidance, models, samplers
from guidestar.core.pytrees import pytree
from guidestar.evaluation import rewards
from guidestar.inference.networks import read_weights
from guidestar.models import exact

OUT = flags.DEFINE_string("out", "", "JSON file for the results")
GROUPS = flags.DEFINE_integer("groups", 4000, "samples or groups of the mixture", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 16, "images of each class; 0 for none", lower_bound=0)

SCALE, LEVELS = 2.0, np.append(np.geomspace(10.0, 0.05, 12), 0.0)
MIXTURE = exact.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [[[0.0625]], [[0.16]]])
PLAIN = guidance.unguided()


@pytree
class Value:
    """The reward that is the value of a sample."""

    differentiable = True

    def __call__(self, x0, condition, key):
        """Return one number a sample."""
        del condition, key
        return x0[:, 0]


@jax.tree_util.Partial
def denoise(x, sigma, condition):
    """Return the exact prediction."""
    del condition
    return MIXTURE.denoise(x, sigma)


def solvers(reward, scale, counts, candidates):
    """Return solvers of a reward by what the table calls them."""
    made = {"without": samplers.ancestral()}
    for count in counts:
        made |= {
            f"steer({count})": samplers.steer(reward, scale, count),
            f"twisted({count})": samplers.twisted(reward, None, scale, count),
            f"das({count})": samplers.das(reward, scale, count),
        }
    for count in candidates:
        made[f"svdd({count})"] = samplers.svdd(reward, scale, count)
    return made | {f"svdd({candidates[0]}), the best": samplers.svdd(reward, None, candidates[0])}


def cost(solver, sigmas, shape):
    """Return what a sample costs."""
    totals = samplers.plan(solver, sigmas, PLAIN, shape).totals
    return {name: totals[name] for name in sorted(totals)}


def mixture():
    """Measure means and standard deviations of samples of the mixture."""

    def ends(solver, count):
        noise = jnp.float32(np.hypot(1, 0.1)) * jax.random.normal(jax.random.key(0), (count, 1))
        key = jax.random.key(1)
        return np.asarray(samplers.sample(denoise, PLAIN, solver, LEVELS, noise, None, key))[:, 0]

    base = ends(samplers.ancestral(), 400_000).astype(np.float64)
    weights = np.exp(SCALE * base) / np.exp(SCALE * base).sum()
    mean = float(weights @ base)
    target = {"mean": mean, "deviation": float(np.sqrt(weights @ (base - mean) ** 2))}
    print(f"{'target':24s} mean {mean:.3f} deviation {target['deviation']:.3f}", flush=True)
    every = solvers(Value(), SCALE, (4, 16, 64), (4, 16))
    rows = {}
    for name, solver in every.items():
        size = getattr(solver, "particles", 1)
        x = ends(solver, size * max(GROUPS.value // size, GROUPS.value // 4)).astype(np.float64)
        error = x.reshape(-1, size).mean(axis=1).std() / np.sqrt(len(x) / size)
        rows[name] = {
            "mean": x.mean(), "error": error, "deviation": x.std(),
            "cost": cost(solver, LEVELS, (1,)),
        }  # fmt: skip
        row = rows[name]
        print(
            f"{name:24s} mean {row['mean']:.3f} +- {error:.3f} deviation {row['deviation']:.3f} "
            f"{row['cost']}",
            flush=True,
        )
    return {"target": target, "rows": rows}


def images():
    """Measure how well the labels of images are followed."""
    denoiser = models.load("fashion_mnist_dit_unmirrored")
    reward = rewards.classifier(read_weights("classifier", "fashion_mnist_classifier").network)
    sigmas = samplers.log_snr(24, 0.02, 80.0)
    labels = jnp.repeat(jnp.arange(10), IMAGES.value)
    noise = jax.random.normal(jax.random.key(0), (len(labels), 28, 28, 1))
    every = {
        "without": samplers.ancestral(),
        "steer(4)": samplers.steer(reward, 1.0, 4, high=3.0),
        "steer(4), scale 4": samplers.steer(reward, 4.0, 4, high=3.0),
        "steer(16)": samplers.steer(reward, 1.0, 16, high=3.0),
        "twisted(4)": samplers.twisted(reward, None, 1.0, 4),
        "das(4)": samplers.das(reward, 1.0, 4),
        "svdd(4)": samplers.svdd(reward, 1.0, 4),
        "svdd(4), the best": samplers.svdd(reward, None, 4),
    }
    rows = {}
    for name, solver in every.items():
        began = time.perf_counter()
        x, kept = samplers.sample(
            denoiser, PLAIN, solver, sigmas, noise, labels, jax.random.key(1), save="info"
        )
        found = np.asarray(reward(x, labels, None))
        named = np.asarray(reward.network(x, jnp.zeros(()))).argmax(axis=1)
        size = getattr(solver, "particles", 1)
        flat = np.asarray(x).reshape(len(labels), -1)
        distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
        same = (np.asarray(labels)[:, None] == np.asarray(labels)) & ~np.eye(
            len(labels), dtype=bool
        )
        rows[name] = {
            "reward": found.mean(),
            "agrees": (named == np.asarray(labels)).mean(),
            "within_class_distance": distances[same].mean(),
            "seconds": time.perf_counter() - began,
            "cost": cost(solver, sigmas, (28, 28, 1)),
        }
        if "distinct" in kept["info"]:
            rows[name]["first_particles_left"] = (
                np.asarray(kept["info"]["distinct"][-1]).mean() / size
            )
        rows[name] = {
            key: value if isinstance(value, dict) else float(value)
            for key, value in rows[name].items()
        }
        print(f"{name:24s} {rows[name]}", flush=True)
    return {"images": len(labels), "rows": rows}


def main(_) -> None:
    """Measure, and store what was found."""
    found = {"mixture": mixture()}
    if IMAGES.value:
        found["images"] = images()
    if OUT.value:
        with open(OUT.value, "w") as file:
            file.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
