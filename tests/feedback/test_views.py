"""Judgements as training records: by hand, and everything that is not in them counted by its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.views import Standing, of_store, records, view
from keel.types import (
    Annotator,
    Candidate,
    Choice,
    Comparison,
    Judgement,
    Message,
    Prompt,
    Ranking,
    Ranks,
    Rating,
    Scores,
    Span,
    Spans,
    Task,
    Unpaired,
)

P = Prompt("p", (Message("user", "?"),))
CALLED = (Message("assistant", "", {"tool_calls": [{"name": "f"}]}),)
A, B, C = Candidate("a", "one"), Candidate("b", "two", turns=CALLED), Candidate("c", "three")
TASK = Task("t", P, (A, B), "pairwise", "v1", campaign="c", source_id="f:3")
SAID = Judgement("e", "t", "ann", "work", Choice("second", 0.25), (1, 0), "v1", "2026-11-29T12:00:00Z")
STANDS = Standing(True, False)


def test_a_choice_is_a_comparison() -> None:
    assert records(SAID, TASK) == (Comparison("e", P, (A, B), "second", 0.25, "ann", "v1", (1, 0), "f:3"),)
    (sure,) = records(replace(SAID, answer=Choice("first")), TASK)
    (tie,) = records(replace(SAID, answer=Choice("tie")), TASK)
    assert isinstance(sure, Comparison)
    assert isinstance(tie, Comparison)
    assert (sure.strength, tie.strength) == (1.0, 0.0)


def test_both_bad_is_two_unwanted_answers_and_no_pair() -> None:
    found = records(replace(SAID, answer=Choice("both_bad")), TASK)
    assert found == (Unpaired("e:0", P, (Message("assistant", "one"),), False), Unpaired("e:1", P, CALLED, False))
    assert records(replace(SAID, answer=Choice("cannot")), TASK) == ()


def test_ranks_scores_and_spans() -> None:
    three = Task("t", P, (A, B, C), "ranking", "v1")
    (ranking,) = records(replace(SAID, answer=Ranks(((2,), (0, 1)))), three)
    assert ranking == Ranking("e", P, tuple(c.messages for c in (A, B, C)), (2, 2, 1))
    (rating,) = records(replace(SAID, answer=Scores(1, {"accuracy": 4.0})), three)
    assert rating == Rating("e", P, CALLED, {"accuracy": 4.0})
    marked = replace(SAID, answer=Spans((Span(0, 0, 1, "object"),)))
    assert records(marked, TASK) == ((TASK, marked),)


def test_what_is_left_out_is_counted_by_its_reason() -> None:
    others = [replace(SAID, event_id=p, purpose=p) for p in ("gold", "repeat", "training", "audit", "adjudication")]
    cast = [
        SAID,
        replace(SAID, event_id="old"),
        replace(SAID, event_id="taken back"),
        replace(SAID, event_id="spare"),
        replace(SAID, event_id="in their place"),
        replace(SAID, event_id="cannot", answer=Choice("cannot")),
        replace(SAID, event_id="spammer's", by="spammer"),
        replace(SAID, event_id="bad", answer=Choice("both_bad")),
        *others,
    ]
    standing = {j.event_id: STANDS for j in cast if j.event_id != "old"}
    standing |= {"taken back": Standing(False, True), "spare": Standing(False, False, 9), "in their place": Standing(False, False, 8)}
    found = view(cast, {"t": TASK}, standing, without=["spammer"])
    assert found.events == ("e", "in their place", "bad"), "as after a retraction the next vote counts"
    assert ([c.record_id for c in found.comparisons], len(found.unpaired)) == (["e", "in their place"], 2)
    reasons = ("adjudication", "audit", "cannot", "gold", "repeat", "replaced", "retracted", "surplus", "training", "without")
    assert found.left_out == dict.fromkeys(reasons, 1)
    assert sum(found.left_out.values()) + len(found.events) == len(cast)
    more = view(cast, {"t": TASK}, standing, surplus=True)
    assert more.events == ("e", "spare", "in their place", "spammer's", "bad")
    assert view(cast, {"t": TASK}, standing, "adjudication").events == ("adjudication",)


def test_a_stores_view_follows_corrections_and_retractions(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        store.add_campaign(Campaign("c", 2, "pairwise", "v1"))
        store.add_tasks("c", [TASK])
        for name in ("ann", "bob", "eve"):
            store.add_annotator(Annotator(name, "simulated"))
        store.record([SAID, replace(SAID, event_id="f", replaces="e", answer=Choice("first"))])
        store.record([replace(SAID, event_id=who, by=who) for who in ("bob", "eve")])
        found = of_store(store, "c")
        assert (found.events, found.left_out) == (("f", "bob"), {"replaced": 1, "surplus": 1})
        store.retract(annotator="ann")
        found = of_store(store, "c")
        assert (found.events, found.left_out) == (("bob", "eve"), {"replaced": 1, "retracted": 1})
