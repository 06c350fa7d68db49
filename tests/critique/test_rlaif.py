"""Pairs of scored answers: by hand, everything counted, and the share for people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from writers import asked

from keel.critique.config import AuditConfig, PairsConfig
from keel.critique.rlaif import Answer, compare, for_people, pair_of
from keel.rewards.constitution.maths import Rule, total_of
from keel.rewards.constitution.scoring import Scored
from keel.types import Candidate

RULES = (Rule("safe", 2.0, 0), Rule("useful", 1.0, 1))


def answer(text: str, safe: float, useful: float, prompt: str = "q", error: str = "", samples: tuple[float, ...] = ()) -> Answer:
    p = {"safe": safe, "useful": useful}
    return Answer(asked(prompt), Candidate(f"{prompt}-{text}", text), Scored(p, total_of(p, RULES), RULES, samples=samples, error=error))


def test_pairs_by_hand() -> None:
    good, handy, idle, same = answer("good", 1, 1), answer("handy", 0.4, 1), answer("idle", 1, 0.3), answer("near", 1, 0.95)
    scores = [a.scored.score for a in (good, handy, idle, same)]
    assert scores == pytest.approx([1.0, 0.16 / 3, 1.3 / 3, 2.95 / 3])
    found = compare([good, handy, idle, same, answer("lost", 1, 1, error="judge: x"), answer("good", 1, 1)], PairsConfig(per_prompt=10))
    names = [(p.chosen.candidate.text, p.rejected.candidate.text) for p in found.kept]
    assert names == [("good", "handy"), ("near", "handy"), ("good", "idle"), ("near", "idle"), ("idle", "handy")]
    assert [p.gap for p in found.kept] == pytest.approx([scores[0] - scores[1], 2.79 / 3, 1.7 / 3, 1.65 / 3, 1.14 / 3])
    assert (found.close, found.surplus, len(found.unsure)) == (1, 0, 0)
    assert found.conflicts == {("safe", "useful", "band"): 1}  # idle is safe and less useful than handy
    assert found.overruled == 0
    few = compare([good, handy, idle, same], PairsConfig(per_prompt=2))
    assert (len(few.kept), few.surplus) == (2, 3)


def test_an_answer_that_was_cut_off_teaches_no_pair_by_winning() -> None:
    """It may be the worse one; every pair that it would win is counted."""
    good, idle, poor = (answer(text, 1, useful) for text, useful in (("good", 1), ("idle", 0.6), ("poor", 0.2)))
    half = replace(good, candidate=replace(good.candidate, origin={"finish_reason": "length"}))
    for answers, cut, kept in (
        ([half, idle, poor], 2, [("idle", "poor")]),
        ([good, idle, replace(poor, candidate=replace(poor.candidate, origin={"finish_reason": "length"}))], 0, None),
        ([good, idle, replace(poor, candidate=replace(poor.candidate, origin={"finish_reason": "stop"}))], 0, None),
    ):
        found = compare(answers, PairsConfig(per_prompt=9), cut_may_win=False)
        assert found.cut == cut
        assert len(found.kept) + len(found.unsure) + found.close + found.surplus + found.cut == 3
        assert kept is None or [(p.chosen.candidate.text, p.rejected.candidate.text) for p in found.kept] == kept
    assert compare([half, idle, poor], PairsConfig(per_prompt=9)).cut == 0


def test_the_bands_have_their_way_and_say_so() -> None:
    handy, idle = answer("handy", 0.45, 1.0), answer("idle", 1.0, 0.1)
    (pair,) = compare([handy, idle], PairsConfig()).kept
    assert pair.chosen.candidate.text == "idle"
    assert handy.scored.total.flat > idle.scored.total.flat
    assert pair.overruled
    assert pair.confidence == 1.0


def test_an_unsure_judge_makes_no_pair() -> None:
    one, two = answer("one", 1, 1, samples=(0.9, 0.2)), answer("two", 1, 0.3, samples=(0.5, 0.4))
    found = compare([one, two], PairsConfig(confidence=0.6))
    assert (found.kept, len(found.unsure)) == ((), 1)
    assert found.unsure[0].confidence == pytest.approx(2 / 4)
    assert len(compare([one, two], PairsConfig(confidence=0.5)).kept) == 1


def test_a_swap_changes_nothing() -> None:
    one, two = answer("one", 1, 0.8), answer("two", 0.7, 0.9)
    assert pair_of(one, two, "product", 0.0, 0.1) == pair_of(two, one, "product", 0.0, 0.1)


def test_a_share_goes_to_people() -> None:
    answers = [answer(t, 1, u, f"q{i}") for i in range(40) for t, u in (("a", 1.0), ("b", 0.3))]
    found = compare(answers, PairsConfig())
    assert len(found.kept) == 40
    chosen = for_people(found, AuditConfig(), 0)
    assert [arm for _, arm in chosen] == ["random"] * 2  # 5%
    assert chosen == for_people(found, AuditConfig(), 0)
    assert chosen != for_people(found, AuditConfig(), 1)
    assert len(for_people(compare(answers[:2], PairsConfig()), AuditConfig(), 0)) == 1  # at least one
    assert for_people(found, AuditConfig(share=0), 0) == []
    torn = compare([answer("a", 1, 1, samples=(0.1,)), answer("b", 1, 0.3, samples=(0.5,))], PairsConfig())
    assert [arm for _, arm in for_people(torn, AuditConfig(unsure=3), 0)] == ["unsure"]
