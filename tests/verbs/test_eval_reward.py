"""`keel eval reward MODEL DATA` on a small reward model: what it reads, what it writes, what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.core.errors import DataError, ModelError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.rewards.sources.model import ModelReward
from keel.types import Message, Prompt
from keel.verbs.eval_reward.run import run_eval_reward
from keel.verbs.run import run_verb
from keel.verbs.shared.text_model import ModelScorer

FP32 = ("model_options.precision=fp32",)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def questions(n: int) -> list[str]:
    return [f"What is number {i}?" for i in range(n)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, proofs: None) -> Path:
    """A reward model that prefers "good" to "bad", with three heads."""
    root = tmp_path_factory.mktemp("model")
    data = write(root / "train.jsonl", [{"prompt": q, "chosen": "A good answer.", "rejected": "A bad answer."} for q in questions(16)])
    (root / "reward.yaml").write_text(
        f"model: tiny:llama?seed=1&layers=1\ndata: {{path: {data}}}\nheld_out: 0\nhead: {{members: 3}}\noptim: {{lr: 3e-3}}\n"
        "loop: {steps: 12, batch_size: 8, eval_at_start: false}\nmodel_options: {precision: fp32}\n"
    )
    run_verb("reward", root / "reward.yaml", [f"run_dir={root / 'run'}"])
    return root / "run" / "final"


def rewardbench() -> list[dict[str, Any]]:
    """Rows as RewardBench has them; the second half is labelled the other way round."""
    good, bad = "A good answer.", "A bad answer."
    return [
        {
            "id": i,
            "prompt": f"What is number {i}?",
            "chosen": good if i < 30 else bad,
            "chosen_model": "GPT-4",
            "rejected": bad if i < 30 else good,
            "rejected_model": "7b",
            "subset": "chat" if i < 30 else "reversed",
        }
        for i in range(40)
    ]


def test_a_file_of_rewardbench_s_layout(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, page = write(tmp_path / "bench.jsonl", rewardbench()), tmp_path / "out.json", tmp_path / "out.html"
    code = main(["eval", "reward", str(model), data, "--json", str(out), "--html", str(page), *FP32])
    assert code == 0
    found = json.loads(out.read_text())
    of = found["data"]["data"]
    assert (of["prompts"], of["pairs"], of["refused"], of["bad_rows"]) == (40, 40, 0, 0)
    assert of["accuracy"]["mean"] == 0.75
    assert 0.55 < of["accuracy"]["low"] < 0.75 < of["accuracy"]["high"] < 0.92
    assert {k: v["mean"] for k, v in of["by_category"].items()} == {"chat": 1.0, "reversed": 0.0}
    assert of["temperature_scaling"]["ece_after"] < of["temperature_scaling"]["ece_before"]
    assert {f["name"] for f in found["diagnosis"] if f["present"]} >= {"over-confidence", "length bias", "blind to the prompt"}
    assert found["stress"].keys() >= {"longer", "restyled", "flattering"}
    assert all(0 <= row["flips"] <= 1 and row["n"] == 40 for row in found["stress"].values() if row["attack"])
    assert found["cost"]["answers_per_s"] > 0
    assert found["cost"]["latency_ms_max"] >= found["cost"]["latency_ms_median"] > 0
    assert found["data"]["data"]["ensemble"]["std"] > 0
    assert "accuracy 0.750" in capsys.readouterr().out
    html = page.read_text()
    HTMLParser().feed(html)
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", ""), "the page loads nothing"
    assert html.count("<svg") >= 3
    assert "over-confidence" in html


def test_accuracy_is_that_of_the_scores(model: Path, tmp_path: Path) -> None:
    """The measures are of the very model, not of what its file says: one head turned round turns the result."""
    loaded = load_model(str(model), ModelOptions(precision="fp32"), heads=frozenset({"score"}))
    for member in loaded.model.score_head.members:
        member.out.weight.data.neg_()
    loaded.model.save(tmp_path / "turned", loaded.tokenizer)
    data = write(tmp_path / "bench.jsonl", rewardbench())
    of = run_eval_reward(str(tmp_path / "turned"), data, overrides=[*FP32, "stress_pairs=0"])["data"]["data"]
    assert of["accuracy"]["mean"] == 0.25


def test_ratings_are_correlated_within_prompts_and_over_all(model: Path, tmp_path: Path) -> None:
    words = {"A bad answer.": 1, "A bad answer. A good answer.": 2, "A good answer.": 3}
    rows = [{"prompt": q, "answer": a, "rating": r} for q in questions(9) for a, r in words.items()]
    found = run_eval_reward(str(model), write(tmp_path / "rated.jsonl", rows), overrides=[*FP32, "stress_pairs=0"])
    of = found["data"]["data"]
    assert of["kendall"]["n"] == 9
    assert of["spearman_overall"] > 0.3
    assert found["stress"] == {}


def test_prompts_of_the_training_data_are_left_out(model: Path, tmp_path: Path) -> None:
    train, data = model.parents[1] / "train.jsonl", write(tmp_path / "bench.jsonl", rewardbench())
    found = run_eval_reward(str(model), data, overrides=[*FP32, f"trained_on={{path: {train}}}", "stress_pairs=0"])
    assert found["data"]["data"]["in_training_data"] == 16
    assert found["data"]["data"]["prompts"] == 24


def test_the_stress_set_can_be_kept_and_read_again(model: Path, tmp_path: Path) -> None:
    data, kept = write(tmp_path / "bench.jsonl", rewardbench()), tmp_path / "stress.jsonl"
    run_eval_reward(str(model), data, overrides=[*FP32, f"write_stress={kept}", "stress_pairs=5"])
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(rows) == 15
    assert any(row["rejected"][0]["content"].startswith("What an excellent question!") for row in rows)
    again = run_eval_reward(str(model), str(kept), overrides=[*FP32, "stress_pairs=0"])
    assert again["data"]["data"]["pairs"] == 15


@pytest.mark.parametrize(
    ("which", "error", "match"),
    [("policy", ModelError, "no score head"), ("nothing", DataError, "nothing.jsonl"), ("prompts", DataError, "pair records are needed")],
)
def test_what_cannot_be_measured(which: str, error: type[Exception], match: str, model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "bench.jsonl", rewardbench()) if which != "nothing" else str(tmp_path / "nothing.jsonl")
    if which == "prompts":
        data = write(tmp_path / "prompts.jsonl", [{"prompt": q} for q in questions(3)])
    name = str(model)
    if which == "policy":
        policy = load_model("tiny:llama?seed=1&layers=1", ModelOptions(precision="fp32"))
        policy.model.save(tmp_path / "policy", policy.tokenizer)
        name = str(tmp_path / "policy")
    with pytest.raises(error, match=match):
        run_eval_reward(name, data, overrides=FP32)


def test_scores_do_not_depend_on_how_many_are_scored_at_once(model: Path, tmp_path: Path) -> None:
    loaded = load_model(str(model), ModelOptions(precision="fp32"), heads=frozenset({"score"}))
    data = write(tmp_path / "bench.jsonl", rewardbench())
    one = run_eval_reward(str(model), data, overrides=[*FP32, "stress_pairs=0", "batch.inference_tokens=1"])
    many = run_eval_reward(str(model), data, overrides=[*FP32, "stress_pairs=0"])
    assert one["data"]["data"]["accuracy"] == many["data"]["data"]["accuracy"]
    assert one["data"]["data"]["calibration"]["ece"] == pytest.approx(many["data"]["data"]["calibration"]["ece"], abs=1e-4)
    assert LocalInference(loaded.model, BatchConfig()).model.score_head.spec.members == 3


def test_fewer_bits_are_measured_and_read(
    finished: Callable[[str], Path], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What 8 bits cost is told with its interval; a reward that reads the model so gives other scores, a little."""
    monkeypatch.chdir(root)
    final = str(finished("reward") / "final")
    options = ["quantised=[int8,int4]", "model_options.precision=fp32", "stress_pairs=0"]
    found = run_eval_reward(final, "recipes/tiny/pairs.jsonl", html_file=str(tmp_path / "page.html"), overrides=options)["quantised"]
    assert found["int8"]["mb"] < found["int8"]["mb_before"] == found["int4"]["mb"]
    assert 0 < found["int8"]["drift"] < found["int4"]["drift"]
    assert found["int8"]["loss"]["low"] <= found["int8"]["before"] - found["int8"]["after"] <= found["int8"]["loss"]["high"]
    assert "In fewer bits" in (tmp_path / "page.html").read_text(encoding="utf-8")
    items = [(Prompt("p", (Message("user", "Write about a red tent."),)), text) for text in ("The red tent is here.", "tent tent tent")]
    plain, packed = (
        [float(score) for score in ModelScorer.load(ModelReward(path=final, name="r", quantise=way)).judge(items)]
        for way in ("none", "int8")
    )
    assert plain != packed
    assert packed == pytest.approx(plain, abs=0.5)
