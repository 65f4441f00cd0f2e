"""A reward of one's own, registered and named in a config: images as bright as possible.

python examples/own_reward.py
"""

import dataclasses

import jax
import jax.numpy as jnp

from guidestar import guidance, register, samplers


@register("reward", name="brightness")
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Brightness:
    """The mean of all values; ``differentiable``, so that rules may climb it, too."""

    differentiable = True

    def __call__(self, x0, condition, key):
        """Return one number a sample."""
        return jnp.mean(x0, axis=tuple(range(1, x0.ndim)))


def main(particles: int = 16) -> jax.Array:
    """Return samples of mean 1, steered: the tilt by exp(16 brightness) adds their variance."""
    solver = {"name": "steer", "reward": {"name": "brightness"}, "scale": 16.0}
    schedule = {"name": "karras", "steps": 40}
    solver, sigmas, _ = samplers.from_config(
        {"solver": solver | {"particles": particles}, "schedule": schedule}
    )
    exact = jax.tree_util.Partial(lambda x, sigma, condition: 1 + (x - 1) / (1 + 4 * sigma**2))
    noise, rule = jax.random.normal(jax.random.key(0), (512, 4, 4, 1)), guidance.unguided()
    return samplers.sample(exact, rule, solver, sigmas, noise, None, jax.random.key(1))


if __name__ == "__main__":
    print(", ".join(f"{count} particles: mean {main(count).mean():.3f}" for count in (1, 16, 128)))
