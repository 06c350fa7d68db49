"""Runs whose sampler never draws the same twice: killed, they go on with the rollouts that were drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.loops.gathering import Gatherer

Stage = Callable[..., dict[str, Any]]
Drawn = dict[int, list[tuple[str, int, list[int], list[float]]]]

RANDOM = '''
import os
from dataclasses import replace


class Dice:
    """The local sampler with another seed at every request."""

    def __init__(self, local, tokenizer):
        self.local = local

    def submit(self, requests):
        self.local.submit([replace(r, seed=int.from_bytes(os.urandom(6), "big")) for r in requests])

    def collect(self):
        return self.local.collect()

    def load(self, version, weights):
        self.local.load(version, weights)
'''
AHEAD = ("algorithm.correction.kind=truncate", "loop.eval_every=0", "loop.probes=0", "settings.checkpoint.every=2")


class Crash(BaseException):
    """Ends the program where it is, as far as one process can stage it."""


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> tuple[Drawn, Callable[[int], None]]:
    """What each step learnt from; and who sets the step that is not survived, once its rollouts are there."""
    found: Drawn = {}
    dies: list[int] = []
    real = Gatherer.groups

    def groups(self: Gatherer, step: int) -> Any:
        result = real(self, step)
        rollouts = [r for g in result[0] for r in g.rollouts]
        found[step] = [(r.prompt_id, r.sample, r.tokens_T.tolist(), r.logprobs_T.tolist()) for r in rollouts]
        if step in dies:
            raise Crash
        return result

    monkeypatch.setattr(Gatherer, "groups", groups)

    def die_at(step: int) -> None:
        dies[:] = [step]

    return found, die_at


@pytest.mark.parametrize(("lag", "journal"), [(0, "auto"), (1, "auto"), (0, "off")])
def test_a_killed_run_learns_from_the_rollouts_that_were_drawn(
    lag: int, journal: str, stage: Stage, tmp_path: Path, learnt: tuple[Drawn, Callable[[int], None]]
) -> None:
    """Killed in its third step, behind the checkpoint of the second: with the journal the step's rollouts are the same, without others."""
    (tmp_path / "dice.py").write_text(RANDOM, encoding="utf-8")
    found, die_at = learnt
    settings = (*AHEAD, f"sampler.engine={tmp_path}/dice.py:Dice", f"rollouts.lag={lag}", f"rollouts.journal={journal}")
    die_at(3)
    with pytest.raises(Crash):
        stage("grpo", tmp_path / "run", *settings)
    before = dict(found)
    found.clear()
    die_at(-1)
    assert stage("grpo", tmp_path / "run", *settings)["steps"] == 4
    assert sorted(found) == [2, 3]
    assert (found[2] == before[2]) is (journal == "auto" or lag > 0), "a lag's are in the checkpoint"
    assert (found[3] == before[3]) is (journal == "auto")
    assert (tmp_path / "run" / "journal").is_dir() is (journal == "auto")


@pytest.mark.slow
def test_a_run_in_flight_goes_on_after_a_kill(stage: Stage, tmp_path: Path, learnt: tuple[Drawn, Callable[[int], None]]) -> None:
    """With an engine in a process of its own."""
    found, die_at = learnt
    settings = (*AHEAD, "sampler.engine=server", "sampler.server.threads=1", "rollouts={lag: 1, in_flight: true}")
    die_at(3)
    with pytest.raises(Crash):
        stage("grpo", tmp_path / "run", *settings)
    before = dict(found)
    found.clear()
    die_at(-1)
    assert stage("grpo", tmp_path / "run", *settings)["steps"] == 4
    assert found == {2: before[2], 3: before[3]}
