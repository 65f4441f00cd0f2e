"""The bar over the trials of a sweep."""

import os

from tqdm import tqdm

from ...runtime.study import Study
from ...runtime.workers import NUMBER


def bar_of(study: Study | None) -> tqdm:
    """Return a bar over trials; of a launcher's worker, or beside another process, none."""
    hidden = study is None or NUMBER in os.environ
    done = 0 if study is None else len(study.finished())
    total = 0 if study is None else study.places
    return tqdm(total=total, initial=done, unit="trial", dynamic_ncols=True, disable=hidden)


def move(bar: tqdm, study: Study) -> None:
    bar.update(len(study.finished()) - bar.n if not bar.disable else 0)
    bar.refresh()
