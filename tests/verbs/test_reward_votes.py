"""Reward models from votes whose chances are known: ties, several annotators a pair, soft labels and majorities."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keel.verbs.run import run_verb

QUALITY = {"awful": -2.0, "bad": -1.0, "fair": 0.0, "good": 1.0, "great": 2.0}
WEIGHT = 1.5  # of a tie: a third of the votes and more
ANNOTATORS = 5


def votes(majority: bool, n: int = 400) -> list[dict[str, Any]]:
    """Comparisons of two of five words by Davidson's chances; of a majority one row in the place of five."""
    draw = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        first, second = (str(w) for w in draw.choice(list(QUALITY), size=2, replace=False))
        half = (QUALITY[first] - QUALITY[second]) / 2
        parts = np.array([math.exp(half), WEIGHT, math.exp(-half)])
        said = draw.choice(["first", "tie", "second"], size=ANNOTATORS, p=parts / parts.sum()).tolist()
        row = {"prompt": f"Question {i}?", "candidates": [first, second]}
        if majority and i % 4:  # every fourth prompt keeps its votes: the measure is the same for both
            wins, losses = said.count("first"), said.count("second")
            said = ["first" if wins > losses else "second" if losses > wins else "tie"]
        rows += [{**row, "outcome": outcome, "annotator_id": f"a{k}"} for k, outcome in enumerate(said)]
    return rows


def trained(tmp_path: Path, majority: bool) -> tuple[dict[str, Any], float]:
    """The summary of a run, measured on the prompts that keep their votes, and the log of the weight of a tie that it learnt."""
    from keel.models.config import ModelOptions
    from keel.models.loading import load_model

    held = {f"Question {i}?" for i in range(0, 400, 4)}
    rows = votes(majority)
    for name, of in (("train", [r for r in rows if r["prompt"] not in held]), ("held", [r for r in rows if r["prompt"] in held])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in of))
    recipe = tmp_path / "votes.yaml"
    recipe.write_text(
        f"model: tiny:llama?seed=1&layers=1\ndata: {{path: {tmp_path / 'train.jsonl'}}}\nheld_out: {{path: {tmp_path / 'held.jsonl'}}}\n"
        "optim: {lr: 3e-3}\nloop: {steps: 60, batch_size: 32, eval_at_start: false}\nsettings: {threads: 1}\n"
        "model_options: {precision: fp32}\n"
    )
    summary = run_verb("reward", recipe, [f"run_dir={tmp_path / str(majority)}"])
    head = load_model(str(tmp_path / str(majority) / "final"), ModelOptions(precision="fp32"), heads=frozenset({"score"})).model.score_head
    assert head is not None
    return summary, float(head.tie.detach()[0]) if head.tie is not None else math.nan


@pytest.mark.slow
def test_votes_are_recovered_with_their_uncertainty(tmp_path: Path, proofs: None) -> None:
    soft, log_weight = trained(tmp_path, False)
    hard, _ = trained(tmp_path, True)
    print("soft", soft["reward_model"], math.exp(log_weight), "majority", hard["reward_model"])
    assert math.exp(log_weight) == pytest.approx(WEIGHT, rel=0.25)
    assert soft["reward_model"]["ece"] < 0.06
    assert soft["reward_model"]["temperature"] == pytest.approx(1.0, abs=0.3)
    assert hard["reward_model"]["ece"] > 2 * soft["reward_model"]["ece"]
    assert hard["reward_model"]["temperature"] > 1.4
