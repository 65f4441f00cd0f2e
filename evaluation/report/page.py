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
from ..table import CLAIMS, HIGHER, LOWER, claims_cells, html_table, shown, title_of
from .curves import LINE, axes, columns, lines, numeric, short, varying
from .curves import shown as setting_shown
from .pictures import SIDE, TILES, Sprites
from .plots import best, chosen
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
        _header(record),
        _cards(record, counts),
        "".join(f'<p class="note">{escape(one)}</p>' for one in said),
        _plots(record),
        _pictures(record, sprites),
        _table(record, counts),
        _claims(record),
        _about(record),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_asset("page.css")}{_sprite_rules(record, sprites)}</style></head><body>
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
            }
            for metric in record.measured
        ],
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


def _header(record: Record) -> str:
    about = record.about
    facts = [
        f"{about['images']} images a row" if isinstance(about.get("images"), int) else "",
        *(str(about[key]) for key in ("date", "device") if isinstance(about.get(key), str)),
    ]
    real, extractor = about.get("real"), about.get("extractor")
    if isinstance(real, Mapping) and "data" in real:
        facts.insert(1, f"against {real['data']} {real.get('split', '')}".strip())
    if isinstance(extractor, Mapping) and "name" in extractor:
        facts.insert(2, f"in the features of {extractor.get('weights') or extractor['name']}")
    return (
        f'<header><div><p class="kind">Guidestar {escape(record.kind)}</p>'
        f"<h1>{escape(record.name)}</h1><p>{escape(' · '.join(filter(None, facts)))}</p></div>"
        f'<button type="button" id="theme">Dark or light</button></header>'
    )


