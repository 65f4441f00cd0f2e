"""A schedule of one's own, registered and named in a config: noise levels that halve.

python examples/own_schedule.py
"""

import jax
import numpy as np

from guidestar import guidance, register, samplers


@register("schedule")
def halving(steps: int, sigma_max: float = 80.0) -> np.ndarray:
    """Return ``sigma_max / 2^i`` for every step, and the 0 at the end; float64 on the host."""
    return np.append(sigma_max / 2.0 ** np.arange(steps), 0.0)


def main() -> jax.Array:
    """Return 64 samples of Gaussian data, of mean 1 and standard deviation 0.5."""
    solver = {"name": "dpmpp", "order": 2}
    sampler = samplers.from_config({"solver": solver, "schedule": {"name": "halving", "steps": 14}})
    noise = jax.random.normal(jax.random.key(0), (64, 4, 4, 1))
    exact = jax.tree_util.Partial(lambda x, sigma, condition: 1 + (x - 1) / (1 + 4 * sigma**2))
    run = exact, guidance.unguided(), sampler.solver, sampler.sigmas, noise, None
    return samplers.sample(*run, jax.random.key(1))


if __name__ == "__main__":
    print(samplers.plan(samplers.dpmpp(), halving(14), guidance.unguided()))
    print(f"mean {main().mean():.3f}, standard deviation {main().std():.3f}")
