"""The restoration verb: measured images to images that a network finds likely; resumable."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import guidance, input_pipeline, samplers
from ..core.errors import UserError
from ..core.files import home, write_json
from ..core.registry import registry
from ..data.images import from_uint8, grid, save_png, to_uint8
from ..guidance import MAIN
from ..inference.job import build_job
from ..inference.networks import read_weights
from ..inference.restoration import Files, Method, Restoration, Simulated, psnr
from ..runtime import distributed
from ..runtime.identity import described
from ..runtime.run_folder import SAMPLES, Folder
from ..runtime.store import Store
from .sample import require_channels, require_counts

# What this mode reads of a config.
READS = (
    "seed",
    "guidance",
    "sampler",
    "restore",
    "data",
    "-data.flip",
    "sampling.weights",
    "sampling.count",
    "sampling.batch_size",
    "sampling.classes",
    "sampling.branches",
    "sampling.format",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=SAMPLES)
SHOWN = 20


def run(config, workdir: Path) -> None:
    """Restore ``config.sampling.count`` measured images into ``workdir``, what is missing of them.

    Args:
        config: an experiment's config. ``guidance`` (or ``sampler.solver``, for RePaint) names a
            rule of measurements without its operator and measurement, which ``restore`` has.
        workdir: gets one image a measurement, ``beside.png`` with what was measured, restored and,
            where it is known, there before, and ``restoration.json`` with signal-to-noise ratios.

    Raises:
        UserError: no rule that takes a measurement, an operator or measurements that do not fit
            the network, a workdir of other images.
    """
    section, sampling = config.restore, config.sampling
    require_counts("sampling", count=sampling.count, batch_size=sampling.batch_size)
    read = read_weights(MAIN, sampling.weights.main)
    shape = tuple(read.network.shape)
    if read.network.latent:
        raise UserError(
            "restore: sampling.weights.main denoises latents, and the measurements are of pixels: "
            "name a network of pixels"
        )
    require_channels(sampling.format, shape[-1])
    operator = _operator(section.operator.to_dict())
    try:
        observed = tuple(operator.observed(shape))
    except ValueError as error:
        raise UserError(f"restore.operator: {error}") from error
    measurements = _measurements(config, operator, shape, observed)
    if sampling.count > len(measurements):
        raise UserError(
            f"sampling.count is {sampling.count}, and there are {len(measurements)} measurements: "
            f"lower it"
        )
    method = _method(config, operator)
    first = method(np.asarray(measurements.read(np.arange(1))))
    weights = {**sampling.weights.to_dict(), MAIN: read}
    job = build_job(
        weights,
        *first,
        seed=config.seed,
        classes=sampling.classes,
        branches=sampling.branches,
    )
    restoration = Restoration(job, method, operator, measurements)
    made_of = job.made_of() | {
        "rule": described(config.guidance.to_dict()),
        "solver": described(config.sampler.solver.to_dict()),
        "operator": described(operator),
        "measurements": measurements.identity(),
    }
    said = {f"weights.{name}": one.place for name, one in job.weights.items()}
    store = Store.claimed(
        workdir, sampling.format, sampling.count, made_of=made_of, said=said, shape=shape
    )
    _fill(config, restoration, store, workdir)


def _fill(config, restoration: Restoration, store: Store, workdir: Path) -> None:
    """Restore what is missing, and show and measure all of it."""
    sampling, job = config.sampling, restoration.job
    todo = store.share()
    size = min(sampling.batch_size, max(len(todo), 1))

    def make(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        # A last, shorter batch is filled up: one shape, one compilation.
        images = restoration.finite_images(np.resize(indices, size))[: len(indices)]
        return to_uint8(images), job.labels(indices)

    evaluations = ", ".join(f"{name} {n}" for name, n in sorted(job.plan().totals.items()))
    distributed.say(
        f"{config.name}: {sampling.count} measured images to {workdir}, {len(todo)} still to "
        f"restore; network evaluations an image: {evaluations}"
    )
    started = time.monotonic()
    with tqdm(total=len(todo), unit="image", dynamic_ncols=True) as bar:
        complete = store.fill(todo, make, sampling.batch_size, lambda count: bar.update(count))
    if todo.size:
        seconds = (time.monotonic() - started) / len(todo)
        distributed.say(f"{seconds:.4f} s an image, compilation included; results in {workdir}")
    if complete and distributed.is_primary():
        _show(sampling.count, restoration, store, workdir)
        numbers = {"evaluations": job.plan().totals, **_measured(sampling, restoration, store)}
        write_json(workdir / "restoration.json", numbers)
        if "psnr" in numbers:
            print(
                f"PSNR of {sampling.count} images: {numbers['psnr']:.2f} dB restored, "
                f"{numbers['psnr_of_pseudo_inverse']:.2f} dB of the pseudo-inverse"
            )


def _show(count: int, restoration: Restoration, store: Store, workdir: Path) -> None:
    """Draw the first images: above what was measured, below restored, then what was there."""
    shown = np.arange(min(SHOWN, count))
    rows = [to_uint8(restoration.inverse(shown)), store.read(shown)]
    if (truth := restoration.measurements.truth(shown)) is not None:
        rows.append(to_uint8(truth))
    save_png(workdir / "beside.png", grid(np.concatenate(rows), columns=len(shown)), magnify=2)


def _measured(sampling, restoration: Restoration, store: Store) -> dict[str, Any]:
    """Return mean signal-to-noise ratios, where what was measured is known."""
    restored, inverse = [], []
    for start in range(0, sampling.count, sampling.batch_size):
        indices = np.arange(start, min(start + sampling.batch_size, sampling.count))
        truth = restoration.measurements.truth(indices)
        if truth is None:
            return {"images": sampling.count}
        restored.append(psnr(from_uint8(store.read(indices)), truth))
        inverse.append(psnr(restoration.inverse(indices), truth))
    return {
        "images": sampling.count,
        "psnr": float(np.concatenate(restored).mean()),
        "psnr_of_pseudo_inverse": float(np.concatenate(inverse).mean()),
    }


def _operator(section: Mapping[str, Any]) -> guidance.operators.Operator:
    """Build the operator that a section names; numbers may be in files.

    Raises:
        UserError: something that is no operator, or files that are not there.
    """
    values = {key: _read("restore.operator", key, value) for key, value in section.items()}
    built = registry("operator").build(values, "restore.operator")
    if not hasattr(built, "pinv"):
        raise UserError(
            f"restore.operator.name {section.get('name')!r} is no operator: name one of "
            f"guidance.operators, such as average_pool or mask"
        )
    return built


def _read(where: str, key: str, value: Any) -> Any:
    """Return an array of a file (.npy; a PNG is 1 where it is bright, or its grays for a blur)."""
    if key == "name" or not isinstance(value, str):
        return value
    path = home(Path(value))
    if not path.is_file():
        raise UserError(f"{where}.{key} {value!r} is no file: give a .npy or .png")
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with Image.open(path) as image:
        gray = np.asarray(image.convert("L"), np.float64) / 255
    return (gray > 0.5).astype(np.float64) if key == "mask" else gray / gray.sum()


def _measurements(config, operator, shape, observed) -> Files | Simulated:
    section = config.restore
    if section.measurements:
        if section.noise:
            raise UserError(
                "restore.noise is that of measurements made here; those of restore.measurements "
                "have their own: tell the rule of it, as in guidance.noise"
            )
        return Files(home(Path(section.measurements)), observed)
    source = input_pipeline.load_source(**config.data)
    if tuple(source.shape) != shape:
        raise UserError(
            f"data.name {source.name}: examples are of shape {tuple(source.shape)}, and "
            f"sampling.weights.main denoises {shape}: choose data that it knows, or give "
            f"restore.measurements"
        )
    if not section.noise >= 0:
        raise UserError(f"restore.noise is {section.noise!r}: give a number from 0")
    return Simulated(source, operator, float(section.noise), config.seed)


def _method(config, operator):
    """Return the function from measurements to rule and sampler that the config asks for.

    Raises:
        UserError: nothing in it takes a measurement.
    """
    rule, sampler = config.guidance.to_dict(), config.sampler.to_dict()
    if not (_takes(rule, "rule") or _takes(sampler["solver"], "solver")):
        raise UserError(
            f"guidance.name {rule.get('name')!r} takes no measurement: name a rule that does, such "
            f"as ddnm, ddrm, pigdm or dps, or the solver repaint"
        )

    def method(measurement: np.ndarray) -> Method:
        solver = _given(sampler["solver"], "solver", operator, measurement)
        try:
            return Method(
                guidance.from_config(_given(rule, "rule", operator, measurement)),
                samplers.from_config({**sampler, "solver": solver}),
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    return method


def _needs(section: Any, kind: str) -> bool:
    """Return whether a section names a part that takes a measurement."""
    table = registry(kind)
    known = isinstance(section, Mapping) and section.get("name") in table
    return known and "measurement" in table[section["name"]].parameters


def _takes(section: Any, kind: str) -> bool:
    if isinstance(section, Mapping):
        return _needs(section, kind) or any(_takes(one, kind) for one in section.values())
    return isinstance(section, (list, tuple)) and any(_takes(one, kind) for one in section)


def _given(section: Any, kind: str, operator, measurement: np.ndarray) -> Any:
    """Return a section whose parts that take a measurement have it, and the operator."""
    if isinstance(section, (list, tuple)):
        return tuple(_given(one, kind, operator, measurement) for one in section)
    if not isinstance(section, Mapping):
        return section
    inside = {key: _given(one, kind, operator, measurement) for key, one in section.items()}
    if not _needs(section, kind):
        return inside
    parameters = registry(kind)[section["name"]].parameters
    goal = next(iter(parameters))  # an operator, or a reward in whose place one may stand
    for taken in (goal, "measurement"):
        if taken in section:
            place = {"rule": "guidance", "solver": "sampler.solver"}[kind]
            raise UserError(
                f"{place}.{taken}: --mode=restore takes it from the section restore: leave it out"
            )
    return inside | {goal: operator, "measurement": measurement}
