"""The records that come with the repository: they are whole, and a healthy and some sick ones say what they should."""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError, UserError
from keel.watch.config import Rule, WatchConfig
from labs.watchbench.cli import run as command
from labs.watchbench.judge import EXPECTED, judge
from labs.watchbench.plan import HEALTHY, SICK, make
from labs.watchbench.store import FAMILIES, FOLDER, read, tuned_on
from labs.watchbench.trainers import TRAINERS, told


@cache
def of(family: str) -> list[dict[str, Any]]:
    return list(read(FOLDER, family))


@pytest.mark.parametrize("family", FAMILIES)
def test_records_are_those_of_the_plan(family: str) -> None:
    rows = of(family)
    assert rows
    for row in rows:
        assert row["run"] == make(family, row["run"].number)
        steps = [r["step"] for r in row["rows"]]
        assert steps == sorted(set(steps))
        assert row["ended"] or steps[-1] == row["run"].steps


@pytest.mark.parametrize("family", SICK)
def test_a_sick_run_is_named_and_its_cause_comes_first(family: str) -> None:
    found = [judge(row) for row in of(family)[:6]]
    assert any(v.took and v.named is not None and v.right_cause for v in found), [(v.alarms, v.cause) for v in found]


def test_healthy_runs_are_silent_and_an_old_rule_was_not() -> None:
    some = of(HEALTHY)[:12]
    assert sum(len(v.alarms) for v in map(judge, some) if v.well) <= 2
    old = WatchConfig(defaults=False, rules=(Rule(name="length", expr="completions/mean_length < 2"), Rule(name="gap", expr="reward > 9")))
    assert any(f.rule == "length" for row in some for f in judge(row, old).alarms), "right answers of one symbol are no alarm any more"


def test_every_rule_that_names_a_sickness_is_there() -> None:
    from keel.watch.rule_files import resolve

    there = {rule.name for rule in resolve(WatchConfig())}
    assert {name for expected in EXPECTED.values() for name in expected.rules} <= there


def test_runs_that_were_in_view_are_named() -> None:
    names = {row["run"].name for family in FAMILIES for row in of(family)}
    assert tuned_on() <= names
    assert tuned_on() != names


def test_a_torn_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "healthy.jsonl.xz").write_bytes(lzma.compress(b"{}")[:-4])
    with pytest.raises(DataError, match="cannot be read"):
        list(read(tmp_path, HEALTHY))


def test_real_logs_stand_beside_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse
    import json

    for family, count in ((HEALTHY, 12), ("nan", 4)):
        few = lzma.decompress((FOLDER / f"{family}.jsonl.xz").read_bytes()).splitlines(keepends=True)[:count]
        (tmp_path / f"{family}.jsonl.xz").write_bytes(lzma.compress(b"".join(few)))
    log = tmp_path / "trainer.jsonl"
    log.write_text("".join(json.dumps({"step": i, "loss": 1.0, "reward": 0.1, "learning_rate": 0.0}) + "\n" for i in range(1, 9)))
    args = argparse.Namespace(what="judge", records=tmp_path, rules="", logs=[log], json=tmp_path / "out.json", plot=None)
    command(args)
    said = capsys.readouterr().out
    assert "| nan | " in said
    assert "| trainer.jsonl | TRL | 8 | no-update (3) |" in said
    assert json.loads((tmp_path / "out.json").read_text())["logs"][0]["alarms"] == [["no-update", 3]]
    (tmp_path / f"{HEALTHY}.jsonl.xz").unlink()
    with pytest.raises(UserError, match="no healthy run"):
        command(args)
    with pytest.raises(UserError, match="no records"):
        command(argparse.Namespace(**{**vars(args), "records": tmp_path / "none"}))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_records_under_the_names_of_other_trainers(trainer: str) -> None:
    """An explosion is named by what each of them reports; where nothing happened nothing is said."""
    exploded = next(row for row in of("explosion") if row["run"].number == 3)
    well = next(row for row in of(HEALTHY) if row["run"].number == 0)
    named = [step for step, rule in told(exploded["rows"], trainer) if rule in EXPECTED["explosion"].rules]
    assert any(exploded["run"].onset < step <= exploded["run"].onset + 10 for step in named)
    assert told(well["rows"], trainer) == []
