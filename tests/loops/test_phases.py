"""Phases: which step belongs to which, and what they set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import UserError
from keel.loops.config import PhaseConfig
from keel.loops.control import phase_at
from keel.verbs.run import RECIPES

THREE = (
    PhaseConfig(name="warm-up", until=0.1, lr=1e-7, kl_coef=0.5),
    PhaseConfig(name="main", until=0.9, lr=1e-6, eval_every=5),
    PhaseConfig(name="closing", until=1.0, lr=1e-6, lr_end=0.0, kl_coef=0.3, entropy_coef=0.0),
)


def test_steps_of_phases_by_hand() -> None:
    found = [phase_at(THREE, step, 20) for step in range(20)]
    assert [now.number for now in found if now] == [1] * 2 + [2] * 16 + [3] * 2
    assert [k for k, now in enumerate(found) if now and now.begins] == [0, 2, 18]
    assert [now.lr for now in found if now] == [1e-7] * 2 + [1e-6] * 16 + [1e-6, 0.0]
    assert [now.kl_coef for now in found if now][1:3] == [0.5, None]
    assert found[19] is not None
    assert (found[19].entropy_coef, found[2].eval_every if found[2] else None) == (0.0, 5)
    assert phase_at((), 0, 20) is None
    short = [phase_at(THREE, step, 4) for step in range(4)]
    assert [now.name for now in short if now] == ["main"] * 4, "a tenth of four steps is none"


def test_a_line_over_many_steps() -> None:
    phase = (PhaseConfig(name="all", until=1.0, lr=4.0, lr_end=2.0),)
    assert [now.lr for k in range(5) if (now := phase_at(phase, k, 5))] == [4.0, 3.5, 3.0, 2.5, 2.0]


RL = ("model=tiny:llama", "data.path=x.jsonl", "rewards=[{type: finished, name: ended}]")
SFT = ("model=tiny:llama", "data.path=x.jsonl")


@pytest.mark.parametrize(
    ("verb", "overrides", "reason"),
    [
        ("sft", ["loop.phases=[{name: a, until: 0.5}]"], "the last is 1"),
        ("sft", ["loop.phases=[{name: a, until: 0.5}, {name: b, until: 0.5}, {name: c, until: 1}]"], "above the one before"),
        ("sft", ["loop.phases=[{name: a, until: 1, lr_end: 0}]"], "lr_end would have no effect without lr"),
        ("sft", ["loop.phases=[{name: a, until: 1, kl_coef: 1}]"], "which only RL has"),
        ("rl", ["loop.phases=[{name: a, until: 1, kl_coef: 1}]", "algorithm.name=dapo"], "the algorithm 'dapo' has no KL"),
    ],
)
def test_what_cannot_follow_is_refused(verb: str, overrides: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(RECIPES[verb], None, [*(RL if verb == "rl" else SFT), *overrides])


def test_phases_of_rl(stage: Callable[..., dict[str, Any]], tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]) -> None:
    """Warm-up, main, closing; the multiplicative controller rests while a phase sets the price and goes on from where it was."""
    phases = (
        "[{name: warm-up, until: 0.25, lr: 1e-4, kl_coef: 0.5}, {name: main, until: 0.75, lr: 2e-3, eval_every: 1}, "
        "{name: closing, until: 1, lr: 1e-3, lr_end: 1e-4, kl_coef: 0.7}]"
    )
    settings = (
        f"loop={{steps: 8, batch_size: 4, probes: 1, eval_every: 0, phases: {phases}}}",
        "algorithm={name: grpo, kl: {coef: 0.04, control: {kind: multiplicative, target: 1000, low: 0.01}}}",
        "settings={threads: 1, checkpoint: {every: 3}}",
    )
    stage("grpo", tmp_path / "run", *settings)
    steps = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in steps if "eval/reward" in row] == [0, 3, 4, 5, 6, 8]
    steps = steps[1:]
    assert [row["phase"] for row in steps] == [1.0] * 2 + [2.0] * 4 + [3.0] * 2
    assert [row["lr"] for row in steps] == pytest.approx([1e-4] * 2 + [2e-3] * 4 + [1e-3, 1e-4])
    assert [row["kl_coef"] for row in steps] == pytest.approx([0.5] * 2 + [0.04, 0.03, 0.0225, 0.016875] + [0.7] * 2)
    told = [(row["step"], row["name"]) for row in rows(tmp_path / "run" / "events.jsonl") if row["kind"] == "phase"]
    assert told == [(1, "warm-up"), (3, "main"), (7, "closing")]


def test_phases_of_other_trainings(
    stage: Callable[..., dict[str, Any]], tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]
) -> None:
    phases = "[{name: a, until: 0.5, lr: 1e-4}, {name: b, until: 1}]"
    overrides = (f"loop={{steps: 4, batch_size: 4, probes: 0, phases: {phases}}}", "optim={lr: 1e-3, schedule: constant, warmup_ratio: 0}")
    stage("sft", tmp_path, *overrides)
    assert [row["lr"] for row in rows(tmp_path / "metrics.jsonl")[1:]] == pytest.approx([1e-4, 1e-4, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("size", "lr", "critic", "batch", "epochs", "clip", "lam", "gamma", "target", "coef"),
    [
        ("7b", 5e-7, 1e-6, 32, 4, 0.2, 0.95, 0.99, 6.0, 0.1),
        ("13b", 1e-6, 2e-6, 64, 4, 0.2, 0.95, 0.99, 6.0, 0.2),
        ("34b", 2e-6, 5e-6, 128, 2, 0.1, 0.97, 0.995, 3.0, 0.5),
    ],
)
def test_presets_by_size(root: Path, tmp_path: Path, size: str, lr, critic, batch, epochs, clip, lam, gamma, target, coef) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        f"base: {root}/recipes/presets/ppo_{size}.yaml\nmodel: 'tiny:llama'\ndata: {{path: x.jsonl}}\n"
        "rewards: [{type: finished, name: ended}]\n"
    )
    recipe: Any = load(RECIPES["rl"], own, [])
    a = recipe.algorithm
    found = {
        "lr": recipe.optim.lr,
        "critic": recipe.critic_optim.lr,
        "batch": recipe.loop.batch_size,
        "epochs": a.epochs,
        "clip": a.clip.low,
        "lam": a.credit.lam,
        "gamma": a.credit.gamma,
        "target": a.kl.control.target,
        "coef": a.kl.coef,
    }
    assert list(found.values()) == [lr, critic, batch, epochs, clip, lam, gamma, target, coef]
    assert a.clip.high == a.clip.low
    assert a.kl.control.unit == "sequence"
