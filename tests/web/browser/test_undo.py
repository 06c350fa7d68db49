"""Taking answers back, training, and the end of the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from browser_tools import ready, saved, task, vote

from keel.feedback.answers import from_display
from keel.types import Choice, Ranks, TakenBack


def test_undo_is_a_new_event_that_names_the_old(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    first = ready(page)
    second = vote(page, "1")
    page.keyboard.press("u")
    assert ready(page, second) == first
    assert page.locator(".choice[aria-pressed=true]").inner_text().startswith("A much better")
    page.keyboard.press("7")
    assert ready(page, first) == second  # the item that was interrupted comes back
    saved(page)
    old, new = where.votes()
    assert new.replaces == old.event_id
    assert [from_display(v.answer, v.display_order).chosen for v in (old, new)] == ["first", "second"]
    assert where.store.progress("shop")["votes"] == 1


def test_undo_twice_over_and_keep_the_old_one(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    first = ready(page)
    second = vote(page, "1")
    for key in "67":  # corrected twice: each names the one that stands
        page.keyboard.press("u")
        assert ready(page, second) == first
        page.keyboard.press(key)
        assert ready(page, first) == second
    page.keyboard.press("u")
    assert ready(page, second) == first
    page.get_by_role("button", name="Keep the old one").click()
    assert ready(page, first) == second
    saved(page)
    votes = where.votes()
    assert [v.replaces for v in votes] == ["", votes[0].event_id, votes[1].event_id]


def test_two_quick_presses_take_one_back(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """Drawing an item takes a moment, in which no key means anything: neither a second undo nor an answer to what is still shown."""
    where = site([task(i) for i in range(4)])
    page = visit(where)
    ready(page)
    second = vote(page, "1")
    third = vote(page, "1")
    page.evaluate("for (const key of ['u', 'u', '7']) document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))")
    assert ready(page, third) == second
    page.keyboard.press("7")
    assert ready(page, second) == third
    saved(page)
    votes = where.votes()
    assert [v.replaces for v in votes] == ["", "", votes[1].event_id]


def test_undo_while_offline_goes_out_in_order(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i, "ranking", 3) for i in range(3)])
    page = visit(where)
    first = ready(page)
    page.context.set_offline(True)
    for key in "321":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    second = ready(page, first)
    page.keyboard.press("u")
    assert ready(page, second) == first
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    for key in "12":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    ready(page, first)
    page.context.set_offline(False)
    saved(page)
    old, new = where.votes()
    order = [old.display_order.index(i) for i in range(3)]
    assert from_display(old.answer, order) == Ranks(((2,), (1,), (0,)))
    assert from_display(new.answer, order) == Ranks(((2,), (0,), (1,)))
    assert new.replaces == old.event_id


def test_training_tells_right_from_wrong_after_the_answer(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """The expected answer comes after the person's, never before; then the work begins, without feedback."""
    taught = [
        replace(task(90 + i), expected=Choice("first"), meta={"explanation": {"zh": "因为 **规则**", "en": f"Because of **rule {i}**."}})
        for i in range(2)
    ]
    where = site([task(0)], training=taught)
    page = visit(where)
    seen: list[str] = []
    page.on("response", lambda r: seen.append(r.text()) if "/items" in r.url else None)
    page.reload()
    for wrong in (False, True):
        handle = ready(page)
        assert page.locator(".badge").inner_text() == "Training"
        shown = page.locator(".answer .body").first.inner_text()
        at_left = shown.startswith("Answer 0")
        page.keyboard.press("1" if at_left != wrong else "7")
        page.wait_for_selector("dialog[open]")
        said = page.locator("dialog").inner_text()
        assert ("Not what was expected" in said) == wrong
        assert f"Expected: {'A' if at_left else 'B'} is better" in said
        assert "rule" in said
        assert page.locator("dialog strong").count() == 1
        page.keyboard.press("Enter")
        ready(page, handle)
    assert page.locator("#tools .undo").is_disabled()  # what was revealed cannot be taken back
    assert not any("expected" in text or "rule" in text or "explanation" in text for text in seen)
    page.keyboard.press("4")
    page.wait_for_selector(".empty.done")
    assert page.locator(".code output").inner_text()
    assert page.locator("dialog").count() == 0
    saved(page)
    assert [v.purpose for v in where.votes()] == ["training", "training", "work"]


def test_the_guideline_with_its_weights(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0)])
    where.store.add_guideline("g1", "# Judge\n\nBe **fair**.", {"accuracy": 40, "fluency": 15, "completeness": 25, "relevance": 20})
    where.store.update_campaign("shop", guideline="g1")
    page = visit(where)
    page.keyboard.press("g")
    drawer = page.locator("dialog.drawer")
    drawer.locator("strong").wait_for()
    assert "Version g1" in drawer.inner_text()
    assert drawer.locator("th").all_inner_texts() == ["Accuracy", "Completeness", "Relevance", "Fluency"]
    page.keyboard.press("Escape")
    page.context.set_offline(True)  # once read, it is there
    page.keyboard.press("g")
    page.locator("dialog.drawer strong").wait_for()
    page.context.set_offline(False)


def test_an_answer_is_taken_back_for_good_and_the_item_comes_again(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    first = ready(page)
    second = vote(page, "1")
    page.keyboard.press("z")  # nothing is shown again: the key means nothing
    page.keyboard.press("u")
    assert ready(page, second) == first
    button = page.get_by_role("button", name="Take it back: no answer of yours stands")
    assert button.locator("kbd").inner_text().lower() == "z"
    assert page.locator(".count").inner_text() == "1 answered"
    page.keyboard.press("z")
    assert ready(page, first) == second
    assert page.locator("#toast").inner_text().startswith("Taken back")
    assert page.locator("#correcting").is_hidden()
    saved(page)
    assert page.locator(".count").inner_text() == "0 answered"
    said, back = where.votes()
    assert (back.replaces, type(back.answer), where.store.progress("shop")["votes"]) == (said.event_id, TakenBack, 0)
    page.reload()  # the page forgets what it knew: the item is as open as any other
    seen = {ready(page)}
    for _ in range(2):
        seen.add(vote(page, "2"))
    page.keyboard.press("7")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert first in seen
    assert where.store.progress("shop")["votes"] == 3
    assert [v.replaces for v in where.votes() if v.task_id == said.task_id] == ["", said.event_id, back.event_id]


def test_an_answer_is_taken_back_offline_in_chinese_by_the_button(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(2)], page={"language": "zh"})
    page = visit(where)
    page.context.set_offline(True)
    second = vote(page, "1")
    page.keyboard.press("7")
    page.wait_for_selector(".empty.offline")
    page.keyboard.press("u")
    assert ready(page) == second
    page.get_by_role("button", name="撤回回答").click()
    page.wait_for_selector(".empty.offline")
    assert "1" in page.locator(".count").inner_text()
    page.context.set_offline(False)
    assert ready(page) == second, "it comes again once the server knows"
    saved(page)
    assert (where.store.progress("shop")["votes"], len(where.votes())) == (1, 3)
    page.keyboard.press("4")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert where.store.progress("shop")["votes"] == 2
