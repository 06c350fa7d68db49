"""Trackers hold the path that stands, whatever fails; they delay no step and miss none."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import random
import sqlite3
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import Section
from keel.core.errors import UserError
from keel.core.events import EventBus
from keel.runs import logs
from keel.runs.config import TrackingConfig
from keel.runs.directory import RunDir
from keel.runs.sinks import ConsoleSink, JsonlSink, make_sinks
from keel.runs.trackers.follow import Following, Tracker, TrackerSink, returns_of
from keel.runs.trackers.kinds import KINDS, id_of, name_of


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.open(tmp_path / "run", Section(), "sft", 0) as opened:
        yield opened


class Books:
    """What a tracker holds, by path; calls fail when it is told to."""

    def __init__(self, forgets: bool) -> None:
        self.forgets, self.paths = forgets, dict[int, dict[int, float]]()
        self.fail: Callable[[], bool] = lambda: False

    def begin(self, rollback: int, sent: int) -> Any:
        if self.fail():
            raise ConnectionError("down")
        number = 0 if self.forgets else rollback
        held = self.paths.setdefault(number, {})
        for step in [s for s in held if s > sent]:
            del held[step]
        books = self

        class Page:
            def log(self, step: int, metrics: Mapping[str, float]) -> None:
                if books.fail():
                    raise TimeoutError("timed out")
                held[step] = metrics["loss"]

            def close(self) -> None: ...

        return Page()


@pytest.mark.parametrize("forgets", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_a_tracker_holds_the_path_that_stands(run: RunDir, seed: int, forgets: bool) -> None:
    """Steps come, the run goes back, is stopped and started again, the tracker fails one call in three: in the end its newest path is the
    file, step for step."""
    chance = random.Random(seed)
    books = Books(forgets)
    step, number, checkpoint = 0, 0, 0

    def start() -> Following:
        following = Following("books", run.path, books.begin, forgets)
        following.place(checkpoint, returns_of(run.path))
        with contextlib.suppress(ConnectionError, TimeoutError):  # the thread's first look
            following.catch_up(checkpoint - 1)
        return following

    following = start()
    for _ in range(40):
        what = chance.choice(["step", "step", "step", "checkpoint", "catch up", "back", "killed"])
        books.fail = lambda: chance.random() < 0.33
        if what == "step":
            step += 1
            logs.append(run.path / "metrics.jsonl", [{"step": step, "loss": chance.random()}])
        elif what == "checkpoint":
            checkpoint = step
        elif what == "back" and checkpoint < step:
            number += 1
            run.give_up(checkpoint, number)
            logs.append(run.path / "events.jsonl", [{"kind": "emergency", "step": step, "rollback": number, "back_to": checkpoint}])
            step = checkpoint
            following.place(step, {number: step})
        elif what == "killed":
            run.cut_metrics(checkpoint)
            step = checkpoint
            following = start()
        else:
            with contextlib.suppress(ConnectionError, TimeoutError):
                following.catch_up(step - 1)
    books.fail = lambda: False
    following.catch_up(None)
    stands = {row["step"]: row["loss"] for row in logs.read(run.path / "metrics.jsonl")}
    newest = books.paths.get(0 if forgets else number, {})
    assert newest == stands
    assert following.missing() == 0


def test_a_step_is_sent_with_its_evaluation(run: RunDir) -> None:
    """The last row may still grow: it waits for the next step, or for the end."""
    got: list[tuple[int, dict[str, float]]] = []

    class Page:
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            got.append((step, dict(metrics)))

        def close(self) -> None:
            got.append((-1, {}))

    sink = TrackerSink(Following("own", run.path, lambda *_: Page(), True))
    bus = EventBus([JsonlSink(run), sink])
    bus.emit("run_started", 0)
    for step in (1, 2):
        bus.emit("step", step, metrics={"loss": float("nan")})
        bus.emit("eval", step, metrics={"eval/loss": 1.0})
    bus.close()
    assert [(step, list(metrics)) for step, metrics in got] == [(1, ["loss", "eval/loss"]), (2, ["loss", "eval/loss"]), (-1, [])]


def test_a_tracker_that_hangs_delays_no_step_and_what_it_lacks_is_told(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    hangs, let_go = threading.Event(), threading.Event()

    class Hanging:
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            hangs.set()
            let_go.wait(60)

        def close(self) -> None: ...

    sink = TrackerSink(Following("own", run.path, lambda *_: Hanging(), True), flush_s=0.01)
    bus = EventBus([JsonlSink(run), sink])
    bus.emit("run_started", 0)
    bus.emit("step", 1, metrics={"loss": 1.0})
    bus.emit("step", 2, metrics={"loss": 1.0})
    assert hangs.wait(60)
    for step in range(3, 50):
        bus.emit("step", step, metrics={"loss": 1.0})
    bus.close()
    assert "tracker own lacks 49 steps, which are in metrics.jsonl" in caplog.text
    let_go.set()


def test_a_tracker_that_fails_is_tried_again_and_told_once(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    books = Books(True)
    left = [3]

    def fail() -> bool:
        left[0] -= 1
        return left[0] >= 0

    books.fail = fail
    sink = TrackerSink(Following("own", run.path, books.begin, True), pause_s=0.001)
    bus = EventBus([JsonlSink(run), sink])
    bus.emit("run_started", 0)
    for step in range(1, 6):
        bus.emit("step", step, metrics={"loss": float(step)})
    bus.close()
    assert books.paths[0] == {step: float(step) for step in range(1, 6)}
    assert caplog.text.count("the run goes on and tries it again") == 1
    assert "failed 3 times and has every step in the end" in caplog.text


# -- which -----------------------------------------------------------------------------------------------------------------------


def test_which_sinks_are_made(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(s) for s in make_sinks(run, TrackingConfig())] == [JsonlSink, ConsoleSink]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    made = make_sinks(run, TrackingConfig.model_validate(dict.fromkeys(KINDS, True)))
    assert [s.name for s in made if isinstance(s, TrackerSink)] == list(KINDS)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_tracker_that_is_not_installed(run: RunDir, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=f"tracking.{name} is on, but {name} is not installed") as caught:
        make_sinks(run, TrackingConfig.model_validate({name: True}))
    assert caught.value.hint == f"pip install {KINDS[name].package}"


def story(run: RunDir, name: str, **more: Any) -> None:
    """Four steps, back to step 2, and on to step 4 with other numbers."""
    sinks = [s for s in make_sinks(run, TrackingConfig.model_validate({name: True, **more})) if not isinstance(s, ConsoleSink)]
    bus = EventBus(sinks)
    bus.emit("run_started", 0)
    for step in range(1, 5):
        bus.emit("step", step, metrics={"loss": 1.0})
    run.give_up(2, 1)
    bus.emit("emergency", 4, rollback=1, back_to=2)
    for step in (3, 4):
        bus.emit("step", step, metrics={"loss": 2.0})
    bus.close()


def test_tensorboard_holds_the_path_that_stands(run: RunDir) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    story(run, "tensorboard")
    bus = EventBus([s for s in make_sinks(run, TrackingConfig(tensorboard=True)) if not isinstance(s, ConsoleSink)])
    run.cut_metrics(3)
    bus.emit("run_started", 3)  # stopped after step 4, the checkpoint is of step 3
    bus.emit("step", 4, metrics={"loss": 3.0})
    bus.close()
    found = EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0)]


def fake(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[str, Any]]:
    """A module whose ``init`` gives a run that writes down what it is told."""
    calls: list[tuple[str, Any]] = []
    module: Any = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, None)

    class Run:
        def __init__(self, of: str) -> None:
            self.of = of

        def log(self, metrics: dict[str, float], step: int) -> None:
            calls.append((self.of, (step, metrics["loss"])))

        def finish(self) -> None:
            calls.append((self.of, "finish"))

    def init(**given: Any) -> Run:
        calls.append(("init", given))
        return Run(given.get("name") or given["experiment_name"])

    module.init = init
    monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize("name", ["wandb", "trackio", "swanlab"])
def test_after_a_rollback_another_run_holds_the_whole_path(run: RunDir, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls = fake(monkeypatch, name)
    story(run, name)
    begun = [given for kind, given in calls if kind == "init"]
    key = "experiment_name" if name == "swanlab" else "name"
    last = begun[-1][key]
    assert last.startswith("run (after rollback 1)")
    assert [what for of, what in calls if of == last] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), "finish"]
    assert {given["project"] for given in begun} == {"keel"}


def test_what_a_tracker_does_not_take_is_counted(run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls = fake(monkeypatch, "swanlab")
    path = tracker_of("swanlab", run)
    path.log(1, {"loss": 1.0, "kl": math.nan, "grad_norm": math.inf})
    path.log(2, {"loss": 2.0, "kl": math.nan})
    path.close()
    assert [what for kind, what in calls if kind != "init"] == [(1, 1.0), (2, 2.0), "finish"]
    assert "takes no NaN and no infinity: 3 values left out (kl 2, grad_norm 1)" in caplog.text


def tracker_of(name: str, run: RunDir) -> Tracker:
    return KINDS[name].open(run, TrackingConfig())(0, -1)


def test_wandb_goes_on_in_the_same_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake(monkeypatch, "wandb")
    for first in (0, 2):
        sinks = [s for s in make_sinks(run, TrackingConfig(wandb=True, wandb_mode="offline")) if not isinstance(s, ConsoleSink)]
        bus = EventBus(sinks)
        bus.emit("run_started", first)
        for step in (first + 1, first + 2):
            bus.emit("step", step, metrics={"loss": 1.0})
        bus.close()
    one, two = (given for kind, given in calls if kind == "init")
    assert one == two
    assert (one["mode"], one["resume"], one["dir"], one["id"]) == ("offline", "allow", str(run.path), id_of(run, 0))
    assert [what[0] for kind, what in calls if kind == "run" and what != "finish"] == [1, 2, 3, 4]


def test_names_and_ids_of_paths_differ(run: RunDir) -> None:
    assert (name_of(run, 0), name_of(run, 2)) == ("run", "run (after rollback 2)")
    assert len({id_of(run, k) for k in range(4)}) == 4


# -- the real ones, where they are installed --------------------------------------------------------------------------------------

Told = dict[str, dict[str, dict[int, float]]]  # path -> metric -> step -> value
STANDS = {
    "loss": {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0},
    "rewards/正确/mean": {1: 0.5, 2: 1.0, 3: 9.0, 4: 9.0},
    "kl": {1: 0.1, 2: math.nan, 3: 0.2, 4: -math.inf},
}


def real_story(run: RunDir, name: str) -> None:
    """Four steps, one of them not a number; back to step 2; and on to step 4 with other numbers."""
    offline = {f"{name}_mode": "offline"} if name in ("wandb", "swanlab") else {}
    sinks = make_sinks(run, TrackingConfig.model_validate({name: True, **offline}))
    bus = EventBus([s for s in sinks if not isinstance(s, ConsoleSink)])
    bus.emit("run_started", 0)
    kls = {1: 0.1, 2: math.nan, 3: math.inf, 4: 5.0}
    for step in range(1, 5):
        bus.emit("step", step, metrics={"loss": 1.0, "rewards/正确/mean": 0.5 * step, "kl": kls[step]})
    run.give_up(2, 1)
    bus.emit("emergency", 4, rollback=1, back_to=2)
    for step in (3, 4):
        bus.emit("step", step, metrics={name: STANDS[name][step] for name in STANDS})
    bus.close()


def journal(path: Path) -> Iterator[bytes]:
    """The records of a log in blocks of 32 KiB, as LevelDB, W&B and SwanLab write it behind a head of 7 bytes."""
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield part
            part = b""


def told_by_mlflow(run: RunDir, module: Any) -> Told:
    client = module.MlflowClient((run.path / "mlruns").resolve().as_uri())
    experiment = client.get_experiment_by_name("keel")
    found: Told = {}
    for one in client.search_runs([experiment.experiment_id]):
        histories = {name: client.get_metric_history(one.info.run_id, name) for name in one.data.metrics}
        found[one.info.run_name] = {name: {m.step: m.value for m in values} for name, values in histories.items()}
    return found


def told_by_trackio(run: RunDir, module: Any) -> Told:
    found: Told = {}
    with contextlib.closing(sqlite3.connect(run.path.parent / "trackio" / "keel.db")) as store:
        for path, step, metrics in store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id"):
            for name, value in json.loads(metrics).items():
                found.setdefault(path.rpartition(" ")[0], {}).setdefault(name, {})[step] = float(value)
    return found


def told_by_wandb(run: RunDir, module: Any) -> Told:
    records: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: Told = {}
    for file in (run.path / "wandb").glob("offline-run-*/*.wandb"):
        path = ""
        for data in journal(file):
            record = records.Record()
            record.ParseFromString(data)
            path = record.run.display_name or path
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in row.keys() & STANDS.keys():
                found.setdefault(path, {}).setdefault(name, {})[row["_step"]] = float(row[name])
    return found


def told_by_swanlab(run: RunDir, module: Any) -> Told:
    records: Any = importlib.import_module("swanlab.proto.swanlab.record.v1.record_pb2")
    found: Told = {}
    for file in (run.path / "swanlab").glob("run-*/*.swanlab"):
        path = ""
        for data in journal(file):
            record = records.Record()
            record.ParseFromString(data)
            path = record.start.name or path
            if record.HasField("scalar"):
                found.setdefault(path, {}).setdefault(record.scalar.key, {})[record.scalar.step] = record.scalar.value.number
    return found


READ: Mapping[str, Callable[[RunDir, Any], Told]] = {
    "mlflow": told_by_mlflow,
    "trackio": told_by_trackio,
    "wandb": told_by_wandb,
    "swanlab": told_by_swanlab,
}


@pytest.mark.parametrize("name", list(READ))
def test_the_real_ones_hold_the_path_that_stands(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names of any script, steps, values, NaN and infinities, read from what each wrote; nothing on standard output."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    module: Any = pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    real_story(run, name)
    found = READ[name](run, module)["run (after rollback 1)"]
    wanted = dict(STANDS)
    if name == "swanlab":  # it takes none that is not finite, and that is told
        wanted["kl"] = {1: 0.1, 3: 0.2}
    if name == "mlflow":  # of names it takes letters of one script
        wanted["rewards/__/mean"] = wanted.pop("rewards/正确/mean")
    assert found.keys() == wanted.keys()
    for metric, values in wanted.items():
        assert found[metric].keys() == values.keys(), metric
        assert list(found[metric].values()) == pytest.approx([values[step] for step in found[metric]], nan_ok=True), metric
    assert capfd.readouterr().out == ""
