"""A data set of one's own: checkerboards, each with the phase and period that it was drawn from.

PYTHONPATH=examples python main.py --config=configs/digits.py --workdir=out/boards \
        --config.imports=own_data --config.data.name=boards --config.model.num_classes=2
"""

import numpy as np

from guidestar import input_pipeline, register
from guidestar.core.errors import UserError
from guidestar.data.source import Source


@register("source")
def boards(split: str = "train", size: int = 8, count: int = 1000) -> Source:
    """Return boards whose fields are 1 (class 0) or 2 pixels wide (class 1)."""
    if split not in ("train", "test"):
        raise UserError(f"boards has no split {split!r}: choose train or test")
    random = np.random.default_rng(split == "test")
    label, phase = random.integers(0, 2, (2, count)).astype(np.int32)
    row, column = np.mgrid[:size, :size]
    width = 1 + label[:, None, None]
    board = (row // width + column // width + phase[:, None, None]) % 2
    return Source("boards", (size, size, 1), 2, x=np.uint8(255 * board[..., None]), condition=label)


def main():
    """Return the first batch and the name of what it is from."""
    source = input_pipeline.load_source("boards", "test", size=4)
    pipeline = input_pipeline.Pipeline(source, 16, seed=0)
    batch = next(pipeline)
    pipeline.close()
    return source, batch


if __name__ == "__main__":
    print(*main())
