"""Runs of the bench themselves, short ones."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from labs.watchbench.plan import HEALTHY, Run, make
from labs.watchbench.record import guard, record
from labs.watchbench.store import append, done, read
from labs.watchbench.world import World

pytestmark = pytest.mark.stages
SHORT = {"task": "last", "algorithm": "grpo", "prompts": 4, "samples": 4, "steps": 8, "eval_every": 4}


def short(family: str, number: int = 0, **given: object) -> Run:
    return replace(make(family, number), **{**SHORT, "onset": -1 if family == HEALTHY else 4, **given})


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_run_is_the_same_again_and_its_guard_changes_nothing(world: World, tmp_path: Path) -> None:
    first, again, guarded = (record(short(HEALTHY), world, guard(act)) for act in (False, False, True))
    numbers = [
        [{k: v for k, v in row.items() if "time/" not in k and k not in ("tokens_per_s", "mem/peak_mb")} for row in found.rows]
        for found in (first, again, guarded)
    ]
    assert numbers[0] == numbers[1] == numbers[2]
    assert (first.ended, first.actions) == ("", [])
    append(tmp_path, HEALTHY, asdict(first))
    (stored,) = read(tmp_path, HEALTHY)
    assert [row["step"] for row in stored["rows"]] == list(range(9))
    assert done(tmp_path) == {"healthy-000"}


def test_a_sickness_is_there_from_its_onset_on(world: World) -> None:
    frozen = record(short("dead", variant="frozen"), world, guard(False)).rows
    assert [row["grad_norm"] == 0 for row in frozen[1:]] == [False] * 4 + [True] * 4
    silent = record(short("stale", variant="silent"), world, guard(False)).rows
    assert [row["sampling/sampling_logp_difference/mean"] > 1e-4 for row in silent[1:]] == [False] * 5 + [
        True
    ] * 3  # first it is one step old
    assert all(row["sampling/staleness/mean"] == 0 for row in silent[1:])
    told = record(short("stale", variant="told"), world, guard(False)).rows
    assert [row["sampling/staleness/mean"] for row in told[1:]] == [0, 0, 0, 0, 0, 1, 2, 3]  # first it is one step old
    drifted = record(short("drift"), world, guard(False)).rows
    assert [row["prompts/mean_length"] for row in drifted[1:]] == [4.0] * 4 + [6.0] * 4


def test_numbers_that_are_none_end_a_run(world: World) -> None:
    for variant, name in (("gradient", "grad_norm"), ("weight", "completions/failed_ratio")):
        found = record(short("nan", variant=variant), world, guard(False))
        assert "stopped at step" in found.ended
        last = found.rows[-1][name]
        assert math.isnan(last) or last == 1.0
