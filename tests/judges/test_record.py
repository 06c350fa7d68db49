"""Judges in the store of feedback: one judgement a call, one verdict, costs beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from asking import single

from keel.feedback.agreement import agreement
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.rows import named
from keel.feedback.views import of_store
from keel.judges.ask import Said, failed
from keel.judges.config import ScriptedConfig
from keel.judges.orders import Verdict, calls_of, combine, verdicts
from keel.judges.record import annotator_of, answer_of, failures, judgements, question_of
from keel.judges.scripted import ScriptedJudge
from keel.types import Candidate, Choice, Message, Prompt, Scores, Task

AT = "2026-11-29T12:00:00Z"


def task(k: int, gap: float = 0.0) -> Task:
    candidates = (Candidate("a", f"one {k}", {"quality": gap}), Candidate("b", f"two {k}", {"quality": 0.0}))
    return named(Task("", Prompt(f"p{k}", (Message("user", f"q{k}"),)), candidates, "pairwise", "pairwise-v1", campaign="c"))


def test_into_the_store_and_back(tmp_path: Path):
    judge = ScriptedJudge("fake", ScriptedConfig(position=0.5, noise=0.5, hard=False, fails=0.1, price=0.25, family="f"))
    tasks = [task(k, gap=(k % 5) - 2.0) for k in range(30)]
    found = verdicts(judge, [question_of(t) for t in tasks], samples=2)
    said = [j for t, v in zip(tasks, found, strict=True) for j in judgements(t, judge, v, AT)]
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        store.add_campaign(Campaign("c", wanted=2, kind="pairwise", protocol="pairwise-v1"))
        store.add_annotator(annotator_of(judge))
        store.add_tasks("c", tasks)
        assert store.record(said) == len(said)
        assert store.record(said) == 0  # the same again is nothing new
        view = of_store(store, "c")
        kept = store.judgements("c")
    good = [v for v in found if not v.mean.error]
    calls = [s for v in found for _, s in v.calls]
    assert len(view.comparisons) == len(good)
    assert view.left_out == {"audit": sum(not s.error for s in calls)}
    assert [c.outcome for c in view.comparisons] == [v.mean.chosen for v in good]
    assert agreement(view.comparisons).repeats == 0  # a judge counts once
    audits = [j for j in kept if j.purpose == "audit"]
    assert {tuple(j.display_order) for j in audits} == {(0, 1), (1, 0)}
    assert all(j.meta["cost"] == 0.25 and j.meta["tokens"] and j.meta["identity"] == judge.identity for j in audits)
    assert failures(found) == {"reply": sum(bool(s.error) for s in calls)}
    assert annotator_of(judge).kind == "judge"
    assert annotator_of(judge).meta == {"family": "f"}


def test_another_identity_is_another_annotator():
    one, other = (annotator_of(ScriptedJudge("fake", ScriptedConfig(seed=seed))) for seed in (0, 1))
    assert one.annotator_id != other.annotator_id
    assert one.identity != other.identity


def test_answers():
    found = verdicts(ScriptedJudge("fake", ScriptedConfig(hard=False)), [question_of(task(0, 1.0))])[0]
    answer = answer_of(found.mean)
    assert isinstance(answer, Choice)
    assert answer.chosen == "first"
    assert answer.strength == pytest.approx(0.4621, abs=1e-3)  # 2 sigmoid(1) - 1
    scored = verdicts(ScriptedJudge("fake", ScriptedConfig()), [single("some words")])[0]
    assert len(scored.calls) == 1  # one answer has one order
    assert isinstance(answer_of(scored.mean), Scores)


def call(criterion: str = "", reference: str = "", order: tuple[int, ...] = (0, 1), sample: int = 0, first: float = 0.9):
    asked = question_of(task(0), "", reference)
    asked = replace(asked, criterion=criterion, order=order, sample=sample)
    return asked, Said(probabilities={"first": first, "second": 1.0 - first})


ONES = [
    call(),
    call(order=(1, 0)),
    call(sample=1),
    call(sample=1, order=(1, 0)),
    call(sample=2),
    call(sample=1024),
    call(sample=5000),
    call(criterion="truth"),
    call(criterion="tone"),
    call(criterion="tone", order=(1, 0)),
    call(reference="4"),
    call(reference="5"),
    call(criterion="tone", reference="5"),
]


def test_each_call_has_an_event_and_a_place_of_its_own():
    """Whichever calls a run makes, alone or with others: one call is the same event at the same place everywhere."""
    judge = ScriptedJudge("fake", ScriptedConfig())
    alone = [judgements(task(0), judge, Verdict(q, ((q, said),), said), AT) for q, said in ONES]
    together = judgements(task(0), judge, Verdict(ONES[0][0], tuple(ONES), ONES[0][1]), AT)
    audits = [each[0] for each in alone]
    assert [(j.event_id, j.repeat) for j in audits] == [(j.event_id, j.repeat) for j in together[:-1]]
    assert len({j.event_id for j in audits}) == len({j.repeat for j in audits}) == len(ONES)
    assert [j.repeat for j in audits[:5]] == [0, 1, 2, 3, 4]
    assert max(j.repeat for j in audits) < 2**31
    work = [each[1] for each in alone] + [together[-1]]
    assert len({j.event_id for j in work}) == len(work)
    of_criteria = {work[i].repeat for i in (7, 8, 12)}
    assert len(of_criteria | {0}) == 4, "verdicts on other criteria do not take each other's place"
    assert {j.repeat for j in work[:7]} | {work[10].repeat, work[11].repeat} == {0}, "a judge has one vote on a pair, whatever it was shown"


def test_what_was_said_is_part_of_the_event():
    judge = ScriptedJudge("fake", ScriptedConfig())
    one, other, again = (judgements(task(0), judge, Verdict(q, ((q, s),), s), AT) for q, s in (call(), call(first=0.8), call()))
    assert one == again
    assert {j.event_id for j in one}.isdisjoint(j.event_id for j in other)
    assert [j.repeat for j in one] == [j.repeat for j in other]


def test_a_failed_call_leaves_the_others_where_they_are():
    judge = ScriptedJudge("fake", ScriptedConfig())
    asked = calls_of(question_of(task(0)), 2)
    said = [Said(probabilities={"first": 1.0}) for _ in asked]
    whole = tuple(zip(asked, said, strict=True))
    partly = ((asked[0], failed("reply: none")), *whole[1:])
    first, second = (judgements(task(0), judge, Verdict(asked[0], calls, combine(calls)), AT) for calls in (partly, whole))
    assert {j.event_id for j in first[:-1]} < {j.event_id for j in second[:-1]}
    assert first[-1].event_id != second[-1].event_id, "a mean of other calls"
