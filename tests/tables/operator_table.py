"""Every operator on a shape it measures: the table that their properties are tested over."""

import numpy as np

from guidestar.guidance import operators

_RANDOM = np.random.default_rng(0)
IMAGE, COLOUR, SERIES = (6, 8, 1), (4, 6, 3), (7, 2)
# Not symmetric, with frequencies that it loses.
KERNEL = np.array([[0.5, 0.25, 0.0], [0.1, 0.4, -0.2]])


def half(shape):
    """Return a mask of about half the values."""
    return (_RANDOM.uniform(size=shape) < 0.5).astype(float)


def low_rank(rows, columns, rank):
    """Return a random matrix of a rank."""
    return _RANDOM.normal(size=(rows, rank)) @ _RANDOM.normal(size=(rank, columns))


# name -> operator, shape of a sample, what another shape is refused with
OPERATORS = {
    "mask": (operators.mask(half((6, 8))), IMAGE, "guidance.mask: mask of shape"),
    "mask of channels": (operators.mask(half(COLOUR)), COLOUR, "guidance.mask: mask of shape"),
    "mask of rows": (operators.mask(half((6, 1))), IMAGE, "guidance.mask: mask of shape"),
    "average_pool": (operators.average_pool(2), COLOUR, "guidance.average_pool: "),
    "gray": (operators.gray(), COLOUR, "guidance.gray: 3 weights"),
    "blur": (operators.blur(KERNEL), IMAGE, "guidance.blur: "),
    # A mean over two columns and two rows has zeros at the highest frequencies.
    "blur, lossy": (operators.blur(np.ones((2, 2)) / 4), IMAGE, "guidance.blur: "),
    "blur, gaussian": (
        operators.blur(operators.gaussian_kernel(1.0, 5), 0.05),
        IMAGE,
        "guidance.blur: ",
    ),
    "fourier_mask": (operators.fourier_mask(half((6, 8))), IMAGE, "guidance.fourier_mask: "),
    "fourier_mask of rows": (
        operators.fourier_mask(np.array([[1.0], [1], [0], [0]])),
        COLOUR,
        "guidance.fourier_mask: ",
    ),
    "observe": (operators.observe((0, 1, 4), 7), SERIES, "guidance.observe: observes series of 7"),
    "matrix": (operators.matrix(low_rank(5, 14, 4), shape=SERIES), SERIES, "guidance.matrix: "),
    "matrix of channels": (
        operators.matrix(low_rank(2, 3, 2), axis=-1),
        COLOUR,
        "guidance.matrix: 3 columns",
    ),
    "matrix of rows": (operators.matrix(low_rank(5, 4, 2), axis=0), COLOUR, "guidance.matrix: 4 c"),
    "compose, flat": (
        operators.compose((operators.gray(), operators.average_pool(2)), COLOUR),
        COLOUR,
        "guidance.compose: was made for",
    ),
    "compose, dense": (
        operators.compose((operators.mask(half((4, 6))), operators.average_pool(2)), COLOUR),
        COLOUR,
        "guidance.compose: was made for",
    ),
}
