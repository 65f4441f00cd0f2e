"""The decode verb: latents, of a data set or sampled, to pictures; resumable."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from .. import input_pipeline
from ..core.errors import UserError
from ..core.files import digest_of, home, read_json, write_json
from ..data import latents, record_folder
from ..data.images import grid, save_png, to_uint8
from ..inference.decoder import contents, kept_scaling, latent_scaling, load_decoder
from ..models.autoencoders.scaling import LatentScaling
from ..runtime import distributed
from ..runtime.identity import MADE_OF
from ..runtime.run_folder import SAMPLES, Folder
from ..runtime.store import RECORD, Store
from .config.overrides import is_given
from .sample import require_channels, require_counts, same_name

# What this mode reads of a config.
READS = (
    "data",
    "-data.flip",
    "decoding",
    "sampling.format",
    "sampling.batch_size",
    "sampling.decoder",
    "sampling.scaling",
    "sampling.any_decoder",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=SAMPLES)
GRID_IMAGES, GRID_COLUMNS = 100, 10


class EncodedLatents:
    """The latents that the encode verb wrote, at their means.

    Attributes:
        facts: what their description says of them.
        made_of: JSON data that tells them from others.
        scaling: theirs.
        shape: of one of them.
    """

    def __init__(self, folder: Path):
        self.facts, self.scaling = latents.facts_of(folder), latents.scaling_of(folder)
        stored = record_folder.load(folder, most_damaged=0.0)
        self.made_of = digest_of(stored.identity())
        self._records = stored.records
        height, width, both = stored.shape
        self.shape = (height, width, both // 2)

    def __len__(self) -> int:
        return len(self._records)

    def read(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Float[np.ndarray, "batch h w z"], Int[np.ndarray, " batch"]]:
        """Return latents as a network is given them, and labels."""
        posterior, labels = self._records.read(indices)
        mean, _ = np.split(posterior.astype(np.float32), 2, axis=-1)
        return self.scaling.to_network(mean), labels


class SampledLatents:
    """The latents that the sample verb wrote, where it was given no decoder.

    Attributes:
        made_of: JSON data that tells them from others.
        scaling: of the latents that the network was trained on; None where nothing is known.
        shape: of one of them.
    """

    facts: dict | None = None

    def __init__(self, folder: Path):
        self._store = Store.open(folder, 0)
        record = read_json(folder / RECORD, "restore it from a copy, or sample again elsewhere")
        # An earlier release's record has its fields in one heap.
        said = record.get(MADE_OF, record)
        self.made_of = digest_of(said)
        self.scaling: LatentScaling | None = kept_scaling(said.get("latents"), str(folder))
        there = self._store.indices()
        if not there.size:
            raise UserError(f"{folder} holds no latents yet: sample with format=npz first")
        if not self._store.holds_latents():
            raise UserError(f"{folder} holds images: nothing is left to decode")
        self._count = int(there[-1]) + 1
        self.shape = self._store.read(there[:1]).shape[1:]

    def __len__(self) -> int:
        return self._count

    def read(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Float[np.ndarray, "batch h w z"], Int[np.ndarray, " batch"] | None]:
        """Return latents as the network made them, and labels; None for a run without classes."""
        return self._store.read(indices), self._store.labels(indices)


def run(config, workdir: Path) -> None:
    """Decode the latents of ``config.decoding.latents`` into ``workdir``.

    Args:
        config: an experiment's config; its ``decoding`` section, and of ``sampling`` what says how
            pictures are decoded and kept.
        workdir: gets one PNG an image (or .npz shards) and ``grid.png``; with
            ``config.decoding.compare`` the reconstruction's error against ``config.data``, too.

    Raises:
        UserError: no latents, no decoder or one of other latents, a workdir of other images.
    """
    section, sampling = config.decoding, config.sampling
    require_counts("sampling", batch_size=sampling.batch_size)
    if section.count:
        require_counts("decoding", count=section.count)
    origin = _origin(section.latents)
    if section.count > len(origin):
        raise UserError(
            f"decoding.count is {section.count} and {section.latents} holds {len(origin)} latents: "
            f"give as many at most, or 0 for all"
        )
    scaling = latent_scaling(sampling.scaling, origin.scaling)
    decoder = load_decoder(
        sampling.decoder,
        scaling,
        origin.shape[-1],
        batch_size=sampling.batch_size,
        any_decoder=sampling.any_decoder,
    )
    assert scaling is not None  # as the decoder was loaded
    shape = decoder.image_shape(origin.shape)
    require_channels(sampling.format, shape[-1])
    if not section.compare and any(is_given(config, f"data.{name}") for name in config.data):
        raise UserError("data says nothing to --mode=decode without decoding.compare: leave it out")
    originals = _originals(config, origin) if section.compare else None
    count = section.count or len(origin)
    made_of = {"origin": origin.made_of, "latents": contents(scaling), "decoder": decoder.sha256}
    said = {"origin": str(section.latents), "decoder": sampling.decoder}
    store = Store.claimed(
        workdir,
        sampling.format,
        count,
        made_of=made_of,
        said=said,
        shape=shape,
        older=lambda stored: _older(stored, made_of, decoder.file),
    )

    def make(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        found, labels = origin.read(indices)
        return to_uint8(decoder.finite_images(indices, found)), labels

    if not store.compared:
        store.adopt(make, made_of, said)
    todo = store.share()
    distributed.say(
        f"{count:,} latents {origin.shape} of {section.latents} to {workdir} by {decoder.file}, "
        f"{len(todo):,} still to decode"
    )
    started = time.monotonic()
    with tqdm(total=len(todo), unit="image", mininterval=2) as bar:
        complete = store.fill(todo, make, sampling.batch_size, bar.update)
    if todo.size:
        seconds = (time.monotonic() - started) / len(todo)
        distributed.say(f"{seconds:.4f} s an image, compilation included")
    if complete and distributed.is_primary():
        _show(store, count, originals, workdir)


def _older(stored: dict, made_of: Mapping[str, Any], file: str) -> dict:
    """Return what an earlier release's ``sampling.json`` tells of what images are made of."""
    try:
        section = stored["decoding"]
        scaling = {key: value for key, value in section["latents"].items() if key != "file"}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "an earlier release made the images there, and not by decoding: choose another "
            "--workdir"
        ) from error
    # Where it names a file of this name, its contents are what cannot be compared.
    same = same_name(section.get("decoder", ""), file)
    named = made_of["decoder"] if same else f"that of {section.get('decoder')}"
    return {"latents": scaling, "decoder": named}


