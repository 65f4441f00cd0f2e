"""A matrix on flattened samples, or along one of their axes."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import pytree, static
from ...core.registry import register
from .operator import Linear, numbers

# Singular values at most this times the largest, times the size of the matrix, are rounding.
PRECISION = np.finfo(np.float64).eps


@pytree
class Matrix(Linear):
    """A matrix by its singular value decomposition ``A = U S V^T``, singular values above 0.

    Attributes:
        left: U, ``[rows, rank]``.
        values: S, ``[rank]``.
        right: V, ``[columns, rank]``.
        axis: of a sample, along which the matrix acts; None for the flattened sample.
        shape: of the flattened samples, for the way back; empty with an axis.
    """

    left: Float[Array | np.ndarray, "rows rank"]
    values: Float[Array | np.ndarray, " rank"]
    right: Float[Array | np.ndarray, "columns rank"]
    axis: int | None = static()
    shape: tuple[int, ...] = static()

    def observed(self, shape):
        rows, columns = np.shape(self.left)[0], np.shape(self.right)[0]
        if self.axis is None:
            if tuple(shape) != self.shape:
                raise ValueError(
                    f"guidance.matrix: measures samples of shape {self.shape}, got {tuple(shape)}"
                )
            return (rows,)
        if not -len(shape) <= self.axis < len(shape) or shape[self.axis] != columns:
            raise ValueError(
                f"guidance.matrix: {columns} columns for axis {self.axis} of samples of shape "
                f"{tuple(shape)}: give as many as the axis is long"
            )
        axis = self.axis % len(shape)
        return *shape[:axis], rows, *shape[axis + 1 :]

    def forward(self, x):
        self.observed(x.shape[1:])
        return self._apply(x, self.right, self.left, self.values)

    def adjoint(self, u):
        return self._back(self._apply(u, self.left, self.right, self.values))

    def pinv(self, u):
        return self._back(self._apply(u, self.left, self.right, 1 / jnp.asarray(self.values)))

    def filtered(self, x, gain):
        values = jnp.asarray(self.values, x.dtype)
        null = gain(jnp.zeros((), x.dtype))
        inside = self._apply(x, self.right, self.right, gain(values) - null)
        return null * x + inside.reshape(x.shape)

    def _apply(self, x: Array, read: Any, write: Any, factors: Any) -> Array:
        """Return ``write diag(factors) read^T`` of each sample."""
        read, write, factors = (jnp.asarray(one, x.dtype) for one in (read, write, factors))
        if self.axis is None:
            flat = x.reshape(x.shape[0], -1)
            return ((flat @ read) * factors) @ write.T
        moved = jnp.moveaxis(x, self._axis(x), -1)
        return jnp.moveaxis(((moved @ read) * factors) @ write.T, -1, self._axis(x))

    def _axis(self, x: Array) -> int:
        axis = -1 if self.axis is None else self.axis
        return axis if axis < 0 else axis + 1

    def _back(self, x: Array) -> Array:
        return x.reshape(x.shape[0], *self.shape) if self.axis is None else x


@register("operator")
def matrix(matrix: Any, axis: int | None = None, shape: tuple[int, ...] | None = None) -> Matrix:
    """Return a matrix as an operator, decomposed in float64 on the host.

    Args:
        matrix: ``[rows, columns]``.
        axis: of a sample, along which it acts, such as -1 for the channels; None for the sample
            flattened.
        shape: of the samples, where they are flattened and have several axes.

    Raises:
        ValueError: no matrix of numbers, one of zeros, a shape that has another number of
            entries than the matrix has columns, or a shape beside an axis.
    """
    found = numbers("matrix", "matrix", matrix, (2,))
    left, values, right = decomposed(found)
    columns = found.shape[1]
    if axis is not None and shape is not None:
        raise ValueError("guidance.matrix: shape says nothing beside axis: leave it out")
    whole = (columns,) if shape is None else tuple(int(one) for one in shape)
    if math.prod(whole) != columns:
        raise ValueError(
            f"guidance.matrix: samples of shape {whole} have {math.prod(whole)} entries, and the "
            f"matrix {columns} columns"
        )
    if axis is not None:
        return Matrix(left, values, right, int(axis), ())
    return Matrix(left, values, right, None, whole)


def decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U, the singular values above rounding, and V of a matrix.

    Raises:
        ValueError: it is 0, or not known before the program runs.
    """
    try:
        left, values, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    except Exception as error:
        raise ValueError(
            "guidance.matrix: matrix must be known numbers: it is decomposed on the host"
        ) from error
    rank = int(np.sum(values > PRECISION * max(matrix.shape) * values[0]))
    if not rank:
        raise ValueError("guidance.matrix: matrix is 0: nothing is measured")
    return left[:, :rank], values[:rank], right[:rank].T
