"""A run seen from outside: whether it lives, told with made-up clocks."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from keel.core.config import Section
from keel.core.errors import ConfigError, UserError
from keel.core.events import EventBus
from keel.runs.directory import RunDir
from keel.runs.sinks import JsonlSink
from keel.verbs.watch.run import Onlooker, follow, run_rule_tests, run_watch
from keel.watch.config import WatchConfig
from keel.watch.heartbeat import SHORTEST_S, Heartbeat, Tail
from keel.watch.replay import kind_of, replay


class Settings(Section):
    watch: WatchConfig = WatchConfig()


class Recipe(Section):
    settings: Settings = Settings()
    target: float = 0.5


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[RunDir, EventBus]]:
    """A run that is under way in this process."""
    with RunDir.open(tmp_path / "run", recipe(tmp_path), "rl", 0) as run:
        yield run, EventBus([JsonlSink(run)])


def recipe(path: Path) -> Recipe:
    watch = {"alerts": {"to": [{"kind": "file", "path": str(path / "alarms.jsonl")}]}}
    return Recipe.model_validate({"settings": {"watch": watch}})


def steps(bus: EventBus, first: int, last: int, **metrics: float) -> None:
    for step in range(first, last + 1):
        bus.emit("step", step, metrics={"kl": 0.1, "time/step_s": 10.0, **metrics})


class Clock:
    """Seconds since 1970 that pass while nobody waits; what is done at each look is written down beforehand."""

    def __init__(self, *acts: Any) -> None:
        self.acts, self.now = list(acts), 1e9

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if not self.acts:
            raise KeyboardInterrupt
        act = self.acts.pop(0)
        if act is not None:
            act()

    def touch(self, run: RunDir) -> None:
        os.utime(run.path / "metrics.jsonl", (self.now, self.now))


def look(run: RunDir, clock: Clock, **more: Any) -> tuple[str, Mapping[str, Any]]:
    text = io.StringIO()
    console = Console(file=text, width=400)
    summary = follow(str(run.path), wait=clock.wait, clock=lambda: clock.now, console=console, **more)
    return text.getvalue(), summary


def test_a_killed_run_is_noticed_and_told(live: tuple[RunDir, EventBus], tmp_path: Path):
    """The process lets go of the folder and leaves nothing behind, as a kill does."""
    run, bus = live
    steps(bus, 1, 5)
    clock = Clock(None, run.close)
    said, summary = look(run, clock)
    assert (summary["status"], summary["step"]) == ("killed", 5)
    assert "the process is gone and left no word: last step 5" in said
    (alarm,) = (json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines())
    assert (alarm["rule"], alarm["level"], alarm["step"]) == ("killed", "critical", 5)


def test_what_ails_a_run_is_told_with_the_alarm_and_once(tmp_path: Path):
    """The log of another trainer whose KL explodes: the symptom comes with the alarm, not only afterwards, and is in the summary."""
    log = tmp_path / "log.jsonl"

    def write(last: int) -> None:
        rows = [
            {"step": s, "reward": 0.1 * s, "kl": 0.02 if s < 30 else 9.0, "grad_norm": 1.0 if s != 29 else 400.0} for s in range(1, last)
        ]
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(25)
    text = io.StringIO()
    clock = Clock(lambda: write(36), None, lambda: write(40), None)
    with contextlib.suppress(KeyboardInterrupt):
        follow(str(log), wait=clock.wait, clock=lambda: clock.now, console=Console(file=text, width=400))
    said = text.getvalue()
    assert said.count("KL explosion:") == 1
    assert said.index("step 32  kl") < said.index("KL explosion:")
    assert "1. a gradient: the largest gradient is 400 times the usual one" in said


def test_a_run_that_ends_as_it_should_is_not_called_killed(live: tuple[RunDir, EventBus], tmp_path: Path):
    run, bus = live
    steps(bus, 1, 5)

    def finish() -> None:
        run.finish({"steps": 5})
        run.close()

    _, summary = look(run, Clock(finish))
    assert (summary["status"], summary["steps"]) == ("finished", 5)
    assert not (tmp_path / "alarms.jsonl").exists()


@pytest.mark.parametrize(("kind", "data"), [("interrupted", {}), ("paused", {}), ("verdict", {"action": "stop"})])
def test_a_run_that_said_why_it_left_is_not_called_killed(live: tuple[RunDir, EventBus], kind: str, data: dict[str, Any]):
    run, bus = live
    steps(bus, 1, 3)

    def leave() -> None:
        bus.emit(kind, 3, "because", **data)
        run.close()

    _, summary = look(run, Clock(leave))
    assert (summary["status"], summary["said"]) == ("left", "because")


def test_a_stall_is_told_once_and_so_is_its_end(live: tuple[RunDir, EventBus], tmp_path: Path):
    """10 s a step, 10 times of which are patience."""
    run, bus = live
    steps(bus, 1, 5)
    clock = Clock()
    clock.touch(run)

    def goes_on() -> None:
        steps(bus, 6, 7)
        clock.touch(run)

    clock.acts = [None] * 3 + [goes_on, run.close]
    said, summary = look(run, clock, every=60.0)
    assert [line.split(":")[0] for line in said.splitlines()] == ["stalled", "running", "killed"]
    assert summary["step"] == 7
    rows = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    assert [row["rule"] for row in rows] == ["stalled", "killed"]


def test_a_run_before_its_first_step_is_running(live: tuple[RunDir, EventBus]):
    run, bus = live
    clock = Clock(None, lambda: steps(bus, 1, 3), run.close)
    _, summary = look(run, clock)
    assert (summary["status"], summary["step"]) == ("killed", 3)


def test_where_locks_cannot_tell_nobody_is_called_killed(live: tuple[RunDir, EventBus], monkeypatch: pytest.MonkeyPatch):
    run, bus = live
    steps(bus, 1, 3)
    run.close()
    monkeypatch.setattr("keel.watch.heartbeat.TELLS", False)
    assert Heartbeat(run.path, 10.0).pulse(1000.0, 999.0).status == "running"


def test_patience_is_so_many_usual_steps_and_the_longest_evaluation(tmp_path: Path):
    heart = Heartbeat(tmp_path, 10.0)
    for step in range(2):
        heart.take(step, {"time/step_s": 20.0})
    assert heart.patience() is None, "not known yet"
    assert heart.patience(7.0) == 70.0, "as the onlooker saw it"
    heart.take(3, {"time/step_s": 500.0, "time/eval_s": 100.0})
    assert heart.patience() == 200.0 + 100.0, "the median"
    quick = Heartbeat(tmp_path, 10.0)
    for step in range(3):
        quick.take(step, {"time/step_s": 0.1})
    assert quick.patience() == SHORTEST_S
    assert quick.pulse(1000.0, 1000.0 - SHORTEST_S).status == "running"
    assert quick.pulse(1000.0, 999.0 - SHORTEST_S).status == "stalled"


def test_rows_come_once_the_last_one_when_it_is_whole_and_all_again_after_a_rollback(live: tuple[RunDir, EventBus]):
    run, bus = live
    tail = Tail(run.path)
    steps(bus, 1, 3)
    assert [s for s, _ in tail.read()] == [1, 2]
    bus.emit("eval", 3, metrics={"eval/reward": 0.5})
    assert tail.read() == []
    steps(bus, 4, 4)
    ((step, metrics),) = tail.read()
    assert (step, metrics["eval/reward"]) == (3, 0.5)
    run.cut_metrics(2)
    steps(bus, 3, 5)
    assert [s for s, _ in tail.read()] == [1, 2, 3, 4]
    assert tail.again
    assert [s for s, _ in tail.read(last_too=True)] == [5]
    assert not tail.again


def test_rules_speak_while_the_run_goes_on_and_once(live: tuple[RunDir, EventBus]):
    run, bus = live
    steps(bus, 1, 3)

    def goes_back() -> None:
        run.cut_metrics(2)
        steps(bus, 3, 6, kl=5.0)

    said, summary = look(run, Clock(lambda: steps(bus, 4, 9, kl=5.0), goes_back, run.close))
    assert [(a["rule"], a["step"]) for a in summary["alarms"]] == [("kl", 5)], "of the path that stands"
    assert said.count("step 6  kl  kl = 5") == 1
    assert said.count("step 5  kl  kl = 5") == 1


def test_a_replay_of_a_run_with_its_own_rules_and_with_others(live: tuple[RunDir, EventBus], tmp_path: Path):
    run, bus = live
    bus.emit("eval", 0, metrics={"eval/reward": 0.5, "time/eval_s": 1.0})
    steps(bus, 1, 4, kl=3.0)
    text, out = io.StringIO(), tmp_path / "found.json"
    summary = run_watch(str(run.path), "", str(out), Console(file=text, width=300))
    assert [(a["rule"], a["step"], a["state"]) for a in summary["alarms"]] == [("kl", 3, "firing")]
    assert json.loads(out.read_text())["alarms"][0]["page"] == "docs/alarms.md#kl"
    assert "Keel, 5 rows, steps 0 to 4" in text.getvalue()
    assert summary["remarks"] == []
    assert "docs/alarms.md#kl" in text.getvalue()
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  - {name: far, expr: kl > 5 * $target, act: pause}\n")
    summary = run_watch(str(run.path), str(file), "", Console(file=text))
    assert [(a["rule"], a["would"]) for a in summary["alarms"]] == [("far", "pause")]
    (tmp_path / "log.jsonl").write_text('{"step": 1, "kl": 1.0}\n')
    summary = run_watch(str(tmp_path / "log.jsonl"), "", "", Console(file=text))
    assert summary["alarms"] == []
    assert "no rule spoke" in text.getvalue()


def test_a_replay_names_what_ails_the_run(tmp_path: Path):
    """Another trainer's log: the reward does not move, and nine groups in ten have one reward."""
    rows = [{"step": i, "reward": 0.3 + 0.01 * (i % 2), "frac_reward_zero_std": 0.9} for i in range(1, 61)]
    log, text = tmp_path / "log.jsonl", io.StringIO()
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = run_watch(str(log), "", str(tmp_path / "found.json"), Console(file=text, width=300))
    (symptom,) = summary["symptoms"]
    assert (symptom["name"], [cause["name"] for cause in symptom["causes"]]) == ("stagnation", ["no signal"])
    assert "stagnation: the reward is where it was after 60 steps" in text.getvalue()
    assert "  1. no signal: " in text.getvalue()
    assert json.loads((tmp_path / "found.json").read_text())["symptoms"][0]["causes"][0]["limit"] > 0
    log.write_text("".join(json.dumps({"step": i, "loss": math.nan}) + "\n" for i in range(1, 61)))
    assert run_watch(str(log), "", "", Console(file=text))["symptoms"] == [], "without a reward it is not taken for RL"


