"""The prepare verb: cut the pictures below a folder to one size and write them as a data set."""

from pathlib import Path
from shlex import quote

from tqdm import tqdm

from ..data.preparation import prepare_pictures
from ..runtime import distributed
from ..runtime.run_folder import DATA_SET, Folder

# What this mode reads of a config.
READS = ("prepare",)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=DATA_SET)


def run(config, workdir: Path) -> None:
    """Write the pictures of ``config.prepare.source`` into ``workdir`` as a data set.

    The same command goes on with the shards that are missing.

    Args:
        config: an experiment's config; its ``prepare`` section is used.
        workdir: becomes a folder that ``config.data.name`` can name.

    Raises:
        UserError: as `data.preparation.prepare_pictures` raises.
    """
    failed = None
    if distributed.is_primary():  # other processes of a job have no part in it
        with tqdm(unit="picture", mininterval=2) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            def say(message: str) -> None:
                bar.write(message)

            try:
                prepare_pictures(folder=workdir, say=say, progress=progress, **config.prepare)
                name = quote(str(workdir))
                say(f"{workdir} is a data set: --config.data.name={name} trains on it")
            except (ValueError, OSError) as error:
                failed = error
    distributed.agree(failed, f"could not prepare {workdir}")
