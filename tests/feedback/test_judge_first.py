"""Judges first: what they doubt goes to people first, what they are sure of may be theirs; nobody sees what a judge said."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keel.core.errors import ConfigError, DataError
from keel.feedback import sql
from keel.feedback.beside_judges import beside_judges
from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.doubt import UNJUDGED, Doubt, doubt_of
from keel.feedback.interchange import write_campaign
from keel.feedback.own_files import read_files
from keel.feedback.views import of_store
from keel.types import Annotator, Candidate, Choice, Judgement, Prompt, Ranks, Task

DOUBT = CampaignSettings(order="judge_doubt")
AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(sql, "_PRAGMAS", (*sql._PRAGMAS, "synchronous=OFF"))
    with Store(f"sqlite:///{tmp_path}/f.db") as made:
        for name in ("ann", "bob"):
            made.add_annotator(Annotator(name, "person"))
        made.add_annotator(Annotator("judge@1", "judge", "i"))
        yield made


def task(i: int) -> Task:
    return Task(f"t{i}", Prompt(f"p{i}", text=f"?{i}"), (Candidate("a", f"one {i}"), Candidate("b", f"two {i}")), "pairwise", "v1")


def fill(store: Store, n: int, settings: CampaignSettings = DOUBT, wanted: int = 2) -> None:
    store.add_campaign(Campaign("c", wanted, "pairwise", "v1", settings=settings))
    store.add_tasks("c", [task(i) for i in range(n)])


def said(i: int, plain: float, swapped: float | None, by: str = "judge@1") -> list[Judgement]:
    """A judge's leads of both orders and their mean; ``None``: that call failed, and there is no mean."""

    def one(name: str, lead: float, purpose: str, order: tuple[int, int], repeat: int) -> Judgement:
        chosen = "tie" if lead == 0 else "first" if lead > 0 else "second"
        return Judgement(f"{by}:{name}:{i}", f"t{i}", by, purpose, Choice(chosen, abs(lead)), order, "v1", AT, repeat)  # type: ignore[arg-type]

    calls = [one("plain", plain, "audit", (0, 1), 0)]
    if swapped is None:
        return calls
    return [*calls, one("swapped", swapped, "audit", (1, 0), 1), one("mean", (plain + swapped) / 2, "work", (0, 1), 0)]


def order(store: Store, who: str = "ann", n: int = 20) -> list[str]:
    """Prompts as a person gets them."""
    return [item.task.prompt.text or "" for item in store.next_items(who, "c", n)]


def test_doubt_is_what_hand_computation_says() -> None:
    assert doubt_of(said(0, 0.9, 0.7)) == Doubt(0.9)  # lead 0.8
    assert doubt_of(said(0, 0.9, -0.1)) == Doubt(0.7, torn=True)  # the orders turn it
    assert doubt_of(said(0, 0.0, 0.0)) == Doubt(0.5)  # a tie in both orders
    assert doubt_of(said(0, 0.9, None)).torn
    assert doubt_of([], ["judge@1"]).torn
    assert doubt_of(said(0, 0.9, 0.7), ["judge@1"]) == Doubt(0.9), "its verdict stands: the failure was before or after"
    assert doubt_of([*said(0, 1.0, 1.0), *said(0, -1.0, -1.0, "other")]) == Doubt(0.5), "two judges say opposite things"
    assert not doubt_of([]).known
    ease = [Doubt(torn=True), Doubt(0.5), Doubt(0.7), Doubt(), Doubt(0.9), Doubt(1.0)]
    assert [round(d.ease(0.9), 6) for d in ease] == [0.0, 0.0, 0.4, UNJUDGED, 1.8, 2.0]


def test_rankings_are_doubted_where_their_orders_differ() -> None:
    def call(buckets: tuple[tuple[int, ...], ...], k: int, purpose: str = "audit") -> Judgement:
        return Judgement(f"{purpose}{k}", "t", "j", purpose, Ranks(buckets), (0, 1, 2), "v1", AT, k)  # type: ignore[arg-type]

    same, other = ((0,), (1,), (2,)), ((0,), (2,), (1,))
    assert doubt_of([call(same, 0), call(same, 1), call(same, 0, "work")]) == Doubt(1.0)
    assert doubt_of([call(same, 0), call(other, 1), call(same, 0, "work")]).confidence == pytest.approx(2 / 3)


