"""Rollouts that are drawn steps ahead: of which weights they are, and that each is learnt from once. Kills are in ``test_resume``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import ConfigError
from keel.loops.feed import Feed
from keel.rollout.scripted import ScriptedSampler
from keel.types import Encoded, SampleRequest, SamplingParams

Stage = Callable[..., dict[str, Any]]
Rows = Callable[[Path], list[dict[str, Any]]]
AHEAD = ("algorithm.correction.kind=truncate", "loop.eval_every=0", "loop.probes=0", "settings.checkpoint.every=1")


def request(step: int) -> list[SampleRequest]:
    return [SampleRequest("p", Encoded(torch.tensor([1])), 1, SamplingParams(max_tokens=4), 0, attempt=step)]


class Noting(ScriptedSampler):
    """Notes which steps were asked for, in order."""

    def __init__(self) -> None:
        super().__init__({"p": [[5, 6]]}, lambda text: [], lambda tokens: "")
        self.asked: list[int] = []

    def submit(self, requests: Any) -> None:
        self.asked += [r.attempt for r in requests]
        super().submit(requests)


@pytest.mark.parametrize(("lag", "asked"), [(0, [[0], [1], [2], [3]]), (1, [[0, 1], [2], [3], []]), (3, [[0, 1, 2, 3], [], [], []])])
def test_each_step_is_asked_for_once_and_never_more_than_lag_ahead(lag: int, asked: list[list[int]]) -> None:
    feed, sampler = Feed(lag, 3), Noting()
    for step in range(4):
        before = len(sampler.asked)
        requests, rollouts = feed.take(step, sampler, request)
        assert ([r.attempt for r in requests], [r.attempt for r in rollouts]) == ([step], [step])
        assert sampler.asked[before:] == asked[step]


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_what_waits_comes_back_from_its_state(lag: int) -> None:
    feed, sampler = Feed(lag, 9), Noting()
    feed.take(0, sampler, request)
    tensors, steps = feed.state()
    again, other = Feed(lag, 9), Noting()
    again.load_state(tensors, steps, request)
    for step in range(1, 10):
        (_, one), (_, two) = feed.take(step, sampler, request), again.take(step, other, request)
        assert [r.attempt for r in two] == [step]
        assert all(torch.equal(a.tokens_T, b.tokens_T) and torch.equal(a.version_T, b.version_T) for a, b in zip(one, two, strict=True))
    assert sampler.asked[lag + 1 :] == other.asked  # what had waited was not drawn again


@pytest.mark.stages
def test_refilled_groups_are_drawn_by_the_newest_weights(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    dapo = "algorithm={name: dapo, credit: {refill_rounds: 4}, correction: {kind: truncate}}"
    stage("grpo", tmp_path / "run", *AHEAD[1:], dapo, "rollouts.lag=1")
    steps = [row for row in rows(tmp_path / "run" / "metrics.jsonl") if row["step"]]
    assert max(row["sampling/staleness/max"] for row in steps) == 1
    assert any(0 < row["sampling/staleness/mean"] < 1 for row in steps if row["train/num_gen_batches"] > 1)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("rollouts.lag=1",), "nothing would correct for it"),
        (("rollouts.lag=1", "algorithm.correction.kind=truncate", "algorithm.objective=policy_gradient"), "does not clip"),
        (
            ("rollouts.lag=1", "algorithm.correction.kind=truncate", "environment.path=recipes/tiny/worlds.py:NONE"),
            "conversations are drawn",
        ),
    ],
)
def test_a_lag_that_nothing_holds_is_refused(overrides: tuple[str, ...], why: str, stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        stage("grpo", tmp_path / "run", *overrides)
