"""The parts of the report's page that are HTML from the start; every text in them is escaped."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..table import CLAIMS, HIGHER, LOWER, claims_cells, html_table, shown, title_of
from .curves import LINE, axes, columns, numeric, short
from .curves import shown as setting_shown
from .pictures import Sprites
from .plots import best, chosen
from .records import Record

_NO_COMMAND = "<p>This record keeps no command.</p>"


def header(record: Record) -> str:
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


def cards(record: Record, counts: Mapping[str, str]) -> str:
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
            f"<li><span>{escape(title_of(metric))}, {word}</span>"
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


def plots(record: Record) -> str:
    along, quality, trade_off = chosen(record)
    if quality is None:
        return '<section><h2>Plots</h2><p class="note">No row has a number yet.</p></section>'
    metrics = [(one, title_of(one)) for one in record.measured]
    controls = [_select("quality", "Height", metrics, quality)]
    if along is not None:
        controls.append(_select("along", "Along", [(k, short(k)) for k in numeric(record)], along))
    controls.append('<label><input type="checkbox" id="log"> Logarithmic</label>')
    figures = []
    if along is not None:
        figures.append(("along", f"{title_of(quality)} along {short(along)}", ""))
    if trade_off is not None:
        figures.append(("trade", f"{title_of(trade_off[0])} against {title_of(trade_off[1])}", ""))
    if any(row.multiply_adds for row in record.rows):
        figures.append(
            (
                "cost",
                "Cost against quality",
                "Ringed: the Pareto set. No row costs less and is better.",
            )
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


def pictures(record: Record, sprites: Sprites) -> str:
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
        f'differs between two pictures is the setting. <span id="below"></span></p>'
        f'<div class="controls">{"".join(controls)}</div>'
        f'<div class="sliders" id="sliders"></div>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Pictures">'
        f'<table class="matrix" id="matrix"></table></div></section>'
    )


def sprite_rules(record: Record, sprites: Sprites) -> str:
    """Return a rule of style for every sprite: no script ever handles their contents."""
    rules = []
    for place, row in enumerate(record.rows):
        for number, file in enumerate(sprites.files.get(row.name, ())):
            text = base64.b64encode(file).decode()
            rules.append(
                f".p{place}-{number}{{background-image:url(data:image/webp;base64,{text})}}"
            )
    return "\n".join(rules)


def table(record: Record, counts: Mapping[str, str]) -> str:
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
    head = [
        f'<th scope="col" class="{kind}" aria-sort="none"><button type="button">{escape(title)}'
        f"</button></th>"
        for title, kind in heads
    ]
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
        head_cell = f'<th scope="row">{escape(row.title)}{mark}</th>'
        cells = [
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
            f'<tbody id="row-{place}"><tr>{head_cell}<td><button type="button" class="open" '
            f'aria-expanded="false" aria-controls="more-{place}" aria-label="Config and command of '
            f'{escape(row.title)}">Config</button></td>{"".join(cells)}</tr>'
            f'<tr class="more" id="more-{place}" hidden><td colspan="{len(heads) + 1}">'
            f'<div class="held">{_copied("Config", config)}'
            f"{_copied('Command', row.command) if row.command else _NO_COMMAND}"
            f"{_copied('Why it failed', row.error) if row.error else ''}</div></td></tr>"
            f"</tbody>"
        )
    return (
        f'<section><h2>Rows</h2><p class="lead">Every row with what it was set to. A head sorts, '
        f"once more the other way. <b>P</b>: in the Pareto set.</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Rows">'
        f'<table id="rows"><thead><tr>{head[0]}<th scope="col" class="plain">config</th>'
        f"{''.join(head[1:])}</tr></thead>"
        f"{''.join(bodies)}</table></div></section>"
    )


def _cell(value: Any, text: str, kind: str = "") -> str:
    known = "" if value is None else str(value)
    return f'<td class="{kind}" data-value="{escape(known)}">{escape(text)}</td>'


def _copied(title: str, text: str) -> str:
    return (
        f'<div class="copied"><div><b>{title}</b><button type="button" class="copy">Copy</button>'
        f'</div><pre tabindex="0">{escape(text)}</pre></div>'
    )


def claims(record: Record) -> str:
    if not record.claims:
        return ""
    try:
        cells = [[str(cell) for cell in row] for row in claims_cells(record.claims)]
    except (KeyError, TypeError, ValueError):
        return '<section><h2>Claims</h2><p class="note">They cannot be read.</p></section>'
    table = html_table("What was claimed of the rows beforehand", CLAIMS, cells)
    return f'<section><h2>Claims</h2><div class="scroll" tabindex="0">{table}</div></section>'


def about(record: Record) -> str:
    text = json.dumps(record.about, indent=1)
    return (
        f"<section><h2>What was run</h2><details><summary>As the record says it</summary>"
        f'<pre tabindex="0">{escape(text)}</pre></details></section>'
    )
