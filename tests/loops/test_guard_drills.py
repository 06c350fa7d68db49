"""Each action of a rule, drilled on a real tiny run: what is done shows in the run's own metrics and events, comes back step by step, and
the end says where it did not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DivergedError

pytestmark = pytest.mark.stages

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
SHORT = (
    "loop={steps: 7, batch_size: 2, eval_every: 2, probes: 0, eval_at_start: false}",
    "samples=2",
    "sampling.max_tokens=4",
    "optim={lr: 1e-3, schedule: constant, warmup_steps: 0}",
    "settings.checkpoint.every=1",
)
ONCE = "count(kl >= 0) == 3"  # at step 3, and at no other
BACK = "recover_after: 1, recover_steps: 2"  # the first calm step waits, two more bring it all back


@pytest.fixture
def drill(stage: Stage, rows: Rows, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]]:
    """``drill("lower_lr")``: a run whose rule does that at step 3; its summary, its steps, its events."""

    def run(
        act: str, emergency: str = BACK, expr: str = ONCE, *more: str
    ) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
        rule = f"{{name: drill, expr: '{expr}', act: {act}, level: critical}}"
        watch = f"settings.watch={{defaults: false, emergency: {{{emergency}}}, rules: [{rule}]}}"
        summary = stage("grpo", tmp_path / "run", *SHORT, watch, *more)
        steps = [row for row in rows(tmp_path / "run" / "metrics.jsonl") if row["step"] > 0]
        return summary, steps, rows(tmp_path / "run" / "events.jsonl")

    return run


def kinds(events: list[dict[str, Any]], *wanted: str) -> list[tuple[str, int]]:
    return [(e["kind"], e["step"]) for e in events if e["kind"] in wanted]


def test_lower_lr(drill: Any) -> None:
    summary, steps, events = drill("lower_lr")
    scale = [row["lr"] / 1e-3 for row in steps]
    assert scale == pytest.approx([1, 1, 1, 0.1, 0.1, 10**-0.5, 1], rel=1e-6)
    assert kinds(events, "adjusted", "recovery") == [("adjusted", 3), ("recovery", 5), ("recovery", 6)]
    assert "never_recovered" not in summary
    assert [row["kl_coef"] for row in steps] == [steps[0]["kl_coef"]] * 7, "the price of the KL is left alone"


def test_raise_kl(drill: Any) -> None:
    _, steps, events = drill("raise_kl", f"kl_factor: 4.0, {BACK}")
    first = steps[0]["kl_coef"]
    assert [row["kl_coef"] / first for row in steps] == pytest.approx([1, 1, 1, 4, 4, 2, 1], rel=1e-6)
    assert kinds(events, "adjusted") == [("adjusted", 3)]
    assert len({row["lr"] for row in steps}) == 1


def test_roll_back(drill: Any, rows: Rows, tmp_path: Path) -> None:
    """Back to the last good checkpoint, with a tenth of the rate and twice the price; what was given up stays to be read."""
    summary, steps, events = drill("rollback", BACK, "lr > 5e-4 and count(kl >= 0) == 3")  # the second time the rate is lower
    (told,) = [e for e in events if e["kind"] == "emergency"]
    assert (told["step"], told["back_to"]) == (3, 2)
    assert [row["step"] for row in steps] == list(range(1, 8)), "each step stands once"
    assert [row["lr"] / 1e-3 for row in steps][:3] == pytest.approx([1, 1, 0.1])
    assert [row["step"] for row in rows(tmp_path / "run" / "abandoned.jsonl")] == [3]
    assert summary["steps"] == 7


def test_pause_and_go_on(drill: Any, rows: Rows, tmp_path: Path) -> None:
    summary, steps, events = drill("pause")
    assert (summary["interrupted"], summary["step"], len(steps)) == (True, 3, 3)
    assert summary["paused"].startswith("kl")
    assert not (tmp_path / "run" / "summary.json").exists()
    summary, steps, events = drill("pause")
    assert (summary["steps"], len(steps)) == (7, 7)
    assert kinds(events, "paused", "resumed") == [("paused", 3), ("resumed", 3)]


def test_stop(drill: Any, rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="stopped at step 3") as caught:
        drill("stop")
    assert "last good checkpoint is that of step 2" in caught.value.hint
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")][-1] == 3
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("emergency", "expr", "why"),
    [
        ("recover_after: 0", ONCE, "learning rates are 0.1 of the recipe's"),
        (BACK, "count(kl >= 0) >= 3", "drill still speaks"),
    ],
)
def test_the_end_says_that_it_never_recovered(drill: Any, emergency: str, expr: str, why: str, tmp_path: Path) -> None:
    summary, _, events = drill("lower_lr", emergency, expr)
    assert why in summary["never_recovered"]
    assert [e["message"] for e in events if e.get("never_recovered")] == [summary["never_recovered"]]
    assert "Never recovered" in (tmp_path / "run" / "report.html").read_text()


def test_the_same_rule_in_a_file_only_says_what_it_would_have_done(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(f"rules:\n  - {{name: drill, expr: '{ONCE}', act: rollback, level: critical}}\n")
    stage("grpo", tmp_path / "run", *SHORT, f"settings.watch={{defaults: false, files: ['{file}']}}")
    events = rows(tmp_path / "run" / "events.jsonl")
    assert kinds(events, "emergency", "adjusted", "paused") == []
    assert [e["would"] for e in events if e.get("rule") == "drill" and e["kind"] == "warning"] == ["rollback"]
    assert len({row["lr"] for row in rows(tmp_path / "run" / "metrics.jsonl") if row["step"] > 0}) == 1
