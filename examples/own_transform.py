"""A transform of one's own: no value of the push is longer than a bound, the others stay.

python examples/own_transform.py
"""

import dataclasses

import jax
import jax.numpy as jnp

from guidestar import guidance, register


@register("transform", name="clip_values")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClipValues:
    bound: float

    def init(self, x):
        return ()  # a transform may carry a state, as momentum does

    def apply(self, push, context, state):
        return jnp.clip(push, -self.bound, self.bound), state


def main() -> guidance.Rule:
    """Return a push from the null condition through the transform, as a config names it."""
    transforms = {"name": "clip_values", "bound": 0.5}, {"name": "scale", "scale": 3.0}
    reference = {"name": "null"}
    return guidance.from_config({"name": "push", "reference": reference, "push": transforms})


if __name__ == "__main__":
    print(guidance.describe(main()))
