"""A task of the verifiers library (v1, 0.4): Keel draws the answer, the task's own rewards judge it, over the library's own trace.

What needs an agent's program, its box or its tools is refused by name here; ``verifiers_agent.py`` has the programs that run in a
subprocess. It is the user's file that imports the library."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from keel.core.errors import UserError
from keel.environments.play import EpisodeError
from keel.types import Message, Points, Prompt, Reply

_BOX = ("setup", "finalize", "stage_verifier")  # hooks that are handed the box of an agent's program
_HINT = "give it one, environment.arguments.agent={harness: {id: null}}, or take a task whose rewards read the answer alone"
_PLACED = ("image", "workdir", "agent_user", "skills", "artifacts")  # columns that ask for a box


def is_task(found: Any) -> bool:
    """Is it a class of tasks of verifiers' v1?"""
    return isinstance(found, type) and any(c.__name__ == "Task" and c.__module__ == "verifiers.v1.task" for c in found.__mro__[1:])


def task_config(task: Any, spec: str, arguments: Mapping[str, Any]) -> Any:
    """The task's config of ``arguments``. Raises UserError for arguments that it does not take, and for a task that needs an agent's
    program."""
    try:
        config = task.config_type()(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"environment {spec}: its config cannot be made: {error}", "see environment.arguments") from None
    base = next(c for c in task.__mro__ if c.__name__ == "Task" and c.__module__ == "verifiers.v1.task")
    needs = [f"the hook {name}()" for name in _BOX if getattr(task, name) is not getattr(base, name)]
    needs += ["a container (NEEDS_CONTAINER)"] if task.NEEDS_CONTAINER else []
    needs += ["tool servers (toolsets)"] if task.toolsets(config) else []
    if needs:
        raise UserError(f"environment {spec} needs {' and '.join(needs)}, which only an agent's program of verifiers has", _HINT)
    return config


@dataclass(slots=True)
class VerifiersTask:
    """One conversation about a task: a single answer. A prompt's columns that the task's data has fields for are its data."""

    task: Any
    tools: Sequence[Callable[..., Any]] = field(default=(), init=False)
    said: str | None = field(default=None, init=False)

    @classmethod
    def of(cls, made: Any, config: Any, prompt: Prompt) -> VerifiersTask:
        """Raises EpisodeError for a row, a signal or a hook that needs more than the answer."""
        task = made(data_of(made, prompt), config)
        signals = [*task.hooks("reward"), *task.hooks("metric"), *(judge.score for judge in task.plugged_judges())]
        boxed = [f.__name__ for f in signals if _needed(f, "runtime")]
        if boxed:
            raise EpisodeError(f"{boxed[0]}() reads the runtime of an agent's program, and there is none")
        if task.hooks("stop"):
            raise EpisodeError(f"{task.hooks('stop')[0].__name__}() stops an agent's program, and there is none")
        return cls(task)

    def start(self) -> Sequence[Message]:
        return ()

    def answer(self, message: Message) -> Reply:
        self.said = str(message.extra.get("raw", message.text))
        return Reply(done=True)

    def reward(self) -> Points:
        """By name, each with its weight; None where no whole answer was given."""
        if self.said is None:
            return None
        trace = _trace(self.task, self.said)
        asyncio.run(self.task.score(trace))
        return rewards_of(trace)

    def close(self) -> None: ...


def data_of(made: Any, prompt: Prompt) -> Any:
    """A task's data: the row's columns that it has fields for, and the prompt. Raises EpisodeError for a row that asks for a box."""
    kind = made.data_type()
    row = {name: value for name, value in prompt.meta.items() if name in kind.model_fields and name != "prompt"}
    if placed := [name for name in _PLACED if row.get(name)]:
        raise EpisodeError(f"the row's {placed[0]} is for a box that an agent's program runs in, and there is none")
    turns = [{"role": m.role, "content": m.text} for m in prompt.messages] or [{"role": "user", "content": prompt.text or ""}]
    if turns[0]["role"] == "system" and len(turns) > 1:
        row["system_prompt"] = turns.pop(0)["content"]
    asked: Any = turns[0]["content"] if len(turns) == 1 and turns[0]["role"] == "user" else turns
    return kind(prompt=asked, **row)


def rewards_of(trace: Any) -> dict[str, float]:
    """A trace's rewards by name, each with its weight. Raises EpisodeError for one that is missing."""
    missing = [name for name, reward in trace.rewards.items() if reward is None]
    if missing:
        raise EpisodeError(f"the reward {missing[0]!r} was not scored")
    return {name: float(reward.value) for name, reward in trace.rewards.items()}


def _needed(function: Callable[..., Any], name: str) -> bool:
    """Does it take this argument, without a default?"""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _trace(task: Any, said: str) -> Any:
    """The library's own record of a conversation: the prompt's turns, and behind them what was sampled."""
    trace, graph, types = (import_module(f"verifiers.v1.{name}") for name in ("trace", "graph", "types"))
    agent = trace.AgentInfo(config=import_module("verifiers.v1.configs.agent").AgentConfig(model="keel"))
    about = trace.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    state = import_module("verifiers.v1.state").state_cls(type(task))()
    asked: Any = task.data.prompt
    turns = [types.UserMessage(content=asked)] if isinstance(asked, str) else list(asked)
    if task.data.system_prompt:
        turns.insert(0, types.SystemMessage(content=task.data.system_prompt))
    nodes = [graph.MessageNode(parent=i - 1 if i else None, message=turn) for i, turn in enumerate(turns)]
    nodes.append(graph.MessageNode(parent=len(nodes) - 1, message=types.AssistantMessage(content=said), sampled=True))
    return trace.Trace(task=about, agent=agent, state=state, nodes=nodes, is_completed=True, ok=True)
