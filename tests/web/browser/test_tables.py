"""Tables of reports in a real browser: words stay whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keel.evaluate.report_plots as plots_module

CSS = (Path(plots_module.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
ROW = "<tr><th scope='row'>a name</th><td>{}</td><td>{}</td></tr>"
BROKEN = """() => [...document.querySelectorAll('td')].flatMap((cell) => {
  const text = cell.firstChild, range = document.createRange(), broken = [];
  for (const { index, 0: word } of text.data.matchAll(/\\S+/g)) {
    range.setStart(text, index); range.setEnd(text, index + word.length);
    if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) broken.push(word);
  }
  return broken;
})"""


@pytest.mark.parametrize("width", [360, 520, 1200])
def test_words_of_tables_with_three_columns_are_whole(browser: Any, width: int) -> None:
    long = "incomprehensibilities are what this sentence tells of, and internationalization of documentation; " * 3
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_content(f"<style>{CSS}</style><main class='wrap'><table class='pairs'>{ROW.format('misunderstandings', long)}</table></main>")
    assert page.evaluate(BROKEN) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
