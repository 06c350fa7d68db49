"""Who gets which item: exactly n different people, nobody twice, whatever expires, is taken back, resumed or sent late."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.dialects import sqlite

from keel.feedback import adjudication, assign, events, leases, members, schema, sql, tally
from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.campaigns import Campaign, ConflictError
from keel.feedback.db import Item, NoLeaseError, Store
from keel.types import Annotator, Candidate, Choice, Message, Prompt, Task

BASE = Campaign("c", 2, "pairwise", "pairwise-v1", lease_seconds=60.0, seed=5)


def make_task(name: str, expected: Choice | None = None) -> Task:
    prompt = Prompt(f"p{name}", (Message("user", f"Question {name}?"),))
    return Task(
        f"t{name}", prompt, (Candidate("a", f"one {name}"), Candidate("b", f"two {name}")), "pairwise", "pairwise-v1", expected=expected
    )


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about who gets what; what survives a power cut is tested elsewhere, and syncing takes most of the time."""
    monkeypatch.setattr(sql, "_PRAGMAS", (*sql._PRAGMAS, "synchronous=OFF"))


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/f.db", clock) as made:
        for name in "abcdef":
            made.add_annotator(Annotator(name, "person"))
        yield made


def fill(store: Store, count: int, campaign: Campaign = BASE) -> None:
    store.add_campaign(campaign)
    store.add_tasks("c", [make_task(str(i)) for i in range(count)])


def task_of(store: Store, item: Item) -> str:
    return store.read(lambda c: c.execute(select(schema.lease.c.task).where(schema.lease.c.handle == item.handle)).scalar_one())


def tasks_of(store: Store, items: tuple[Item, ...]) -> list[str]:
    return [task_of(store, item) for item in items]


def say(store: Store, who: str, item: Item, chosen: str = "first", event: str = "", replaces: str = "") -> None:
    store.answer(who, item.handle, event or f"{who}:{item.handle}", Choice(chosen), replaces=replaces)  # type: ignore[arg-type]


def test_open_items_come_first_and_none_comes_twice(store: Store) -> None:
    fill(store, 4)
    first = store.next_items("a", "c", 2)
    again = store.next_items("a", "c", 3)
    assert tasks_of(store, first) == ["t0", "t1"]
    assert [i.handle for i in again[:2]] == [i.handle for i in first]
    assert tasks_of(store, again) == ["t0", "t1", "t2"]
    say(store, "a", first[0])
    assert tasks_of(store, store.next_items("a", "c", 9)) == ["t1", "t2", "t3"]
    for item in again[1:]:
        say(store, "a", item)
    (last,) = store.next_items("a", "c", 9)
    say(store, "a", last)
    assert store.next_items("a", "c", 9) == ()


def test_an_item_goes_to_n_people(store: Store) -> None:
    fill(store, 1)
    assert [len(store.next_items(who, "c", 5)) for who in "abc"] == [1, 1, 0]


def test_a_lease_ends_goes_to_another_and_the_late_vote_counts_while_there_is_room(store: Store, clock: Clock) -> None:
    fill(store, 1, replace(BASE, wanted=1))
    (of_a,) = store.next_items("a", "c")
    clock.now += 59.0
    assert store.next_items("b", "c") == ()
    clock.now += 1.0
    (of_b,) = store.next_items("b", "c")
    assert store.next_items("a", "c") == (), "the other has it now"
    say(store, "a", of_a)
    assert store.progress("c") == {"items": 1, "done": 1, "open": 0, "votes": 1, "leases": 1, "disputed": 0, "by_judge": 0, "missing": 0}
    say(store, "b", of_b)  # was given out: kept, but the (n+1)th is not counted
    assert store.progress("c") == {"items": 1, "done": 1, "open": 0, "votes": 1, "leases": 0, "disputed": 0, "by_judge": 0, "missing": 0}
    assert [(j.by, j.late) for j in store.judgements("c")] == [("a", True), ("b", False)]
    counted = store.read(lambda c: dict(c.execute(select(schema.head.c.annotator, schema.head.c.counted)).all()))
    assert counted == {"a": 1, "b": 0}