def _origin(folder: str) -> EncodedLatents | SampledLatents:
    path = home(folder)
    if folder and record_folder.is_one(path):
        return EncodedLatents(path)
    if folder and (path / RECORD).is_file():
        return SampledLatents(path)
    record_folder.require_there(folder, "decoding.latents")
    raise UserError(
        f"decoding.latents {folder!r} is no folder of latents: name one that --mode=encode "
        f"made, or --mode=sample with format=npz"
    )


def _originals(config, origin: EncodedLatents | SampledLatents) -> Callable:
    """Return a function from indices to the images that latents were made of."""
    if origin.facts is None:
        raise UserError("decoding.compare: sampled latents were made of no images")
    source = input_pipeline.load_source(**config.data)
    images = origin.facts["images"]
    if [images["name"], images["split"]] != [source.name, config.data.split]:
        raise UserError(
            f"decoding.compare: the latents were made of {images['name']} "
            f"{images['split']}: set data.name and data.split to it"
        )

    def read(indices):
        found, _ = source.read(indices % source.num_examples)
        mirrored = indices >= source.num_examples
        return np.where(mirrored[:, None, None, None], found[:, :, ::-1], found)

    return read


def _show(store: Store, count: int, originals, workdir: Path) -> None:
    """Write a grid of the first images, and how far all of them are from the originals."""
    first = np.arange(min(GRID_IMAGES, count))
    shown = store.read(first)
    if originals is not None:
        # A row of originals above each row of what was made of them.
        rows = [slice(begin, begin + GRID_COLUMNS) for begin in range(0, len(first), GRID_COLUMNS)]
        real = originals(first)
        whole = [row for row in rows if row.stop <= len(first)] or rows
        shown = np.concatenate([part for row in whole for part in (real[row], shown[row])])
    save_png(workdir / "grid.png", grid(shown, columns=GRID_COLUMNS), magnify=2)
    if originals is None:
        return
    squares = []
    for begin in range(0, count, 1024):
        indices = np.arange(begin, min(begin + 1024, count))
        error = store.read(indices).astype(np.float64) - originals(indices)
        squares.append((error**2).reshape(len(indices), -1).mean(axis=1))
    # An image that comes back exactly has no finite ratio: half a level is as close as 8 bits say.
    ratios = 10 * np.log10(255**2 / np.maximum(np.concatenate(squares), 1 / 12))
    found = {"images": count, "psnr": float(ratios.mean()), "psnr_std": float(ratios.std())}
    write_json(workdir / "reconstruction.json", found)
    distributed.say(
        f"peak signal-to-noise ratio of {count:,} images: {found['psnr']:.2f} dB "
        f"(standard deviation {found['psnr_std']:.2f}); {workdir / 'grid.png'} shows some"
    )
