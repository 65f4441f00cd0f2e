"""Sections of a config, taken by the mode that reads them."""

from collections.abc import Sequence
from typing import Any

from ...core.errors import UserError


def section(config: Any, name: str, *, fields: Sequence[str], example: str) -> Any:
    """Return a section of a config.

    Args:
        config: of an experiment.
        name: the section's, dotted where it lies in another.
        fields: what the mode at hand cannot do without.
        example: path of a config that has the section.

    Raises:
        UserError: there is none, or a field is missing from it: with the fields and the example.
    """
    found = config
    for part in name.split("."):
        if part not in found:
            having = f" ({', '.join(fields)})" if fields else ""
            raise UserError(
                f"this config has no section {name!r}{having}, which this mode "
                f"reads: see {example}, and give your own config one like it"
            )
        found = found[part]
    for field in fields:
        if field not in found:
            raise UserError(
                f"the section {name!r} of this config lacks {field!r}: it needs "
                f"{', '.join(fields)}, as in {example}"
            )
    return found