def test_a_row_is_taken_apart_as_the_run_made_it():
    names = ("kl", "eval/reward", "time/eval_s", "time/step_s", "test/loss", "test_time")
    assert [kind_of(name) for name in names] == ["step", "eval", "eval", "step", "test", "step"]


def test_a_rule_of_the_recipe_is_not_called_unheard_because_of_the_evaluation_at_the_start():
    rules = [{"name": "mine", "expr": "kl > 2"}, {"name": "lost", "expr": "x/y > 2"}]
    config = WatchConfig.model_validate({"defaults": False, "rules": rules})
    found = replay([(0, {"eval/reward": 0.1, "time/eval_s": 1.0}), (1, {"kl": 3.0})], config)
    assert [f.rule for f in found.findings] == ["mine"]
    assert {remark.split("'")[1] for remark in found.remarks} == {"lost"}


def test_tests_of_rule_files(tmp_path: Path):
    text = io.StringIO()
    assert run_rule_tests(["default", "documents"], Console(file=text))["passed"] >= 12
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  - {name: far, expr: kl > 5}\ntests:\n  - {name: t, series: {kl: 6}}\n")
    with pytest.raises(UserError, match="t: not expected: far at step 1"):
        run_rule_tests([str(file)])
    file.write_text("rules:\n  - {name: far, expr: kl > 5}\n")
    with pytest.raises(ConfigError, match="has no tests"):
        run_rule_tests([str(file)])
    with pytest.raises(ConfigError, match="needs rule files"):
        run_rule_tests([])


