"""Failure drills: what can go wrong with rewards and completions, each through the whole stage, each with a clear outcome."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DivergedError, UserError
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.types import Rollout
from keel.watch.names import PLAIN

pytestmark = pytest.mark.stages

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
QUICK = ("loop={steps: 4, batch_size: 4, probes: 1, eval_at_start: false}", "held_out=0.1", "samples=4", "sampling.max_tokens=6")


@pytest.fixture
def drill(stage: Stage, rows: Rows, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """``drill(body, "key=value", ...)``: a tiny run whose reward is ``fn(prompt, completion)`` with this body; its steps."""

    def run(body: str, *overrides: str) -> list[dict[str, Any]]:
        file = tmp_path / "reward.py"
        file.write_text(f"import time, zlib\n\ndef fn(prompt, completion):\n    {body}\n")
        reward = f"rewards=[{{type: python, name: own, function: '{file}:fn', worker: {{timeout_s: 1, processes: 1}}}}]"
        stage("grpo", tmp_path / "run", *QUICK, reward, *overrides)
        return [row for row in rows(tmp_path / "run" / "metrics.jsonl") if row["step"] > 0]

    return run


def told(rows: Rows, path: Path) -> str:
    return json.dumps(rows(path / "run" / "events.jsonl"))


HALF = "half = zlib.crc32(completion.encode()) % 2"  # which half of the answers, the same every time


def test_all_rewards_equal(drill: Any, rows: Rows, tmp_path: Path) -> None:
    """Nothing to learn: no gradient but the KL's, which is 0 at the start, and a warning once it has gone on for five steps."""
    steps = drill("return 1.0", "loop.steps=5", "algorithm.kl.place=none")
    assert [row["frac_reward_zero_std"] for row in steps] == [1.0] * 5
    assert [row["grad_norm"] for row in steps] == [0.0] * 5
    assert "no group has different rewards, so nothing is learned" in told(rows, tmp_path)


def test_all_rewards_equal_with_dynamic_sampling(drill: Any) -> None:
    """Every prompt is tried for as many rounds as there are; then the step trains on nothing, which is an error once all steps did."""
    with pytest.raises(DivergedError, match="nothing was trained"):
        drill("return 1.0", "algorithm={name: dapo, credit: {refill_rounds: 2, overlong: {factor: 0.0}}}")


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')"])
def test_a_reward_that_is_not_finite(drill: Any, value: str) -> None:
    """Such samples are left out of statistics and losses, and counted."""
    steps = drill(f"{HALF}\n    return {value} if half else float(completion.count('e'))")
    assert all(0.0 < row["completions/failed_ratio"] < 1.0 for row in steps)
    assert all(row["reward"] == row["rewards/own/mean"] for row in steps), "finite, over the others alone"
    assert any(row["grad_norm"] > 0 for row in steps)


def test_a_reward_that_raises(drill: Any, caplog: pytest.LogCaptureFixture) -> None:
    steps = drill(f"{HALF}\n    return 1 / (1 - half)")
    assert all(0.0 < row["completions/failed_ratio"] < 1.0 for row in steps)
    assert "ZeroDivisionError" in caplog.text


def test_a_reward_that_raises_can_stop_the_run(drill: Any) -> None:
    with pytest.raises(UserError, match="reward 'own' failed for prompt"):
        drill(f"{HALF}\n    return 1 / (1 - half)", "on_reward_failure=stop")


def test_a_reward_that_always_raises_ends_with_its_message(drill: Any) -> None:
    with pytest.raises(DivergedError, match="ZeroDivisionError"):
        drill("return 1 / 0")


