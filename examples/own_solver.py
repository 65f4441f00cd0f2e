"""A solver of one's own, registered and named in a config: Euler's steps with some fresh noise.

python examples/own_solver.py
"""

import dataclasses

import jax

from guidestar import guidance, register, samplers
from guidestar.samplers.solvers.solver import Memoryless


@register("solver", name="noisy")
@dataclasses.dataclass(frozen=True)
class Noisy(Memoryless):
    """Down to ``(1 - share) sigma'``, and up again by noise."""

    share: float
    order = 1

    def step(self, denoise, x, interval, state, key):
        """Return the next x, the guided prediction, and the state."""
        guided, down = denoise(x, interval.start), interval.end * (1 - self.share)
        x = guided.denoised + down / interval.start * (x - guided.denoised)
        noise = samplers.unit_noise(key, x.shape[1:])
        return x + (interval.end**2 - down**2) ** 0.5 * noise, guided, state


def main() -> jax.Array:
    """Return samples of data of mean 1 and standard deviation 0.5."""
    solver, schedule = {"name": "noisy", "share": 0.1}, {"name": "karras", "steps": 40}
    solver, sigmas, _ = samplers.from_config({"solver": solver, "schedule": schedule})
    exact = jax.tree_util.Partial(lambda x, sigma, condition: 1 + (x - 1) / (1 + 4 * sigma**2))
    noise, rule = jax.random.normal(jax.random.key(0), (64, 4, 4, 1)), guidance.unguided()
    return samplers.sample(exact, rule, solver, sigmas, noise, None, jax.random.key(1))


if __name__ == "__main__":
    print(f"mean {main().mean():.3f}, standard deviation {main().std():.3f}")
