"""The network of the inception distance: the ports of TensorFlow's graph of 2015-12-05 to torch.

``pt_inception-2015-12-05-6726825d.pth`` (mseitzer/pytorch-fid) and torch-fidelity's file of the
same arrays have torchvision's names, with 1008 classes and no auxiliary classifier.
"""

from typing import Any

from ...classifiers.inception import BLOCKS
from ..readers import WeightSource
from .layout import Entry, as_is, conv, linear

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
# Published names of the branches, by how many layers each has.
COARSE = ("branch1x1", "branch5x5_", "branch3x3dbl_", "branch_pool")
FACTORED = ("branch1x1", "branch7x7_", "branch7x7dbl_", "branch_pool")
WIDEST = ("branch1x1", "branch3x3_", "branch3x3dbl_", "branch_pool")
BRANCHES = (
    *[COARSE] * 3,
    ("branch3x3", "branch3x3dbl_"),
    *[FACTORED] * 4,
    ("branch3x3_", "branch7x7x3_"),
    *[WIDEST] * 2,
)
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
TELLTALE = "Mixed_7c.branch3x3dbl_3b.conv.weight"
PUBLISHED = "Conv2d_1a_3x3.conv.weight"
WIDTH = 32


def keys() -> dict[str, Entry | None]:
    """Return the place of every published array."""
    places = {name: f"stem/{number}" for number, name in enumerate(STEM)}
    for block, (name, layout, branches) in enumerate(zip(MIXED, BLOCKS, BRANCHES, strict=True)):
        for number, (branch, layers) in enumerate(zip(branches, layout.branches, strict=True)):
            for layer in range(len(layers)):
                theirs = f"Mixed_{name}.{branch}{_number(branch, layer, len(layers), layout.forks)}"
                places[theirs] = f"blocks/{block}/branches/{number}/{layer}"
    table: dict[str, Entry | None] = {}
    for theirs, ours in places.items():
        table[f"{theirs}.conv.weight"] = Entry(f"{ours}/kernel", conv)
        table |= {
            f"{theirs}.bn.{name}": Entry(f"{ours}/{own}", as_is) for name, own in NORM.items()
        }
        table[f"{theirs}.bn.num_batches_tracked"] = None
    table["fc.weight"] = Entry("head/kernel", linear)
    table["fc.bias"] = Entry("head/bias", as_is)
    return table


def _number(branch: str, layer: int, layers: int, forks: bool) -> str:
    """Return what a layer's name ends with: nothing, its number, or that of two side by side."""
    if not branch.endswith("_"):
        return ""
    if forks and layer >= layers - 2:
        return f"{layers - 1}{'ab'[layer - layers + 2]}"
    return str(layer + 1)


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the network in a file; None where it is another.

    One with an auxiliary classifier is torchvision's own, whose pooling and weights are others: it
    has arrays without a place here.
    """
    if TELLTALE not in weights.tensors:
        return None
    fields: dict[str, Any] = {"num_classes": weights.tensors["fc.bias"].shape[0]}
    if (narrow := WIDTH // weights.tensors[PUBLISHED].shape[0]) != 1:
        fields["narrow"] = narrow
    return fields
