"""Linear combinations of weight files of one network, array by array."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...core.errors import UserError
from ...core.files import Array
from ...models.checkpoints.files import unflatten
from ...models.checkpoints.loading import fit
from ...models.denoiser import Network


class WeightSum:
    """Weight files whose arrays can be added with any coefficients, none kept in memory.

    Args:
        sources: files of one network, ours or published.

    Raises:
        UserError: no file, one that cannot be read, or files of different networks.
    """

    def __init__(self, sources: Sequence[Path]):
        if not sources:
            raise UserError("there is no weight file to combine")
        self._files = [fit(source) for source in sources]
        first = self._files[0]
        for other in self._files[1:]:
            for name in sorted(first.shapes.keys() | other.shapes.keys()):
                here, there = first.shapes.get(name), other.shapes.get(name)
                if here != there:
                    raise UserError(
                        f"{first.path} and {other.path} are not of one network: {name} has shapes "
                        f"{here} and {there}"
                    )

    @property
    def network(self) -> Network:
        """The network they are weights of."""
        return self._files[0].network

    @property
    def sidecar(self) -> dict:
        """What the first file says of itself."""
        return self._files[0].sidecar

    def arrays(self, coefficients: Sequence[float], dtype=np.float32) -> dict[str, Array]:
        """Return the sum's arrays, each computed in float64 when it is read.

        Args:
            coefficients: one a file; any numbers.
            dtype: of the result; reading raises UserError where it does not hold a number.
        """
        kind = np.dtype(dtype)
        return {
            name: Array(shape, kind, lambda name=name: self._sum(name, coefficients, kind))
            for name, shape in self._files[0].shapes.items()
        }

    def params(self, coefficients: Sequence[float]) -> Any:
        """Return the sum as parameters of the network, float32."""
        arrays = self.arrays(coefficients)
        return unflatten((name, jnp.asarray(array.read())) for name, array in arrays.items())

    def _sum(self, name: str, coefficients: Sequence[float], dtype: np.dtype) -> np.ndarray:
        total = np.zeros(self._files[0].shapes[name])
        for file, coefficient in zip(self._files, coefficients, strict=True):
            total += coefficient * file.read(name).astype(np.float64)
        with np.errstate(over="ignore"):  # what overflows is refused below, by name
            result = total.astype(dtype)
        if not np.isfinite(result.astype(np.float32)).all():
            raise UserError(
                f"{name} has values up to {abs(total).max():.3g}, which {dtype} does not hold: "
                f"write float32"
            )
        return result
