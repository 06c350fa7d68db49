"""Candidates: similarity by hand, duplicates out, the most different kept, every one of them compared."""

from __future__ import annotations

from collections import Counter

import pytest

from keel.feedback.candidates import choose_pairs, deduplicate, make_candidate, most_diverse, samples_by_temperature, select, similarity
from keel.feedback.config import AnnotatorsConfig, PreferencesConfig
from keel.types import Candidate


def made(*texts: str) -> list[Candidate]:
    return [make_candidate("p", t, {"sample": i}) for i, t in enumerate(texts)]


def test_similarity_by_hand() -> None:
    # {a, b, ab} and {a, c, ac}: one of five
    assert similarity("a b", "A, c!") == pytest.approx(1 / 5)
    # 退 货 退货 and 退 款 退款
    assert similarity("退货", "退款。") == pytest.approx(1 / 5)
    assert similarity("same words", "Same words!") == 1.0


def test_same_text_has_the_same_id_and_another_prompt_another() -> None:
    first, second = made("hello ", " hello")
    assert first.candidate_id == second.candidate_id
    assert first.text == "hello"
    assert make_candidate("q", "hello", {}).candidate_id != first.candidate_id


def test_empty_and_alike_answers_go() -> None:
    long = "Please send me your order number and I will check where the parcel is right now in the depot today"
    kept = deduplicate(made("", " ... ", long, long + "!", long.upper(), "Other words.", "请发订单号。", "请发订单号！"), 0.9)
    assert [c.text for c in kept] == [long, "Other words.", "请发订单号。"]


def test_threshold_is_a_bound_not_a_rounding() -> None:
    # 1/5 similar
    assert len(deduplicate(made("a b", "a c"), 0.2)) == 2
    assert len(deduplicate(made("a b", "a c"), 0.19)) == 1


def test_the_most_different_are_kept_in_their_order() -> None:
    # similarities: 0-1 high, 2 and 3 far from all
    candidates = made("one two three four", "one two three five", "red green blue", "eins zwei drei")
    assert [c.text for c in most_diverse(candidates, 3)] == ["one two three four", "red green blue", "eins zwei drei"]
    assert most_diverse(candidates, 9) == tuple(candidates)


def test_select_uses_the_config() -> None:
    config = PreferencesConfig(keep=2, similarity=0.5)
    assert len(select(made("a b c", "a b c d", "x y z", "u v w"), config)) == 2


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_pairs_are_all_pairs_once(n: int) -> None:
    candidates = made(*[f"text {i}" for i in range(n)])
    pairs = choose_pairs(candidates, 100, 0, "p")
    assert len({frozenset(c.candidate_id for c in pair) for pair in pairs}) == len(pairs) == n * (n - 1) // 2


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_few_pairs_cover_every_candidate(n: int) -> None:
    candidates = made(*[f"text {i}" for i in range(n)])
    half, whole = choose_pairs(candidates, (n + 1) // 2, 7, "p"), choose_pairs(candidates, n, 7, "p")
    assert len({c.candidate_id for pair in half for c in pair}) == n
    assert set(Counter(c.candidate_id for pair in whole for c in pair).values()) == {2}


def test_pairs_depend_on_the_seed_alone() -> None:
    candidates = made(*[f"text {i}" for i in range(6)])
    assert choose_pairs(candidates, 3, 0, "p") == choose_pairs(candidates, 3, 0, "p")
    assert choose_pairs(candidates, 3, 0, "p") != choose_pairs(candidates, 3, 1, "p")
    assert choose_pairs(candidates[:1], 3, 0, "p") == ()


def test_samples_are_spread_over_temperatures() -> None:
    config = PreferencesConfig(samples=7, temperatures=[0.5, 1.0, 1.3])
    assert samples_by_temperature(config.temperatures, config.samples) == ((0.5, 3), (1.0, 2), (1.3, 2))


@pytest.mark.parametrize("bad", [{"keep": 9}, {"temperatures": [0.0]}, {"samples": 2, "keep": 2, "temperatures": [0.5, 1, 2]}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="sample"):
        PreferencesConfig(**bad)


def test_more_judges_than_annotators_are_refused() -> None:
    with pytest.raises(ValueError, match="per_item is 3"):
        AnnotatorsConfig(count=2, per_item=3)
