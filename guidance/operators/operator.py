"""The protocol of operators: linear measurements ``y = A x0`` and their exact pseudo-inverses.

All that solvers of inverse problems ask of the singular value decomposition ``A = U S V^T`` is a
function of the singular values in the basis V, the null space included: `Operator.filtered`. With
``A^+ = V S^+ U^T`` it gives the projection ``A^+ A`` (1 where s > 0), the regularised inverse
``A^T (r^2 A A^T + n^2)^-1 u = filtered(A^+ u, s^2 / (r^2 s^2 + n^2))``, and DDRM's steps.
"""

import abc
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.part_types import PART_TYPES, PartType
from ...core.pytrees import ByContent

# What is done in the basis of the right singular vectors: from singular values to factors.
Gain = Callable[[Array], Array]


@runtime_checkable
class Operator(Protocol):
    """A linear map of samples ``[batch, *shape]`` to measurements ``[batch, *observed(shape)]``."""

    def observed(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one sample's measurement.

        Raises:
            ValueError: samples of a shape that the operator is not defined for, by its name.
        """

    def forward(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *observed"]:
        """Return ``A x``."""

    def adjoint(self, u: Float[Array, " batch *observed"]) -> Float[Array, " batch *shape"]:
        """Return ``A^T u``."""

    def pinv(self, u: Float[Array, " batch *observed"]) -> Float[Array, " batch *shape"]:
        """Return ``A^+ u``, the Moore-Penrose pseudo-inverse."""

    def filtered(self, x: Float[Array, " batch *shape"], gain: Gain) -> Float[Array, "..."]:
        """Return ``V gain(s) V^T x``.

        Args:
            x: samples.
            gain: elementwise function of the singular values; 0 stands for the null space.
        """


PART_TYPES[Operator] = PartType(
    "an operator (guidance.operators.mask, ...)",
    lambda value: hasattr(value, "pinv") and not isinstance(value, type),
    kind="operator",
)


class Linear(ByContent, abc.ABC):
    """Base of operators: projection, and the pseudo-inverse of those with one singular value."""

    def projected(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *shape"]:
        """Return ``A^+ A x``, what of a sample the measurement tells."""
        return self.filtered(x, lambda s: jnp.where(s > 0, 1.0, 0.0).astype(x.dtype))

    @abc.abstractmethod
    def filtered(self, x, gain):
        """See `Operator`."""


class Flat(Linear):
    """Base of operators whose singular values are 0 or one number, ``A A^T A = c^2 A``."""

    @abc.abstractmethod
    def singular(self) -> Any:
        """Return the one singular value that is not 0."""

    @abc.abstractmethod
    def forward(self, x):
        """See `Operator`."""

    @abc.abstractmethod
    def adjoint(self, u):
        """See `Operator`."""

    def pinv(self, u):
        """Return ``A^T u / c^2``."""
        return self.adjoint(u) / jnp.asarray(self.singular(), u.dtype) ** 2

    def filtered(self, x, gain):
        """Return the measured part times ``gain(c)`` and the rest times ``gain(0)``."""
        value = jnp.asarray(self.singular(), x.dtype)
        inside = self.pinv(self.forward(x))
        return gain(value) * inside + gain(jnp.zeros_like(value)) * (x - inside)


def numbers(owner: str, name: str, value: Any, axes: tuple[int, ...]) -> Any:
    """Return an array of finite numbers, on the host where it is known.

    Args:
        owner, name: whose argument it is.
        value: an array, or nested lists.
        axes: how many axes it may have.

    Raises:
        ValueError: anything else.
    """
    found: Any
    wanted = " or ".join(map(str, axes))
    if isinstance(value, jax.core.Tracer):
        found = value
    else:
        try:
            found = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            found = None
    if found is None or isinstance(value, str) or found.ndim not in axes or not found.size:
        raise ValueError(
            f"guidance.{owner}: {name} must be an array of numbers with {wanted} axes, got "
            f"{_told(value)}"
        )
    if not isinstance(value, jax.core.Tracer) and not np.all(np.isfinite(found)):
        raise ValueError(f"guidance.{owner}: {name} must be finite numbers")
    return found


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"shape {shape}" if shape is not None else repr(value)[:60]


def require_image(owner: str, shape: tuple[int, ...]) -> None:
    """Refuse samples that are no images ``[height, width, channel]``.

    Raises:
        ValueError: in the name of ``owner``.
    """
    if len(shape) != 3:
        raise ValueError(
            f"guidance.{owner}: measures images [batch, height, width, channel], got samples of "
            f"shape {tuple(shape)}"
        )


def require_broadcast(owner: str, name: str, own: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Refuse an array whose axes are neither 1 nor those of the samples.

    Raises:
        ValueError: in the name of ``owner``.
    """
    fits = len(own) == len(shape) and all(a in (1, b) for a, b in zip(own, shape, strict=True))
    if not fits:
        raise ValueError(
            f"guidance.{owner}: {name} of shape {tuple(own)} does not fit samples of shape "
            f"{tuple(shape)}: give one of that shape, with 1 for axes along which it is the same"
        )
