"""The decode verb: latents, of a data set or sampled, to pictures; resumable."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from .. import input_pipeline
from ..core.errors import UserError
from ..data import latents, record_folder
from ..data.images import grid, save_png, to_uint8
from ..inference.decoder import decoder_from_config, scaling_from_config
from ..models.autoencoders.scaling import LatentScaling, from_json
from ..runtime.distributed import is_primary
from ..runtime.store import RECORD, ImageStore

# What this mode reads of a config.
READS = (
    "data",
    "decoding",
    "sampling.format",
    "sampling.batch_size",
    "sampling.decoder",
    "sampling.scaling",
    "sampling.any_decoder",
)


GRID_IMAGES, GRID_COLUMNS = 100, 10


class EncodedLatents:
    """The latents that the encode verb wrote, at their means.

    Attributes:
        facts: what their description says of them.
        scaling: theirs.
        shape: of one of them.
    """

    def __init__(self, folder: Path):
        self.facts, self.scaling = latents.facts_of(folder), latents.scaling_of(folder)
        stored = record_folder.load(folder, most_damaged=0.0)
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
        scaling: of the latents that the network was trained on; None where nothing is known.
        shape: of one of them.
    """

    facts: dict | None = None

    def __init__(self, folder: Path):
        try:
            kept = json.loads((folder / RECORD).read_text()).get("latents")
            self.scaling: LatentScaling | None = from_json(kept) if kept else None
        except ValueError as error:
            raise UserError(f"{folder / RECORD} is damaged: {error}") from error
        self._places = {}
        for path in sorted((folder / "images").glob("*.npz")):
            with np.load(path) as shard:
                if "latents" not in shard:
                    raise UserError(f"{path} holds images: nothing is left to decode")
                self._places |= {int(index): path for index in shard["indices"]}
        if not self._places:
            raise UserError(f"{folder} holds no latents yet: sample with format=npz first")
        self.shape = self.read(np.array([min(self._places)]))[0].shape[1:]

    def __len__(self) -> int:
        return max(self._places) + 1

    def read(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Float[np.ndarray, "batch h w z"], Int[np.ndarray, " batch"] | None]:
        """Return latents as the network made them, and labels; None for a run without classes."""
        if gone := [int(index) for index in indices if int(index) not in self._places]:
            raise UserError(f"latent {gone[0]} is missing: run the sampling command again first")
        found, labels = {}, {}
        for path in {self._places[int(index)] for index in indices}:
            with np.load(path) as shard:
                numbers = shard["indices"].tolist()
                found |= dict(zip(numbers, shard["latents"], strict=True))
                if "labels" in shard:
                    labels |= dict(zip(numbers, shard["labels"], strict=True))
        order = indices.tolist()
        return (
            np.stack([found[index] for index in order]),
            np.array([labels[index] for index in order], np.int32) if labels else None,
        )


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
    section = config.decoding
    origin = _origin(section.latents)
    scaling = scaling_from_config(config.sampling, origin.scaling)
    decoder = decoder_from_config(config.sampling, scaling, origin.shape[-1])
    originals = _originals(config, origin) if section.compare else None
    count = min(section.count or len(origin), len(origin))
    identity = {
        "sampling": {"format": config.sampling.format},
        "decoding": {"latents": scaling.to_json(), "decoder": decoder.file},
    }
    store = ImageStore(workdir, config.sampling.format, count, identity=identity)
    todo = store.missing()[jax.process_index() :: jax.process_count()]
    print(
        f"{count:,} latents {origin.shape} of {section.latents} to {workdir} by {decoder.file}, "
        f"{len(todo):,} still to decode",
        flush=True,
    )
    started, batch = time.monotonic(), config.sampling.batch_size
    with tqdm(total=len(todo), unit="image", mininterval=2) as bar:
        for begin in range(0, len(todo), batch):
            indices = todo[begin : begin + batch]
            found, labels = origin.read(indices)
            store.write(indices, to_uint8(decoder(found)), labels)
            bar.update(len(indices))
    if todo.size:
        print(f"{(time.monotonic() - started) / len(todo):.4f} s an image, compilation included")
    if is_primary() and not store.missing().size:
        _show(store, count, originals, workdir)


def _origin(folder: str) -> EncodedLatents | SampledLatents:
    path = Path(folder)
    if folder and record_folder.is_one(path):
        return EncodedLatents(path)
    if folder and (path / RECORD).is_file():
        return SampledLatents(path)
    raise UserError(
        f"config.decoding.latents {folder!r} is no folder of latents: name one that --mode=encode "
        f"made, or --mode=sample with format=npz"
    )


def _originals(config, origin):
    """Return a function from indices to the images that latents were made of."""
    if origin.facts is None:
        raise UserError("config.decoding.compare: sampled latents were made of no images")
    source = input_pipeline.load_source(**config.data)
    images = origin.facts["images"]
    if [images["name"], images["split"]] != [source.name, config.data.split]:
        raise UserError(
            f"config.decoding.compare: the latents were made of {images['name']} "
            f"{images['split']}: set config.data.name and config.data.split to it"
        )

    def read(indices):
        found, _ = source.read(indices % source.num_examples)
        mirrored = indices >= source.num_examples
        return np.where(mirrored[:, None, None, None], found[:, :, ::-1], found)

    return read


def _show(store: ImageStore, count: int, originals, workdir: Path) -> None:
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
    (workdir / "reconstruction.json").write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"peak signal-to-noise ratio of {count:,} images: {found['psnr']:.2f} dB "
        f"(standard deviation {found['psnr_std']:.2f}); {workdir / 'grid.png'} shows some"
    )
