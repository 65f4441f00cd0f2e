"""Averages of any width after training, from snapshots of a few widths (arXiv 2312.02696, sec. 3).

A power-function average of relative width std, taken at time t, weighs the weights of time tau in
proportion to ``tau^gamma`` on (0, t]. Any other such profile is nearly a linear combination of
those that were stored, and the average of that profile is the same combination of theirs. Time is
counted in images; any unit gives the same.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...core.errors import UserError
from ...core.files import write_pair
from ...models.checkpoints.files import sidecar_of
from .ema import exponent_of_std
from .weight_sums import WeightSum

# Files of one run in this folder of its workdir, `training.averages.ema_snapshots`.
FOLDER = "ema_snapshots"
# EDM2's batch: its file names say thousands of images, rounded down.
PUBLISHED_BATCH = 2048


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An average as it was stored.

    Attributes:
        path: a weight file, ours or a published one.
        std: relative width of its profile.
        images: images seen when it was taken.
    """

    path: Path
    std: float
    images: float


def inner_products(
    a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]
) -> Float[np.ndarray, "a b"]:
    """Return ``integral p_i(tau) q_j(tau) dtau`` of profiles, float64.

    ``p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)`` on (0, t].

    Args:
        a, b: pairs (std, t).

    Source: arXiv 2312.02696, appendix C.
    """
    gamma_a, gamma_b = (np.array([exponent_of_std(std) for std, _ in one]) for one in (a, b))
    t_a, t_b = (np.array([t for _, t in one], np.float64) for one in (a, b))
    gamma_a, t_a = gamma_a[:, None], t_a[:, None]
    # The one that reaches less far is the one whose ratio of times is below 1.
    log_ratio = np.where(t_a < t_b, gamma_b * np.log(t_a / t_b), gamma_a * np.log(t_b / t_a))
    ends = (gamma_a + gamma_b + 1) * np.maximum(t_a, t_b)
    return (gamma_a + 1) * (gamma_b + 1) * np.exp(log_ratio) / ends


def coefficients(
    stored: Sequence[tuple[float, float]], std: float, images: float
) -> Float[np.ndarray, " stored"]:
    """Return the combination of stored averages that is nearest to one of another width.

    Nearest as a profile, in the mean square; scaled to sum 1. In float64: the equations of 64
    snapshots have condition 1.6e6.

    Args:
        stored: pairs (std, images), all different.
        std, images: of the average wanted.

    Raises:
        UserError: none stored, one of them twice, one after ``images``, or a width that no
            profile has.
    """
    if not stored:
        raise UserError("no snapshot is given: ema.snapshot_images takes them in training")
    if len(set(stored)) < len(stored):
        twice = next(one for one in stored if list(stored).count(one) > 1)
        raise UserError(f"the snapshot of std {twice[0]:g} at {twice[1]:g} images is given twice")
    latest = max(t for _, t in stored)
    if latest > images:
        raise UserError(
            f"snapshots at up to {latest:g} images say nothing of an average at {images:g}: leave "
            f"the later ones out"
        )
    target = [(std, images)]
    found = np.linalg.solve(inner_products(stored, stored), inner_products(stored, target))[:, 0]
    return found / found.sum()


def profile_error(stored: Sequence[tuple[float, float]], std: float, images: float) -> float:
    """Return how far the combined profile is from the wanted one, relative, in the mean square."""
    weights = coefficients(stored, std, images)
    target = [(std, images)]
    own = inner_products(target, target)[0, 0]
    cross = weights @ inner_products(stored, target)[:, 0]
    square = weights @ inner_products(stored, stored) @ weights
    return float(np.sqrt(max(square - 2 * cross + own, 0) / own))


def snapshot_of_name(path: Path, batch_size: int = PUBLISHED_BATCH) -> Snapshot:
    """Read width and images from a published file's name, ``...-0268435-0.100.pkl``.

    Args:
        path: its name ends in thousands of images, rounded down, and the width.
        batch_size: of the run; images are a multiple of it.

    Raises:
        UserError: another kind of name.
    """
    match = re.search(r"-(\d+)-(0\.\d+)\.\w+$", Path(path).name)
    if not match:
        raise UserError(
            f"{path} is not named ...-KIMG-STD.pkl: give std and images of each snapshot instead"
        )
    thousands, std = int(match[1]), float(match[2])
    # The middle of what is rounded to this name.
    batches = round((thousands * 1000 + 500) / batch_size)
    return Snapshot(Path(path), std, batches * batch_size)


def snapshots_below(workdir: Path) -> list[Snapshot]:
    """Return the averages that a run stored, in the order of time.

    Raises:
        UserError: none.
    """
    found = []
    for path in sorted((workdir / FOLDER).glob("*.safetensors")):
        ema = (sidecar_of(path) or {}).get("ema", {})
        if ema.get("std"):
            found.append(Snapshot(path, ema["std"], ema["images"]))
    if not found:
        raise UserError(
            f"{workdir / FOLDER} holds no averages: train with ema.snapshot_images=N and "
            f"ema.tracked=(0.05,0.10)"
        )
    return sorted(found, key=lambda one: (one.images, one.std))


def reconstruct_to(
    path: Path,
    snapshots: Sequence[Snapshot],
    std: float,
    images: float | None = None,
    dtype=np.float16,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the average of width ``std`` as a weight file of this project.

    Args:
        path: the .safetensors file.
        snapshots: of one run, its own (`snapshots_below`) or published ones.
        std: relative width, best between half the smallest stored and twice the largest.
        images: when; at the last snapshot if None. Later snapshots are left out.
        dtype: float16 or float32.
        facts: JSON data for the sidecar, beside what is said of the average.

    Raises:
        UserError: as in `coefficients` and `WeightSum`; or snapshots of different runs.
    """
    images = max((one.images for one in snapshots), default=0) if images is None else images
    used = [one for one in snapshots if one.images <= images]
    stored = [(one.std, one.images) for one in used]
    weights = coefficients(stored, std, images)
    _require_one_run(used)
    files = WeightSum([one.path for one in used])
    origin = {
        "weights": "post-hoc average",
        "ema": {
            "std": std,
            "images": images,
            "profile_error": profile_error(stored, std, images),
            "snapshots": [
                {"file": one.path.name, "std": one.std, "images": one.images, "weight": weight}
                for one, weight in zip(used, weights.tolist(), strict=True)
            ],
        },
    }
    sidecar = files.sidecar | {"name": path.stem} | (facts or {}) | origin
    write_pair(path, files.arrays(weights, dtype), sidecar)
    return path


def _require_one_run(snapshots: Sequence[Snapshot]) -> None:
    configs = [(sidecar_of(one.path) or {}).get("config") for one in snapshots]
    for one, config in zip(snapshots, configs, strict=True):
        if not _agree(config, configs[0]):
            raise UserError(
                f"{snapshots[0].path} and {one.path} are of runs with different configs: an "
                f"average is of one run"
            )


def _agree(one: Any, other: Any) -> bool:
    """Say whether what both say is the same; an earlier version said less, or of data the name."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    return one == other


def std_in_names(std: float) -> str:
    """Return a width as file names have it: three digits after the point, or all that it has."""
    short = f"{std:.3f}"
    return short if float(short) == std else repr(float(std))
