"""What mkdocs does besides rendering: a copy of the packages to document, equations as MathML.

Named in ``mkdocs.yml``. No browser needs a script, or another host, to show MathML.
"""

import html
import re
import shutil
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parent.parent
# Where the packages lie under the name that they are imported by, whatever the checkout is called.
COPY = ROOT / "build" / "documented" / "guidestar"
DOCUMENTED = ("core", "data", "guidance", "samplers", "models", "inference", "evaluation")
# Equations of docstrings, as the atlas reads them; and as arithmatex writes those of pages.
EQUATION = re.compile(r"^( *)Equation:\n((?:\1    .*\n)+)", re.MULTILINE)
WRITTEN = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_startup(**_) -> None:
    """Copy the packages that are documented, their equations marked as such."""
    shutil.rmtree(COPY, ignore_errors=True)
    sources = [ROOT / "__init__.py"]
    for package in DOCUMENTED:
        sources += sorted((ROOT / package).rglob("*.py"))
    for source in sources:
        target = COPY / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(EQUATION.sub(_marked, source.read_text()))


def on_page_content(content: str, **_) -> str:
    """Write the equations of a page as MathML.

    Raises:
        ValueError: one with a command that is not known, and would be shown as it is written.
    """
    return WRITTEN.sub(_mathml, content)


def _marked(found: re.Match) -> str:
    indent, equation = found[1], " ".join(found[2].split())
    return f"{indent}$$\n{indent}{equation}\n{indent}$$\n"


def _mathml(found: re.Match) -> str:
    block = found[1] == "div"
    latex = html.unescape(found[2]).strip()
    written = convert(latex, display="block" if block else "inline")
    if "\\" in written:
        raise ValueError(f"no MathML for {latex!r}: {written}")
    return f'<div class="equation">{written}</div>' if block else written
