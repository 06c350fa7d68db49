"""Sinks: valid JSON whatever the numbers are, clear words when a tracker is missing, and a console that suits where it prints."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keel.core.config import Section
from keel.core.events import MOST_WAITING, Event, EventBus
from keel.runs import logs, sinks
from keel.runs.config import TrackingConfig
from keel.runs.directory import RunDir
from keel.runs.sinks import ConsoleSink, JsonlSink, make_sinks, short, shown


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.open(tmp_path / "run", Section(), "sft", 0) as opened:
        yield opened


def rows(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


# -- JSON lines ------------------------------------------------------------------------------------------------------------------


def test_plain_values() -> None:
    value = {
        "t": torch.tensor(1.5),
        "n": np.float32(0.5),
        "l": torch.tensor([1, 2]),
        "p": Path("a"),
        "nan": float("nan"),
        "b": True,
        "s": {1},
    }
    assert logs.plain(value) == {"t": 1.5, "n": 0.5, "l": [1, 2], "p": "a", "nan": "NaN", "b": True, "s": [1]}
    assert logs.plain([np.float64("-inf"), torch.tensor(float("inf"))]) == ["-Infinity", "Infinity"]


def test_one_object_a_step_with_its_evaluation(run: RunDir) -> None:
    bus = EventBus([JsonlSink(run)])
    bus.emit("eval", 0, metrics={"eval/loss": 3.0})
    bus.emit("step", 1, metrics={"loss": 2.0})
    bus.emit("step", 2, metrics={"loss": float("nan"), "reward": float("-inf"), "kl": torch.tensor(0.25)})
    bus.emit("eval", 2, metrics={"eval/loss": 1.0})
    bus.emit("checkpoint", 2, "saved", best=True)
    assert rows(run.path / "metrics.jsonl") == [
        {"step": 0, "eval/loss": 3.0},
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": "NaN", "reward": "-Infinity", "kl": 0.25, "eval/loss": 1.0},
    ]
    told = rows(run.path / "events.jsonl")
    assert all(datetime.datetime.fromisoformat(row.pop("at")).year >= 2026 for row in told), "each says when it happened"
    assert [row.pop("number") for row in told] == [1, 2, 3], "steps have none"
    assert len({row.pop("id") for row in told}) == 3
    assert told == [
        {"kind": "eval", "step": 0, "message": "", "metrics": {"eval/loss": 3.0}},
        {"kind": "eval", "step": 2, "message": "", "metrics": {"eval/loss": 1.0}},
        {"kind": "checkpoint", "step": 2, "message": "saved", "best": True},
    ]


@pytest.mark.parametrize("killed", ["before the test", "after it", "in a row"])
def test_a_test_after_the_last_step_is_in_that_step_s_row_also_after_a_restart(run: RunDir, killed: str) -> None:
    first = EventBus([JsonlSink(run)])
    first.emit("step", 1, metrics={"loss": 2.0, "kl": float("nan")})
    first.emit("step", 2, metrics={"loss": float("inf")})
    if killed == "after it":
        first.emit("eval", 2, metrics={"test/reward": 0.5})
    if killed == "in a row":
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 3, "lo')
    run.cut_metrics(2)
    again = EventBus([JsonlSink(run)])
    again.emit("eval", 2, metrics={"test/reward": 0.5})
    again.emit("step", 3, metrics={"loss": 1.0})
    whole = [{"step": 1, "loss": 2.0, "kl": "NaN"}, {"step": 2, "loss": "Infinity", "test/reward": 0.5}, {"step": 3, "loss": 1.0}]
    assert rows(run.path / "metrics.jsonl") == whole


def test_an_open_sink_goes_on_after_the_file_was_cut(run: RunDir) -> None:
    bus = EventBus([JsonlSink(run)])
    for step in (1, 2, 3):
        bus.emit("step", step, metrics={"loss": 1.0})
    run.cut_metrics(1)
    bus.emit("eval", 3, metrics={"eval/loss": 7.0})
    run.cut_metrics(1)
    for step in (2, 3):
        bus.emit("step", step, metrics={"loss": 5.0})
    assert rows(run.path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 5.0}, {"step": 3, "loss": 5.0}]


def test_torn_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "x\n\n[1]\n{"step": 3}\n{"st')
    assert logs.read(path) == [{"step": 1}, {"step": 3}]
    logs.keep_rows(path, lambda row: row["step"] != 1)
    assert path.read_bytes() == b'{"step": 3}\n'
    assert logs.read(tmp_path / "none.jsonl") == []


def test_a_line_separator_inside_a_text_does_not_break_a_row(tmp_path: Path) -> None:
    row = {"text": "a\u2028b\x85c\x0bd\ne", "lone": "\ud800"}
    logs.append(tmp_path / "m.jsonl", [row])
    assert logs.read(tmp_path / "m.jsonl") == [{"text": row["text"], "lone": "?"}]


# -- sinks that fail --------------------------------------------------------------------------------------------------------------------


def test_a_sink_that_fails_does_not_stop_the_others(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    class Down:
        def handle(self, event: Event) -> None:
            raise ConnectionError("no network")

        def close(self) -> None: ...

    bus = EventBus([Down(), JsonlSink(run)])
    bus.emit("step", 1, metrics={"loss": 1.0})
    bus.emit("step", 2, metrics={"loss": 1.0})
    assert len(rows(run.path / "metrics.jsonl")) == 2
    assert caplog.text.count("sink Down failed, the run goes on and tries it again: ConnectionError: no network") == 1


class Flaky:
    """Fails at the calls whose numbers are given, from 1."""

    def __init__(self, *bad: int, always: bool = False) -> None:
        self.bad, self.always, self.calls = bad, always, 0
        self.got: list[int] = []

    def handle(self, event: Event) -> None:
        self.calls += 1
        if self.always or self.calls in self.bad:
            raise TimeoutError("timed out")
        self.got.append(event.step)

    def close(self) -> None: ...


@pytest.mark.parametrize("bad", [(1,), (3,), (1, 2), (2, 3, 4), (50,)])
def test_a_time_out_silences_no_sink_and_loses_nothing(bad: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    sink = Flaky(*bad)
    bus = EventBus([sink])
    for step in range(50):
        bus.emit("step", step)
    assert len(sink.got) > 40 or 50 in bad, "it is heard again while the run goes on"
    bus.close()
    assert sink.got == list(range(50)), "in order, each once"
    assert caplog.text.count("the run goes on and tries it again") == 1
    assert f"sink Flaky failed {len(bad)} times, all events got there in the end" in caplog.text


def test_a_sink_that_always_fails_is_asked_seldom_and_told_twice(caplog: pytest.LogCaptureFixture) -> None:
    """Of 5000 events it costs a dozen calls, and keeps no more than it may."""
    sink = Flaky(always=True)
    bus = EventBus([sink])
    for step in range(5000):
        bus.emit("step", step)
    assert 10 <= sink.calls <= 16
    assert len(bus._deliveries[0].waiting) == MOST_WAITING
    bus.close()
    assert len(caplog.records) == 2
    assert "5000 events never got there" in caplog.text


def test_after_a_recovery_a_sink_is_trusted_again() -> None:
    """Three failures in a row, and one much later: then a single event is waited for, as after a first failure."""
    sink = Flaky(1, 2, 3, 40)
    bus = EventBus([sink])
    waits = []
    for step in range(80):
        bus.emit("step", step)
        waits.append(len(bus._deliveries[0].waiting))
    later = waits[waits.index(0) :]
    assert max(later) == 2
    assert later.count(0) == len(later) - 2


def test_the_run_s_own_files_keep_whatever_waits() -> None:
    """A full disk may stay full for long; what a tracker would lose by then is written once there is room."""
    sink = Flaky(always=True)
    sink.essential = True  # type: ignore[attr-defined]
    bus = EventBus([sink])
    for step in range(MOST_WAITING + 7):
        bus.emit("step", step)
    sink.always = False
    bus.close()
    assert sink.got == list(range(MOST_WAITING + 7))


@pytest.mark.parametrize("every", [3, 4, 5, 7])
def test_a_full_disk_tears_no_row_of_the_local_files(every: int, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some writes stop in the middle of a line; once there is room again every row is there, once, and in order."""
    bus, writes = EventBus([JsonlSink(run)]), [0]

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            writes[0] += 1
            if writes[0] % every == 0:
                self.file.write(data[: len(data) // 2])
                raise OSError(28, "No space left on device")
            self.file.write(data)

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *a, **k: Full(opened(self, mode, *a, **k)) if mode in ("ab", "rb+") else opened(self, mode, *a, **k),
    )
    for step in range(1, 8):
        bus.emit("step", step, metrics={"loss": float(step)})
        bus.emit("eval", step, metrics={"eval/loss": float(step)})
        bus.emit("warning", step, "hear")
    bus.close()
    monkeypatch.undo()
    assert rows(run.path / "metrics.jsonl") == [{"step": i, "loss": float(i), "eval/loss": float(i)} for i in range(1, 8)]
    assert [(row["kind"], row["step"]) for row in rows(run.path / "events.jsonl") if row["kind"] == "warning"] == [
        ("warning", i) for i in range(1, 8)
    ]
    assert writes[0] > 21


# -- console ---------------------------------------------------------------------------------------------------------------------


def test_time_left_is_counted_from_the_end_of_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(sinks.time, "perf_counter", lambda: now[0])
    out = io.StringIO()
    bus = EventBus([ConsoleSink(out, log_every=1, label="rl")])
    bus.emit("run_started", 0, total_steps=40)
    for step in range(1, 4):
        now[0] += 100.0 if step == 1 else 2.0
        bus.emit("step", step, metrics={"loss": 0.5})
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines == ["rl step 1/40  loss 0.5", "rl step 2/40  loss 0.5  left 1:16", "rl step 3/40  loss 0.5  left 1:14"]


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    bus = EventBus([ConsoleSink(out, log_every=3, label="sft")])
    bus.emit("run_started", 0, total_steps=7)
    for step in range(1, 8):
        bus.emit("step", step, metrics={"loss": step / 10, "tokens_per_s": 512.4, "lr": 1.0})
    bus.emit("eval", 7, metrics={"eval/loss": 0.5, "time/eval_s": 3.0})
    bus.emit("warning", 7, "[bold]grad_norm[/bold] 131")
    bus.emit("run_finished", 7)
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == ["sft step 1/7", "sft step 3/7", "sft step 6/7", "sft step 7/7"]
    assert lines[1].startswith("sft step 3/7  loss 0.3  tok/s 512  left 0:")
    assert lines[3] == "sft step 7/7  loss 0.7  tok/s 512"
    assert lines[4:] == ["evaluation at step 7: eval/loss 0.5", "warning: [bold]grad_norm[/bold] 131"]


def test_an_evaluation_is_one_short_line_that_counts_what_it_leaves_out() -> None:
    spread = {f"eval/rewards/part_{i}/mean": 0.1 for i in range(9)}
    known = {"eval/reward": 0.25, "eval/completions/mean_length": 12.0, "time/eval_s": 3.0}
    assert sinks.evaluated(spread | known) == "eval/reward 0.25  eval/completions/mean_length 12  (9 more in metrics.jsonl)"
    assert sinks.evaluated(spread).endswith("part_5/mean 0.1  (3 more in metrics.jsonl)")  # none known by name: the first ones
    assert sinks.evaluated(dict(list(spread.items())[:6])).count("part_") == 6


def test_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    bus = EventBus([ConsoleSink(out, label="[rl]")])
    bus.emit("run_started", 2, total_steps=4)
    bus.emit("step", 3, metrics={"loss": 0.25, "reward": 1.5, "kl": 0.01})
    bus.emit("step", 4, metrics={"loss": 0.25, "reward": 1.5, "kl": 0.01})
    bus.emit("run_finished", 4)
    assert "[rl]" in out.getvalue()
    assert "4/4" in out.getvalue()
    assert "loss 0.25  reward 1.5  kl 0.01" in out.getvalue()


def test_standard_output_stays_free(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    bus = EventBus(make_sinks(run, TrackingConfig(log_every=1)))
    bus.emit("run_started", 0, total_steps=1)
    bus.emit("step", 1, metrics={"loss": 1.0})
    bus.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loss 1" in captured.err


def test_the_numbers_that_matter() -> None:
    metrics = {"objective/kl": 0.5, "objective/scores": 2.0, "reward": 1.0, "lr": 3.0, "loss": float("nan")}
    assert shown(metrics) == "loss nan  reward 1  kl/answer 0.5"
    assert shown({**metrics, "kl": 0.1}) == "loss nan  reward 1  kl 0.1"
    assert [short(x) for x in (0.03123, 1.25, 843.2, 1.2e-5, -2.0, float("inf"))] == ["0.0312", "1.25", "843", "1.2e-05", "-2", "inf"]
