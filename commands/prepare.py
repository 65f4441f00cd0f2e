"""Cut the pictures of a folder to one size and write them as a data set."""

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import UserError
from ..data.image_folder import labelled, square
from ..data.record_folder import Writer

# What this mode reads of a config.
READS = ("prepare",)


# What Pillow raises for a file that is damaged or no picture.
UNREADABLE = (OSError, ValueError, SyntaxError)


def run(config, workdir: Path) -> None:
    """Write the pictures of ``config.prepare.source`` into ``workdir`` as a data set.

    The same command goes on with the shards that are missing. Pictures that cannot be read are
    named and left out, up to a share of ``config.prepare.most_damaged``.

    Args:
        config: an experiment's config; its ``prepare`` section is used.
        workdir: becomes a folder that ``config.data.name`` can name.

    Raises:
        UserError: no pictures, labels that do not fit, too many that cannot be read.
    """
    section = config.prepare
    if section.size < 1 or section.channels not in (1, 3) or section.records_per_shard < 1:
        raise UserError(
            f"config.prepare: size {section.size}, channels {section.channels} and "
            f"records_per_shard {section.records_per_shard} make no data set: give a size, 1 or 3 "
            f"channels, and 1 record a shard or more"
        )
    source = Path(section.source).expanduser()
    files, names = labelled(source)
    # Neighbours in the listing are of one class: shards hold a mixture.
    order = np.random.default_rng(0).permutation(len(files))
    chosen = [files[index] for index in order]
    writer = Writer(
        workdir,
        dict(
            shape=(section.size, section.size, section.channels),
            dtype="uint8",
            num_classes=len(names),
            classes=names,
            source=source.name,
            pictures=len(files),
            records_per_shard=section.records_per_shard,
        ),
    )
    shards = -(-len(chosen) // section.records_per_shard)
    print(
        f"{len(files)} pictures of {len(names)} classes in {source}, to {shards} shards in "
        f"{workdir}",
        flush=True,
    )
    cut = functools.partial(_cut, source, section.size, section.channels)
    noted = workdir / "unreadable.txt"  # of earlier commands, too
    unreadable = noted.read_text().splitlines() if noted.exists() else []
    with (
        ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool,
        tqdm(total=len(chosen), unit="picture", mininterval=2) as bar,
    ):
        for shard in range(shards):
            begin = shard * section.records_per_shard
            part = chosen[begin : begin + section.records_per_shard]
            if not writer.has(shard):
                results = list(pool.map(cut, [file for file, _ in part], chunksize=64))
                whole = [
                    (pixels, label)
                    for pixels, (_, label) in zip(results, part, strict=True)
                    if not isinstance(pixels, str)
                ]
                arrays, labels = [pixels for pixels, _ in whole], [label for _, label in whole]
                unreadable = sorted(
                    {*unreadable, *(result for result in results if isinstance(result, str))}
                )
                _require_few(unreadable, len(files), section.most_damaged)
                noted.write_text("".join(line + "\n" for line in unreadable))
                writer.write(shard, arrays, labels)
            bar.update(len(part))
    writer.finish(shards, unreadable=unreadable)
    noted.unlink(missing_ok=True)
    left_out = f"; {len(unreadable)} pictures could not be read, see dataset.json"
    print(
        f"wrote {workdir}: --config.data.name={workdir} trains on it" + left_out * bool(unreadable)
    )


def _cut(source: Path, size: int, channels: int, file: str) -> np.ndarray | str:
    """Return a picture's pixels, or what is wrong with it."""
    try:
        return square(source / file, size, channels)
    except UNREADABLE as error:
        return " ".join(f"{file}: {error}".split())


def _require_few(unreadable: list[str], count: int, share: float) -> None:
    if len(unreadable) > share * count:
        shown = "; ".join(unreadable[:10])
        raise UserError(
            f"{len(unreadable)} of {count} pictures cannot be read, more than "
            f"config.prepare.most_damaged={share:g} lets pass: {shown}. Mend or remove them and "
            f"run the same command again"
        )
