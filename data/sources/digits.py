"""Handwritten digits of 8x8 pixels that scikit-learn carries: no download, no preparation.

Source: the test part of UCI's "Optical Recognition of Handwritten Digits", 1797 images.
"""

import numpy as np

from ...core.registry import register
from ..source import Source
from ..splits import chosen_rows


@register("source", name="digits")
def load(split: str = "train") -> Source:
    """Return 80 % of the images (train) or the other 20 % (test), the same ones every time.

    Every fifth image of each class is a test image, so both parts hold every digit equally often.

    Args:
        split: "train" (1442 images) or "test" (355), or a part of one, "train[:90%]".

    Raises:
        UserError: another split.
    """
    from sklearn.datasets import load_digits  # a second of imports only this set needs

    digits = load_digits()
    # Stored values are 0 to 16.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    rank = np.cumsum(labels[:, None] == np.arange(10), axis=0)[np.arange(len(labels)), labels]
    tested = rank % 5 == 0
    places = {"train": np.flatnonzero(~tested), "test": np.flatnonzero(tested)}
    base, rows = chosen_rows(split, {name: len(found) for name, found in places.items()}, "digits")
    chosen = places[base][rows.start : rows.stop]
    return Source("digits", images.shape[1:], 10, x=images[chosen], condition=labels[chosen])
