"""Read published weights, write safetensors with their origin and a config that samples them."""

import ast
import datetime
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..core.checks import require_choice, require_ranges
from ..core.errors import UserError
from ..core.files import Array, home, safe_name, sidecar_path, write_pair, write_text
from ..models.checkpoints.files import read_sidecar, resolve, sidecar_of
from ..models.checkpoints.folders import STEMS, digest
from ..models.checkpoints.loading import Fitted, fit
from ..runtime.run_folder import EVALUATION, SAMPLES, Folder
from ..training.averages.ema import WIDTH
from ..training.averages.posthoc_ema import reconstruct_to, snapshot_of_name

# What this mode reads of a config.
READS = ("weights",)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(SAMPLES, EVALUATION))

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
# What a file of this project may keep as it is; other types become float32.
KEPT = {np.dtype(kind) for kind in DTYPES.values()}
# The key under which a sidecar keeps what an import was made of.
MADE_OF = "import"
REMEDY = "set weights.name to another, or move it away"
LATENTS = "keeps latents; with --config.sampling.decoder=AUTOENCODER in its place, pictures"
# The same for all weights, whatever their name: what differs lies in the .json beside them.
CONFIG = '''"""Samples of the weights beside this file, of its name.

    python main.py --config=THIS_FILE --workdir=DIR --mode=sample --config.guidance.scale=2
"""

from pathlib import Path

from guidestar.configs import imported


def get_config():
    """Return the config."""
    return imported.get_config(Path(__file__).with_suffix(".safetensors"))
'''


def run(config, workdir: Path) -> Path:
    """Write ``<workdir>/<name>.safetensors``, its sidecar and a config from published weights.

    Nothing in the source is executed, and one of its arrays is in memory at a time. Several
    sources, snapshots of one run named ``...-KIMG-STD.pkl``, become the average of the relative
    width ``weights.std`` (`training.averages.posthoc_ema`). What was imported before of the same
    files in the same way stays.

    Args:
        config: an experiment's config; its ``weights`` section says what to read.
        workdir: gets the files.

    Returns:
        The .safetensors file.

    Raises:
        UserError: no such file, one that is damaged, unsafe or of an unknown network, arrays that
            do not fit it, numbers that do not fit the type asked for; a name that is none of a
            file, or files there that are not of this import.
    """
    fields = config.weights.to_dict()
    if not fields["source"]:
        raise UserError(
            "weights.source is empty: name a .pt, .pth, .pkl or .safetensors file, or a folder"
        )
    if fields["dtype"]:
        require_choice("weights.dtype", fields["dtype"], DTYPES)
    sources = files_of(fields.pop("source"))
    if len(sources) > 1 or fields["std"]:
        path, lines = merge(sources, workdir, **fields)
    else:
        path, lines = convert(sources[0], workdir, **fields)
    print("\n".join(lines))
    return path


def files_of(text: str) -> list[str]:
    """Return the files that commas separate; one that is there by the whole text is one."""
    if home(text).exists():
        return [text]
    return [source.strip() for source in text.split(",") if source.strip()]


def convert(
    source: str,
    workdir: Path,
    *,
    entry: str = "",
    model: str = "",
    name: str = "",
    dtype: str = "",
    std: float = 0.0,
    sha256: str = "",
) -> tuple[Path, list[str]]:
    """Write one published file's weights as this project's; return where, and what to say.

    Args:
        source: a file, a folder, or the name of a published file.
        workdir: gets the files.
        entry, model, name, dtype, sha256: as in the section ``weights``.
        std: 0, as one file has no other width than its own.

    Raises:
        UserError: as in `run`.
    """
    del std
    changes = overrides(model)
    fitted = fit(source, entry=entry or None, **changes)
    found = digest(fitted.path)
    if sha256 and found != sha256.lower():
        raise UserError(
            f"{fitted.path} has sha256 {found} and weights.sha256 is {sha256}: download it again"
        )
    path = place(workdir, name or name_of(fitted.path))
    made_of = {"sha256": found, "entry": entry, "model": model, "dtype": dtype}
    if there(path, made_of):
        return path, finished(path, fitted, "is there already")
    low, high = fitted.spec.sigma_range
    origin = {
        "name": path.stem,
        "sha256": found,
        "date": datetime.date.today().isoformat(),
        "sigma_range": [low, high],
        "latent": fitted.spec.latent,
        MADE_OF: made_of,
    }
    write_pair(path, arrays(fitted, dtype), fitted.sidecar | origin)
    return path, finished(path, fitted, "written")


