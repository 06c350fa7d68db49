"""Two rounds of people's feedback on tiny models: the real server, a stop in the middle, failures that come back as tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.feedback import lineage, snapshots
from keel.feedback.db import Store
from keel.pipeline import STAGES, load_pipeline, run_pipeline
from keel.verbs.shared.tasks import read_tasks

pytestmark = pytest.mark.stages
RECIPE = Path("recipes/tiny_feedback_loop.yaml")


@pytest.fixture(autouse=True)
def in_the_repository(root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def stopped(*_: Any) -> Any:
    raise KeyboardInterrupt


def summary_of(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / "stages" / stage / "summary.json").read_text(encoding="utf-8"))


def test_two_rounds_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    command = (RECIPE, [f"run_dir={run}"])
    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "mine", (STAGES["mine"][0], stopped))
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(*command)
    before = {p: p.stat().st_mtime_ns for p in (run / "stages").glob("*/summary.json")}
    assert {p.parent.name for p in before} == {"collect", "labels", "reward", "rl", "first"}
    whole = run_pipeline(*command)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())  # nobody was asked twice
    assert whole["stages"] == ["collect", "labels", "reward", "rl", "first", "mine", "relabels", "reward_2", "rl_2", "evaluate"]
    assert "win_rate" in whole

    mined, again = summary_of(run, "mine"), summary_of(run, "relabels")
    assert again["items"] == mined["tasks"] > 0
    assert mined["arms"]["random"] >= 1
    first = {frozenset(c.candidate_id for c in t.candidates) for t in read_tasks(run / "stages" / "collect" / "tasks.jsonl")}
    second = {frozenset(c.candidate_id for c in t.candidates) for t in read_tasks(run / "stages" / "mine" / "tasks.jsonl")}
    assert not first & second
    assert summary_of(run, "reward_2")["data"]["train"]["rows"] == sum(
        summary_of(run, s)[name] for s in ("labels", "relabels") for name in ("pairs", "more_pairs")
    )

    labels = summary_of(run, "labels")
    with Store(labels["store"]) as store:
        taken = snapshots.get(store, labels["snapshot"])
        seen = lineage.affected(store, taken.events[:1], run / "stages")
        assert {Path(p).name for p in seen.runs} >= {"labels", "reward", "rl", "mine", "relabels", "reward_2", "rl_2", "first", "evaluate"}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Failures by reason" in page
    assert labels["snapshot"] in page


def test_the_large_recipe_is_read_and_names_only_what_is_there() -> None:
    from keel.pipeline import _check_references

    large, tiny = (load_pipeline(Path(f"recipes/{name}.yaml"), []) for name in ("feedback_loop", "tiny_feedback_loop"))
    for recipe in (large, tiny):
        _check_references(recipe)
    alone = {"sft", "rl_control", "control"}  # what the tiny models have no use for: a start, and the control arm
    assert [n for n, _ in large.stages.items() if n not in alone] == [n for n, _ in tiny.stages.items()]
    browser = load_pipeline(Path("recipes/feedback_loop.yaml"), ["stages.labels.people=browser", "stages.relabels.people=browser"])
    assert browser.stages.labels.people == "browser"  # type: ignore[attr-defined]
