"""The pages of the documentation: each is in the navigation, and what they link to is there."""

import html
import re
from pathlib import Path

import pytest
from places import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """Return a page without its blocks and pieces of code, in which brackets link nothing."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\(|`[^`\n]*`", lambda found: found[0] if found[0] == "](" else "code", text)


def anchors(page: Path) -> set[str]:
    """Return the names that a link to a page may end in."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    slugs = {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in headings
    }
    return slugs | {html.unescape(one) for one in re.findall(r'<a id="([^"]+)"', text)}


def broken(page: Path) -> list[str]:
    """Return the links of a page, to files of this repository, that lead nowhere."""
    missing = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        api = target.parent == DOCS / "api"  # names of the library, which the site knows
        if not target.exists() or (anchor and not api and anchor not in anchors(target)):
            missing.append(link)
    return missing


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text('# A title, of it\n<a id="here"></a>\n')
    page.write_text(
        "[a](other.md#a-title-of-it) [b](other.md#here) [c](https://example.org) `[d](none.md)`\n"
        "```\n[e](none.md)\n```\n[f](none.md) [`g`](other.md#there) [h](#no)"
    )
    assert broken(page) == ["none.md", "other.md#there", "#no"]


def test_every_page_is_in_the_navigation_once():
    named = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_pages_of_the_site_link_to_nothing_outside_of_it():
    """A link out of docs/ would lead nowhere on the site."""
    for page in PAGES:
        for link in LINK.findall(prose(page)):
            if not re.match(r"[a-z]+:|#", link):
                assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