def history(path: Path, *rows: Mapping[str, float], place: str = "trainer_state.json") -> None:
    """As trainers do it: a new file in the place of the old one."""
    new = path / "new"
    new.write_text(json.dumps({"log_history": list(rows)}))
    (path / place).parent.mkdir(exist_ok=True)
    new.replace(path / place)


def of_trl(first: int, last: int, loss: float = 1.0) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss, "learning_rate": 1e-5, "kl": 0.1 * step} for step in range(first, last + 1)]


def test_rows_of_a_json_file_come_once(tmp_path: Path):
    tail = Tail(tmp_path)
    history(tmp_path, *of_trl(1, 3))
    assert [s for s, _ in tail.read()] == [1, 2], "the last one may get more"
    assert tail.read() == []
    history(tmp_path, *of_trl(1, 3), {"step": 3, "eval_loss": float("nan")})
    assert tail.read() == []
    history(tmp_path, *of_trl(1, 3), {"step": 3, "eval_loss": float("nan")}, *of_trl(4, 5))
    found = tail.read()
    assert [s for s, _ in found] == [3, 4]
    assert "eval/loss" in found[0][1]
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"st')  # half written
    assert tail.read() == []
    assert not tail.again
    history(tmp_path, *of_trl(1, 3), {"step": 3, "eval_loss": float("nan")}, *of_trl(4, 6))
    assert [s for s, _ in tail.read()] == [5]
    assert [s for s, _ in tail.read(last_too=True)] == [6]
    assert tail.read() == tail.read(last_too=True) == []
    history(tmp_path, *of_trl(1, 2), *of_trl(3, 5, loss=9.0))
    assert [s for s, _ in tail.read()] == [1, 2, 3, 4], "another history"
    assert tail.again
    assert tail.read() == []
    assert not tail.again


