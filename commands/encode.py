"""The encode verb: a data set's latents, once, for any number of trainings on them."""

from pathlib import Path
from shlex import quote

from tqdm import tqdm

from .. import input_pipeline
from ..inference.encoding import encode_images
from ..models.autoencoders.loading import load_autoencoder
from ..runtime import distributed
from ..runtime.run_folder import DATA_SET, Folder

# What this mode reads of a config.
READS = (
    "data",
    "-data.flip",
    "encoding",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=DATA_SET)


def run(config, workdir: Path) -> None:
    """Write the latents of ``config.data`` into ``workdir``, a folder that ``data.name`` can name.

    The same command goes on with the shards that are missing.

    Args:
        config: an experiment's config; its ``data`` and ``encoding`` sections are used.
        workdir: gets the shards, and ``dataset.json`` when all are there.

    Raises:
        UserError: no autoencoder, no such data set, or as `encode_images` raises.
    """
    section = dict(config.encoding)
    autoencoder = load_autoencoder(section.pop("autoencoder"), "encoding.autoencoder")
    source = input_pipeline.load_source(**config.data)
    primary = distributed.is_primary()
    with tqdm(unit="image", mininterval=2, disable=not primary) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        def say(message: str) -> None:
            if primary:
                bar.write(message)

        encode_images(
            source,
            autoencoder,
            workdir,
            split=config.data.split,
            say=say,
            progress=progress,
            **section,
        )
        say(f"{workdir} is a data set: --config.data.name={quote(str(workdir))} trains on it")