def test_a_reward_that_hangs(drill: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The call is given up after its time; the rest of the batch is judged."""
    steps = drill("time.sleep(600 if completion[:1] in 'aeiouAEIOU ' else 0)\n    return float(len(completion) % 3)", "loop.steps=1")
    assert 0.0 < steps[0]["completions/failed_ratio"] < 1.0
    assert "1 s" in caplog.text


def test_a_reward_that_returns_the_wrong_length(drill: Any) -> None:
    """One number an answer, not one a token or a prompt."""
    with pytest.raises(UserError, match="returned list for prompt") as caught:
        drill("return [1.0, 2.0]")
    assert "it must return one number" in caught.value.hint


def test_an_empty_completion(drill: Any, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that gives nothing back for one sample: no reward, no part in any statistic, and counted."""
    collect = LocalSampler.collect

    def emptied(rollout: Rollout) -> Rollout:
        if rollout.sample != 1:
            return rollout
        parts = {name: getattr(rollout, name)[:0] for name in ("tokens_T", "sampled_T", "logprobs_T", "version_T")}
        return replace(rollout, text="", **parts)

    monkeypatch.setattr(LocalSampler, "collect", lambda self: map(emptied, collect(self)))
    steps = drill("return float(len(completion))", "settings.skip_self_test=[sampler]")
    assert [row["completions/failed_ratio"] for row in steps] == [0.25] * 4
    assert all(row["completions/min_length"] >= 1 for row in steps)
    assert any(row["grad_norm"] > 0 for row in steps)


def test_completions_of_the_limit_s_length(drill: Any) -> None:
    """A tiny random model hardly ever ends by itself: cut off, rewarded and trained on; left out of the loss where that is asked for."""
    steps = drill("return float(completion.count('e'))", "sampling.max_tokens=2")
    assert all(row["completions/max_length"] == 2.0 and row["completions/clipped_ratio"] > 0.5 for row in steps)
    assert any(row["grad_norm"] > 0 for row in steps)


def test_masked_completions_of_the_limit_s_length(drill: Any) -> None:
    with pytest.raises(DivergedError, match="nothing was trained"):
        drill("return float(completion.count('e'))", "sampling.max_tokens=2", "algorithm.credit.mask_truncated=true", "samples=2", "seed=3")


def test_one_sample_a_prompt(drill: Any) -> None:
    """Groups of one have nothing to compare; an estimator that does not need it learns."""
    with pytest.raises(UserError, match="group_normalised compares the answers to one prompt and gets 1"):
        drill("return 1.0", "samples=1")
    steps = drill("return float(completion.count('e'))", "samples=1", "algorithm={name: reinforce}")
    assert any(row["grad_norm"] > 0 for row in steps)
    assert all("frac_reward_zero_std" not in row for row in steps)


def test_a_support_of_one_token(drill: Any, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token but one is banned: probability 1, entropy 0, no gradient, and nothing that is not finite on the way."""
    ours = Renderer.__init__

    def all_but_one(self: Any, *args: Any, **kwargs: Any) -> None:
        ours(self, *args, **kwargs)
        only = self.tokenizer.encode("e", add_special_tokens=False)[0]
        self.banned_tokens = tuple(i for i in range(len(self.tokenizer)) if i != only)

    monkeypatch.setattr(Renderer, "__init__", all_but_one)
    steps = drill("return float(completion.count('e'))", "loop.steps=10", "settings.skip_self_test=[gradients]")
    assert [(row["grad_norm"], row["kl"]) for row in steps] == [(0.0, 0.0)] * 10
    assert all(0 <= row["entropy"] < 1e-15 for row in steps)  # the other tokens count as e^-60
    assert [row["reward"] for row in steps] == [6.0] * 10
    assert all(math.isfinite(v) for row in steps for v in row.values() if isinstance(v, float))
    assert "no group has different rewards" in told(rows, tmp_path)  # nothing to learn; without choice, but no worse for it


def test_a_nucleus_of_one_token(drill: Any) -> None:
    """Every support has its most likely token alone: answers are the same, there is nothing to choose and nothing to learn."""
    steps = drill("return float(len(completion))", "sampling.top_p=1e-9", "loop.steps=2")
    assert [(row["grad_norm"], row["kl"], row["sampling/support/single_ratio"]) for row in steps] == [(0.0, 0.0, 1.0)] * 2
    assert all(0 <= row["entropy"] < 1e-15 for row in steps)
    assert all(row["frac_reward_zero_std"] == 1.0 for row in steps)


EAGER = ("optim.lr=0.2", "model_options.precision=fp32", "settings.checkpoint.every=2")


def test_the_default_rules_change_no_run_that_is_finite(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """A run that runs far away under the default rules, which warn, is step by step the run that has none."""
    steps: dict[str, list[dict[str, Any]]] = {}
    for name, defaults in (("watched", "true"), ("free", "false")):
        stage("grpo", tmp_path / name, *QUICK, *EAGER, "loop.steps=8", f"settings.watch.defaults={defaults}")
        found = [row for row in rows(tmp_path / name / "metrics.jsonl") if row["step"] > 0]
        apart = {"ts", "time", "tokens_per_s"}
        steps[name] = [{k: v for k, v in r.items() if k not in apart and not k.startswith(("time/", "mem/"))} for r in found]
        assert not (tmp_path / name / "abandoned.jsonl").exists()
    kinds = [row["kind"] for row in rows(tmp_path / "watched" / "events.jsonl")]
    assert "warning" in kinds, "nothing was warned of: the run is too calm to show anything"
    assert steps["watched"] == steps["free"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_run_learns_to_the_end_under_the_default_rules(stage: Stage, tmp_path: Path, seed: int) -> None:
    """100 steps of the tiny recipe: the KL to a random start grows far, as it has to, and all held-out answers are right at the end."""
    summary = stage(
        "grpo", tmp_path / "run", "loop={steps: 100, batch_size: 4, eval_every: 50}", f"seed={seed}", "samples=8", "sampling.max_tokens=12"
    )
    assert summary["last_eval"]["eval/reward"] > 0.95


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_every_plain_metric_of_a_finished_run_is_known(finished: Callable[[str], Path], rows: Rows, name: str) -> None:
    """A name without a slash that a run writes and the table does not hold would be taken for a misspelt one in a rule."""
    written = {key for row in rows(finished(name) / "metrics.jsonl") for key in row if "/" not in key}
    assert {"loss", "lr"} <= written
    assert written - {"step"} <= PLAIN
