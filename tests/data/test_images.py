"""Pixels to bytes, and grids of pictures."""

import numpy as np

from guidestar.data.images import grid, to_uint8


def test_grids_lay_images_out_row_by_row():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    canvas = grid(images, columns=3, gap=1)[..., 0]
    assert canvas.tolist() == [[0, 255, 1, 255, 2], [255] * 5, [3, 255, 4, 255, 5]]


def test_pixels_round_to_nearest_and_clip():
    values = np.array([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]
