"""Judges at work in whole stages: as a reward, as a scorer, and in `keel score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.core.errors import ConfigError
from keel.verbs.run import run_verb

JUDGES = """judges:
  words: {type: scripted}
  here: {type: local, model: "tiny:llama?seed=1", model_options: {precision: fp32}}
"""


@pytest.fixture
def judges(tmp_path: Path) -> str:
    (tmp_path / "judges.yaml").write_text(JUDGES, encoding="utf-8")
    return str(tmp_path / "judges.yaml")


def manifest(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text())


@pytest.mark.parametrize("how", ["pointwise", "pairwise"])
def test_rl_from_a_judge(stage: Any, tmp_path: Path, judges: str, how: str) -> None:
    reward = f"rewards=[{{type: judge, name: j, judges: {judges}, judge: words, how: {how}, override: words}}]"
    none = "rewards.0={type: judge, name: j, judge: words}"  # what the shortened recipe sets of workers does not fit a judge
    with pytest.raises(ConfigError):
        stage("grpo", tmp_path / "no", none)
    summary = stage("grpo", tmp_path / "run", reward)
    assert summary["steps"] == 4
    assert "rewards/j/mean" in summary["last"]
    (told,) = manifest(tmp_path / "run")["judges"]
    assert (told["judge"], told["as"], told["override"], told["refused_for"]) == ("words", "a reward", True, "it has no report")
    with pytest.raises(ConfigError, match="may not be a reward"):
        stage("grpo", tmp_path / "refused", reward.replace(", override: words", ""))


def evaluate(tmp_path: Path, judges: str, run: str, **judge: str) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Number {k}?"}) + "\n" for k in range(6)), encoding="utf-8")
    small = f"{{prompts: [{prompts}], samples: 2, max_tokens: 8, draws: 200, languages: [], kl_prompts: 0}}"
    recipe = tmp_path / "eval.yaml"
    use = json.dumps({"judges": judges, **judge})
    models = "model: tiny:llama?seed=2\nbaseline: tiny:llama?seed=1\nmodel_options: {precision: fp32}\n"
    recipe.write_text(f"{models}evaluate: {small}\njudge: {use}\n")
    return run_verb("eval", recipe, [f"run_dir={tmp_path / run}", "settings.threads=1"])


def test_eval_by_a_judge(proofs: None, tmp_path: Path, judges: str) -> None:
    found = evaluate(tmp_path, judges, "bare", judge="words", override="words")["win_rate_judge"]
    assert found["error_carried"] is False
    assert (found["pairs"], found["n"], found["judge"]) == (12, 6, "words")
    assert manifest(tmp_path / "bare")["judges"][0]["as"] == "a scorer"
    kept = [json.loads(line) for line in (tmp_path / "bare" / "samples" / "evaluation.jsonl").read_text().split("\n") if line]
    won = [sum(a["rules"]["judge"] for a in row["after"]) / 2 for row in kept]
    assert sum(won) / len(won) == pytest.approx(found["mean"])
    assert all(a["rules"]["judge"] + b["rules"]["judge"] == 1 for row in kept for a, b in zip(row["after"], row["before"], strict=True))
    labels = tmp_path / "labels.jsonl"
    rows = [{"prompt": f"Question {k}?", "chosen": " ".join(f"w{i}" for i in range(45)), "rejected": f"no {k}"} for k in range(60)]
    rows = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} if k % 8 == 0 else r for k, r in enumerate(rows)]
    labels.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    report = tmp_path / "report.json"
    command = ["judge", "report", "--labels", str(labels), "--judges", judges, "--judge", "words", "--json", str(report)]
    assert main([*command, "draws=200", "injected_pairs=10", "hollow_prompts=5"]) == 0
    whole = evaluate(tmp_path, judges, "whole", judge="words", report=str(report))["win_rate_judge"]
    assert whole["error_carried"] is True
    assert whole["as_judged"]["mean"] == found["mean"]
    assert whole["mean"] == pytest.approx(min(1, max(0, 0.5 + (found["mean"] - 0.5) / (2 * 52 / 60 - 1))))
    told = manifest(tmp_path / "whole")["judges"][0]
    assert (told["passed"], told["override"]) == (True, False)
    page = (tmp_path / "whole" / "report.html").read_text().lower()
    assert "win rate" in page
    assert "judge" in page
    with pytest.raises(ConfigError, match="may not be a scorer"):
        evaluate(tmp_path, judges, "refused", judge="words")
    assert not (tmp_path / "refused" / "samples" / "evaluation.jsonl").exists()


def test_score_by_a_judge(tmp_path: Path, judges: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "q", "completion": "one two three"}\n{"prompt": "q", "completion": ":"}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ["score", str(rows), "--reward", "judge:words", "--out", str(out), f"judges={judges}"]
    assert main(command) == 2
    assert "may not be a reward" in capsys.readouterr().err
    assert main([*command, "override=words"]) == 0
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == [pytest.approx(5.8), 1.0]


def test_a_local_judge_labels(proofs: None, tmp_path: Path, judges: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"q{k}", "answers": [f"a {k}", f"b {k}"]}) + "\n" for k in range(3)), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    assert main(["judge", str(rows), "--judges", judges, "--judge", "here", "--override", "here", "--out", str(out)]) == 0
    said = [json.loads(line)["judgement"] for line in out.read_text().splitlines() if "judgement" in line.split(":")[0]]
    assert len(said) == 9
    assert all(set(j["meta"]["probabilities"]) == {"first", "second", "tie"} for j in said)
