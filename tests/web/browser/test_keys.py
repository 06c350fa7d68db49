"""Keys act when they are meant, and never otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browser_tools import ready, saved, task, vote

from keel.feedback.answers import from_display
from keel.types import Choice

TYPED = ["1", "2", "0", "a", "?", "Enter", "b", "x", "u", "g", "Backspace", "/", "'"]


def untouched(page: Any, where: Any, handle: str) -> None:
    """Nothing was voted, nothing opened, and the page is where it was."""
    assert page.locator(".item").get_attribute("data-handle") == handle
    assert page.locator("dialog").count() == 0
    assert page.url == where.url + "/annotate"
    saved(page)
    assert where.votes() == []


def test_typing_in_the_reason_is_typing(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    handle = ready(page)
    page.keyboard.press("r")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    for key in TYPED:
        page.keyboard.press(key)
    assert page.locator("textarea").input_value() == "120a?\nbxu/'"  # Backspace took the g
    untouched(page, where, handle)
    page.keyboard.press("Escape")  # leaves the field
    page.keyboard.press("7")
    ready(page, handle)
    saved(page)
    assert [(from_display(v.answer, v.display_order), v.reason) for v in where.votes()] == [(Choice("second", 1.0), "120a?\nbxu/'")]


@pytest.mark.parametrize(
    "extra", [{"isComposing": True}, {"keyCode": 229}, {"key": "Process"}, {"ctrlKey": True}, {"metaKey": True}, {"altKey": True}]
)
def test_a_composing_input_method_and_modified_keys_vote_nothing(
    site: Callable[..., Any], visit: Callable[..., Any], extra: dict[str, Any]
) -> None:
    where = site([task(i) for i in range(2)])
    page = visit(where)
    handle = ready(page)
    press = "extra => document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '1', code: 'Digit1', bubbles: true, ...extra }))"
    page.evaluate(press, extra)
    untouched(page, where, handle)
    page.evaluate(press, {})  # the same without: it does vote, so the test can see
    ready(page, handle)


def test_chinese_composed_in_the_reason(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """A real composition by the browser's own protocol: digits choose a word, Enter takes the letters; neither votes nor sends."""
    where = site([task(i) for i in range(2)], page={"reason": "required"})
    page = visit(where)
    handle = ready(page)
    page.keyboard.press("r")
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "zhun que", "selectionStart": 8, "selectionEnd": 8})
    for key in ("1", "Enter"):
        session.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", "windowsVirtualKeyCode": 229, "key": "Process", "code": key})
    session.send("Input.insertText", {"text": "准确"})
    assert page.locator("textarea").input_value() == "准确"
    untouched(page, where, handle)


def test_dialogs_put_the_keys_to_sleep(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(2)])
    page = visit(where)
    handle = ready(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    for key in "17bxu":
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    untouched(page, where, handle)


def test_the_time_gate(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """Before the time is over neither keys nor clicks vote, and it is said why; afterwards they do."""
    where = site([task(i) for i in range(2)], page={"min_read_ms": 1500})
    page = visit(where, item=False)
    page.wait_for_selector("body[data-gate=waits]")
    handle = page.locator(".item").get_attribute("data-handle") or ""
    page.keyboard.press("1")
    page.locator(".choice.tie").click()
    assert "read first" in page.locator("#toast").inner_text()
    untouched(page, where, handle)
    assert ready(page) == handle
    page.keyboard.press("1")
    ready(page, handle)
    saved(page)
    (vote_,) = where.votes()
    assert vote_.active_ms >= 1500
    assert from_display(vote_.answer, vote_.display_order) == Choice("first", 1.0)


def test_keys_can_be_changed_and_stay_changed(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    page.keyboard.press("?")
    rows = page.locator("dialog tr")
    rows.filter(has_text="Both bad").get_by_role("button").click()
    page.keyboard.press("x")  # taken by "Cannot judge"
    assert "Cannot judge" in page.locator("dialog [role=status]").inner_text()
    rows.filter(has_text="Both bad").get_by_role("button").click()
    page.keyboard.press("q")
    page.keyboard.press("Escape")
    assert page.locator(".choice.both_bad kbd").inner_text() == "Q"
    vote(page, "4")
    assert page.locator(".choice.both_bad kbd").inner_text() == "Q"  # drawn before the change
    page.reload()
    handle = ready(page)
    page.keyboard.press("b")  # means nothing now
    assert page.locator(".item").get_attribute("data-handle") == handle
    vote(page, "q")
    saved(page)
    assert [v.answer for v in where.votes()] == [Choice("tie"), Choice("both_bad")]


def test_enter_on_a_button_presses_the_button(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i, "ranking", 3) for i in range(2)])
    page = visit(where)
    handle = ready(page)
    page.locator(".chip").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".bucket .chip").all_inner_texts()[0].startswith("B")
    untouched(page, where, handle)


def test_time_at_work_stops_while_the_page_is_hidden(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """The clock of the item: hidden time and idle time do not count, and the computer's clock does not matter."""
    where = site([task(i) for i in range(2)])
    page = visit(where)
    found = page.evaluate(
        """async () => {
          const { ActiveClock } = await import('/static/annotate/clock.js');
          let now = 1000, hidden = false;
          Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });
          const clock = new ActiveClock(30000, () => now);
          const show = (is) => { hidden = !is; document.dispatchEvent(new Event('visibilitychange')); };
          const read = [];
          now += 2000; read.push(clock.read());          // at work
          show(false); now += 60000; read.push(clock.read());  // away
          show(true); now += 500; read.push(clock.read());     // back
          now += 600000; read.push(clock.read());        // asleep in the chair: 30 s of it count
          dispatchEvent(new Event('pointermove')); now += 100; read.push(clock.read());
          Date.now = () => 0; now += 100; read.push(clock.read());
          delete document.hidden;
          return read;
        }"""
    )
    assert found == [2000, 2000, 2500, 32000, 32100, 32200]
