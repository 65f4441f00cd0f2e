"""Linear measurements ``y = A x0`` with their adjoints and exact pseudo-inverses.

Each is a frozen pytree: ``forward``, ``adjoint``, ``pinv``, ``projected`` (``A^+ A``) and
``filtered``, a function of the singular values in the basis of the right singular vectors.
"""

from .circular import blur, gaussian_kernel
from .colours import gray
from .composition import compose
from .dense import matrix
from .fourier import fourier_mask
from .masking import mask
from .operator import Operator
from .pooling import average_pool
from .series import observe

__all__ = [
    "Operator",
    "average_pool",
    "blur",
    "compose",
    "fourier_mask",
    "gaussian_kernel",
    "gray",
    "mask",
    "matrix",
    "observe",
]