def test_an_ended_lease_comes_back_to_the_same_person(store: Store, clock: Clock) -> None:
    fill(store, 3)
    before = store.next_items("a", "c", 2)
    clock.now += 3600.0
    after = store.next_items("a", "c", 3)
    assert [i.handle for i in after[:2]] == [i.handle for i in before]
    assert [i.display_order for i in after[:2]] == [i.display_order for i in before]
    assert all(i.until == clock.now + 60.0 for i in after)
    say(store, "a", after[0])
    assert store.judgements("c")[0].late is False


def test_an_item_that_opens_again_behind_a_person_is_found(store: Store, clock: Clock) -> None:
    """b and c hold t0 while a goes through all others; when b's lease ends, a must get t0."""
    fill(store, 3)
    store.next_items("b", "c", 1)
    store.next_items("c", "c", 1)
    for item in store.next_items("a", "c", 9):
        say(store, "a", item)
    assert store.next_items("a", "c", 9) == ()
    clock.now += 61.0
    assert tasks_of(store, store.next_items("a", "c", 9)) == ["t0"]


def test_higher_priority_comes_first_and_new_items_are_found(store: Store) -> None:
    fill(store, 4)
    assert tasks_of(store, store.next_items("a", "c", 2)) == ["t0", "t1"]
    store.set_priority(["t3"], 2.0)
    store.add_tasks("c", [make_task("9")], priority=1.0)
    assert tasks_of(store, store.next_items("a", "c", 9)) == ["t0", "t1", "t3", "t9", "t2"]
    assert tasks_of(store, store.next_items("b", "c", 9)) == ["t3", "t9", "t0", "t1", "t2"]


def test_a_paused_campaign_gives_nothing_and_takes_what_was_given(store: Store) -> None:
    fill(store, 2)
    (item,) = store.next_items("a", "c")
    store.update_campaign("c", paused=True)
    assert store.next_items("a", "c", 2) == ()
    say(store, "a", item)
    store.update_campaign("c", paused=False)
    assert tasks_of(store, store.next_items("a", "c", 2)) == ["t1"]


def test_another_ones_handle_is_refused(store: Store) -> None:
    fill(store, 1)
    (item,) = store.next_items("a", "c")
    with pytest.raises(NoLeaseError):
        store.answer("b", item.handle, "e", Choice("first"))


def test_the_order_on_the_screen_is_random_stored_and_named_in_the_votes(store: Store) -> None:
    fill(store, 200)
    items = store.next_items("a", "c", 200)
    left = sum(i.display_order == (0, 1) for i in items)
    assert 70 < left < 130  # fair: 4.2 standard deviations
    others = store.next_items("b", "c", 200)
    same = sum(i.display_order == o.display_order for i, o in zip(items, others))
    assert 70 < same < 130, "the order must not be the same for everybody"
    swapped = next(i for i in items if i.display_order == (1, 0))
    say(store, "a", swapped, "first")
    (judgement,) = store.judgements("c")
    assert (judgement.answer, judgement.display_order) == (Choice("second"), (1, 0))


