"""Statistics of a denoiser, from which DPM-Solver-v3 takes its linear parts (arXiv 2310.13268)."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline, PPoly  # type: ignore[import-untyped]

from ...core.files import home, write_arrays
from ..checks import span

PREDICTIONS = {"data": (1.0, 0.0), "noise": (0.0, -1.0)}


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """A denoiser's statistics on a grid of ``lambda = -log sigma``, one value an element of x.

    Between the grid's values they are cubic splines.

    Attributes:
        l: of the noise in x: the elements of ``d(sigma eps)/dx`` on its diagonal.
        s, b: slope and intercept of ``df/dlambda`` on f.
        lambdas: the grid, increasing.

    Raises:
        ValueError: arrays of different shapes or lengths, of values that are not finite, or a
            grid that does not increase.
    """

    l: Float[np.ndarray, " grid *shape"]
    s: Float[np.ndarray, " grid *shape"]
    b: Float[np.ndarray, " grid *shape"]
    lambdas: Float[np.ndarray, " grid"]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            array = np.array(getattr(self, field.name))
            if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
                raise ValueError(
                    f"samplers.Statistics: {field.name} must be finite floating-point numbers: "
                    f"calibrate again, with a denoiser that is finite at every noise level"
                )
            array.flags.writeable = False
            object.__setattr__(self, field.name, array)
        if self.lambdas.ndim != 1 or len(self.lambdas) < 2 or (np.diff(self.lambdas) <= 0).any():
            raise ValueError(
                "samplers.Statistics: lambdas must be two or more numbers that increase, "
                "-log of noise levels from high to low"
            )
        shapes = [array.shape for array in (self.l, self.s, self.b)]
        if len(set(shapes)) > 1 or shapes[0][:1] != self.lambdas.shape:
            raise ValueError(
                f"samplers.Statistics: l, s and b must have one shape that begins with that of "
                f"lambdas, {self.lambdas.shape}, got {shapes}"
            )

    def __repr__(self) -> str:
        levels = f"{len(self.lambdas)} levels, sigma {self.sigma_min:.4g} to {self.sigma_max:.4g}"
        return f"Statistics(shape={self.shape}, {levels})"

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape; () where every element has the same statistics."""
        return self.l.shape[1:]

    @property
    def sigma_min(self) -> float:
        """The lowest noise level they cover."""
        return float(np.exp(-self.lambdas[-1]))

    @property
    def sigma_max(self) -> float:
        """The highest noise level they cover."""
        return float(np.exp(-self.lambdas[0]))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, replaced as a whole or not at all."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        write_arrays(home(path), arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            ValueError: no such file, or one that does not hold statistics.
        """
        path = home(path)
        remedy = "make one with samplers.calibrate(denoise, rule, ...).save(path)"
        if not path.exists():
            raise ValueError(f"samplers.Statistics: there is no file {path}: {remedy}")
        # Here, so that sampling alone does not need it.
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"samplers.Statistics: {path} is not a readable safetensors file ({error}): "
                f"{remedy}"
            ) from error
        names = {field.name for field in dataclasses.fields(cls)}
        if arrays.keys() != names:
            raise ValueError(
                f"samplers.Statistics: {path} holds {', '.join(sorted(arrays)) or 'nothing'} and "
                f"not {', '.join(sorted(names))}: {remedy}"
            )
        try:
            return cls(**arrays)
        except ValueError as error:
            raise ValueError(f"{error}; the file {path} is damaged: {remedy}") from error

    @functools.cached_property
    def curves(self) -> tuple[PPoly, PPoly, PPoly, PPoly]:
        """Splines of l and of b, and the integrals of those of l and s from the grid's start."""
        l, s, b = (
            CubicSpline(self.lambdas, np.asarray(array, np.float64))
            for array in (self.l, self.s, self.b)
        )
        return l, b, l.antiderivative(), s.antiderivative()


def degenerate(
    shape: tuple[int, ...] = (),
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    intervals: int = 1,
    *,
    prediction: str = "data",
) -> Statistics:
    """Return statistics of no network, with which DPM-Solver-v3 is an older solver.

    Args:
        shape: one sample's shape; () serves samples of any.
        sigma_min, sigma_max: noise levels to cover.
        intervals: of the grid; one is enough for what is constant.
        prediction: ``data`` is ``l = 1, s = b = 0``, DPM-Solver++; ``noise`` is
            ``l = 0, s = -1, b = 0``, DPM-Solver. Both are exact where the prediction, of data or
            noise, is a polynomial in log sigma.

    Raises:
        ValueError: unusable noise levels or intervals, or another prediction.

    Source: Zheng et al., arXiv 2310.13268.
    """
    span("degenerate", intervals, sigma_min, sigma_max)
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"samplers.degenerate: prediction is {' or '.join(PREDICTIONS)}, got {prediction!r}"
        )
    l, s = (np.full((int(intervals) + 1, *shape), value) for value in PREDICTIONS[prediction])
    return Statistics(l, s, np.zeros_like(l), grid(sigma_min, sigma_max, intervals))


def grid(sigma_min: float, sigma_max: float, intervals: int) -> np.ndarray:
    """Return ``intervals + 1`` even steps of ``-log sigma``."""
    return np.linspace(-np.log(sigma_max), -np.log(sigma_min), int(intervals) + 1)
