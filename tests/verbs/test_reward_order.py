"""`keel reward` with an order of its own: easy rows first, hard rows again, and an exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.core.errors import ConfigError, ModelError
from keel.loops.offline import OfflineTrainer
from keel.types import Branch, Edge, Encoded, PairTarget, RankingTarget, Unit
from keel.verbs.reward.order import label_difficulty, measured
from keel.verbs.run import run_verb

Rows = list[dict[str, Any]]
Run = Callable[..., list[dict[str, Any]]]
MEASURED = ("time/", "mem/", "tokens_per_s")
AGAIN = "order.again={by: loss, every: 4, pool: 8, share: 0.5, noise: 0.1}"


def rows(n: int = 32, strengths: bool = True) -> Rows:
    """Every fifth label is flipped."""
    found: Rows = []
    for i in range(n):
        answers = ("great", "bad") if i % 5 else ("bad", "great")
        row = {"prompt": f"Question number {i}?", "chosen": answers[0], "rejected": answers[1]}
        found.append({**row, "strength": float(1 + i % 3)} if strengths else row)
    return found


@pytest.fixture
def run(tmp_path: Path, proofs: None) -> Run:
    """``run(folder, "key=value")``: the metrics of every step."""
    recipe = tmp_path / "reward.yaml"
    recipe.write_text(
        f"model: tiny:llama?seed=1&layers=1\ndata: {{path: {tmp_path / 'data.jsonl'}}}\nheld_out: 0.1\noptim: {{lr: 3e-3}}\n"
        "loop: {steps: 9, batch_size: 4, eval_at_start: false}\nsettings: {threads: 1, checkpoint: {every: 2}}\n"
        "model_options: {precision: fp32}\n"
    )

    def start(folder: str, *overrides: str, data: Rows | None = None) -> list[dict[str, Any]]:
        lines = "".join(json.dumps(row) + "\n" for row in data or rows())
        if not (tmp_path / "data.jsonl").exists():
            (tmp_path / "data.jsonl").write_text(lines)
        run_verb("reward", recipe, [*overrides, f"run_dir={tmp_path / folder}"])
        found = map(json.loads, (tmp_path / folder / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in found]

    return start


def test_a_curriculum_by_labels_begins_with_the_strongest(run: Run) -> None:
    found = run("easy", "order.curriculum={start: 0.3, until: 0.7, stages: 2}")
    difficulty = [row["order/difficulty"] for row in found]
    assert [row["order/released"] for row in found][::4] == pytest.approx([0.3, 0.65, 1.0], abs=0.05)
    assert max(difficulty[:2]) < 0.35 < max(difficulty)


def test_a_curriculum_by_an_earlier_model(run: Run, tmp_path: Path) -> None:
    run("earlier", "loop.steps=20")
    found = run("after", f"order.curriculum={{by: model, model: {tmp_path / 'earlier/final'}, start: 0.5, until: 1.0, stages: 1}}")
    # the earlier model has learnt what four in five labels say: the flipped ones come last
    assert max(row["order/difficulty"] for row in found[:8]) < 0.55
    with pytest.raises(ModelError, match="nowhere"):
        run("none", "order.curriculum={by: model, model: /nowhere/at/all}")


def test_hard_rows_come_again_and_a_resume_is_exact(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole", AGAIN)
    assert "order/wrong" not in whole[2]
    assert 0.0 < whole[8]["order/wrong"] < 0.6
    assert whole != run("plain")
    original = OfflineTrainer.step

    def crash(self: OfflineTrainer, step: int) -> Any:
        if step == 7:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(OfflineTrainer, "step", crash)
        with pytest.raises(KeyboardInterrupt):
            run("cut", AGAIN)
    assert run("cut", AGAIN) == whole


def test_labels_that_are_all_alike_have_no_easy_ones(run: Run) -> None:
    with pytest.raises(ConfigError, match="equally clear"):
        run("alike", "order.curriculum={}", data=rows(strengths=False))


def test_a_curriculum_names_its_model_or_none(run: Run) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        run("which", "order.curriculum={by: model}")


def unit(target: PairTarget | RankingTarget) -> Unit:
    token = torch.zeros(1, dtype=torch.int64)
    return Unit("u", Encoded(token), (Branch(token, token == 0),) * 3, target)


def test_clear_labels_are_easy_each_kind_among_its_own() -> None:
    def pair(label: float, margin: float = 0.0) -> Unit:
        return unit(PairTarget((Edge(0, 1, label, margin),)))

    assert label_difficulty([pair(1.0), pair(0.5), pair(0.7)]) == [0.0, 1.0, 0.5]
    assert label_difficulty([pair(0.1), pair(0.3), pair(1.0)]) == [0.5, 1.0, 0.0], "below one half the loser is the better one"
    assert label_difficulty([pair(1.0, 1.0), pair(1.0, 3.0), pair(0.9, 9.0)]) == [0.5, 0.0, 1.0]
    tied, strict = unit(RankingTarget((1, 1, 2))), unit(RankingTarget((1, 2, 3)))
    assert label_difficulty([tied, strict, pair(0.9), pair(0.6)]) == [1.0, 0.0, 0.0, 1.0]


def test_what_the_model_makes_of_a_row() -> None:
    """Scores 2, 0 and 0: the lead of the answer that the label prefers, and what it costs."""
    scores = [torch.tensor([[2.0], [0.0], [0.0]])]
    model = SimpleNamespace(score_head=None, members=())
    inference: Any = SimpleNamespace(model=model, judgements=lambda units: [(s, None) for s in scores * len(units)], steps=lambda units: [])

    def of(winner: int, loser: int, label: float) -> tuple[float, bool]:
        return measured(inference, [unit(PairTarget((Edge(winner, loser, label),)))])[0]

    coin, lead = math.log(2.0), math.log1p(math.exp(-2.0))
    assert of(0, 1, 1.0) == pytest.approx((lead, False))
    assert of(1, 0, 1.0) == pytest.approx((lead + 2.0, True))
    assert of(0, 1, 0.25) == pytest.approx((lead + 1.5, True)), "three in four prefer the second"
    assert of(1, 0, 0.25) == pytest.approx((lead + 0.5, False))
    assert of(1, 2, 1.0) == pytest.approx((coin, True)), "no lead is not right"
    assert of(0, 1, 0.5) == pytest.approx((lead + 1.0, False)), "nobody is wrong about an even vote"
