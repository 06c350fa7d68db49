"""Marks: places count Unicode characters, whatever the text holds and however it was marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browser_tools import ready, saved, task

from keel.types import Choice, Span, Spans

TEXT = "Two 😀😀 squares, 👩‍👩‍👧 and\r\na \u202edog\u202c 左边有一只狗。 café e\u0301nd <b>&amp;</b>"
SELECT = """([start, end]) => {
  const host = document.querySelector('.plain');
  const walker = document.createTreeWalker(host, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  let at = 0, begun = false, node;
  while ((node = walker.nextNode())) {
    let units = 0;
    for (const sign of node.data) {
      if (at === start && !begun) { range.setStart(node, units); begun = true; }
      at++; units += sign.length;
      if (at === end) range.setEnd(node, units);
    }
  }
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  return new Promise(done => setTimeout(done));  // the selectionchange event comes as a task
}"""


def stored(where: Any) -> list[tuple[str, ...]]:
    """The marked texts with their kinds, cut out of the text by what the store holds."""
    return [tuple(f"{TEXT[s.start : s.end]}|{s.kind}" for s in v.answer.spans) for v in where.votes()]


@pytest.mark.parametrize("words", ["😀", "squares", "👩‍👩‍👧", "左边", "狗", "dog", "café", "e\u0301nd", "<b>&amp;</b>", "and\r\na"])
def test_what_is_marked_is_what_is_stored(site: Callable[..., Any], visit: Callable[..., Any], words: str) -> None:
    where = site([task(0, "spans", texts=(TEXT,))])
    page = visit(where)
    start = TEXT.index(words)
    page.evaluate(SELECT, [start, start + len(words)])
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_selector(".empty.done")
    saved(page)
    (vote,) = where.votes()
    assert vote.answer == Spans((Span(0, start, start + len(words), "attribute"),))
    assert stored(where) == [(f"{words}|attribute",)]


def test_by_mouse_with_white_space_around(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """A double click takes the word; the space that some systems take too is left out. Then a mark goes, and another comes."""
    where = site([task(0, "spans", texts=("One dog 😀 and one 猫 sat.",))])
    page = visit(where)
    box = page.locator(".plain").bounding_box()
    page.mouse.dblclick(box["x"] + 45, box["y"] + 16)
    page.locator(".kind").first.click()
    assert page.locator("mark").all_inner_texts() == ["dog"]
    page.locator(".marks button").click()
    assert page.locator("mark").count() == 0
    page.mouse.dblclick(box["x"] + 45, box["y"] + 16)
    page.keyboard.press("1")
    page.evaluate(SELECT, [8, 10])  # the emoji and the space after it
    page.keyboard.press("6")
    page.keyboard.press("Enter")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert [v.answer for v in where.votes()] == [Spans((Span(0, 4, 7, "object"), Span(0, 8, 9, "other")))]


def test_by_keys_alone(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    text = "There is 😀 one dog, 左边有狗。"
    where = site([task(0, "spans", texts=(text,))])
    page = visit(where)
    page.keyboard.press("Tab")
    while page.evaluate("() => !document.activeElement.classList.contains('plain')"):
        page.keyboard.press("Tab")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "1"):
        page.keyboard.press(key)
    for key in ("Alt+ArrowRight",) * 3:
        page.keyboard.press(key)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_selector(".empty.done")
    saved(page)
    first, second = where.votes()[0].answer.spans
    assert text[first.start : first.end] == "one dog"
    assert text[second.start : second.end] == "左"


def test_nothing_wrong_is_an_act(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i, "spans", 1) for i in range(2)])
    page = visit(where)
    handle = ready(page)
    page.keyboard.press("Enter")
    assert "nothing is wrong" in page.locator("#toast").inner_text()
    page.keyboard.press("n")
    ready(page, handle)
    page.keyboard.press("x")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert [v.answer for v in where.votes()] == [Spans(()), Choice("cannot")]
