"""The report as one HTML file that fetches nothing: whatever a record says is text in it.

A policy inside the page lets its own three scripts run, by their digests, and nothing else.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from ...core.errors import UserError
from ..table import HIGHER, LOWER, shown, title_of
from . import sections
from .curves import axes, lines, numeric, short, varying
from .curves import shown as setting_shown
from .pictures import SIDE, TILES, Sprites
from .plots import COLOURS, best, chosen, values_of, wide
from .records import SCALE, Record, Row

# Bytes of the whole file, and of what is not pictures.
LARGEST = 20_000_000
# Rows that a page shows; a file beside it has all of them.
MOST_ROWS = 2000


def render(
    record: Record, sprites: Sprites, counts: Mapping[str, str], notes: Sequence[str]
) -> str:
    """Return the page.

    Args:
        record: what was measured.
        sprites: pictures of its rows.
        counts: evaluations of each row in words, by name.
        notes: what else is to be said of it.
    """
    said = [*notes, *sprites.told(len(record.rows))]
    script, plotly = _asset("page.js"), _plotly()
    data = _json(_data(record, sprites, counts))
    allowed = " ".join(f"'sha256-{_digest(one)}'" for one in (plotly, script))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )
    title = f"{record.name}: {record.kind}"
    parts = [
        sections.header(record),
        sections.cards(record, counts),
        "".join(f'<p class="note">{escape(one)}</p>' for one in said),
        sections.plots(record),
        sections.pictures(record, sprites),
        sections.table(record, counts),
        sections.claims(record),
        sections.about(record),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_asset("page.css")}{sections.sprite_rules(record, sprites)}</style></head><body>
<a class="skip" href="#rows">Skip to the table</a>
{"".join(parts)}
<noscript><p class="note">Without scripts there are no plots and no pictures here: they lie beside
this file.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{plotly}</script>
<script>{script}</script>
</body></html>
"""


def _json(data: Any) -> str:
    """Return JSON that can stand in a page: nothing in it ends a script or begins markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("the report's plots need plotly: pip install 'guidestar[lab]'") from error
    return get_plotlyjs()


def _data(record: Record, sprites: Sprites, counts: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page's script reads: text to show, and numbers."""
    along, quality, trade_off = chosen(record)
    runs = numeric(record) or [SCALE]
    laid, differ = axes(record), varying(record)
    return {
        "rows": [
            {
                "title": row.title,
                "numbers": row.numbers,
                "shown": {key: shown(key, value) for key, value in row.numbers.items()},
                "cost": row.multiply_adds and row.multiply_adds / 1e9,
                "told": _told(row, differ, counts),
                "at": {axis.key: axis.places[place] for axis in laid},
                "pictures": sprites.counts.get(row.name, 0),
            }
            for place, row in enumerate(record.rows)
        ],
        "axes": [
            {
                "key": axis.key,
                "title": axis.title,
                "values": [setting_shown(value) for value in axis.values],
            }
            for axis in laid
        ],
        "along": [
            {
                "key": key,
                "title": short(key),
                "lines": [
                    {
                        "label": line.label,
                        "rows": list(line.rows),
                        "values": list(line.values),
                        "joined": line.joined,
                    }
                    for line in lines(record, key)
                ],
            }
            for key in runs
        ],
        "metrics": [
            {
                "key": metric,
                "title": title_of(metric),
                "better": (metric in HIGHER) - (metric in LOWER),
                "pareto": best(record, metric),
                "positive": all(value > 0 for value in values_of(record, metric)),
                "wide": wide(record, metric),
            }
            for metric in record.measured
        ],
        "colours": COLOURS,
        "chosen": {"along": along, "quality": quality, "tradeOff": trade_off},
        "sprite": {"side": SIDE, "tiles": TILES, "edge": sprites.edge},
    }


def _told(row: Row, differ: Sequence[str], counts: Mapping[str, str]) -> list[str]:
    """Return lines that say all of a row's numbers."""
    told = row.settings
    parts = [f"{short(key)} {setting_shown(told[key])}" for key in differ if key in told]
    found = [", ".join(parts)] if parts else []
    found += [f"{title_of(key)} {shown(key, value)}" for key, value in row.numbers.items()]
    if row.evaluations:
        found.append(f"{counts[row.name]} evaluations an image")
    if row.multiply_adds is not None:
        found.append(f"{row.multiply_adds / 1e9:.3g} G multiply-adds an image")
    if row.seconds is not None:
        found.append(f"{row.seconds:.1f} s")
    return found