def _cards(record: Record, counts: Mapping[str, str]) -> str:
    """Return the best rows by what was measured, in short."""
    cards = []
    ended = [row for row in record.rows if row.ended]
    for metric in (one for one in record.metrics if one in (*LOWER, *HIGHER)):
        there = [row for row in ended if metric in row.numbers]
        if not there or len(cards) == 4:
            continue
        pick, word = (min, "lowest") if metric in LOWER else (max, "highest")
        row = pick(there, key=lambda row: row.numbers[metric])
        cards.append(
            f"<li><span>{word} {escape(title_of(metric))}</span>"
            f"<strong>{escape(shown(metric, row.numbers[metric]))}</strong>"
            f"<em>{escape(row.title)}</em></li>"
        )
    if len(ended) < len(record.rows):
        states = sorted({row.state.lower() for row in record.rows if not row.ended})
        cards.append(
            f"<li><span>rows that have ended</span><strong>{len(ended)} of {len(record.rows)}"
            f"</strong><em>others: {escape(', '.join(states))}</em></li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""


def _select(name: str, label: str, options: Sequence[tuple[str, str]], chosen: Any = None) -> str:
    inner = "".join(
        f'<option value="{escape(key)}"{" selected" * (key == chosen)}>{escape(title)}</option>'
        for key, title in options
    )
    return f'<label>{escape(label)} <select id="{name}">{inner}</select></label>'


def _plots(record: Record) -> str:
    along, quality, trade_off = chosen(record)
    if quality is None:
        return '<section><h2>Plots</h2><p class="note">No row has a number yet.</p></section>'
    metrics = [(one, title_of(one)) for one in record.measured]
    controls = [_select("quality", "Height", metrics, quality)]
    if along is not None:
        controls.append(_select("along", "Along", [(k, short(k)) for k in numeric(record)], along))
    figures = []
    if along is not None:
        figures.append(("along", f"{title_of(quality)} along {short(along)}", ""))
    if trade_off is not None:
        figures.append(("trade", f"{title_of(trade_off[0])} against {title_of(trade_off[1])}", ""))
    if any(row.multiply_adds for row in record.rows):
        figures.append(
            ("cost", "Cost against quality", "Ringed: the Pareto set, no row beats one in both.")
        )
    hint = "Arrow keys move over the points, Enter opens a row in the table."
    plots = "".join(
        f'<figure class="{name}"><figcaption><h3 id="{name}-title">{escape(title)}</h3>'
        f"{escape(more)}</figcaption>"
        f'<div class="plot" id="plot-{name}" tabindex="0" role="application" '
        f'aria-labelledby="{name}-title" aria-describedby="hint"></div></figure>'
        for name, title, more in figures
    )
    return (
        f'<section><h2>Plots</h2><div class="controls">{"".join(controls)}</div>'
        f'<fieldset class="legend"><legend>Lines</legend><div id="legend"></div>'
        f'<div><button type="button" id="all">All</button>'
        f'<button type="button" id="none">None</button></div></fieldset>'
        f'<div class="plots">{plots}</div>'
        f'<p class="hint" id="hint">{hint}</p>'
        f'<p class="readout" id="readout" role="status"></p></section>'
    )


def _pictures(record: Record, sprites: Sprites) -> str:
    if not sprites.counts:
        return (
            '<section><h2>Pictures</h2><p class="note">There are no pictures of these rows here.'
            "</p></section>"
        )
    laid = [(axis.key, axis.title) for axis in axes(record)]
    if any(count > 1 for count in sprites.counts.values()):
        laid.append(("seed", "seed"))
    keys = [key for key, _ in laid]
    across, down = keys[:2] if keys[1:2] == [LINE] else (keys[-1], keys[0])
    controls = [
        _select("across", "Across", laid, across),
        _select("down", "Down", laid, down),
        _select("each", "Seeds a cell", [("1", "1"), ("4", "4"), ("9", "9")], "1"),
    ]
    return (
        f'<section><h2>Pictures</h2><p class="lead">The same seeds in every row, so that what '
        f"differs between two pictures is the setting.</p>"
        f'<div class="controls">{"".join(controls)}</div>'
        f'<div class="sliders" id="sliders"></div>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Pictures">'
        f'<table class="matrix" id="matrix"></table></div></section>'
    )


def _sprite_rules(record: Record, sprites: Sprites) -> str:
    """Return a rule of style for every sprite: no script ever handles their contents."""
    rules = []
    for place, row in enumerate(record.rows):
        for number, file in enumerate(sprites.files.get(row.name, ())):
            text = base64.b64encode(file).decode()
            rules.append(
                f".p{place}-{number}{{background-image:url(data:image/webp;base64,{text})}}"
            )
    return "\n".join(rules)


def _table(record: Record, counts: Mapping[str, str]) -> str:
    set_to = columns(record)
    states = any(row.state for row in record.rows)
    measured = record.measured
    heads = [
        ("row", "text"),
        *((title, "setting") for title in set_to),
        *((title_of(metric), "number") for metric in measured),
        ("evaluations", "number"),
        ("G multiply-adds", "number"),
        ("seconds", "number"),
        *([("state", "text")] if states else []),
    ]
    head = "".join(
        f'<th scope="col" class="{kind}" aria-sort="none"><button type="button">{escape(title)}'
        f"</button></th>"
        for title, kind in heads
    )
    winners = {
        metric: (min if metric in LOWER else max)(
            (r.numbers[metric] for r in record.rows if r.ended and metric in r.numbers),
            default=None,
        )
        for metric in measured
        if metric in (*LOWER, *HIGHER)
    }
    quality = chosen(record).quality
    on_front = {*best(record, quality)} if quality else set()
    bodies = []
    for place, row in enumerate(record.rows):
        total = sum(row.evaluations.values()) if row.evaluations else None
        macs = None if row.multiply_adds is None else row.multiply_adds / 1e9
        mark = '<abbr title="in the Pareto set of cost and quality">P</abbr>' * (place in on_front)
        cells = [
            f'<th scope="row">{escape(row.title)}{mark}</th>',
            *(
                _cell(one[place], "" if one[place] is None else setting_shown(one[place]), "set")
                for one in set_to.values()
            ),
            *(
                _cell(
                    row.numbers.get(metric),
                    shown(metric, row.numbers.get(metric)),
                    "best"
                    * (
                        winners.get(metric) is not None
                        and row.numbers.get(metric) == winners.get(metric)
                    ),
                )
                for metric in measured
            ),
            _cell(total, counts.get(row.name, "")),
            _cell(macs, "" if macs is None else f"{macs:.3g}"),
            _cell(row.seconds, "" if row.seconds is None else f"{row.seconds:.1f}"),
            *([_cell(row.state, row.state)] if states else []),
        ]
        config = json.dumps({"guidance": row.guidance} | dict(row.parameters), indent=1)
        bodies.append(
            f'<tbody id="row-{place}"><tr>{"".join(cells)}<td><button type="button" class="open" '
            f'aria-expanded="false" aria-controls="more-{place}" aria-label="Config and command of '
            f'{escape(row.title)}">Config</button></td></tr>'
            f'<tr class="more" id="more-{place}" hidden><td colspan="{len(heads) + 1}">'
            f'<div class="held">{_copied("Config", config)}'
            f"{_copied('Command', row.command) if row.command else _NO_COMMAND}</div></td></tr>"
            f"</tbody>"
        )
    return (
        f'<section><h2>Rows</h2><p class="lead">Every row with what it was set to. A head sorts, '
        f"once more the other way. <b>P</b>: in the Pareto set.</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Rows">'
        f'<table id="rows"><thead><tr>{head}<th scope="col">config, command</th></tr></thead>'
        f"{''.join(bodies)}</table></div></section>"
    )


_NO_COMMAND = "<p>This record keeps no command.</p>"


def _cell(value: Any, text: str, kind: str = "") -> str:
    known = "" if value is None else str(value)
    return f'<td class="{kind}" data-value="{escape(known)}">{escape(text)}</td>'


def _copied(title: str, text: str) -> str:
    return (
        f'<div class="copied"><div><b>{title}</b><button type="button" class="copy">Copy</button>'
        f'</div><pre tabindex="0">{escape(text)}</pre></div>'
    )


def _claims(record: Record) -> str:
    if not record.claims:
        return ""
    try:
        cells = [[str(cell) for cell in row] for row in claims_cells(record.claims)]
    except (KeyError, TypeError, ValueError):
        return '<section><h2>Claims</h2><p class="note">They cannot be read.</p></section>'
    table = html_table("What was claimed of the rows beforehand", CLAIMS, cells)
    return f'<section><h2>Claims</h2><div class="scroll" tabindex="0">{table}</div></section>'


def _about(record: Record) -> str:
    text = json.dumps(record.about, indent=1)
    return (
        f"<section><h2>What was run</h2><details><summary>As the record says it</summary>"
        f'<pre tabindex="0">{escape(text)}</pre></details></section>'
    )
