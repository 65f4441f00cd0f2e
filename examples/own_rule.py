"""A rule of one's own: guidance that treats an image and its mirror image alike.

python examples/own_rule.py
"""

import dataclasses

import jax

from guidestar import guidance, register


@register("rule", name="mirrored")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mirrored:
    scale: float  # a leaf: another scale runs in the same program

    def init(self, x):
        return ()  # the state before the first step

    def apply(self, evaluate, x, sigma, state, key):
        branches = guidance.Branch(), guidance.Branch(condition=guidance.NULL)
        pairs = zip(evaluate(branches), evaluate(branches, x=x[:, :, ::-1]), strict=True)
        given, null = ((one + turned[:, :, ::-1]) / 2 for one, turned in pairs)
        return guidance.Guided(null + self.scale * (given - null)), state

    def at(self, sigma):
        return self  # the same at every noise level


def main() -> guidance.Rule:
    """Return the rule inside an interval, as a config names it."""
    rule = {"name": "mirrored", "scale": 2.0}
    return guidance.from_config({"name": "between", "rule": rule, "low": 0.1, "high": 5.0})


if __name__ == "__main__":
    print(guidance.describe(main()))