def test_gold_and_swapped_repeats_are_mixed_in(store: Store) -> None:
    fill(store, 150, replace(BASE, gold_share=0.15, repeat_share=0.15))
    store.add_tasks("c", [make_task(f"g{i}", Choice("first")) for i in range(60)], role="gold")
    seen, shown = Counter[str](), defaultdict[str, list[tuple[int, ...]]](list)
    while items := store.next_items("a", "c", 9):
        for item in items:
            seen[item.purpose] += 1
            shown[task_of(store, item)].append(item.display_order)
            say(store, "a", item)
    assert seen["work"] == 150
    total = seen.total()
    assert 0.08 < seen["gold"] / total < 0.22
    assert 0.08 < seen["repeat"] / total < 0.22
    again = {task: orders for task, orders in shown.items() if len(orders) > 1}
    assert len(again) == seen["repeat"], "an item is repeated once"
    assert all(orders == [orders[0], orders[0][::-1]] for orders in again.values())
    order = [task for task, orders in shown.items()]
    gold = [i for i, task in enumerate(order) if task.startswith("tg")]
    assert len({b - a for a, b in itertools.pairwise(gold)}) > 5, "gold must not stand at even distances"
    assert store.progress("c")["votes"] == 150, "gold and repeats are no work"


def test_repeats_wait_their_gap(store: Store) -> None:
    fill(store, 60, replace(BASE, repeat_share=0.5, settings=CampaignSettings(repeat_gap=7)))
    order: list[str] = []
    while items := store.next_items("a", "c", 1):
        order.append(task_of(store, items[0]))
        say(store, "a", items[0])
    places = defaultdict[str, list[int]](list)
    for i, task in enumerate(order):
        places[task].append(i)
    gaps = [b - a for a, b in (p for p in places.values() if len(p) == 2)]
    assert len(gaps) > 10
    assert min(gaps) >= 7


def learners(store: Store, **settings: float) -> None:
    store.add_campaign(replace(BASE, settings=CampaignSettings(**settings)))  # type: ignore[arg-type]
    store.add_tasks("c", [make_task(str(i)) for i in range(3)])
    store.add_tasks("c", [make_task(f"x{i}", Choice("first")) for i in range(2)], role="training")
    store.add_tasks("c", [make_task(f"q{i}", Choice("first")) for i in range(4)], role="qualification")


def right(item: Item) -> str:
    return "first" if item.display_order == (0, 1) else "second"


def wrong(item: Item) -> str:
    return "second" if item.display_order == (0, 1) else "first"


def test_training_then_qualification_then_work(store: Store) -> None:
    learners(store, pass_mark=0.75)
    items = store.next_items("a", "c", 9)
    assert tasks_of(store, items) == ["tx0", "tx1"]
    told = store.answer("a", items[0].handle, "e0", Choice(wrong(items[0])))  # type: ignore[arg-type]
    assert (told.reveal, told.right) == (Choice("first"), False)
    assert store.answer("a", items[0].handle, "e0", Choice(wrong(items[0]))) == told  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="was shown"):
        say(store, "a", items[0], right(items[0]), "e0b", replaces="e0")
    assert tasks_of(store, store.next_items("a", "c", 9)) == ["tx1"], "no qualification before all training is answered"
    assert store.answer("a", items[1].handle, "e1", Choice(right(items[1]))).right is True  # type: ignore[arg-type]
    items = store.next_items("a", "c", 9)
    assert tasks_of(store, items) == ["tq0", "tq1", "tq2", "tq3"]
    for i, item in enumerate(items):
        assert store.member_state("a", "c") == "qualification"
        receipt = store.answer("a", item.handle, f"q{i}", Choice(right(item) if i else wrong(item)))  # type: ignore[arg-type]
        assert (receipt.reveal, receipt.right) == (None, None), "only training tells"
    assert store.member_state("a", "c") == "passed"  # 3 of 4 at a mark of 0.75
    assert tasks_of(store, store.next_items("a", "c", 9)) == ["t0", "t1", "t2"]


def test_who_fails_gets_nothing(store: Store) -> None:
    learners(store, pass_mark=0.76)
    for item in store.next_items("a", "c", 9):
        say(store, "a", item)
    for i, item in enumerate(store.next_items("a", "c", 9)):
        say(store, "a", item, right(item) if i else wrong(item))
    assert store.next_items("a", "c", 9) == ()
    assert store.member_state("a", "c") == "failed"