def test_people_get_what_judges_doubt_first_then_what_nobody_asked_then_the_sure(store: Store) -> None:
    fill(store, 7)
    store.record([*said(0, 1.0, 1.0), *said(1, 0.6, 0.4), *said(2, 0.9, -0.7), *said(3, 0.9, None), *said(5, 0.2, 0.1)])
    store.not_judged("judge@1", {"t6": "call: 503"})
    wanted = ["?2", "?3", "?6", "?5", "?1", "?4", "?0"]
    assert order(store) == wanted
    assert order(store, "bob") == wanted
    assert store.progress("c") | {"votes": 0, "by_judge": 0, "missing": 14} == store.progress("c"), "a judge takes nobody's place"


def test_new_verdicts_move_items_also_for_who_has_gone_past_them(store: Store) -> None:
    fill(store, 4)
    assert order(store, n=2) == ["?0", "?1"]
    store.record([*said(0, 1.0, 1.0), *said(1, 1.0, 1.0), *said(2, 1.0, 1.0), *said(3, 0.1, 0.1)])
    for item in store.next_items("ann", "c", 2):
        store.answer("ann", item.handle, f"e{item.task.prompt.text}", Choice("first"))
    assert order(store) == ["?3", "?2"]
    store.retract(annotator="judge@1")
    assert order(store, "bob") == ["?0", "?1", "?2", "?3"], "its doubts are taken back with its verdicts"


def test_priorities_of_a_manager_stand_above_the_order_and_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    fill(store, 3)
    store.record([*said(0, 0.1, 0.1), *said(2, 1.0, 1.0)])
    store.set_priority(["t2"], 5.0)
    assert order(store) == ["?2", "?0", "?1"]
    write_campaign(store, "c", tmp_path / "c.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [row["priority"] for row in lines if "task" in row] == [0.0, 0.0, 5.0]


def test_the_order_may_be_chosen_later_and_left_again(store: Store) -> None:
    fill(store, 3, CampaignSettings(), wanted=1)
    store.record([*said(0, 1.0, 1.0), *said(2, 0.1, 0.1)])
    assert order(store, n=1) == ["?1"], "in the given order a judge takes a person's place"
    store.update_campaign("c", settings=DOUBT)
    assert order(store, "bob") == ["?2", "?0"]  # ?1 is with ann
    store.update_campaign("c", settings=CampaignSettings())
    assert store.progress("c")["votes"] == 2, "and takes it again, though people have the items open"


def labelled(store: Store, sure: int = 60, doubted: int = 10) -> None:
    fill(store, sure + doubted, replace(DOUBT, judge_labels=True, judge_audit=0.2), wanted=1)
    store.record([j for i in range(sure) for j in said(i, 1.0, 0.9)])
    store.record([j for i in range(sure, sure + doubted) for j in said(i, 0.3, 0.2)])


def test_a_judge_labels_the_sure_ones_and_people_get_the_rest_and_the_audits(store: Store) -> None:
    labelled(store)
    counts = store.progress("c")
    audited = 60 - counts["by_judge"]
    assert 5 <= audited <= 20  # 12 expected
    assert counts["missing"] == 10 + audited
    mine = order(store, n=80)
    assert mine[:10] == [f"?{i}" for i in range(60, 70)]
    assert len(mine) == 10 + audited
    for item in store.next_items("ann", "c", 80):
        store.answer("ann", item.handle, f"e{item.task.prompt.text}", Choice("first"))
    assert store.progress("c") | {"done": 70, "missing": 0, "open": 0, "votes": 70} == store.progress("c")
    view = of_store(store, "c")
    by = [c.annotator_id for c in view.comparisons]
    assert (by.count("judge@1"), by.count("ann")) == (60 - audited, 10 + audited)
    assert view.left_out == {"advice": 10 + audited, "audit": 140}
    assert of_store(store, "c", surplus=True).left_out == view.left_out, "advice is no surplus vote"
    without = of_store(store, "c", without=["ann"])
    assert {c.annotator_id for c in without.comparisons} == {"judge@1"}
    assert len(without.comparisons) == 60 - audited, "nobody's advice takes the place of who is left out"


def test_what_a_judge_labels_is_closed_however_many_people_an_item_takes(store: Store) -> None:
    fill(store, 2, replace(DOUBT, judge_labels=True, judge_audit=1e-9), wanted=3)
    store.record([*said(0, 1.0, 1.0), *said(1, 0.1, 0.1)])
    assert order(store) == ["?1"]
    assert store.progress("c") | {"done": 1, "missing": 3, "votes": 1} == store.progress("c")


def test_advice_takes_the_place_of_nobody_who_voted_beyond_the_wanted_number(store: Store) -> None:
    fill(store, 1, wanted=1)
    store.record(said(0, 0.2, 0.1))
    votes = [Judgement(who, "t0", who, "work", Choice("first"), (0, 1), "v1", AT) for who in ("ann", "bob")]
    store.record(votes)
    assert of_store(store, "c").left_out == {"advice": 1, "audit": 2, "surplus": 1}
    (left,) = of_store(store, "c", without=["ann"]).comparisons
    assert left.annotator_id == "bob"


def test_one_verdict_by_itself_takes_nobodys_place_either(store: Store) -> None:
    fill(store, 1, wanted=1)
    store.submit_soon(said(0, 0.2, 0.1)[-1], leased=False).result()
    assert order(store) == ["?0"]


def test_what_judges_label_depends_on_no_order_of_arrival(store: Store, tmp_path: Path) -> None:
    labelled(store)
    write_campaign(store, "c", tmp_path / "c.jsonl")
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    at = [i for i, line in enumerate(lines) if "judgement" in json.loads(line)]
    mixed = [lines[i] for i in at]
    random.Random(3).shuffle(mixed)
    for i, line in zip(at, mixed, strict=True):
        lines[i] = line
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines) + "\n")
    with Store(f"sqlite:///{tmp_path}/g.db") as other:
        read_files(other, [tmp_path / "mixed.jsonl"])
        assert other.progress("c") == store.progress("c")


