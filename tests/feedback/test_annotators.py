"""Simulated annotators: deterministic, noisy readers of the gold utility."""

from __future__ import annotations

from statistics import fmean

import pytest

from keel.feedback.agreement import agreement
from keel.feedback.candidates import make_candidate
from keel.feedback.config import AnnotatorsConfig
from keel.simulate import gold
from keel.simulate.annotators import PROTOCOL, Annotator, annotate, compare, make_annotators
from keel.types import Candidate, Message, Prompt

ASK = Prompt("p", (Message("user", "My tent came with a broken pole!"),))
GOOD = make_candidate("p", "I'm sorry about the broken pole. Please send me your order number and I will send a new one.", {})
BAD = make_candidate("p", "No.", {})
EXACT = Annotator("exact", noise=0.0, tie_threshold=0.0, position_bias=0.0)


def many(n: int) -> list[tuple[Prompt, Candidate, Candidate]]:
    """Items whose two answers are worth about the same, so that noise decides."""
    texts = ("You can return the boots within 60 days.", "The boots go back to us within 60 days.")
    prompts = [Prompt(f"p{i}", (Message("user", "Can I return my boots?"),)) for i in range(n)]
    return [(p, make_candidate(p.prompt_id, texts[0], {}), make_candidate(p.prompt_id, texts[1], {})) for p in prompts]


def winner(annotator: Annotator, item: tuple[Prompt, Candidate, Candidate]) -> Candidate:
    record = compare(annotator, item, 0)
    return record.candidates[("first", "second").index(record.outcome)]


def test_a_reader_without_noise_prefers_the_better_answer() -> None:
    assert winner(EXACT, (ASK, GOOD, BAD)) == GOOD
    assert EXACT.value(ASK, GOOD.text) == pytest.approx(gold.utility(ASK, GOOD.text))


def test_the_record_does_not_depend_on_the_order_given() -> None:
    annotators = make_annotators(AnnotatorsConfig(), 3)
    assert compare(annotators[0], (ASK, GOOD, BAD), 5) == compare(annotators[0], (ASK, BAD, GOOD), 5)
    record = compare(annotators[0], (ASK, GOOD, BAD), 5)
    assert [c.candidate_id for c in record.candidates] == sorted([GOOD.candidate_id, BAD.candidate_id])
    assert record.protocol == PROTOCOL


def test_all_is_decided_by_the_seed() -> None:
    config = AnnotatorsConfig()
    items = many(30)

    def run(seed: int) -> tuple:
        return annotate(items, make_annotators(config, seed), config.per_item, seed)

    assert run(0) == run(0)
    assert run(0) != run(1)
    backwards = annotate(list(reversed(items)), make_annotators(config, 0), config.per_item, 0)
    assert {c.record_id: c for c in backwards} == {c.record_id: c for c in run(0)}


def test_each_item_gets_different_annotators_and_all_take_part() -> None:
    config = AnnotatorsConfig(count=5, per_item=3)
    records = annotate(many(40), make_annotators(config, 0), 3, 0)
    assert len(records) == 120
    assert len({c.record_id for c in records}) == 120
    assert {c.annotator_id for c in records} == {f"sim-{i}" for i in range(1, 6)}


def test_readers_differ_and_no_spread_makes_them_equal() -> None:
    different = make_annotators(AnnotatorsConfig(spread=0.3), 0)
    assert len({a.taste("courtesy") for a in different}) == len(different)
    for a in make_annotators(AnnotatorsConfig(spread=0.0), 0):
        assert {a.taste(name) for name in gold.WEIGHTS} == {1.0}
        assert a.noise == AnnotatorsConfig().noise


def test_display_order_is_random_and_position_bias_shows_in_it() -> None:
    items = many(400)
    neutral, biased = (Annotator("x", 0.05, 0.0, bias) for bias in (0.0, 0.05))
    records = [compare(neutral, item, 0) for item in items]
    assert 0.42 < fmean(c.display_order == (0, 1) for c in records) < 0.58
    left_neutral = agreement(records).left_rate
    left_biased = agreement([compare(biased, item, 0) for item in items]).left_rate
    assert 0.42 < left_neutral < 0.58
    assert left_biased > left_neutral + 0.15  # a bias of one standard deviation of the noise


def test_small_differences_are_ties_and_strength_grows_with_the_difference() -> None:
    patient = Annotator("x", noise=0.0, tie_threshold=2.0, position_bias=0.0)
    record = compare(patient, (ASK, GOOD, BAD), 0)
    assert (record.outcome, record.strength) == ("tie", 0.0)
    middling = make_candidate("p", "Please send your order number.", {})
    strong, weak = compare(EXACT, (ASK, GOOD, BAD), 0), compare(EXACT, (ASK, GOOD, middling), 0)
    assert 0.0 < weak.strength < strong.strength < 1.0


def test_more_noise_means_less_agreement() -> None:
    items = [(Prompt(f"p{i}", ASK.messages), GOOD, BAD) for i in range(60)]
    raw = [agreement(annotate(items, make_annotators(AnnotatorsConfig(noise=n), 0), 3, 0)).raw for n in (0.05, 3.0)]
    assert raw[0] > 0.95
    assert raw[1] < 0.7


def test_an_answer_cannot_be_compared_with_itself() -> None:
    with pytest.raises(ValueError, match="with itself"):
        compare(EXACT, (ASK, GOOD, GOOD), 0)
