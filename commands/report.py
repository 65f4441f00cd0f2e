"""The report mode: a page of what a sweep or an evaluation in the work folder has found."""

from pathlib import Path

from ..core.errors import UserError
from ..evaluation.report import Record, Row, read_record, write_documents
from ..guidance.evaluations import counts_text
from ..runtime import distributed
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, SWEEP, Folder
from ..runtime.store import Store

# What this mode reads of a config: all it tells is in the record.
READS = ()
# What it tells of may go on meanwhile.
WORKDIR = Folder(beside=(RUN, SAMPLES, EVALUATION, SWEEP), held=False)


def run(config, workdir: Path) -> None:
    """Write ``report.html`` of a workdir's record, and beside it ``report.csv`` and PNG files.

    Args:
        config: any.
        workdir: of a sweep or an evaluation, which may still run.

    Raises:
        UserError: no record there, or one that cannot be read.
    """
    del config
    if not distributed.is_primary():
        return
    record = read_record(workdir)
    stores, absent = stores_of(record, workdir)
    counts = {row.name: counts_text(row.evaluations) for row in record.rows}
    paths = write_documents(
        record,
        workdir,
        {name: count for name, (_, count) in stores.items()},
        lambda name, indices: stores[name][0].read(indices),
        absent,
        counts,
    )
    size = paths[0].stat().st_size / 1e6
    print(f"wrote {paths[0]} ({size:.1f} MB), {', '.join(path.name for path in paths[1:])}")
    if absent:
        row, why = next(iter(absent.items()))
        print(f"note: {len(absent)} of {len(record.rows)} rows have no pictures, {row!r}: {why}")


def stores_of(record: Record, workdir: Path) -> tuple[dict[str, tuple[Store, int]], dict[str, str]]:
    """Return each row's images and how many they are from 0 on; and why others have none."""
    found, absent = {}, {}
    for row in record.rows:
        try:
            found[row.name] = _images(row, workdir)
        except UserError as error:
            absent[row.name] = str(error)
    return found, absent


def _images(row: Row, workdir: Path) -> tuple[Store, int]:
    if row.folder is None:
        raise UserError("their images were not kept")
    folder = (workdir / row.folder).resolve()
    if workdir.resolve() not in folder.parents:
        raise UserError("their folders lie outside of the work folder")
    try:
        store = Store.open(folder, 0)
    except UserError as error:
        raise UserError("their images are gone") from error
    if store.holds_latents():
        raise UserError("their samples are latents")
    indices = store.indices()
    count = next((i for i, index in enumerate(indices) if i != index), len(indices))
    if not count:
        raise UserError("their images are gone")
    return store, count
