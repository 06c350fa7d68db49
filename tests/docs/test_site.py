"""The site of the documentation: links between trees, navigation, the check of finished pages. Sphinx itself runs in `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pages import ROOT

sys.path.insert(0, str(ROOT / "docs" / "site"))
from build import across, navigation, pages, toctrees
from links import problems


def test_links_between_trees_are_addresses() -> None:
    assert across("[a](a.md) [b](b.zh.md#x) [d](https://d.md)", "index.md", "en") == "[a](a.md) [b](place:../zh/b.html#x) [d](https://d.md)"
    assert across("[c](../recipes/c.yaml)", "index.md", "en") == "c (`recipes/c.yaml`)", "a file beside the documentation is named"
    assert across("[a](a.md) [b](b.zh.md)", "index.md", "zh") == "[a](page:../en/a.html) [b](b.md)"
    assert across("[a](../a.md#y)", "tutorials/t.md", "zh") == "[a](place:../../en/a.html#y)"
    assert across("[a](../a.md)", "tutorials/t.md", "en") == "[a](../a.md)"


def test_navigation_is_what_the_start_page_links() -> None:
    index = "# T\n\n[x](x.md)\n\n## One\n\n- [a](a.md): b\n- [c](t/c.md), [d](d.md),\n  [e](e.md)\n\n[no](n.md)\n\n## Two\n\n- text\n"
    assert navigation(index) == [("One", ["a.md", "t/c.md", "d.md", "e.md"]), ("Two", [])]
    assert toctrees(index) == "\n```{toctree}\n:hidden:\n:caption: One\n\na\nt/c\nd\ne\n```\n"


def test_every_page_is_in_the_english_navigation() -> None:
    linked = {page for _, entries in navigation((ROOT / "docs/index.md").read_text(encoding="utf-8")) for page in entries}
    assert {page for page in pages() if not page.endswith(".zh.md")} - {"index.md"} == linked


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<a href="b.html">', "b.html: no such file"),
        ('<a href="a.html#there"><p id="there">', ""),
        ('<a href="#gone">', "#gone: no such anchor"),
        ('<img src="p.png">', "p.png: no such file"),
        ('<script src="https://cdn.example/x.js">', "loads https://cdn.example/x.js from the network"),
        ('<link rel="stylesheet" href="//fonts.example/f.css">', "loads //fonts.example/f.css from the network"),
        ('<a href="https://example.org">', ""),
    ],
)
def test_what_is_wrong_in_a_page_is_said(tmp_path: Path, html: str, said: str) -> None:
    (tmp_path / "a.html").write_text(html, encoding="utf-8")
    assert problems(tmp_path) == ([f"a.html: {said}"] if said else [])
