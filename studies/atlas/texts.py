"""What docstrings say of rules: the equation, when to use it, what a module is about.

A constructor's docstring is the one description of what it makes; the atlas and the tables of
docs/rules.md are made from it.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from ... import guidance
from ...core.constructors import Constructor
from ...core.files import write_text
from ...guidance.config import CONSTRUCTORS

BEGIN, END = "<!-- rules:begin -->", "<!-- rules:end -->"
# The tables: where modules of the rows lie, and the heading.
TABLES = {
    "references": "where the push comes from",
    "transforms": "what is done to the push",
    "wrappers": "what is put around a rule",
    "operators": "what is measured",
}
# Kinds by the column that they stand in.
COLUMNS = ("rule", "reference", "transform", "operator")


def docstring(name: str) -> str:
    """Return the docstring of a constructor, without its indentation."""
    return inspect.getdoc(inspect.unwrap(CONSTRUCTORS[name].build)) or ""


def equation(name: str) -> str:
    """Return a constructor's equation in LaTeX; empty where its docstring has none."""
    found = re.search(r"^Equation:\n((?:    .*\n)+)", docstring(name) + "\n", re.MULTILINE)
    return " ".join(line.strip() for line in found[1].splitlines()) if found else ""


def when(name: str) -> str:
    """Return when to use what a constructor makes; empty where its docstring does not say."""
    found = re.search(r"^When to use: (.*?)(?:\n\n|\Z)", docstring(name), re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def rules_tables() -> str:
    """Return the tables of all rules and parts in Markdown: a row a module, by its docstring."""
    tables = []
    for folder, heading in TABLES.items():
        rows = [(about, columns) for about, columns in _modules(folder) if any(map(bool, columns))]
        used = [number for number in range(len(COLUMNS)) if any(row[1][number] for row in rows)]
        lines = [
            _row(heading, *(COLUMNS[number] for number in used)),
            "|---" * (len(used) + 1) + "|",
            *(
                _row(about, *(_links(columns[number]) for number in used))
                for about, columns in rows
            ),
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _modules(folder: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield what each module is about, and its constructors by column."""
    package = importlib.import_module(f"{guidance.__name__}.{folder}")
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        own = [CONSTRUCTORS[name] for name in CONSTRUCTORS if _made_in(name) == module.__name__]
        columns = [[one.name for one in own if one.kind == kind] for kind in COLUMNS]
        yield _about(module.__doc__ or ""), columns


def _made_in(name: str) -> str:
    entry: Constructor = CONSTRUCTORS[name]
    return inspect.unwrap(entry.build).__module__


def _about(doc: str) -> str:
    """Return a docstring's first line, without the paper."""
    first = doc.strip().splitlines()[0].rstrip(".")
    return re.sub(r",? ?\([^()]*(?:arXiv )?\d{4}\.\d{5}[^()]*\)", "", first)


def _links(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def with_tables(page: str) -> str:
    """Return a page whose tables between the two markers are made anew.

    Raises:
        ValueError: a page without the markers.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no place for the tables: put {BEGIN} and {END} into it")
    before, after = page.split(BEGIN, 1)[0], page.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n{rules_tables()}\n\n{END}{after}"


def write_tables(page: Path) -> bool:
    """Make the tables of a page anew where it has the markers; return whether it has them."""
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text:
        return False
    write_text(page, with_tables(text))
    return True
