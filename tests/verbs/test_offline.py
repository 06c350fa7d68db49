"""`keel offline` on a tiny model: it learns what the log rewarded, micro-batches do not show, bad data are named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import ConfigError, DataError
from keel.methods.offline import LOGGED_OBJECTIVES
from keel.verbs.shared.parts import OfflineParts

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
QUICK = ("loop.probes=0", "loop.eval_every=0")


@pytest.mark.parametrize("name", LOGGED_OBJECTIVES)
def test_it_learns_what_was_rewarded(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """The log's answers have the letter e at random; the better ones have more. What the trained model says has more e than the log."""
    probes = "loop={steps: 30, batch_size: 6, probes: 8, eval_every: 0}"
    summary = stage("offline", tmp_path, probes, f"objective={{name: {name}}}")
    assert (summary["units"], summary["answers"]) == (19, 76)
    checked = [check for row in rows(tmp_path / "events.jsonl") if row["kind"] == "self_test" for check in row["checks"]]
    assert ("reference" in checked) == LOGGED_OBJECTIVES[name].needs_reference
    said = [row for row in rows(tmp_path / "samples" / "training.jsonl") if row["step"] in (0, 30)]
    share = {step: [r["text"].count("e") / max(1, len(r["text"])) for r in said if r["step"] == step] for step in (0, 30)}
    before, after = (sum(share[step]) / len(share[step]) for step in (0, 30))
    assert before < 0.2
    assert after > 0.5, "the log's mean is 0.42"
    last = rows(tmp_path / "metrics.jsonl")[-1]
    assert last["eval/logps/above"] > last["eval/logps/below"]
    assert 0.0 < last["weights/ess"] <= 24.0


@pytest.mark.parametrize(
    "objective", ["{name: awr, kl_coef: 0.1}", "{name: reinforce}", "{name: topr}", "{name: awr, length_normalised: true}"]
)
def test_micro_batches_do_not_show(objective: str, parts: Callable[..., OfflineParts]) -> None:
    def last(cut: int) -> Mapping[str, float]:
        tokens = f"batch={{microbatch_tokens: {cut}, inference_tokens: {cut}}}"
        trainer = parts("offline", *QUICK, "loop.steps=3", "optim.lr=1e-3", tokens, f"objective={objective}").trainer()
        return [trainer.step(step) for step in range(3)][-1]

    whole, split = last(100000), last(1)
    for key in ("loss", "grad_norm", "logged_reward", "weights/ess", "weights/max", *(["kl"] if "kl_coef" in objective else [])):
        assert whole[key] == pytest.approx(split[key], rel=1e-3, abs=1e-4), key


def test_a_price_of_the_kl_holds_the_policy_near_its_start(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    for coef in (0.001, 30.0):
        stage("offline", tmp_path / str(coef), *QUICK, "loop.steps=10", f"objective={{name: awr, kl_coef: {coef}}}")
    free, held = (rows(tmp_path / str(coef) / "metrics.jsonl")[-1]["eval/kl"] for coef in (0.001, 30.0))
    assert held < free / 2


def logged(path: Path, rewards: list[list[float]], **more: Any) -> str:
    made = [
        {"prompt": f"Say {chr(97 + i)}.", "completion": f"answer {j}", "reward": r, **more}
        for i, answers in enumerate(rewards)
        for j, r in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return f"data.path={path}"


def test_a_group_baseline_needs_groups(stage: Stage, tmp_path: Path) -> None:
    single = logged(tmp_path / "single.jsonl", [[float(i)] for i in range(8)])
    with pytest.raises(DataError, match="no prompt has two answers of different rewards"):
        stage("offline", tmp_path / "run", *QUICK, single)
    assert stage("offline", tmp_path / "other", *QUICK, single, "objective.baseline=batch")["answers"] == 6


def test_a_value_of_the_data_as_baseline(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    data = logged(tmp_path / "valued.jsonl", [[1.0, 2.0]] * 8, value=1.75)
    stage("offline", tmp_path / "run", *QUICK, data, "loop.steps=1", "objective={baseline: value, scale: false, beta: 1.0}")
    row = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["weights/max"] == pytest.approx(2.718281828**0.25, rel=1e-5)
    lines = (tmp_path / "valued.jsonl").read_text().splitlines()
    lines[0] = lines[0].replace("1.75", "1.5")
    (tmp_path / "valued.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="at another answer to the same prompt"):
        stage("offline", tmp_path / "other", *QUICK, data, "held_out=0", "objective.baseline=value")


def test_which_rating_is_the_reward_must_be_clear(stage: Stage, tmp_path: Path) -> None:
    rated = [{"prompt": f"Say {i}.", "answer": f"answer {j}", "scores": {"a": j, "b": i}} for i in range(6) for j in range(2)]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    data = f"data.path={tmp_path / 'rated.jsonl'}"
    with pytest.raises(ConfigError, match=r"answers are rated in several ways; there are: a, b"):
        stage("offline", tmp_path / "run", *QUICK, data)
    assert stage("offline", tmp_path / "other", *QUICK, data, "loop.steps=1", "objective.dimension=a")["steps"] == 1
    with pytest.raises(DataError, match="rating records are needed"):
        stage("offline", tmp_path / "pairs", *QUICK, "data.path=recipes/tiny/pairs.jsonl")
