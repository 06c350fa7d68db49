"""What a recipe names becomes an environment: classes of our own contract, and those written for other trainers, as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from keel.core.errors import UserError
from keel.core.python_file import load_object
from keel.environments.agent import Agent, is_agent
from keel.environments.verifiers import VerifiersTask, is_task, task_config
from keel.environments.verifiers_agent import AGENT, task_agent
from keel.types import Environment, Episode, Message, Points, Prompt, Reply

WANTED = (
    "a class with answer(message) is called with (prompt, seed); one with reset() and methods as tools (TRL) with nothing; one with "
    "init() and step() (skyrl-gym) with extras; a Task of verifiers with the row; a function with (prompt, seed) returns one of these; one "
    "with (prompt, endpoint) is an agent (docs/environments.md)"
)
_TRL = ("reset", "get_reward")


@dataclass(frozen=True, slots=True)
class Made:
    """An environment whose episodes a function makes of prompt and seed."""

    make: Callable[[Prompt, int], Episode]

    def episode(self, prompt: Prompt, seed: int) -> Episode:
        return self.make(prompt, seed)


def load_environment(spec: str, arguments: Mapping[str, Any]) -> Environment | Agent:
    """The environment ``FILE.py:NAME``, or the agent that it is.

    Raises:
        UserError: no such file or name, arguments that it does not take, or none of the kinds that are known.
    """
    found = load_object(spec, "environment", lambda found: callable(found) or hasattr(found, "episode"))
    if is_task(found) and AGENT in arguments:
        return task_agent(found, spec, arguments)
    return Agent.of(found, spec, arguments) if is_agent(found) else environment_of(found, spec, arguments)


def environment_of(found: Any, spec: str, arguments: Mapping[str, Any]) -> Environment:
    """As ``load_environment``, of the object itself, which is no agent."""
    if hasattr(found, "episode"):
        if not isinstance(found, type):
            _bind(found, spec, arguments, None)
            return cast("Environment", found)
        _bind(found, spec, arguments, ())
        return cast("Environment", found(**arguments))
    if is_task(found):
        config = task_config(found, spec, arguments)
        return Made(lambda prompt, seed: VerifiersTask.of(found, config, prompt))
    if isinstance(found, type) and _has(found, "init", "step"):
        keywords = [k for k in ("env_config", "extras") if k in inspect.signature(found).parameters]
        _bind(found, spec, {**dict.fromkeys(keywords), **arguments}, ())
        return Made(lambda prompt, seed: SkyRL(found(**_skyrl(keywords, prompt), **arguments), prompt))
    if isinstance(found, type) and _has(found, "reset"):
        _bind(found, spec, arguments, ())
        return Made(lambda prompt, seed: TRL(found(**arguments), prompt))
    if isinstance(found, type) and not _has(found, "answer"):
        raise UserError(f"environment {spec}: the class has no answer, no reset, and no init with step", WANTED)
    _bind(found, spec, arguments, (None, 0))
    return Made(lambda prompt, seed: as_episode(found(prompt, seed, **arguments), prompt, spec))


def as_episode(found: Any, prompt: Prompt, spec: str) -> Episode:
    """What a function or class made, as an episode; what it does not have is as if it did nothing."""
    if _has(found, "answer"):
        return Plain(found)
    if _has(found, "init", "step"):
        return SkyRL(found, prompt)
    if _has(found, "reset"):
        return TRL(found, prompt)
    raise UserError(f"environment {spec} made {type(found).__name__}, which has no answer, no reset, and no init with step", WANTED)


def _has(found: Any, *names: str) -> bool:
    return all(callable(getattr(found, name, None)) for name in names)


def _bind(made: Any, spec: str, arguments: Mapping[str, Any], given: tuple[Any, ...] | None) -> None:
    """Raises UserError where ``made`` cannot be called so. ``given`` None: it is called with nothing at all."""
    if given is None:
        if arguments:
            raise UserError(
                f"environment {spec} is an object that is there already: it takes no arguments", "leave environment.arguments out"
            )
        return
    try:
        inspect.signature(made).bind(*given, **arguments)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(made).parameters)[len(given) :]) or "none"
        raise UserError(f"environment {spec} cannot be made: {error}", f"environment.arguments may hold: {known}") from None


@dataclass(frozen=True, slots=True)
class Plain:
    """A user's episode of our own contract; ``tools``, ``start``, ``reward`` and ``close`` may be missing."""

    inner: Any

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        return getattr(self.inner, "tools", ())

    def start(self) -> Sequence[Message]:
        said = self.inner.start() if hasattr(self.inner, "start") else ()
        return [Message("user", said)] if isinstance(said, str) else said or ()

    def answer(self, message: Message) -> Reply:
        return self.inner.answer(message)

    def reward(self) -> Points:
        return self.inner.reward() if hasattr(self.inner, "reward") else None

    def close(self) -> None:
        if hasattr(self.inner, "close"):
            self.inner.close()


class TRL:
    """A class written for TRL's ``environment_factory``: ``reset(**row)`` may return text for the end of the last user's turn, public
    methods are tools, an answer without a call ends the conversation, ``get_reward()`` is the reward of the whole."""

    def __init__(self, inner: Any, prompt: Prompt) -> None:
        self.inner, self.prompt = inner, prompt
        names = [n for n, _ in inspect.getmembers(type(inner), inspect.isfunction) if not n.startswith("_") and n not in _TRL]
        self.tools: Sequence[Callable[..., Any]] = [getattr(inner, name) for name in names]

    def start(self) -> Sequence[Message]:
        row = {"prompt": [{"role": m.role, "content": m.text} for m in self.prompt.messages], **self.prompt.meta}
        said = self.inner.reset(**row)
        if said is not None and not isinstance(said, str):
            raise TypeError(f"reset() returned {type(said).__name__}, it must return text or None")
        return [Message("user", said)] if said else ()

    def answer(self, message: Message) -> Reply:
        return Reply(done=True)

    def reward(self) -> Points:
        return self.inner.get_reward() if hasattr(self.inner, "get_reward") else None

    def close(self) -> None:
        if _has(self.inner, "close") and "close" not in (t.__name__ for t in self.tools):
            self.inner.close()


@dataclass(slots=True)
class SkyRL:
    """A skyrl-gym ``BaseTextEnv``: ``init(prompt)``, ``step(text)`` with observations, reward and done, ``close()``. It parses tool calls
    itself."""

    inner: Any
    prompt: Prompt
    tools: Sequence[Callable[..., Any]] = field(default=(), init=False)

    def start(self) -> Sequence[Message]:
        own = [{"role": m.role, "content": m.text} for m in self.prompt.messages]
        messages, _ = self.inner.init([dict(m) for m in own])
        if messages[: len(own)] != own:
            raise ValueError("init() changed the prompt's own messages; put what it writes into the data")
        return [Message(m["role"], m["content"]) for m in messages[len(own) :]]

    def answer(self, message: Message) -> Reply:
        out = self.inner.step(str(message.extra.get("raw", message.text)))
        said = [Message(m["role"], m["content"]) for m in out["observations"]]
        return Reply(said, float(out["reward"]), bool(out["done"]))

    def reward(self) -> Points:
        return None

    def close(self) -> None:
        self.inner.close()


def _skyrl(keywords: Sequence[str], prompt: Prompt) -> dict[str, Any]:
    """What skyrl-gym's classes are made with: ``extras`` are the row's extra columns."""
    given = {"env_config": {}, "extras": dict(prompt.meta)}
    return {key: given[key] for key in keywords}