def test_what_people_have_said_or_have_before_them_no_judge_labels(store: Store) -> None:
    fill(store, 3, replace(DOUBT, judge_labels=True, judge_audit=1e-9), wanted=1)
    first, second = store.next_items("ann", "c", 2)
    store.answer("ann", first.handle, "e", Choice("second"))
    store.record([j for i in range(3) for j in said(i, 1.0, 1.0)])
    assert store.progress("c")["by_judge"] == 1
    store.answer("ann", second.handle, "f", Choice("second"))
    assert store.progress("c") | {"done": 3, "votes": 3} == store.progress("c")
    assert [c.annotator_id for c in of_store(store, "c").comparisons].count("ann") == 2


def test_failures_travel_with_the_campaign(store: Store, tmp_path: Path) -> None:
    fill(store, 2)
    store.not_judged("judge@1", {"t1": "call: 503"})
    store.not_judged("judge@1", {"t1": "call: 504"})
    assert write_campaign(store, "c", tmp_path / "c.jsonl")["unjudged"] == 1
    with Store(f"sqlite:///{tmp_path}/g.db") as other:
        read_files(other, [tmp_path / "c.jsonl"])
        other.add_annotator(Annotator("ann", "person"))
        assert order(other) == ["?1", "?0"]
    with pytest.raises(DataError, match="not in the store"):
        store.not_judged("judge@1", {"other": "x"})


@pytest.mark.parametrize(
    ("settings", "kind", "what"),
    [
        (CampaignSettings(order="doubt"), "pairwise", "order 'doubt' is unknown"),  # type: ignore[arg-type]
        (CampaignSettings(judge_labels=True), "pairwise", "judge_labels would have no effect"),
        (replace(DOUBT, judge_sure=0.5), "pairwise", "judge_sure must be above 0.5"),
        (replace(DOUBT, judge_labels=True, judge_audit=0.0), "pairwise", "judge_audit is 0"),
        (DOUBT, "rating", "for pairs and rankings, not for rating"),
    ],
)
def test_settings_that_mean_nothing_are_refused(store: Store, settings: CampaignSettings, kind: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        store.add_campaign(Campaign("x", 1, kind, "v1", settings=settings))  # type: ignore[arg-type]


def test_people_beside_the_judge_by_hand() -> None:
    def vote(i: int, chosen: str, by: str) -> Judgement:
        return Judgement(f"{by}{i}", f"t{i}", by, "work", Choice(chosen), (0, 1), "v1", AT)  # type: ignore[arg-type]

    judge = [*said(0, 1.0, 1.0), *said(1, 1.0, 1.0), *said(2, 0.2, 0.2), *said(3, 0.9, 0.9)]  # says first, always; 3 has no votes
    people = [vote(0, "first", "a"), vote(0, "second", "b"), vote(1, "tie", "a"), vote(2, "first", "a"), vote(2, "cannot", "b")]
    sure, doubted = beside_judges([*judge, *people], {"judge@1"}, 0.9)
    assert (sure.which, sure.value, sure.n, sure.decided, sure.decided_n) == ("sure", 0.25, 2, 0.5, 1)
    assert (doubted.which, doubted.value, doubted.n, doubted.decided, doubted.decided_n) == ("doubted", 1.0, 1, 1.0, 1)
    assert sure.low <= 0.25 <= sure.high