def merge(
    sources: Sequence[str],
    workdir: Path,
    *,
    std: float,
    name: str = "",
    dtype: str = "",
    **of_one: str,
) -> tuple[Path, list[str]]:
    """Write the average of a chosen width that snapshots of one run add up to.

    Args:
        sources: files, or names of published files.
        workdir: gets the files.
        std: relative width of the average.
        name, dtype: as in the section ``weights``.
        of_one: fields that are of one file, which have to be empty.

    Raises:
        UserError: as in `run`; or no width.
    """
    for field, value in of_one.items():
        if value:
            raise UserError(
                f"weights.{field} is of one file, and {len(sources)} are merged: leave it empty"
            )
    if not std:
        raise UserError(
            f"weights.source names {len(sources)} files: weights.std says which relative width the "
            f"average made of them is to have"
        )
    require_ranges("weights", {"std": std}, {"std": WIDTH})
    path = place(workdir, name or f"merged-{std:.3f}")
    snapshots = [snapshot_of_name(resolve(source)) for source in sources]
    files = sorted(digest(one.path) for one in snapshots)
    made_of = {"sha256": files, "std": std, "dtype": dtype}
    said = f"{len(sources)} snapshots"
    if there(path, made_of):
        return path, finished(path, fit(path), f"is there already, of {said}")
    kind = DTYPES[dtype or "float32"]
    reconstruct_to(path, snapshots, std, dtype=kind, facts={MADE_OF: made_of})
    return path, finished(path, fit(path), f"written, of {said}")


def name_of(path: Path) -> str:
    """Return what weights are called where nothing else is asked for: their file's name, or the
    folder's where all files of their kind have the same.
    """
    stem = path.name.partition(".")[0]
    return path.parent.name if stem in STEMS else path.stem


def place(workdir: Path, name: str) -> Path:
    """Return where weights of a name go.

    Raises:
        UserError: a name that is none of a file.
    """
    # A colon would end the path of the config beside them on a command line.
    if ":" in name:
        raise UserError(f"weights.name is {name!r}: a colon cannot be in it")
    return home(workdir) / f"{safe_name(name, 'weights.name')}.safetensors"


def there(path: Path, made_of: Mapping[str, Any]) -> bool:
    """Say whether an import was made before; what else lies in its place stays.

    Raises:
        UserError: files of another origin in its place.
    """
    sidecar = sidecar_of(path) if path.exists() else read_sidecar(path)
    before = (sidecar or {}).get(MADE_OF)
    # An earlier version noted the digest alone, and wrote a config of its own for each file.
    digest_alone = sidecar is not None and before is None and "sha256" in sidecar
    earlier = digest_alone and (sidecar or {})["sha256"] == made_of["sha256"]
    for file in (path, sidecar_path(path)):
        if file.exists() and not earlier and before != made_of:
            what = "is of another import" if before else "exists and --mode=import did not write it"
            raise UserError(f"{file} {what}: {REMEDY}")
    config = path.with_suffix(".py")
    if config.exists() and not earlier and config.read_text(errors="replace") != CONFIG:
        raise UserError(f"{config} exists and --mode=import did not write it: {REMEDY}")
    return path.exists() and not earlier


def finished(path: Path, fitted: Fitted, done: str) -> list[str]:
    """Write the config beside imported weights and return what was made, in lines."""
    lines = [f"{path} ({path.stat().st_size / 2**20:.2f} MiB) {done}: {described(fitted)}"]
    if fitted.spec.preconditioner is not None:
        beside = path.with_suffix(".py")
        write_text(beside, CONFIG)
        given = shlex.quote(str(beside)), shlex.quote(f"out/{path.stem}")
        line = "python main.py --config={} --workdir={} --mode=sample".format(*given)
        if fitted.spec.latent:
            lines += [f"{line} --config.sampling.format=npz", LATENTS]
        else:
            lines.append(line)
    return lines


def overrides(text: str) -> dict[str, Any]:
    """Read fields of the ``model`` section, ``"name=sit, heads=16, channel_mult=(1,2)"``.

    Raises:
        UserError: not of that form.
    """
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        fields = call.keywords if isinstance(call, ast.Call) and not call.args else None
        names = [field.arg for field in fields] if fields is not None else [None]
        if None in names or len(set(names)) < len(names):
            raise ValueError("only name=value, each once")
        return {str(field.arg): _value(field.value) for field in fields or ()}
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise UserError(
            f"weights.model={text!r} is not read ({error}): write fields of the model "
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
            f"another weights.dtype"
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
