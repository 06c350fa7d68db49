"""The first number of a report is what came out, not what it cost."""

from __future__ import annotations

from typing import Any

from keel.evaluate.report import render
from keel.evaluate.report_data import ReportData, StageData
from keel.evaluate.report_result import result_tile
from keel.runs.columns import Columns


def _data(rows: list[dict[str, Any]], summary: dict[str, Any] | None = None) -> ReportData:
    stage = StageData("rl", "", Columns.of_rows(rows), summary=summary or {})
    return ReportData("run", summary or {}, {}, (stage,))


ROWS = [{"step": 0, "eval/reward": 0.25}, {"step": 1, "reward": 0.9, "loss": 3.0}, {"step": 4, "eval/reward": 0.75}]


def test_the_result_stands_before_the_memory() -> None:
    page = render(_data(ROWS, {"peak_mb": 418.0}))
    assert 0 < page.index("Reward at evaluations") < page.index("Peak memory")
    assert "+0.5" in page


def test_the_evaluation_is_the_result_and_its_first_value_stands_beside() -> None:
    tile = result_tile(_data(ROWS), lambda *_: None)
    assert tile is not None
    assert (tile["before"], tile["after"], tile["delta"]) == ("0.25", "0.75", "+0.5")
    assert "steps 0 and 4" in tile["note"]


def test_without_evaluations_the_training_tells() -> None:
    tile = result_tile(_data([{"step": 1, "loss": 2.0, "reward": 0.5}]), lambda *_: None)
    assert tile is not None
    assert (tile["label"], tile["before"], tile["after"]) == ("Reward", None, "0.5")


def test_a_value_that_is_not_finite_is_named() -> None:
    tile = result_tile(_data([{"step": 1, "loss": 2.0}, {"step": 2, "loss": "NaN"}]), lambda *_: None)
    assert tile is not None
    assert (tile["after"], tile["delta"]) == ("nan", None)


def improved(kept: int, **rows: Any) -> dict[str, Any]:
    """The summary of a run of self-improvement; ``kept`` of rounds 0 to 2."""
    interval = {"mean": 0.5, "low": 0.375, "high": 0.625, "n": 48}
    rise = {"mean": 0.25, "low": 0.125, "high": 0.375, "n": 48}
    told = [{"round": i, "verdict": "better" if i else "start", "against": i - 1, "change": rise if i else None} for i in range(3)]
    score: dict[str, Any] = {"score_start": interval, "score_kept": interval | {"mean": 0.5 + kept / 8}}
    name = f"round {kept}" if kept else "the starting model"
    return {"improvement": told, "kept": kept, "kept_name": name, "measured_by": "gold", **score, **rows}


def test_of_self_improvement_the_first_number_is_the_held_out_measure_of_what_is_kept() -> None:
    rows = [{"step": i, "improve/score": 0.5, "loss": 3.0} for i in range(3)]
    notes: list[tuple[str, ...]] = []
    tile = result_tile(_data(rows, improved(2)), lambda *said: notes.append(said))
    assert tile is not None
    assert (tile["label"], tile["before"], tile["after"], tile["delta"]) == ("Held-out measure", "0.5", "0.75", "+0.25")
    assert ("round 2 is kept, measured by gold" in tile["note"], notes[0][3]) == (True, "score_kept.mean")
    nothing = result_tile(_data(rows, improved(0)), lambda *_: None)
    assert nothing is not None
    assert (nothing["before"], nothing["after"], nothing["delta"]) == (None, "0.5", None)
    people = result_tile(_data(rows, improved(1, score_start=None, score_kept=None)), lambda *_: None)
    assert people is not None
    assert (people["label"], people["after"], "over the start, +0.125 to +0.375" in people["note"]) == ("Held-out change", "+0.25", True)
    never = result_tile(_data(rows, improved(0, score_start=None, score_kept=None)), lambda *_: None)
    assert never is not None
    assert (never["after"], "the starting model is kept" in never["note"]) == ("–", True)


def test_a_comparison_keeps_its_own_numbers_and_no_metrics_give_none() -> None:
    assert result_tile(_data(ROWS, {"reward_after": 1.0}), lambda *_: None) is None
    assert result_tile(_data([]), lambda *_: None) is None


def test_a_run_that_never_recovered_says_so_at_the_top() -> None:
    page = render(_data(ROWS, {"never_recovered": "the run never recovered: <lr> is low", "peak_mb": 1.0}))
    assert 0 < page.index("&lt;lr&gt; is low") < page.index("Peak memory")


def test_metrics_that_say_the_same_are_one_line() -> None:
    """Without a price of the KL the reward, its score and the reward with the KL are one number."""
    rows = [{"step": i, "reward": float(i), "objective/scores": float(i), "objective/rlhf_reward": i / 2} for i in range(1, 4)]
    page = render(_data(rows))
    assert "objective/rlhf_reward" in page
    assert "objective/scores" not in page
