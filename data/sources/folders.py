"""Folders that `--mode=prepare` and `--mode=encode` made, as data sets."""

import os

from ...core.files import home
from ...core.registry import register
from .. import record_folder
from ..source import Source


@register("source", name="folder")
def load(
    path: str | os.PathLike,
    split: str = "train",
    *,
    most_damaged: float = record_folder.MOST_DAMAGED,
) -> Source:
    """Return a folder's examples, be they pixels or latents.

    Args:
        path: of the folder.
        split: "train" for all of them, or a part, "train[:90%]".
        most_damaged: share of the records that may be damaged; they are named and passed over.

    Raises:
        UserError: as `record_folder.load` and `latents.load` raise.
    """
    from .. import latents  # which knows of networks, and with them of flax

    kind = latents if latents.are_in(path) else record_folder
    return kind.load(home(path), split, most_damaged=most_damaged)
