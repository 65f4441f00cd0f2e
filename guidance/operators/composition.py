"""Several operators, one after another."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ...core.pytrees import pytree, static
from ...core.registry import register
from .dense import Matrix, decomposed
from .operator import Flat, Linear, Operator

# Entries of a sample up to which a composition without structure is written out as a matrix.
DENSE_ENTRIES = 4096
# Of probes, relative: what float32 leaves of an identity that holds.
TOLERANCE = 1e-4
PROBES = 3


class _InOrder:
    """Operators one after another, of samples of one shape."""

    operators: tuple[Operator, ...]
    shape: tuple[int, ...]

    def observed(self, shape):
        return _observed(self.operators, self.shape, shape)

    def forward(self, x):
        self.observed(x.shape[1:])
        return _forward(self.operators, x)

    def adjoint(self, u):
        return _adjoint(self.operators, u)


@pytree
class FlatComposition(_InOrder, Flat):
    """Operators in order, whose product has one singular value beside 0."""

    operators: tuple[Operator, ...]
    value: float
    shape: tuple[int, ...] = static()

    def singular(self):
        return self.value


@pytree
class DenseComposition(_InOrder, Linear):
    """Operators in order, with the decomposition of their product written out as a matrix."""

    operators: tuple[Operator, ...]
    product: Matrix
    shape: tuple[int, ...] = static()
    measured: tuple[int, ...] = static()

    def pinv(self, u):
        return self.product.pinv(u.reshape(u.shape[0], math.prod(self.measured)))

    def filtered(self, x, gain):
        return self.product.filtered(x, gain)


def _observed(
    operators: tuple[Operator, ...], wanted: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    if tuple(shape) != wanted:
        raise ValueError(
            f"guidance.compose: was made for samples of shape {wanted}, got {tuple(shape)}"
        )
    for operator in operators:
        shape = operator.observed(shape)
    return tuple(shape)


def _forward(operators: tuple[Operator, ...], x):
    for operator in operators:
        x = operator.forward(x)
    return x


def _adjoint(operators: tuple[Operator, ...], u):
    for operator in reversed(operators):
        u = operator.adjoint(u)
    return u


@register("operator")
def compose(
    operators: tuple[Operator, ...], shape: tuple[int, ...]
) -> FlatComposition | DenseComposition:
    """Return operators one after another, with the exact pseudo-inverse of their product.

    ``(A B)^+`` is not ``B^+ A^+`` in general. Where ``A A^T A = c^2 A`` holds for the product, as
    for pooling of gray values, its pseudo-inverse is ``A^T / c^2`` at any size; that is found out
    on random samples. Any other product is decomposed as a matrix, in float64 on the host.

    Args:
        operators: the first is applied first.
        shape: of one sample.

    Raises:
        ValueError: none, shapes that do not fit, or a product without structure on samples of
            more than 4096 entries.
    """
    several = tuple(operators)
    if not several:
        raise ValueError("guidance.compose: operators is empty: give at least one")
    whole = tuple(int(one) for one in shape)
    measured = _observed(several, whole, whole)
    if (value := _one_singular_value(several, whole)) is not None:
        return FlatComposition(several, value, whole)
    entries = math.prod(whole)
    if entries > DENSE_ENTRIES:
        raise ValueError(
            f"guidance.compose: the product of these operators has singular values of its own, "
            f"and samples of shape {whole} have more than {DENSE_ENTRIES} entries to decompose "
            f"it: measure by one of the operators alone"
        )
    unit = np.eye(entries, dtype=np.float32).reshape(entries, *whole)
    columns = np.asarray(_forward(several, jnp.asarray(unit)), np.float64)
    found = columns.reshape(entries, -1).T
    # Entries that float32 rounded are no rank of their own.
    found = np.where(np.abs(found) > 1e-7 * np.abs(found).max(), found, 0)
    left, values, right = decomposed(found)
    kept = values > 1e-6 * values[0]
    product = Matrix(left[:, kept], values[kept], right[:, kept], None, whole)
    return DenseComposition(several, product, whole, measured)


def _one_singular_value(operators: tuple[Operator, ...], shape: tuple[int, ...]) -> float | None:
    """Return c where ``A A^T A = c^2 A``, as it is on random samples; None where it is not."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(PROBES, *shape)), jnp.float32)
    try:
        once = np.asarray(_forward(operators, x), np.float64)
        again = np.asarray(_forward(operators, _adjoint(operators, _forward(operators, x))))
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "guidance.compose: operators must hold known numbers: their product is decomposed on "
            "the host"
        ) from error
    norm = np.sum(once**2)
    if norm == 0:
        raise ValueError("guidance.compose: the product of the operators is 0: nothing is left")
    square = float(np.sum(once * again) / norm)
    error = np.abs(again - square * once).max()
    return math.sqrt(square) if error <= TOLERANCE * np.abs(again).max() else None
