"""The table of rewards: nothing is forgotten in it, and reading it is cheap."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from keel.cli import main
from keel.core.errors import ConfigError
from keel.rewards import sources, verifiers
from keel.rewards.build import text_source
from keel.rewards.cache import identity, python_files
from keel.rewards.score import SourceRow, TextRow
from keel.rewards.settings import IsolatedConfig, SegmentedConfig, SegmentsConfig, TruthConfig
from keel.rewards.sources.finished import FinishedReward
from keel.rewards.sources.model import ModelReward
from keel.rewards.sources.python import CompareConfig, python_comparison
from keel.rewards.table import ROWS, RewardConfig, in_parts, row_of, scorer_names, text_reward, type_names
from keel.rewards.verifiers.steps import StepsReward

NEEDED: dict[str, dict[str, Any]] = {  # settings without a default
    "model": {"path": "runs/model"},
    "remote": {"url": "http://localhost:1"},
    "rules": {"path": "form.yaml"},
    "python": {"function": "my.py:fn"},
    "contains": {"words": ["a"]},
    "hallucination": {"detector": "my.py:fn"},
    "diversity": {"among": "other"},
    "rotating": {"among": ["one", "other"]},
    "judge": {"judge": "scripted"},
    "constitution": {"path": "checkable"},
    "consistency": {"words": {"objects": "objects.txt"}},
}


def settings(kind: str, **more: Any) -> Any:
    return TypeAdapter(RewardConfig).validate_python({"type": kind, "name": "r", **NEEDED.get(kind, {}), **more})


def kinds() -> Iterator[str]:
    return (name for row in ROWS for name in type_names(row))


def in_a_new_process(code: str, *given: str) -> set[str]:
    """The modules that are loaded when ``code`` has run."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    return set(json.loads(found.stdout.splitlines()[-1]))


def test_every_file_with_a_row_is_in_the_table() -> None:
    modules = [
        importlib.import_module(found.name)
        for package in (verifiers, sources)
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    assert {id(m.ROW) for m in modules if hasattr(m, "ROW")} == {id(row) for row in ROWS}


def test_a_type_names_one_row() -> None:
    names = list(kinds())
    assert len(names) == len(set(names)) >= 17
    for row in ROWS:
        for name in type_names(row):
            assert row_of(settings(name)) is row
            assert settings(name).type == name


def test_settings_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="does not match any of the expected tags"):
        settings("exactly")


def test_what_runs_in_workers_is_found_there_by_name() -> None:
    """A function made in a function could not be sent."""
    for row in ROWS:
        if isinstance(row, TextRow):
            assert pickle.loads(pickle.dumps(row.make)) is row.make


def test_the_table_is_read_without_torch() -> None:
    assert not {"torch", "numpy", "transformers"} & in_a_new_process("from keel.rewards.table import scorer_names; scorer_names()")


def test_a_worker_starts_without_torch_and_what_other_rewards_need() -> None:
    """Seconds for every worker, and for each that takes a dead one's place."""
    frames = {type_names(row)[0]: pickle.dumps((row.make, settings(type_names(row)[0]))).hex() for row in ROWS if isinstance(row, TextRow)}
    frames["comparison"] = pickle.dumps((python_comparison, CompareConfig(function="my.py:fn"))).hex()
    read = "import sys, pickle, keel.rewards.sources.workers\nfor frame in sys.argv[1:]: pickle.loads(bytes.fromhex(frame))"
    assert not {"torch", "numpy", "keel.rewards.table"} & in_a_new_process(read, *frames.values())
    loaded = in_a_new_process(read, frames["python"])
    assert "keel.rewards.sources.python" in loaded
    assert not [name for name in loaded if name.startswith("keel.rewards.verifiers.")]


