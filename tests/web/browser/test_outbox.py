"""No vote is lost and none is stored twice: offline, reloads, double clicks, two tabs, a server that fails or refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from browser_tools import enter, kept, ready, saved, task, vote
from sqlalchemy import select

from keel.feedback import schema
from keel.feedback.answers import from_display
from keel.types import Choice


def test_twenty_votes_offline_with_a_reload_in_the_middle(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """Ten votes, reload, ten votes, all without the network; then each is stored once, in the order in which it was given."""
    where = site([task(i) for i in range(20)], page={"ahead": 19})
    page = visit(where)
    saved(page)
    kept(page)
    page.wait_for_function(COUNT_ITEMS, arg=20)
    page.context.set_offline(True)
    keys = "1234567bx1" + "7654321xb2"
    given = []
    for i, key in enumerate(keys):
        if i == 10:
            page.reload()
        given.append(ready(page))
        page.keyboard.press(key)
        page.wait_for_function("h => document.querySelector('.item')?.dataset.handle !== h", arg=given[-1])
    page.wait_for_selector(".net[data-net=net_off]")
    page.wait_for_selector(".empty.offline")
    assert where.votes() == []
    page.context.set_offline(False)
    page.wait_for_selector(".empty.done")
    saved(page)
    votes = where.votes()
    assert len(votes) == len({v.event_id for v in votes}) == len({v.task_id for v in votes}) == 20
    scale = {
        "1": "first",
        "2": "first",
        "3": "first",
        "4": "tie",
        "5": "second",
        "6": "second",
        "7": "second",
        "b": "both_bad",
        "x": "cannot",
    }
    assert [from_display(v.answer, v.display_order).chosen for v in votes] == [scale[k] for k in keys]
    le = schema.lease
    of = dict(where.store.read(lambda c: c.execute(select(le.c.handle, le.c.task)).all()))
    assert [v.task_id for v in votes] == [of[handle] for handle in given], "each to the item that was on the screen, in that order"


COUNT_ITEMS = """n => new Promise(done => {
  const open = indexedDB.open('keel-annotate');
  open.onsuccess = () => {
    const count = open.result.transaction('items').objectStore('items').count();
    count.onsuccess = () => { open.result.close(); done(count.result >= n); };
  };
})"""


def test_a_double_click_is_one_vote(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    first = ready(page)
    page.locator(".choice.first").first.dblclick()
    second = ready(page, first)
    saved(page)
    assert len(where.votes()) == 1
    page.locator(".choice.second").last.click()
    ready(page, second)
    saved(page)
    assert [from_display(v.answer, v.display_order) for v in where.votes()] == [Choice("first", 1.0), Choice("second", 1.0)]


def test_a_key_held_down_is_one_vote(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i) for i in range(3)])
    page = visit(where)
    first = ready(page)
    page.keyboard.down("4")
    ready(page, first)
    page.keyboard.down("4")  # the browser says that it repeats
    page.keyboard.down("4")
    page.keyboard.up("4")
    saved(page)
    assert len(where.votes()) == 1


def test_two_tabs_share_the_work(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """They never show the same item; what both give is stored once each; one sends what the other could not."""
    where = site([task(i) for i in range(12)], page={"ahead": 3})
    one = visit(where)
    two = one.context.new_page()
    two.goto(where.url + "/annotate")
    shown: set[str] = set()
    there = "() => document.querySelector('.empty') || (document.body.dataset.gate === 'open' && document.querySelector('.item'))"
    for turn in range(400):  # one may have taken more ahead than the other, which then has none
        page = (one, two)[turn % 2]
        page.bring_to_front()  # a browser lets tabs behind it wait
        page.wait_for_function(there)
        if len(shown) == 12:
            break
        if page.locator(".empty").count():
            continue
        handle = ready(page)
        assert handle not in shown
        shown.add(handle)
        page.keyboard.press("1")
        page.wait_for_function("h => document.querySelector('.item')?.dataset.handle !== h", arg=handle)
    assert len(shown) == 12
    for page in (one, two):
        saved(page)
    for page in (one, two):
        page.reload()  # one that had nothing for now asks again
        page.wait_for_selector(".empty.done")
    votes = where.votes()
    assert len(votes) == len({v.task_id for v in votes}) == 12


def test_a_vote_is_sent_again_with_the_same_id_until_the_server_answers(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """Lost before the server, answered with 503, lost after the server stored it: one row, and one id all along."""
    where = site([task(i) for i in range(2)])
    page = visit(where)
    sent: list[str] = []

    def unlucky(route: Any) -> None:
        sent.append(route.request.post_data_json["event_id"])
        if len(sent) == 1:
            route.abort()
        elif len(sent) == 2:
            route.fulfill(status=503, json={"error": {"code": "closing", "message": "the server is closing", "todo": ""}})
        elif len(sent) == 3:
            route.fetch()  # stored, but the answer never arrives
            route.abort()
        else:
            route.continue_()

    page.route("**/api/judgements", unlucky)
    vote(page, "1")
    page.wait_for_selector(".net[data-net=net_off], .net[data-net=net_sending]")
    saved(page)
    assert len(sent) == 4
    assert len(set(sent)) == 1
    assert [v.event_id for v in where.votes()] == sent[:1]


def test_what_the_server_refuses_is_told_and_kept(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """409: the item was answered elsewhere. It stays, with the reason, until the person lets it go; the rest goes through."""
    where = site([task(i) for i in range(3)])
    page = visit(where)
    handle = ready(page)
    where.store.answer("ann", handle, "another-browser", Choice("tie"))
    second = vote(page, "1")
    page.keyboard.press("2")
    ready(page, second)
    page.wait_for_selector(".net[data-net=net_refused]")
    assert "not accepted" in page.locator("#toast").inner_text()
    assert {v.event_id for v in where.votes()} > {"another-browser"}
    page.reload()  # it is still there
    page.wait_for_selector(".net[data-net=net_refused]")
    page.locator(".net").click()
    row = page.locator("dialog .refused li")
    assert "another answer of yours" in row.inner_text()
    assert "(409)" in row.inner_text()
    row.get_by_role("button", name="Let it go").click()
    page.locator("dialog").get_by_text("Nothing is left").wait_for()
    page.keyboard.press("Escape")
    saved(page)
    assert len(where.votes()) == 2


def test_signed_out_in_the_middle(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """The session ends: votes wait. Another person signs in: they are not sent in that name. The first one comes back: they are."""
    where = site([task(i) for i in range(4)], wanted=2)
    page = visit(where)
    page.context.clear_cookies()
    vote(page, "1")
    page.wait_for_selector("#banner [role=alert]")
    port = where.url.rsplit(":", 1)[1]

    def sign_in(name: str) -> None:
        token = where.store.sign_in(name, "correct horse battery", 3600.0)
        page.context.add_cookies([{"name": f"keel-{port}", "value": token, "url": where.url}])
        page.evaluate("dispatchEvent(new Event('online'))")

    sign_in("bob")
    page.wait_for_function("() => document.querySelector('#banner').innerText.includes('Somebody else')")
    assert where.votes("ann") == where.votes("bob") == []
    sign_in("ann")
    saved(page)
    assert [from_display(v.answer, v.display_order) for v in where.votes("ann")] == [Choice("first", 1.0)]
    assert re.fullmatch(r"[0-9a-f-]{36}", where.votes("ann")[0].event_id)
    assert where.votes("bob") == []


def test_another_person_on_the_same_browser_sees_and_sends_nothing_of_the_first(
    site: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    where = site([task(i) for i in range(4)], wanted=3)
    page = visit(where)
    page.route("**/api/judgements", lambda route: route.abort())
    vote(page, "1")
    page.wait_for_selector(".net[data-net=net_off]")
    page.goto("about:blank")  # the first one's page is gone, the vote is still here
    page.unroute("**/api/judgements")
    token = enter(where, "cy")
    port = where.url.rsplit(":", 1)[1]
    page.context.add_cookies([{"name": f"keel-{port}", "value": token, "url": where.url}])
    page.goto(where.url + "/annotate")
    vote(page, "4")  # what waited before it would go out before it
    saved(page)
    assert [v.answer for v in where.votes("cy")] == [Choice("tie")]
    page.context.add_cookies([{"name": f"keel-{port}", "value": where.people["ann"], "url": where.url}])
    page.goto(where.url + "/annotate")
    ready(page)
    saved(page)
    assert len(where.votes("ann")) == 1