def test_a_history_that_moves_to_the_next_checkpoint_goes_on(tmp_path: Path):
    tail = Tail(tmp_path)
    history(tmp_path, *of_trl(1, 5), place="checkpoint-5/trainer_state.json")
    assert [s for s, _ in tail.read()] == [1, 2, 3, 4]
    history(tmp_path, *of_trl(1, 10), place="checkpoint-10/trainer_state.json")
    assert [s for s, _ in tail.read()] == [5, 6, 7, 8, 9]
    assert not tail.again


def test_rules_on_a_json_file_count_steps_and_not_looks(tmp_path: Path):
    """Three looks at one high step are not three high steps."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - {name: high, expr: kl > 0.25, for: 3}\n")
    history(tmp_path, *of_trl(1, 4))
    clock = Clock(None, None, None, lambda: history(tmp_path, *of_trl(1, 6)), None)
    text = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        follow(str(tmp_path), str(rules), wait=clock.wait, clock=lambda: clock.now, console=Console(file=text, width=400))
    assert [line for line in text.getvalue().splitlines() if "high" in line] == ["step 5  high  kl = 0.5 (> 0.25 for 3 steps)"]


def resumed(tmp_path: Path, metrics_at: float, started_at: float) -> Heartbeat:
    """A run of 10 s a step, in the hands of this process, whose log and manifest were last written then."""
    os.utime(tmp_path / "run" / "manifest.json", (started_at, started_at))
    heart, tail = Heartbeat(tmp_path / "run", 10.0), Tail(tmp_path / "run")
    os.utime(tmp_path / "run" / "metrics.jsonl", (metrics_at, metrics_at))
    for step, metrics in tail.read(last_too=True):
        heart.take(step, metrics)
    assert tail.changed_at == metrics_at
    return heart


def test_a_run_that_goes_on_after_a_day_is_not_stalled_before_its_first_step(live: tuple[RunDir, EventBus], tmp_path: Path):
    """Patience begins with a step of this start, as at the first one: a model is loaded before."""
    _, bus = live
    steps(bus, 1, 5)
    heart = resumed(tmp_path, 1e9, 1e9 + 86400)
    assert heart.patience() == 100.0
    found = heart.pulse(1e9 + 86400 + 500, 1e9)
    assert (found.status, found.text) == ("running", "started 2001-09-10T01:46:40+00:00, no step since then; the last one before was 5")
    steps(bus, 6, 6)
    assert heart.pulse(1e9 + 86400 + 800, 1e9 + 86400 + 600).status == "stalled"
    assert heart.pulse(1e9 + 500, 1e9).status == "stalled", "a start in the future is another clock's"


def test_no_time_of_1970_is_told(live: tuple[RunDir, EventBus], tmp_path: Path):
    """Where the log is not there (the run begins anew) nothing is known of when it was written."""
    run, bus = live
    steps(bus, 1, 5)
    heart = resumed(tmp_path, 1e9, 1e9 - 10)
    assert heart.pulse(2e9, 0.0).status == "running"
    run.close()
    found = heart.pulse(2e9, 0.0)
    assert found.status == "killed"
    assert "1970" not in found.text


def test_a_run_that_begins_anew_is_watched_anew(live: tuple[RunDir, EventBus]):
    run, bus = live
    tail = Tail(run.path)
    steps(bus, 1, 5)
    assert len(tail.read()) == 4
    (run.path / "metrics.jsonl").unlink()
    assert tail.read() == []
    assert tail.again
    steps(bus, 1, 9)
    assert [s for s, _ in tail.read()] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_trainer_that_writes_seldom_is_not_stalled_in_between(tmp_path: Path):
    """100 rows every 300 s: what is usual is the time between two writings and not a hundredth of it."""
    onlooker, now = Onlooker(tmp_path, "", 10.0), 1e9
    for writing in range(1, 6):
        history(tmp_path, *of_trl(1, 100 * writing))
        os.utime(tmp_path / "trainer_state.json", (now, now))
        for _ in range(5):
            assert onlooker.look(now)[1].status == "running"
            now += 60.0
    assert onlooker.look(now + 2600.0)[1].status == "running"
    assert onlooker.look(now + 2800.0)[1].status == "stalled"