def test_the_command_line_reads_the_table_for_keel_score_alone(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = in_a_new_process("from keel.cli import parse; parse(['rl', 'recipe.yaml'])")
    assert not {"pydantic", "keel.rewards"} & loaded
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    shown = capsys.readouterr().out.split()
    assert {name.strip(",") for name in shown} >= set(scorer_names())


def test_keel_score_takes_every_reward_that_needs_no_model_server_or_tokens() -> None:
    assert {name.partition(":")[0] for name in scorer_names()} == set(kinds()) - {"remote", "finished", "diversity", "rotating"}
    with_value = {name.partition(":")[0]: name.partition(":")[2] for name in scorer_names() if ":" in name}
    assert with_value == {
        "model": "DIR",
        "rules": "FILE",
        "python": "FILE:NAME",
        "hallucination": "FILE:NAME",
        "judge": "NAME",
        "constitution": "FILE_OR_NAME",
    }


@pytest.mark.parametrize("kind", ["model", "remote", "finished", "steps"])
def test_what_reads_more_than_the_text_has_no_function_of_it(kind: str) -> None:
    with pytest.raises(AssertionError, match=f"a {kind} reward reads more than text"):
        text_reward(settings(kind))


def test_a_source_of_text_is_not_made_of_what_reads_more() -> None:
    for row in ROWS:
        if isinstance(row, SourceRow):
            with pytest.raises(AssertionError, match="reads more than text"):
                text_source(settings(type_names(row)[0]))


def test_parts() -> None:
    assert in_parts(StepsReward(name="s"))
    assert not in_parts(FinishedReward(name="f"))
    for row in ROWS:
        if issubclass(row.settings, SegmentedConfig):
            kind = type_names(row)[0]
            assert not in_parts(settings(kind))
            assert in_parts(settings(kind, segments={"by": "line"}))
            tokens = settings(kind, segments={"by": "token"})
            if kind == "model":
                assert in_parts(tokens)
                assert tokens.parts() == SegmentsConfig(by="token")
            else:
                with pytest.raises(ConfigError, match="by=token is for reward models"):
                    in_parts(tokens)


def test_what_settings_say_of_themselves() -> None:
    """Every setting that names a file is told to whoever keeps scores or goes on with a run, every column to whoever reads rows."""
    files = {kind: [(f.key, f.path, f.is_model) for f in settings(kind).files()] for kind in kinds()}
    assert {kind: found for kind, found in files.items() if found} == {
        "model": [("path", "runs/model", True)],
        "rules": [("path", "form.yaml", False)],
        "python": [("function", "my.py", False)],
        "hallucination": [("detector", "my.py", False)],
        "judge": [("judges", "recipes/judges.yaml", False)],
        "consistency": [("words.objects", "objects.txt", False)],
    }
    ensemble = ModelReward(name="m", path="a", ensemble={"members": ["b", "c"]})  # type: ignore[arg-type]
    assert [(f.key, f.path) for f in ensemble.files()] == [("path", "a"), ("ensemble.members.0", "b"), ("ensemble.members.1", "c")]
    for row in ROWS:
        named = [name for name in row.settings.model_fields if name in ("path", "file", "function")]
        for name in named:
            value = "x.py:fn" if name == "function" else "x"
            assert name in [f.key for f in settings(type_names(row)[0], **{name: value}).files()], (row.settings, name)
        if issubclass(row.settings, TruthConfig):
            assert [c for c, _ in settings(type_names(row)[0], truth="wanted").columns()] == ["wanted"]
    assert [c for c, _ in settings("regex").columns()] == ["pattern"]
    assert [c for c, _ in settings("regex", pattern="a", truth="t").columns()] == ["t"]
    assert [c for c, _ in settings("json_schema").columns()] == ["schema"]
    assert not list(settings("json_schema", path="s.json").columns())
    assert [c for c, _ in settings("ifeval", instructions="i").columns()] == ["i"]


def test_processes(tmp_path: Path) -> None:
    """Rules without patterns cannot hang; code has its own limits, which come first."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("forbidden: [{name: a, words: [b]}]\n", encoding="utf-8")
    assert settings("rules", path=str(rules)).processes() is None
    rules.write_text("forbidden: [{name: a, patterns: ['b']}]\n", encoding="utf-8")
    assert settings("rules", path=str(rules)).processes() is not None
    code = settings("code", timeout_s=2, max_tests=3, worker={"timeout_s": 5})
    assert code.processes().timeout_s == 5 + 2 * 2 * 3
    for row in ROWS:
        if issubclass(row.settings, IsolatedConfig) and type_names(row)[0] not in ("rules", "code"):
            config = settings(type_names(row)[0])
            assert config.processes() == config.worker


def test_kept_scores_know_all_code_that_makes_them() -> None:
    """The folders of the room, and whatever a row brings with it."""
    names = [name for name, _ in python_files(resources.files("keel.rewards"))]
    assert len(names) == len(set(names))
    assert {"score.py", "verifiers/exact.py", "sources/python.py", "reading/final.py", "composition/combine.py"} <= set(names)
    loaded = in_a_new_process("import keel.rewards.table")
    room = {m.removeprefix("keel.rewards.").replace(".", "/") for m in loaded if m.startswith("keel.rewards.")}
    assert all(f"{m}.py" in names or f"{m}/__init__.py" in names for m in room)


def test_no_two_kinds_have_one_identity() -> None:
    found = {kind: identity(settings(kind)) for kind in kinds()}
    assert len(set(found.values())) == len(found)
    extras = {kind: settings(kind).libraries for kind in kinds() if settings(kind).libraries}
    assert set(extras) == {"math", "json_schema", "reasoning_gym", "code"}
