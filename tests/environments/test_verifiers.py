"""Tasks of the verifiers library: over a stand-in of the parts that are touched, and over the library itself where it is installed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from keel.core.errors import UserError
from keel.environments.adapters import environment_of
from keel.environments.play import EpisodeError, Play, Start
from keel.types import Message, Prompt


@dataclass
class Data:
    model_fields: ClassVar[dict[str, Any]] = {"prompt": 0, "system_prompt": 0, "answer": 0, "image": 0}
    prompt: Any
    system_prompt: str | None = None
    answer: int = 0
    image: str | None = None


@dataclass
class Config:
    most: int = 10


class Task:
    """What the adapter asks of ``verifiers.v1.Task``."""

    NEEDS_CONTAINER = False
    key = hash = "h"

    def __init__(self, data: Any, config: Any = None) -> None:
        self.data, self.config = data, config

    @classmethod
    def data_type(cls) -> type:
        return Data

    @classmethod
    def config_type(cls) -> type:
        return Config

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return []

    async def setup(self, trace: Any, runtime: Any) -> None: ...

    async def finalize(self, trace: Any, runtime: Any) -> None: ...

    async def stage_verifier(self, trace: Any, runtime: Any) -> None: ...

    def hooks(self, attr: str) -> list[Callable[..., Any]]:
        return [getattr(self, name) for name in vars(type(self)) if name.startswith(f"{attr}_")]

    def plugged_judges(self) -> list[Any]:
        return []

    async def score(self, trace: Any) -> None:
        for fn in self.hooks("reward"):
            await asyncio.sleep(0)
            value = fn(trace)
            trace.rewards[fn.__name__.removeprefix("reward_")] = None if value is None else SimpleNamespace(value=value)


Task.__module__ = "verifiers.v1.task"


class Add(Task):
    def reward_right(self, trace: Any) -> float | None:
        said = trace.nodes[-1]
        self.seen = [(node.parent, node.sampled, node.message.content) for node in trace.nodes]
        return float(str(self.data.answer) in said.message.content)

    def reward_short(self, trace: Any) -> float:
        return 0.5 * (len(trace.nodes[-1].message.content) <= self.config.most)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of the library that a trace is made of."""

    @dataclass
    class Node:
        parent: int | None
        message: Any
        sampled: bool = False

    @dataclass
    class Trace:
        task: Any
        agent: Any
        state: Any
        nodes: list[Any]
        is_completed: bool
        ok: bool
        rewards: dict[str, Any] = field(default_factory=dict[str, Any])

    said = {f"{role}Message": SimpleNamespace for role in ("User", "System", "Assistant")}
    parts: dict[str, dict[str, Any]] = {
        "verifiers.v1.trace": {"Trace": Trace, "TraceTask": SimpleNamespace, "AgentInfo": SimpleNamespace},
        "verifiers.v1.graph": {"MessageNode": Node},
        "verifiers.v1.types": said,
        "verifiers.v1.state": {"state_cls": lambda cls: SimpleNamespace},
        "verifiers.v1.configs.agent": {"AgentConfig": SimpleNamespace},
        **{name: {} for name in ("verifiers", "verifiers.v1", "verifiers.v1.configs")},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def play_of(task: type, *messages: Message, arguments: dict[str, Any] | None = None, **row: Any) -> Play:
    asked = messages or (Message("user", "2 + 2?"),)
    return Play(environment_of(task, "t.py:T", arguments or {}), Start(Prompt("a", asked, meta=row), 1, 1))


def test_the_tasks_own_rewards_judge_the_answer(library: None) -> None:
    play = play_of(Add, Message("system", "Be short."), Message("user", "2 + 2?"), answer=4, user="ann")
    assert play.open().messages == ()
    assert play.answer(Message("assistant", "It is 4."), ()).done
    assert play.end() == (1.5, {"right": 1.0, "short": 0.5})
    task = play.episode.task  # type: ignore[attr-defined]
    assert task.seen == [(None, False, "Be short."), (0, False, "2 + 2?"), (1, True, "It is 4.")]
    assert task.data == Data("2 + 2?", "Be short.", 4)  # other columns are not the task's


def test_arguments_are_the_config(library: None) -> None:
    play = play_of(Add, arguments={"most": 3}, answer=4)
    play.open()
    play.answer(Message("assistant", "It is 5."), ())
    assert play.end() == (0.0, {"right": 0.0, "short": 0.0})
    with pytest.raises(UserError, match=r"its config cannot be made.*least"):
        play_of(Add, arguments={"least": 3})


def test_an_answer_that_was_cut_is_not_judged(library: None) -> None:
    play = play_of(Add, answer=4)
    play.open()
    assert play.end() == (None, {})


class Unscored(Add):
    def reward_right(self, trace: Any) -> float | None:
        return None


def test_a_reward_that_is_missing_is_a_failure(library: None) -> None:
    play = play_of(Unscored, answer=4)
    play.open()
    play.answer(Message("assistant", "4"), ())
    with pytest.raises(EpisodeError, match="'right' was not scored"):
        play.end()


class Prepared(Add):
    async def setup(self, trace: Any, runtime: Any) -> None: ...


class Contained(Add):
    NEEDS_CONTAINER = True


class Tools(Add):
    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return [config]


class Boxed(Add):
    def metric_files(self, trace: Any, runtime: Any) -> float:
        return 0.0


class Stopping(Add):
    def stop_early(self, trace: Any) -> bool:
        return True


@pytest.mark.parametrize(("task", "what"), [(Prepared, "setup"), (Contained, "container"), (Tools, "tool servers")])
def test_what_needs_an_agents_program_is_refused_by_name(task: type, what: str) -> None:
    with pytest.raises(UserError, match=what):
        environment_of(task, "t.py:T", {})


@pytest.mark.parametrize(
    ("task", "row", "what"), [(Boxed, {}, "metric_files"), (Stopping, {}, "stop_early"), (Add, {"image": "x"}, "image")]
)
def test_so_is_what_only_a_row_shows(task: type, row: dict[str, Any], what: str) -> None:
    with pytest.raises(EpisodeError, match=what):
        play_of(task, **row)


REAL = """
import verifiers.v1 as vf


class Data(vf.TaskData):
    letter: str = "e"


class Letters(vf.Task[Data]):
    @vf.reward(weight=2.0)
    async def share(self, trace: vf.Trace) -> float:
        return trace.last_reply.count(self.data.letter) / max(1, len(trace.last_reply))

    @vf.reward
    async def asked(self, task, trace) -> float:
        return 0.25 * (trace.messages[0].content == task.prompt and trace.num_turns == 1)
"""


@pytest.mark.slow
def test_a_task_of_the_library_itself_is_trained_on(stage: Any, rows: Any, tmp_path: Path) -> None:
    pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
    (tmp_path / "letters.py").write_text(REAL)
    world = f"environment={{path: '{tmp_path / 'letters.py'}:Letters', max_turns: 1, max_tokens: 60, processes: 2, timeout_s: 60}}"
    sampling = "sampling={max_tokens: 30, stop: [e, a, i]}"
    stage("grpo", tmp_path / "run", world, "rewards=[]", sampling, "loop.steps=2", "loop.eval_every=0", "loop.probes=0")
    found = [row for row in rows(tmp_path / "run/metrics.jsonl") if "rewards/environment/mean" in row]
    assert len(found) == 2
    for row in found:
        assert row["rewards/environment/asked/mean"] == pytest.approx(0.25)
        assert row["rewards/environment/share/mean"] > 0
        assert row["environment/failed"] == 0
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
