"""What is made up costs by type and number, at the words that are wrong; silence earns nothing; a detector that fails fails one sample."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import UserError
from keel.methods.credit.measures import group_metrics
from keel.rewards.build import build_rewards
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.sources.hallucination import Found, HallucinationReward, HallucinationSource, penalty
from keel.types import Encoded, Group, Prompt, Rollout, empty_group
from keel.verbs.scenes import run_scenes
from keel.verbs.score.run import run_score

WORDS = ["", "a", " red", " blue", " dog", " cat", "."]


def decode(tokens_T: torch.Tensor) -> str:
    return "".join(WORDS[int(t)] for t in tokens_T)


def rollout(*ids: int, sample: int = 0, version: int = 0) -> Rollout:
    tokens_T = torch.tensor(ids)
    ones = torch.ones(len(ids), dtype=torch.bool)
    return Rollout("p", 0, sample, tokens_T, ones, torch.zeros(len(ids)), torch.full((len(ids),), version), "stop", decode(tokens_T))


def group(*rollouts: Rollout) -> Group:
    return empty_group(Prompt("p", text="What?"), Encoded(torch.tensor([1])), rollouts)


def detect(prompt: Prompt, text: str) -> Found:
    """Cats are made up, blue is wrong; one dog is the whole truth."""
    kinds = (("existence", " cat"), ("attribute", " blue"))
    errors = [(kind, i, i + len(word)) for kind, word in kinds for i in range(len(text)) if text.startswith(word, i)]
    return Found(errors, float(" dog" in text))


def source(**settings: Any) -> HallucinationSource:
    return HallucinationSource("made_up", HallucinationReward(name="made_up", detector="x.py:fn", **settings), detect, decode)


def test_the_price_by_hand() -> None:
    """Two errors of existence, one of attribute: 2 * 2^1.2 + 1 * 1."""
    errors = [("existence", 0, 1), ("attribute", 2, 3), ("existence", 4, 5)]
    costs = penalty(errors, HallucinationReward(name="x", detector="x.py:fn"))
    assert costs == pytest.approx([2 * 2**1.2 / 2, 1.0, 2 * 2**1.2 / 2])
    assert sum(costs) == pytest.approx(2 * 2**1.2 + 1.0)
    assert sum(penalty(errors, HallucinationReward(name="x", detector="x.py:fn", exponent=1.0))) == pytest.approx(5.0)
    names = ("existence", "count", "attribute", "relation", "knowledge")
    each = [penalty([(kind, 0, 1)], HallucinationReward(name="x", detector="x.py:fn"))[0] for kind in names]
    assert each == [2.0, 1.5, 1.0, 0.8, 0.5]


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (5_000, 1.5), (10_000, 2.0), (50_000, 2.0)])
def test_the_factor_grows_with_the_steps_up_to_its_most(step: int, factor: float) -> None:
    assert HallucinationReward(name="x", detector="x.py:fn").factor(step) == factor
    scored = source(coverage=0.0).score([group(rollout(1, 5, version=step))])
    assert float(scored[0][0]) == pytest.approx(-2.0 * factor)


def test_scores_and_what_is_told_beside_them() -> None:
    made = source()
    good, bad, silent = rollout(1, 4, 6), rollout(1, 3, 5, 5, 6, sample=1), rollout(6, sample=2)
    scores_G = made.score([group(good, bad, silent)])[0]
    assert scores_G.tolist() == pytest.approx([1.0, -(2 * 2**1.2 + 1.0), 0.0])
    assert made.details["errors/existence"][0].tolist() == [0, 2, 0]
    assert made.details["unscaled"][0].tolist() == pytest.approx([0.0, -(2 * 2**1.2 + 1.0), 0.0])
    assert made.details["coverage"][0].tolist() == [1, 0, 0]
    assert scores_G[0] > scores_G[2] > scores_G[1]  # the truth beats silence, silence beats making things up


def test_it_is_due_at_the_words_that_are_wrong() -> None:
    made = source(exponent=1.0)
    answer = rollout(1, 3, 4, 5, 6)  # a blue dog cat.
    judged = apply_rewards([group(answer)], [Reward(made)])[0]
    assert float(judged.rewards_G[0]) == pytest.approx(1.0 - 1.0 - 2.0)
    due_T = judged.moved[0]
    assert due_T.tolist() == pytest.approx(
        [0.0, -1.0, 0.0, -2.0, 3.0]
    )  # the answer's reward is at its end already: what moved is taken off there
    assert float(due_T.sum()) == pytest.approx(0.0)


def test_an_error_of_several_tokens_is_due_at_its_last() -> None:
    made = replace(source(coverage=0.0), detect=lambda _, text: Found([("count", 1, len("a blue dog"))]))
    assert apply_rewards([group(rollout(1, 3, 4, 5))], [Reward(made)])[0].moved[0].tolist() == pytest.approx([0, 0, -1.5, 1.5])


def test_counts_reach_the_metrics() -> None:
    judged = apply_rewards([group(rollout(1, 5, 6), rollout(1, 4, 6, sample=1))], [Reward(source())])
    found = group_metrics(judged)
    assert found["rewards/made_up/errors/existence/mean"] == pytest.approx(0.5)
    assert found["rewards/made_up/coverage/mean"] == pytest.approx(0.5)


def test_a_detector_that_fails_fails_this_sample_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fails(prompt: Prompt, text: str) -> Any:
        if " cat" in text:
            raise KeyError("scene")
        return Found([("nonsense", 0, 1)]) if " blue" in text else 3.0 if " red" in text else Found()

    made = replace(source(), detect=fails)
    rollouts = [rollout(1, word, sample=i) for i, word in enumerate((5, 3, 2, 4))]
    with caplog.at_level(logging.WARNING):
        scores = made.score([group(*rollouts)])[0].tolist()
    assert [math.isnan(s) for s in scores] == [True, True, True, False]
    assert all(word in caplog.text for word in ("'scene'", "nonsense", "not Found"))


def _no_model(_: Any) -> Any:
    pytest.fail("no model is needed")


def test_a_detector_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from keel.rewards.sources.hallucination import Found\ndef fn(prompt, text): return Found([('count', 0, len(text))], 0.5)\n"
    )
    config = HallucinationReward(name="made_up", detector=f"{file}:fn")
    (reward,) = build_rewards([config], _no_model, decode)
    assert reward.source.score([group(answer := rollout(1, 2))])[0].tolist() == pytest.approx([0.5 - 1.5])
    assert reward.source.placed[id(answer)].tolist() == pytest.approx([0, 0.5 - 1.5])  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=r"made_up.*did you mean|made_up.*no function"):
        build_rewards([HallucinationReward(name="made_up", detector=f"{file}:gn")], _no_model, decode)


def test_the_detector_of_scenes() -> None:
    from keel.core.python_file import load_object

    made_up = load_object("recipes/vlm/scenes.py:made_up", "detector")
    things = [{"shape": "circle", "colour": "red", "row": 0, "column": 0}, {"shape": "star", "colour": "green", "row": 2, "column": 2}]
    prompt = Prompt("p", text="What?", meta={"scene": {"id": "s", "things": things}})
    text = "There are two objects: a blue circle and a green star."
    found = made_up(prompt, text)
    assert [(kind, text[a:b]) for kind, a, b in found.errors] == [("attribute", "a blue circle")]
    assert found.coverage == 0.5


def test_a_file_of_answers_is_scored(tmp_path: Path) -> None:
    """``keel scenes``, then ``keel score`` of its pairs' answers by the detector of scenes."""
    run_scenes(str(tmp_path / "scenes"), ["n=12"])
    rows = [json.loads(line) for line in (tmp_path / "scenes" / "pairs.jsonl").read_text().splitlines()]
    answers = [
        {"prompt": "What is there?", "completion": row[side][0]["content"], "scene": row["scene"]}
        for row in rows
        for side in ("chosen", "rejected")
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    run_score(str(tmp_path / "answers.jsonl"), "hallucination:recipes/vlm/scenes.py:made_up", str(tmp_path / "scored.jsonl"))
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert all(row["score"] == 1.0 and row["reason"] == "coverage 1.00" for row in scored[::2])
    assert all(row["score"] <= 1.0 - 0.8 and ": '" in row["reason"] for row in scored[1::2])