def test_votes_that_disagree_go_to_an_adjudicator(store: Store) -> None:
    fill(store, 2, replace(BASE, settings=CampaignSettings(disagreement=0.4)))
    for who in "ab":
        for item in store.next_items(who, "c", 9):
            chosen = right(item) if who == "a" or task_of(store, item) == "t1" else wrong(item)
            say(store, who, item, chosen)
    assert store.progress("c")["disputed"] == 1
    for name, role in (("a", "annotator"), ("judy", "adjudicator"), ("jon", "adjudicator")):
        if name != "a":
            store.add_account(name, "password 1", role)  # type: ignore[arg-type]
    with pytest.raises(NoLeaseError, match="no adjudicator"):
        store.next_adjudications("a", "c")
    (item,) = store.next_adjudications("judy", "c", 5)
    assert task_of(store, item) == "t0"
    assert [i.handle for i in store.next_adjudications("judy", "c", 5)] == [item.handle]
    assert store.next_adjudications("jon", "c", 5) == (), "one adjudicator an item"
    say(store, "judy", item, "tie")
    assert store.progress("c")["disputed"] == 0
    assert store.next_adjudications("jon", "c", 5) == ()
    store.retract(annotator="judy", why="a test")
    assert store.progress("c")["disputed"] == 1
    assert len(store.next_adjudications("jon", "c", 5)) == 1


def test_who_voted_does_not_adjudicate_and_a_correction_settles(store: Store) -> None:
    fill(store, 1, replace(BASE, settings=CampaignSettings(disagreement=0.4)))
    store.add_account("judy", "password 1", "adjudicator")
    (one,), (two,) = store.next_items("judy", "c"), store.next_items("b", "c")
    say(store, "judy", one, right(one))
    say(store, "b", two, wrong(two), "e")
    assert store.progress("c")["disputed"] == 1
    assert store.next_adjudications("judy", "c") == ()
    say(store, "b", two, right(two), "e2", replaces="e")
    assert store.progress("c")["disputed"] == 0


def test_a_retraction_opens_the_items_again(store: Store) -> None:
    fill(store, 2, replace(BASE, wanted=1))
    for item in store.next_items("a", "c", 9):
        say(store, "a", item)
    assert store.next_items("b", "c", 9) == ()
    assert store.retract(annotator="a", why="spam", who="boss") == ("t0", "t1")
    assert store.progress("c")["votes"] == 0
    assert store.next_items("a", "c", 9) == (), "who was taken back gets nothing more"
    assert tasks_of(store, store.next_items("b", "c", 9)) == ["t0", "t1"]
    assert len(store.judgements("c")) == 2, "nothing is deleted"


def test_a_retraction_lets_a_spare_vote_count(store: Store, clock: Clock) -> None:
    fill(store, 1, replace(BASE, wanted=1))
    (of_a,) = store.next_items("a", "c")
    clock.now += 61.0
    (of_b,) = store.next_items("b", "c")
    say(store, "a", of_a)
    say(store, "b", of_b)
    store.retract(event_id=f"a:{of_a.handle}")
    assert store.progress("c") == {"items": 1, "done": 1, "open": 0, "votes": 1, "leases": 0, "disputed": 0, "by_judge": 0, "missing": 0}
    counted = store.read(lambda c: dict(c.execute(select(schema.head.c.annotator, schema.head.c.counted)).all()))
    assert counted == {"a": 0, "b": 1}


def test_after_a_restart_nothing_is_lost_or_served_again(tmp_path: Path, clock: Clock) -> None:
    served: list[str] = []
    for start in range(6):  # each time the process is gone with leases open
        with Store(f"sqlite:///{tmp_path}/f.db", clock) as store:
            if not start:
                store.add_annotator(Annotator("a", "person"))
                fill(store, 12)
            for item in store.next_items("a", "c", 3)[:2]:
                served.append(task_of(store, item))
                say(store, "a", item)
    assert served == [f"t{i}" for i in range(12)]


