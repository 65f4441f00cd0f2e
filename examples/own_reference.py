"""A reference of one's own: what the network makes of an image without its fine detail.

python examples/own_reference.py
"""

import dataclasses

import jax

from guidestar import guidance, register


@register("reference", name="coarse")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coarse:
    cell: int = dataclasses.field(metadata={"static": True})  # structure: never traced

    def predictions(self, evaluate, x, sigma, key):
        batch, height, width, channels = x.shape
        rows, columns = height // self.cell, width // self.cell
        cells = x.reshape(batch, rows, self.cell, columns, self.cell, channels)
        coarse = cells.mean((2, 4)).repeat(self.cell, 1).repeat(self.cell, 2)
        (main,), (reference,) = (evaluate((guidance.Branch(),), x=at) for at in (None, coarse))
        return main, reference


def main() -> guidance.Rule:
    """Return APG's parts on the reference, as a config names them."""
    transforms = {"name": "project", "eta": 0.0}, {"name": "scale", "scale": 2.0}
    reference = {"name": "coarse", "cell": 2}
    return guidance.from_config({"name": "push", "reference": reference, "push": transforms})


if __name__ == "__main__":
    print(guidance.describe(main()))
