"""Sampled images on disk: written whole or not at all, so that a killed run can go on."""

import io
import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from ..core.errors import UserError

FORMATS = ("png", "npz")
RECORD = "sampling.json"


class ImageStore:
    """Numbered images below a folder, and the identity of the run that made them.

    ``png`` keeps one file an image, ``images/00000123.png``; ``npz`` one file a batch with arrays
    ``images`` (or ``latents``, float32), ``indices`` and ``labels``.

    Args:
        folder: where they are kept.
        format: ``png`` or ``npz``.
        count: images wanted, numbered from 0.
        identity: JSON data that must agree between runs that share the folder.

    Raises:
        UserError: unknown format, or a folder that belongs to another run.
    """

    def __init__(self, folder: Path, format: str, count: int, *, identity: dict):
        if format not in FORMATS:
            raise UserError(f"config.sampling.format {format!r} is not one of {', '.join(FORMATS)}")
        self.folder, self.format, self.count = folder / "images", format, count
        self.folder.mkdir(parents=True, exist_ok=True)
        record = folder / RECORD
        if record.exists() and json.loads(record.read_text()) != identity:
            raise UserError(
                f"{folder} holds images of another config (see {record}): choose another "
                f"--workdir, or give the config they were made with"
            )
        _write(record, json.dumps(identity, indent=1).encode())

    @classmethod
    def open(cls, folder: Path, count: int) -> "ImageStore":
        """Return the store that an earlier run left in ``folder``, to read from."""
        identity = json.loads((folder / RECORD).read_text())
        return cls(folder, identity["sampling"]["format"], count, identity=identity)

    def missing(self) -> Int[np.ndarray, " n"]:
        """Return the indices that are not on disk yet, in order."""
        if self.format == "png":
            done = {int(path.stem) for path in self.folder.glob("*.png")}
        else:
            done = {i for path in self.folder.glob("*.npz") for i in np.load(path)["indices"]}
        return np.array([i for i in range(self.count) if i not in done], np.int64)

    def write(
        self,
        indices: Int[np.ndarray, " batch"],
        images: UInt8[np.ndarray, "batch h w c"] | Float[np.ndarray, "batch h w c"],
        labels: Int[np.ndarray, " batch"] | None,
    ) -> None:
        """Store a batch of images, or in ``npz`` of latents, which are float32.

        Raises:
            UserError: the disk refuses; what was written before stays valid.
        """
        if self.format == "png":
            for index, image in zip(indices, images, strict=True):
                buffer = io.BytesIO()
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
                    buffer, "png"
                )
                _write(self.folder / f"{index:08d}.png", buffer.getvalue())
            return
        buffer = io.BytesIO()
        arrays = {"images" if images.dtype == np.uint8 else "latents": images, "indices": indices}
        np.savez_compressed(buffer, **arrays, **({} if labels is None else {"labels": labels}))
        _write(self.folder / f"{indices[0]:08d}-{len(indices)}.npz", buffer.getvalue())

    def read(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w c"]:
        """Return stored images by index."""
        if self.format == "png":
            images = [np.asarray(Image.open(self.folder / f"{i:08d}.png")) for i in indices]
            return np.stack([i if i.ndim == 3 else i[..., None] for i in images])
        wanted: dict[int, np.ndarray] = {}
        for path in self.folder.glob("*.npz"):
            with np.load(path) as shard:
                wanted |= dict(zip(shard["indices"].tolist(), shard["images"], strict=True))
        return np.stack([wanted[i] for i in indices.tolist()])


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"writing {path} failed: {error.strerror}. Mend that and run the same command again: "
            f"it goes on where it stopped"
        ) from error
