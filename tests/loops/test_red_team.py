"""A red team scores what deserves nothing beside the policy's best: which rewards fall for what, and that it changes no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.data.attacks import ATTACKS, Honest, attack
from keel.loops.red_team import RedTeam
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.text import TextSource
from keel.runs import evaluations, logs
from keel.runs.config import RedTeamConfig
from keel.types import Branch, Encoded, Group, Prompt, Rollout, empty_group

HONEST = {
    "How do I keep a tent dry inside?": "Air it well and keep wet boots outside. Condensation is what makes most tents wet.",
    "Which rope is right for climbing?": "A dynamic rope, because it stretches when it catches a fall. Static ropes are for hauling.",
    "What is a good breakfast before a hike?": "Oats with nuts, since they give energy for hours. Drink water too.",
    "帐篷里怎样保持干燥？": "注意通风，把湿鞋放在外面。大多数潮湿来自冷凝水。",
    "登山应该用哪种绳子？": "用动力绳，它在坠落时会拉伸。静力绳用来拖拽物品。",
}


def group(question: str, *texts: str) -> Group:
    one_T = torch.ones(1)
    made = [Rollout(question, 0, i, torch.tensor([1]), one_T.bool(), -one_T, one_T, "stop", t) for i, t in enumerate(texts)]
    return empty_group(Prompt(question, text=question), Encoded(torch.tensor([1])), made)


def team(path: Path, function: Callable[[Prompt, str], float], **config: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    rewards = [Reward(TextSource("own", function))]
    groups = apply_rewards([group(q, "I do not know.", a) for q, a in HONEST.items()], rewards)
    red = RedTeam(
        path,
        RedTeamConfig(every=10, **config),
        0,
        lambda mixed: apply_rewards(mixed, rewards),
        lambda prompt, text: (Branch(torch.tensor([1]), torch.ones(1, dtype=torch.bool)), text),
    )
    assert red.take(9, groups) == {}
    metrics = red.take(10, groups)
    return metrics, list(logs.rows_of(path / evaluations.FOLDER / "redteam-000000010.jsonl"))


def won(metrics: dict[str, float]) -> set[str]:
    return {name.split("/")[1] for name, v in metrics.items() if name.count("/") == 2 and v > 0.5}


def knows(prompt: Prompt, text: str) -> float:
    """A sound reward: is it the honest answer's first sentence, and not much more?"""
    honest = HONEST[prompt.prompt_id]
    return (honest[:8] in text) / max(1.0, len(text) / len(honest))


def test_a_sound_reward_is_not_beaten(tmp_path: Path) -> None:
    metrics, rows = team(tmp_path, knows)
    assert metrics["red_team/win_rate"] == 0.0
    assert metrics["red_team/failed_ratio"] == 0.0
    assert {row["attack"] for row in rows} == set(ATTACKS)
    assert len(rows) == len(HONEST) * len(ATTACKS)


@pytest.mark.parametrize(
    ("name", "function", "falls_for"),
    [
        ("length", lambda p, t: float(len(t)), {"padding", "verdict"}),
        ("keywords of the prompt", lambda p, t: float(sum(w in t.lower() for w in p.last_user_text.lower().split())), {"echo"}),
        ("a judge that reads verdicts", lambda p, t: 10.0 if "10/10" in t else 5.0, {"verdict"}),
        ("markdown", lambda p, t: float(t.count("\n- ") + t.count("**")), {"list"}),
        ("praise", lambda p, t: float("highest score" in t or "最高分" in t), {"praise"}),
    ],
)
def test_a_reward_is_beaten_by_what_it_falls_for(tmp_path: Path, name: str, function: Any, falls_for: set[str]) -> None:
    metrics, _ = team(tmp_path, function)
    assert falls_for <= won(metrics), name
    assert metrics["red_team/win_rate"] == 1.0


def test_attacks_that_got_no_reward_are_counted(tmp_path: Path) -> None:
    metrics, rows = team(tmp_path, lambda p, t: float("nan") if "10/10" in t else knows(p, t))
    assert metrics["red_team/failed_ratio"] == pytest.approx(1 / len(ATTACKS))
    assert "red_team/verdict/win_rate" not in metrics
    assert all((row["reward"] is None) == (row["attack"] == "verdict") for row in rows)


def test_attacks_are_in_the_prompt_s_language_and_never_the_honest_answer() -> None:
    for question, answer in HONEST.items():
        honest = Honest(question, answer, "Something else. 别的东西。")
        for name in ATTACKS:
            text = attack(name, honest)
            assert text.strip() not in ("", answer.strip()), name
            if name in ("praise", "flattery", "template", "list"):
                assert any("一" <= c <= "鿿" for c in text) == honest.zh, name
    assert attack("echo", Honest("same", "same", "")) == ""
    assert attack("elsewhere", Honest("a", "b", "")) == ""


def test_some_attacks_on_some_prompts(tmp_path: Path) -> None:
    metrics, rows = team(tmp_path, knows, attacks=["echo", "praise"], prompts=2)
    assert len(rows) == 4
    assert {n for n in metrics if n.count("/") == 2} == {"red_team/echo/win_rate", "red_team/praise/win_rate"}


@pytest.mark.stages
def test_training_is_the_same_with_it(stage: Callable[..., Any], rows: Callable[[Path], list[dict[str, Any]]], tmp_path: Path) -> None:
    short: Sequence[str] = ("loop={steps: 2, batch_size: 2, eval_at_start: false}", "samples=2", "sampling.max_tokens=4")
    stage("grpo", tmp_path / "with", *short, "settings.tracking.red_team={every: 1, prompts: 2}")
    stage("grpo", tmp_path / "without", *short)
    weights = [next((tmp_path / name / "final").glob("*.safetensors")).read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]
    metrics = [row for row in rows(tmp_path / "with" / "metrics.jsonl") if row["step"] > 0]
    assert all(0.0 <= row["red_team/win_rate"] <= 1.0 for row in metrics)
    assert all(len(row["text"]) > 0 for row in logs.rows_of(tmp_path / "with" / "evaluations" / "redteam-000000002.jsonl"))
