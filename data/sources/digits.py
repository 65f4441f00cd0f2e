"""Handwritten digits of 8x8 pixels that scikit-learn carries: no download, no preparation.

Source: the test part of UCI's "Optical Recognition of Handwritten Digits", 1797 images.
"""

import numpy as np

from ...core.errors import UserError
from ..source import Source

SPLITS = ("train", "test")


def load(split: str = "train") -> Source:
    """Return 80 % of the images (train) or the other 20 % (test), the same ones every time.

    Every fifth image of each class is a test image, so both parts hold every digit equally often.

    Args:
        split: "train" (1442 images) or "test" (355).

    Raises:
        UserError: another split.
    """
    if split not in SPLITS:
        raise UserError(f"digits has no split {split!r}: choose one of {', '.join(SPLITS)}")
    from sklearn.datasets import load_digits  # a second of imports only this set needs

    digits = load_digits()
    # Stored values are 0 to 16.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    rank = np.cumsum(labels[:, None] == np.arange(10), axis=0)[np.arange(len(labels)), labels]
    chosen = (rank % 5 == 0) == (split == "test")
    return Source(
        name="digits",
        shape=images.shape[1:],
        num_classes=10,
        images=images[chosen],
        labels=labels[chosen],
    )
