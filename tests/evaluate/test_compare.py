from __future__ import annotations

import math

import pytest

from keel.core.errors import ConfigError
from keel.evaluate.compare import Answer, PromptAnswers, compare, scorers, subsets, win_shares
from keel.evaluate.config import EvaluateConfig
from keel.evaluate.report_samples import choose


def row(prompt_id: str, before: list[Answer], after: list[Answer], language: str = "en") -> PromptAnswers:
    return PromptAnswers(prompt_id, f"ask {prompt_id}", tuple(before), tuple(after), language, "shop")


ROWS = (
    row(
        "a",
        [Answer("one two", 0.0, 1.0, {"form": 1.0}, 2), Answer("x", 1.0, 1.0, {"form": 1.0}, 1)],
        [Answer("one one", 2.0, 0.0, {"form": 1.0}, 2)],
    ),
    row("b", [Answer("y z", 1.0, 0.5, {}, 3)], [Answer("long answer", 1.0, 2.5, {}, 5), Answer("w", 0.0, 0.0, {}, 1)]),
    row("c", [Answer("nur", 5.0, 0.0)], [Answer("ja", 0.0, 9.0)], "zh"),
)


def test_hand_computed_comparison():
    summary = compare(ROWS, languages=["en"])
    assert summary.n_prompts == 2
    assert summary.win_rates["gold"].mean == ((1 + 1) / 2 + (0.5 + 0) / 2) / 2
    assert summary.win_rates["reward_model"].mean == (0 + 0.5) / 2
    assert summary.gains["gold"].mean == ((2.0 - 0.5) + (0.5 - 1.0)) / 2
    assert (summary.before["gold"].mean, summary.before["gold"].n) == (pytest.approx(2 / 3), 3)
    assert summary.after["reward_model"].mean == pytest.approx(2.5 / 3)
    assert summary.win_rates["form"].n == 1  # only prompt a has the rule on both sides
    assert summary.text_before.length is not None
    assert summary.text_before.length.mean == 2.0
    assert summary.text_after.distinct_1 == 4 / 5  # one one | long answer | w


def test_summary_fields_leave_out_what_was_not_measured():
    out = compare(ROWS).to_json()
    assert {
        "win_rate",
        "win_rate_reward_model",
        "reward_before",
        "reward_after",
        "length_after",
        "distinct_2_before",
        "level",
    } <= out.keys()
    assert set(out["win_rate"]) == {"mean", "low", "high", "n"}
    assert out["win_rate_rules"].keys() == {"form"}
    bare = compare([row("a", [Answer("hi")], [Answer("ho")])]).to_json()
    assert not {"win_rate", "reward_before", "win_rate_rules", "distinct_2_before"} & bare.keys()


def test_failed_scores_take_part_in_nothing():
    rows = [row("a", [Answer("x", math.nan), Answer("y", 0.0)], [Answer("z", 1.0)]), row("b", [Answer("x", math.nan)], [Answer("z", 1.0)])]
    assert win_shares(rows, "gold") == {"a": 1.0}
    assert scorers(rows) == ("gold",)


def test_a_prompt_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="stands twice"):
        win_shares([ROWS[0], ROWS[0]], "gold")


def test_swapping_sides_mirrors_the_win_rate():
    swapped = [PromptAnswers(r.prompt_id, r.prompt, r.after, r.before, r.language) for r in ROWS]
    for scorer in ("gold", "reward_model"):
        assert compare(swapped).win_rates[scorer].mean == pytest.approx(1 - compare(ROWS).win_rates[scorer].mean)


def test_subsets_by_language():
    parts = subsets(ROWS, lambda r: r.language)
    assert {name: part.n_prompts for name, part in parts.items()} == {"en": 2, "zh": 1}


def test_rows_survive_writing_and_reading():
    assert tuple(PromptAnswers.from_row(r.to_row()) for r in ROWS) == ROWS
    assert "gold" not in row("a", [Answer("x")], []).to_row()["before"][0]


def test_scores_that_failed_are_read_back_as_numbers():
    """A file writes them as "NaN" (``runs.logs``): they are no score, and end no page."""
    written = row("a", [Answer("x", rules={"environment": 0.5})], []).to_row()
    written["before"][0] |= {"rules": {"environment": "NaN"}, "gold": "NaN"}
    (found,) = PromptAnswers.from_row(written).before
    assert found.score("environment") is found.score("gold") is None


def test_fixed_samples_stay_and_extremes_are_right():
    scores: dict[str, float | None] = {f"p{i}": float(i) for i in range(20)} | {"none": None, "nan": math.nan}
    first = choose(scores, fixed=3, extremes=2, random=2, step=1)
    later = choose({k: -(v or 0) for k, v in scores.items()}, fixed=3, extremes=2, random=2, step=2)
    assert [c for c in first if c.why == "fixed"] == [c for c in later if c.why == "fixed"]
    fixed = {c.prompt_id for c in first if c.why == "fixed"}
    left = sorted((v, k) for k, v in scores.items() if v is not None and v == v and k not in fixed)
    assert [c.prompt_id for c in first if c.why == "worst"] == [left[0][1], left[1][1]]
    assert [c.prompt_id for c in first if c.why == "best"] == [left[-1][1], left[-2][1]]
    assert len({c.prompt_id for c in first}) == len(first) == 9
    assert {c.prompt_id for c in first if c.why == "random"} != {c.prompt_id for c in later if c.why == "random"}
    assert len(choose({"a": 1.0}, fixed=3, extremes=3, random=3)) == 1


def test_evaluation_has_its_own_sampling():
    params = EvaluateConfig(max_tokens=5, temperature=0.3).sampling([7], [9])
    assert (params.max_tokens, params.temperature, params.top_p, params.stop_tokens, params.banned_tokens) == (5, 0.3, 1.0, (7,), (9,))
    with pytest.raises((ConfigError, ValueError)):
        EvaluateConfig(samples=0)


def test_repetition_is_a_mean_over_answers():
    """Four words one after the other say everything twice; the other answer and no answer at all repeat nothing."""
    repeated = "a b c a b c a b c a b c"
    one = compare([row("a", [Answer(repeated)], [])]).text_before.repetition
    two = compare([row("a", [Answer(repeated), Answer("x")], [])])
    assert one > 0.0
    assert (two.text_before.repetition, two.text_after.repetition) == (pytest.approx(one / 2), 0.0)
