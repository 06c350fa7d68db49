"""The run directory: made, resumed, refused, locked, finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from keel.core.config import Section
from keel.core.errors import RunError
from keel.runs import environment
from keel.runs.directory import RunDir, read_manifest, read_summary
from keel.runs.lock import holder
from keel.runs.places import places


class Tracking(Section):
    wandb: bool = Field(default=False, description="W&B.")


class Settings(Section):
    tracking: Tracking = Field(default=Tracking(), description="Tracking.")


class Loop(Section):
    steps: int = Field(default=10, description="Steps.")


class Algorithm(Section):
    epochs: int = Field(default=2, description="Passes over the rollouts.")
    watch: int = Field(default=0, description="Named like a setting that may change.")


class Recipe(Section):
    loop: Loop = Field(default=Loop(), description="How long.")
    algorithm: Algorithm = Field(default=Algorithm(), description="Which one.")
    lr: float = Field(default=0.1, description="Rate.")
    names: tuple[str, ...] = Field(default=("a", "b"), description="Names.")
    settings: Settings = Field(default=Settings(), description="Settings.")


def start(path: Path, recipe: Recipe | None = None, verb: str = "sft", seed: int = 0, data: str = "aa") -> RunDir:
    return RunDir.open(
        path, recipe or Recipe(), verb, seed, parent="runs/before", data_fingerprints={"d.jsonl": data}, argv=["keel", "sft"]
    )


def test_the_manifest_says_what_the_numbers_depend_on(tmp_path: Path) -> None:
    with start(tmp_path / "deep" / "run") as run:
        assert not run.resumed
        assert not run.finished
    manifest = json.loads((tmp_path / "deep" / "run" / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["config"] == {
        "loop": {"steps": 10},
        "algorithm": {"epochs": 2, "watch": 0},
        "lr": 0.1,
        "names": ["a", "b"],
        "settings": {"tracking": {"wandb": False}},
    }
    assert (manifest["verb"], manifest["seed"], manifest["parent"], manifest["data"]) == ("sft", 0, "runs/before", {"d.jsonl": "aa"})
    assert manifest["packages"]["torch"]
    assert manifest["threads"] >= 1
    assert manifest["deterministic"] in (True, False)
    assert manifest["processor"]["model"]
    assert {"python", "platform", "device", "git", "starts"} <= manifest.keys()
    assert manifest["starts"][0]["argv"] == ["keel", "sft"]
    assert manifest["starts"][0]["folder"] == str(Path.cwd()), "where relative paths of the recipe begin"


def test_names_in_a_record_begin_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder in ("one", "two"):
        monkeypatch.chdir(tmp_path / folder)
        start(tmp_path / "run").close()
    manifest = read_manifest(tmp_path / "run")
    assert manifest is not None
    (tmp_path / "two" / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert places(manifest, "runs/a b") == {tmp_path / "one" / "runs" / "a b", tmp_path / "two" / "runs" / "a b"}
    assert places(manifest, "link/final") == {tmp_path / "one" / "link" / "final", tmp_path / "elsewhere" / "final"}
    assert places(manifest, f"{tmp_path}/x 2026-01-02T03:04:05+00:00") == {tmp_path / "x"}, "an identity"
    assert places({"starts": [{"at": "then"}]}, "x") == {tmp_path / "x"}, "a record that does not say"
    for name in ("", "two\nlines", "a\0b", "\ud800", "x" * 2000):
        assert places(manifest, name) in (frozenset(), {tmp_path / "one" / name, tmp_path / "two" / name}), repr(name)[:20]


def test_the_code_is_named_by_its_commit() -> None:
    state = environment.git_state()
    if state is not None:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        assert state["commit"] == commit.stdout.strip()


def test_resuming_and_recording(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        run.record(template="abc", odd=float("nan"))
    with start(tmp_path / "run") as run:
        assert run.resumed
        assert run.warnings == ()
        assert run.manifest["template"] == "abc"
        assert run.manifest["odd"] == "NaN"
        assert len(run.manifest["starts"]) == 2


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (Recipe(lr=0.2), "lr: 0.1 -> 0.2"),
        (Recipe(names=("a", "c")), "names.1: b -> c"),
        (Recipe(names=("a",)), "names.1: b -> (not set)"),
        (Recipe(names=("a", "b", "c")), "names.2: (not set) -> c"),
        (Recipe(algorithm=Algorithm(epochs=1)), "algorithm.epochs: 2 -> 1"),
        (Recipe(algorithm=Algorithm(watch=1)), "algorithm.watch: 0 -> 1"),
    ],
)
def test_another_recipe_is_refused(tmp_path: Path, recipe: Recipe, line: str) -> None:
    start(tmp_path / "run").close()
    with pytest.raises(RunError, match="holds a run with other settings") as caught:
        start(tmp_path / "run", recipe)
    assert f"  {line}" in str(caught.value)
    assert "steps" not in str(caught.value)
    start(tmp_path / "run").close()  # the refusal let go of the lock


def test_another_verb_seed_or_data_is_refused(tmp_path: Path) -> None:
    start(tmp_path / "run").close()
    with pytest.raises(RunError, match="holds a run of `keel sft`, not of `keel rl`"):
        start(tmp_path / "run", verb="rl")
    with pytest.raises(RunError, match="seed: 0 -> 1"):
        start(tmp_path / "run", seed=1)
    with pytest.raises(RunError, match=r"not what the run began with: d\.jsonl"):
        start(tmp_path / "run", data="bb")


def test_what_was_found_while_loading_must_be_found_again(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        run.pin({"weights": "1", "template": "2"})
    with start(tmp_path / "run") as run:
        run.pin({"weights": "1", "template": "2"})
        run.pin({"weights in another precision": "3"})
        with pytest.raises(RunError, match="run: not what the run began with: weights") as caught:
            run.pin({"weights": "0", "template": "2"})
        assert "template" not in caught.value.message
        assert run.manifest["pinned"] == {"weights": "1", "template": "2", "weights in another precision": "3"}


def test_what_is_only_watched_may_change_silently(tmp_path: Path) -> None:
    start(tmp_path / "run").close()
    with start(tmp_path / "run", Recipe(settings=Settings(tracking=Tracking(wandb=True)))) as run:
        assert run.warnings == ()
        assert run.manifest["config"]["settings"]["tracking"] == {"wandb": True}


def test_more_steps_may_be_asked_for_and_a_finished_run_goes_on(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        run.finish({"loss": 1.0})
        assert run.finished
    with start(tmp_path / "run") as run:
        assert run.finished
    with start(tmp_path / "run", Recipe(loop=Loop(steps=20))) as run:
        assert run.warnings == ("the setting loop.steps: 10 -> 20",)
        assert not run.finished


def test_another_machine_is_told_and_does_not_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start(tmp_path / "run").close()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["packages"]["torch"] = "1.0"
    manifest["threads"] = 99
    manifest["processor"]["model"] = "Abacus"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with start(tmp_path / "run") as run:
        text = " ".join(run.warnings)
    assert "torch 1.0 -> " in text
    assert "threads 99 -> " in text
    assert "processor.model Abacus -> " in text
    assert len(run.warnings) == 3
    assert "may not be bit-identical" in caplog.text


# -- refusals --------------------------------------------------------------------------------------------------------------------


def test_in_use_by_another_process(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from keel.runs.lock import Lock
Path({str(tmp_path / "run")!r}).mkdir()
lock = Lock(Path({str(tmp_path / "run")!r}))
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert holder(tmp_path / "run") == other.pid
        with pytest.raises(RunError, match=f"run is in use by process {other.pid}") as caught:
            start(tmp_path / "run")
        assert "choose another run_dir" in caught.value.hint
        other.kill()
    with start(tmp_path / "run"):  # a killed process holds nothing
        assert holder(tmp_path / "run") == os.getpid()
    assert holder(tmp_path / "run") is None


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file, a run needs a folder"):
        start(tmp_path / "run")
    with pytest.raises(RunError, match="cannot be used for a run: Not a directory"):
        start(tmp_path / "run" / "inner")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs Unix users")
@pytest.mark.parametrize("exists", [True, False])
def test_no_permission_to_write(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "run").mkdir()
    tmp_path.chmod(0o555)
    (tmp_path / "run").chmod(0o555) if exists else None
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # nobody: permissions do not bind the superuser
    try:
        with pytest.raises(RunError, match="cannot be used for a run: Permission denied") as caught:
            start(tmp_path / "run")
    finally:
        os.seteuid(me)
        tmp_path.chmod(0o755)
    assert "choose a run_dir that you may write to" in caught.value.hint


def test_a_start_that_found_the_disk_full_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a run stands before its manifest."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("keel.runs.directory.write_atomic", full)
        with pytest.raises(RunError, match="No space left"):
            start(tmp_path)
    start(tmp_path).close()


def test_a_folder_with_other_files_is_fine_one_with_pieces_of_a_run_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "out.log").write_text("")
    start(tmp_path / "a").close()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"holds metrics.jsonl but no manifest.json: it is no run"):
        start(tmp_path / "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json cannot be read"),
        ("[]", "manifest.json holds no record"),
        ('{"schema": 99}', "has format 99, this version of Keel reads 1"),
    ],
)
def test_a_broken_manifest(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=message):
        start(tmp_path / "run")


# -- logs ------------------------------------------------------------------------------------------------------------------------


def test_going_back_leaves_each_step_once(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        (run.path / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {i}.5}}\n' for i in range(1, 6)) + '{"step": 6, "lo')
        (run.path / "events.jsonl").write_text(
            '{"kind": "run_started", "step": 0}\n{"kind": "checkpoint", "step": 3}\n{"kind": "checkpoint", "step": 5}\n'
            '{"kind": "warning", "step": 2}\n{"kind": "verdict", "step": 4}\n{"kind": "warning", "step": 5, "undone": 1}\n'
            '{"kind": "interrupted", "step": 5}\n{"kind": "resu'
        )
        run.write_sample(3, [{"text": "a"}])
        run.write_sample(5, [{"text": "b"}, {"text": "c"}])
        run.cut_metrics(3)
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert rows == [{"step": i, "loss": i + 0.5} for i in (1, 2, 3)]
        events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
        kinds = [(e["kind"], e.get("undone")) for e in events]
        told = [("warning", None), ("verdict", 3), ("warning", 1)]
        assert kinds == [("run_started", None), ("checkpoint", None), ("checkpoint", 3), *told, ("interrupted", None)], "none goes"
        assert run.samples() == [{"step": 3, "text": "a"}]
        run.cut_metrics(-1)
        assert (run.path / "metrics.jsonl").read_text() == ""
        assert run.samples() == []


def test_checkpoints_come_after_their_metrics_are_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with start(tmp_path / "run") as run:
        run.write_sample(1, [{"text": "a"}])
        (run.path / "metrics.jsonl").write_text('{"step": 1}\n')
        spy: Callable[[str], None] = order.append
        real = os.fsync

        def fsync(descriptor: int) -> None:
            spy(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            real(descriptor)

        if Path("/proc/self/fd").exists():
            monkeypatch.setattr(os, "fsync", fsync)
            run.checkpoints(keep=1).save(1, {}, {})
            assert order.index("metrics.jsonl") < order.index("complete.json")
            assert "training.jsonl" in order


def test_the_summary_comes_last_and_is_valid_json(tmp_path: Path) -> None:
    with start(tmp_path / "run") as run:
        (run.path / "final").mkdir()
        (run.path / "final" / "model.bin").write_bytes(b"x")
        run.finish({"loss": float("inf"), "steps": 3, "中": "文"})
    assert read_summary(tmp_path / "run") == {"schema": 1, "loss": "Infinity", "steps": 3, "中": "文"}
    manifest = read_manifest(tmp_path / "run")
    assert manifest is not None
    assert manifest["verb"] == "sft"
    assert read_summary(tmp_path) is None