# ------------------------------------------------------------------------------------------------------ random interleavings


class Crowd:
    """People who lease, wander off, come back, correct, and send late or twice, in any order."""

    def __init__(self, store: Store, clock: Clock, draw: random.Random) -> None:
        self.store, self.clock, self.draw = store, clock, draw
        self.held: dict[str, list[Item]] = defaultdict(list)
        self.said: dict[str, list[tuple[Item, str]]] = defaultdict(list)
        self.events = 0

    def step(self, who: str) -> None:
        act = self.draw.choices(["lease", "answer", "wait", "undo", "forget", "again"], [5, 8, 1, 1, 1, 1])[0]
        getattr(self, act)(who)

    def lease(self, who: str) -> None:
        for item in self.store.next_items(who, "c", self.draw.randint(1, 4)):
            if item.handle not in {i.handle for i in self.held[who]}:
                self.held[who].append(item)

    def answer(self, who: str) -> None:
        if self.held[who]:
            item = self.held[who].pop(self.draw.randrange(len(self.held[who])))
            self.events += 1
            event = f"e{self.events}"
            say(self.store, who, item, self.draw.choice(["first", "second", "tie"]), event)
            self.said[who].append((item, event))

    def wait(self, who: str) -> None:
        self.clock.now += self.draw.choice([10.0, 61.0])

    def undo(self, who: str) -> None:
        if self.said[who]:
            at = self.draw.randrange(len(self.said[who]))
            item, event = self.said[who][at]
            self.events += 1
            say(self.store, who, item, "both_bad", f"e{self.events}", replaces=event)
            self.said[who][at] = (item, f"e{self.events}")

    def forget(self, who: str) -> None:
        self.held[who].clear()  # the page was closed; on resume the server knows

    def again(self, who: str) -> None:
        if self.said[who]:
            _, event = self.draw.choice(self.said[who])
            body = next(j for j in self.store.judgements(annotator=who) if j.event_id == event)
            self.store.submit(replace(body, at="2027-01-01T00:00:00Z"))


def check_counts(c: Connection) -> None:
    """What is kept beside the events follows from them."""
    votes = Counter(c.execute(select(schema.head.c.task).where(schema.head.c.purpose == "work", schema.head.c.counted == 1)).scalars())
    open_leases = select(schema.lease.c.task).where(schema.lease.c.purpose == "work", schema.lease.c.state == "open")
    leases = Counter(c.execute(open_leases).scalars())
    for task in c.execute(select(schema.task)).all():
        assert (task.done, task.leased) == (votes[task.task_id], leases[task.task_id])
        assert task.open == int(task.done + task.leased < task.wanted)
        assert task.done <= task.wanted


@pytest.mark.parametrize("seed", range(5))
def test_each_item_gets_exactly_n_different_people_whatever_happens(store: Store, clock: Clock, seed: int) -> None:
    draw = random.Random(seed)
    wanted = draw.choice([1, 2, 3])
    fill(store, 12, replace(BASE, wanted=wanted, seed=seed, gold_share=0.1, repeat_share=0.1))
    store.add_tasks("c", [make_task(f"g{i}", Choice("tie")) for i in range(3)], role="gold")
    crowd = Crowd(store, clock, draw)
    for _ in range(100):
        crowd.step(draw.choice("abcdef"))
    store.read(check_counts)
    for _ in range(12):  # everyone comes back and answers all
        clock.now += 61.0
        for who in "abcdef":
            crowd.lease(who)
            while crowd.held[who]:
                crowd.answer(who)
    store.read(check_counts)
    h = schema.head
    rows = store.read(lambda c: c.execute(select(h).where(h.c.purpose == "work")).all())
    people = defaultdict[str, list[str]](list)
    for row in rows:
        if row.counted:
            people[row.task].append(row.annotator)
    assert {task: len(set(who)) for task, who in people.items()} == {f"t{i}": wanted for i in range(12)}
    assert all(len(who) == wanted for who in people.values())
    per_person = Counter((j.task_id, j.by, j.purpose, j.repeat) for j in store.judgements("c") if not j.replaces)
    assert set(per_person.values()) == {1}, "somebody was asked twice"
    assert all(store.next_items(who, "c", 5) == () for who in "abcdef")


