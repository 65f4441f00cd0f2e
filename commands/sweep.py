"""The sweep mode: many trials of one config, on as many workers as there are, each made once.

A trial is the config with some fields replaced, as a command line would replace them, evaluated as
--mode=evaluate does one row. `get_hyper` of the config's file says which trials there are, or
Optuna proposes them.
"""

import os
from pathlib import Path

import jax

from ..core.errors import UserError
from ..runtime import distributed
from ..runtime.run_folder import SWEEP, Folder
from ..runtime.study import FAILED, Study
from ..runtime.workers import NUMBER
from .sweeping.launching import announced, launch
from .sweeping.record import RECORD
from .sweeping.trials import READS, Sweep
from .sweeping.working import work

__all__ = ["READS", "WORKDIR", "run"]

# Several workers are there at once, and each holds the folder of the trial that it is at.
WORKDIR = Folder(makes=SWEEP, shared=True)


def run(config, workdir: Path) -> None:
    """Run the trials of a sweep that are left, and write what came out.

    Args:
        config: of an experiment that has ``evaluation``, with the section ``sweep``.
        workdir: gets ``sweep.json`` and ``sweep.csv``, rewritten as trials finish; a folder of
            images a trial below ``trials``; and the storage, unless ``sweep.storage`` names one.

    Raises:
        UserError: anything in any trial that cannot run, before the first begins; another sweep's
            storage, or one that cannot be reached; trials that are left when all workers are gone.
    """
    launching = config.sweep.workers > 1 and NUMBER not in os.environ
    if launching or config.sweep.dry_run:
        # Accelerators are the workers'.
        jax.config.update("jax_platforms", "cpu")
    elif jax.process_count() > 1 and config.sweep.workers > 1:
        raise UserError(
            f"sweep.workers is {config.sweep.workers}, and this is one of several processes that "
            f"are one worker together: leave it at 1, and start other workers by themselves"
        )
    sweep = Sweep(config, workdir)
    if config.sweep.dry_run:
        print("\n".join(announced(sweep)))
        return
    if launching:
        study = sweep.study()
        try:
            launch(sweep, study)
        finally:
            sweep.write(study)
    else:
        study = sweep.study() if distributed.is_primary() else None
        work(sweep, study)
    if study is not None:
        sweep.write(study)
        _told(study, workdir)


def _told(study: Study, workdir: Path) -> None:
    """Say what came out."""
    finished = study.finished()
    states = [one.state for one in finished.values()]
    counts = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
    print(f"{len(finished)} of {study.places} trials ({counts or 'none'}): {workdir / RECORD}")
    for place, one in finished.items():
        if one.state == FAILED:
            print(f"trial {place} failed: {one.row['error']}")
