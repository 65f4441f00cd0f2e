"""Read published weights, write safetensors with their origin and a config that samples them."""

import ast
import datetime
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..core.errors import UserError
from ..core.files import Array, sha256, write_pair
from ..models.checkpoints.files import resolve
from ..models.checkpoints.loading import Fitted, fit
from ..training.averages.posthoc_ema import reconstruct_to, snapshot_of_name

# What this mode reads of a config.
READS = ("weights",)


DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
# What a file of this project may keep as it is; other types become float32.
KEPT = {np.dtype(kind) for kind in DTYPES.values()}

CONFIG = '''"""{name}: samples of weights imported from {source}.

    python main.py --config={path} --workdir=out/{name} --mode=sample --config.guidance.scale=2
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = {name!r}
    config.sampling.weights.main = {weights!r}
    config.sampler.schedule.update(sigma_min={low!r}, sigma_max={high!r})
    return config
'''


def run(config, workdir: Path) -> Path:
    """Write ``<workdir>/<name>.safetensors``, its sidecar and a config from published weights.

    Nothing in the source is executed, and one of its arrays is in memory at a time. Several
    sources, snapshots of one run named ``...-KIMG-STD.pkl``, become the average of the relative
    width ``weights.std`` (`training.posthoc_ema`).

    Args:
        config: an experiment's config; its ``weights`` section says what to read.
        workdir: gets the files.

    Returns:
        The .safetensors file.

    Raises:
        UserError: no such file, one that is damaged, unsafe or of an unknown network, arrays that
            do not fit it, or numbers that do not fit the type asked for.
    """
    section = config.weights
    if not section.source:
        raise UserError(
            "config.weights.source is empty: name a .pt, .pth, .pkl or .safetensors file"
        )
    if section.dtype and section.dtype not in DTYPES:
        raise UserError(f"config.weights.dtype {section.dtype!r} is not one of {', '.join(DTYPES)}")
    sources = [source.strip() for source in section.source.split(",")]
    if len(sources) > 1 or section.std:
        return _merge(section, sources, workdir)
    fitted = fit(section.source, entry=section.entry or None, **overrides(section.model))
    digest = sha256(fitted.path)
    if section.sha256 and digest != section.sha256.lower():
        raise UserError(
            f"{fitted.path} has sha256 {digest} and config.weights.sha256 is {section.sha256}: "
            f"download it again"
        )
    name = section.name or fitted.path.stem
    path = workdir / f"{name}.safetensors"
    low, high = fitted.spec.sigma_range
    origin = {
        "name": name,
        "sha256": digest,
        "date": datetime.date.today().isoformat(),
        "sigma_range": [low, high],
        "latent": fitted.spec.latent,
    }
    write_pair(path, arrays(fitted, section.dtype), fitted.sidecar | origin)
    return _finished(path, fitted, fitted.path.name)


def _merge(section, sources: list[str], workdir: Path) -> Path:
    """Write the average of a chosen width that snapshots of one run add up to."""
    for field in ("entry", "model", "sha256"):
        if section[field]:
            raise UserError(
                f"config.weights.{field} is of one file, and {len(sources)} are merged: leave it "
                f"empty"
            )
    if not section.std:
        raise UserError(
            f"config.weights.source names {len(sources)} files: config.weights.std says which "
            f"relative width the average made of them is to have"
        )
    name = section.name or f"merged-{section.std:.3f}"
    path = workdir / f"{name}.safetensors"
    snapshots = [snapshot_of_name(resolve(source)) for source in sources]
    dtype = DTYPES[section.dtype or "float32"]
    reconstruct_to(path, snapshots, section.std, dtype=dtype)
    return _finished(path, fit(path), f"{len(sources)} snapshots")


def _finished(path: Path, fitted: Fitted, source: str) -> Path:
    """Write the config beside imported weights and say what was made."""
    lines = [f"wrote {path} ({path.stat().st_size / 2**20:.2f} MiB): {described(fitted)}"]
    if fitted.spec.preconditioner is not None:
        name, beside = path.stem, path.with_suffix(".py")
        low, high = fitted.spec.sigma_range
        beside.write_text(
            CONFIG.format(
                name=name, source=source, path=beside, weights=str(path), low=low, high=high
            )
        )
        lines.append(f"python main.py --config={beside} --workdir=out/{name} --mode=sample")
    print("\n".join(lines))
    return path


def overrides(text: str) -> dict[str, Any]:
    """Read fields of the ``model`` section, ``"name=sit, heads=16, channel_mult=(1,2)"``.

    Raises:
        UserError: not of that form.
    """
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("only name=value")
        return {keyword.arg: _value(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"config.weights.model={text!r} is not read ({error}): write fields of the model "
            f"section with commas between, name=sit,heads=16"
        ) from error


def _value(node: ast.expr) -> Any:
    # A bare word is a string: quotes would have to be quoted once more on a command line.
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def arrays(fitted: Fitted, dtype: str) -> dict[str, Array]:
    """Return a network's arrays as they are to be written, each read when asked for.

    Args:
        fitted: the network and where its arrays lie.
        dtype: a name of `DTYPES`; as stored if empty.
    """

    def one(path: str, shape: tuple[int, ...]) -> Array:
        stored = np.dtype(fitted.arrays[fitted.places[path].names[0]].dtype)
        kind = np.dtype(DTYPES[dtype]) if dtype else stored if stored in KEPT else np.float32
        return Array(shape, np.dtype(kind), lambda: _cast(path, fitted.read(path), np.dtype(kind)))

    return {path: one(path, shape) for path, shape in fitted.shapes.items()}


def _cast(path: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is refused below, by name
        cast = value.astype(dtype)
    if not np.isfinite(cast.astype(np.float32)).all():
        raise UserError(
            f"{path} has values up to {abs(value).max():.3g}, which {dtype} does not hold: choose "
            f"another config.weights.dtype"
        )
    return cast


def described(fitted: Fitted) -> str:
    """Return a network's name, size and range in a line."""
    count = sum(math.prod(shape) for shape in fitted.shapes.values())
    model = fitted.sidecar["model"]["name"]
    shape = "x".join(map(str, fitted.spec.shape))
    classes = f", {fitted.spec.num_classes} classes" if fitted.spec.num_classes else ""
    low, high = fitted.spec.sigma_range
    return f"{model}, {count:,} parameters, {shape}{classes}, sigma {low:g} to {high:g}"