# ------------------------------------------------------------------------------------------------------------- query plans


QUERIES = [
    *((assign, name) for name in ("NEXT", "POOL", "PAST", "_MINE", "_RECLAIM")),
    *((leases, name) for name in ("EXPIRED", "HANDLE", "_SHIFT", "_NOW")),
    (adjudication, "DISPUTED"),
    *((members, name) for name in ("RETRACTED", "ENTRY", "ANSWERED")),
    *((events, name) for name in ("HERE", "_BODY", "_DONE")),
    (tally, "ROOM"),
]


@pytest.mark.parametrize(("module", "name"), QUERIES, ids=[name for _, name in QUERIES])
def test_queries_of_the_hot_path_search_by_index(store: Store, module: Any, name: str) -> None:
    """At 20,000 items a scan costs everybody's time. The plan depends on the schema alone, there are no statistics."""
    fill(store, 1)
    store.write(many).result()
    query = getattr(module, name)
    compiled = query.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
    values = [1 if isinstance(k, str) else k for k in (compiled.positiontup or [])]

    def plan(c: Connection) -> list[str]:
        return [str(row[3]) for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", tuple(values))]

    steps = store.read(plan)
    assert steps
    assert not [s for s in steps if s.startswith("SCAN")], steps
    assert any("SEARCH" in s for s in steps)
    if name == "NEXT":
        assert "task_next (campaign=? AND role=? AND open=? AND (urgency,ease,position)>(?,?,?))" in steps[0]
        assert not [s for s in steps if "TEMP B-TREE" in s], "items are read in the index's order"


def many(c: Connection) -> None:
    row = dict(c.execute(select(schema.task)).mappings().one())
    c.execute(schema.task.insert(), [{**row, "task_id": f"x{i}", "position": i + 2} for i in range(20_000)])


def had(c: Connection) -> None:
    """Person a has answered the first 19,000."""
    row = {"annotator": "a", "purpose": "work", "repeat": 0, "campaign": "c", "display_order": "[0,1]", "state": "done", "until": 0.0}
    c.execute(schema.lease.insert(), [{**row, "task": f"x{i}", "handle": f"h{i}", "slot": i} for i in range(19_000)])


def test_a_person_far_ahead_does_not_read_what_is_behind(store: Store) -> None:
    """The rows that the query reads stay few: counted by SQLite's steps of its virtual machine."""
    fill(store, 1)
    store.write(many).result()
    store.write(had).result()
    place = {"urgency": 0.0, "ease": 0.0, "position": 19_001}
    steps = {}
    for name, at in (("start", {"urgency": -1e300, "ease": 0.0, "position": -1}), ("ahead", place)):
        compiled = assign.NEXT.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
        known = compiled.construct_params({"annotator": "a", "purpose": "work", "n": 3, "campaign": "c", **at})
        values = tuple(known[k] for k in compiled.positiontup or [])

        def count(c: Connection, sql: str = str(compiled), values: tuple[object, ...] = values) -> int:
            calls = [0]

            def tick() -> int:
                calls[0] += 1
                return 0

            raw = c.connection.driver_connection
            assert raw is not None
            raw.set_progress_handler(tick, 100)
            assert len(raw.execute(sql, values).fetchall()) == 3
            raw.set_progress_handler(None, 0)
            return calls[0]

        steps[name] = store.read(count)
    assert steps["ahead"] < 20
    assert steps["start"] > 100 * steps["ahead"], "the comparison says nothing"
