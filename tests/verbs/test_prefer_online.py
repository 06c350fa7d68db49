"""`keel prefer` with `online`: it learns from its own answers with every kind of loss, and refuses what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.core.errors import ConfigError, DivergedError

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
QUICK = ("loop.probes=0", "loop.eval_every=0")
LONG = ("loop={steps: 12, batch_size: 8, probes: 0}", "online.samples=8", "online.sampling.max_tokens=12", "optim.lr=5e-3")


def losses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "pairs" in row]


def test_the_reward_rises(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    summary = stage("online_dpo", tmp_path, *LONG)
    found = rows(tmp_path / "metrics.jsonl")
    rounds = losses(found)
    assert summary["last_eval"]["eval/reward"] > 3 * found[0]["eval/reward"]
    assert rounds[-1]["reward"] > 2 * rounds[0]["reward"]
    assert rounds[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert rounds[-1]["objective/kl"] > 1.0
    assert all(row["pairs"] == 8 and row["pairs/gap"] > 0 and row["policy/updates"] == 1 for row in rounds)
    assert (tmp_path / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["ipo", "kto", "simpo", "orpo", "bco", "aot", "tdpo", "mpo"])
def test_every_kind_of_loss_learns_from_rounds(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    settings = ("online.pairs=all", "online.minibatches=2", "online.epochs=2", f"objective={{name: {name}}}")
    stage("online_dpo", tmp_path, *QUICK, "loop.steps=2", *settings)
    rounds = losses(rows(tmp_path / "metrics.jsonl"))
    assert [row["policy/updates"] for row in rounds] == [4, 4]
    assert all(row["grad_norm"] > 0 and row["pairs"] > 4 for row in rounds)
    assert ("objective/kl" in rounds[0]) == (name not in ("simpo", "orpo"))
    assert rounds[-1]["rewards/margins"] != rounds[0]["rewards/margins"]


def test_a_reference_that_is_refreshed_is_never_far(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    for kind, settings in (("fixed", ()), ("refresh", ("online.reference={kind: refresh, every: 1}",))):
        stage("online_dpo", tmp_path / kind, *QUICK, "loop.steps=3", "optim.lr=5e-3", *settings)
    fixed, refreshed = (losses(rows(tmp_path / kind / "metrics.jsonl")) for kind in ("fixed", "refresh"))
    assert all(abs(row["objective/kl"]) < 1e-4 for row in refreshed)
    assert fixed[-1]["objective/kl"] > 1e-2
    assert refreshed[0]["loss"] == fixed[0]["loss"]


def test_adapters_are_switched_off_for_the_reference(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("online_dpo", tmp_path, *QUICK, "loop.steps=3", "lora={r: 4}", "optim.lr=1e-3")
    rounds = losses(rows(tmp_path / "metrics.jsonl"))
    assert abs(rounds[0]["objective/kl"]) < 1e-4 < abs(rounds[-1]["objective/kl"])
    assert (tmp_path / "adapter").is_dir()


def test_a_reference_that_would_never_be_refreshed_is_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every is 10 and there are 3 rounds"):
        stage("online_dpo", tmp_path, *QUICK, "loop.steps=3", "online.reference.kind=refresh")


def test_rounds_without_a_preference_train_nothing_and_that_is_said(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="no round had a preference"):
        stage("online_dpo", tmp_path, *QUICK, "loop.steps=2", "online.least_gap=5")


JUDGE = "recipes/tiny/judge.py:more_e"


def test_a_judge_of_two_makes_the_pairs_and_is_beaten_at_its_own_game(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    settings = ("online.rewards=[]", f"online.judge={{function: {JUDGE}, order: both}}", "online.pairs=all")
    summary = stage("online_dpo", tmp_path, *LONG, *settings, "online.samples=4")
    found = rows(tmp_path / "metrics.jsonl")
    rounds = losses(found)
    assert found[0]["eval/reward"] == 0.5  # against the starting weights' answers, which are these
    assert summary["last_eval"]["eval/reward"] > 0.65
    assert all(row["pairs"] > 8 and row["judge/first"] == pytest.approx(0.5) and row["judge/contradictions"] == 0 for row in rounds)
    assert rounds[0]["judge/asked"] == 2 * 8 * 6  # two orders, six pairs of four answers
    assert summary["judge"]["asked"] > summary["judge"]["failed"] == 0


@pytest.mark.parametrize("name", ["ipo", "kto", "exo", "tdpo", "robust_dpo"])
def test_narrow_wins_are_soft_labels_of_every_loss(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    settings = ("online.rewards=[]", f"online.judge={{function: {JUDGE}}}", f"objective={{name: {name}}}")
    stage("online_dpo", tmp_path, *QUICK, "loop.steps=1", *settings)
    assert losses(rows(tmp_path / "metrics.jsonl"))[0]["grad_norm"] > 0


def test_a_judge_that_always_fails_ends_the_run_with_its_words(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def bad(prompt, first, second):\n    raise ValueError('the judge is ill')\n", encoding="utf-8")
    with pytest.raises(DivergedError, match="the judge is ill"):
        stage("online_dpo", tmp_path / "run", *QUICK, "online.rewards=[]", f"online.judge.function={tmp_path / 'judge.py'}:bad")


def test_a_reference_of_its_own_is_what_the_distance_is_measured_from(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    other = "reference_model=tiny:llama?seed=2"
    for name, settings in (("own", ()), ("other", (other,)), ("adapters", (other, "lora={r: 4}"))):
        stage("online_dpo", tmp_path / name, *QUICK, "loop.steps=1", *settings)
    own, theirs, adapters = (losses(rows(tmp_path / n / "metrics.jsonl"))[0] for n in ("own", "other", "adapters"))
    assert abs(own["objective/kl"]) < 1e-4
    assert theirs["objective/kl"] > 0.1
    assert adapters["objective/kl"] == pytest.approx(theirs["objective/kl"], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["online.samples=1"], "online.samples"),
        (["online.rewards=[]"], "give either online.rewards or online.judge, not neither"),
        (["online.judge.function=a.py:f"], "give either online.rewards or online.judge, not both"),
        (["online.rewards=[]", "online.judge.function=a.py:f", "online.composition.how=min"], "online.composition would have no effect"),
        (["reference_model=a", "online.reference.kind=ema"], "reference_model stays as it is"),
        (["reference_model=a", "objective={name: simpo}"], "reference_model would have no effect"),
        (["online.sampling.temperature=0"], "greedy answers"),
        (["online.pairs=best"], "online.pairs"),
        (["online.minibatches=9"], "online.minibatches is 9"),
        (["online.reference.every=3"], "reference.every would have no effect"),
        (["online.reference={kind: refresh}", "objective={name: simpo}"], "has no reference"),
        (["objective={name: kto}", "online.minibatches=4"], "answers to other prompts"),
        (["reference_cache=somewhere"], "reference_cache would have no effect"),
    ],
)
def test_what_cannot_be_ends_with_2(settings: list[str], words: str, root: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(root)
    assert main(["prefer", "recipes/tiny_online_dpo.yaml", *settings, f"run_dir={tmp_path / 'run'}"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
