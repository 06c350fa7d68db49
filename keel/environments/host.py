"""Who runs episodes: processes of their own (``workers.py``), or this one. What goes wrong in one is a failure with a name and its
conversation's alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from keel.core.errors import UserError
from keel.environments.adapters import load_environment
from keel.environments.agent import Agent
from keel.environments.config import EnvironmentConfig
from keel.environments.play import EpisodeError, Opening, Play, Start, Step
from keel.environments.tools import Call
from keel.types import Environment, Message

if TYPE_CHECKING:
    from keel.environments.workers import AgentHost


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an episode could not go on. It is over."""

    error: str


Answer = tuple[Message, tuple[Call, ...]]
End = tuple[float | None, dict[str, float]]  # the reward of the whole, and by part


class Host(Protocol):
    """Runs episodes. Each has a number, its caller's."""

    def open(self, starts: Sequence[tuple[int, Start]]) -> list[Opening | Failure]:
        """Begin episodes."""
        ...

    def answer(self, answers: Sequence[tuple[int, Answer]]) -> list[Step | Failure]: ...

    def end(self, numbers: Sequence[int]) -> list[End | Failure]:
        """Ask for the reward of the whole, and close."""
        ...

    def drop(self, numbers: Sequence[int]) -> None:
        """Close without asking; what is not open is left alone."""
        ...

    def close(self) -> None: ...


def host_of(config: EnvironmentConfig) -> Host | AgentHost:
    """Raises UserError for a file, a name or arguments that are not right, and for settings that would have no effect."""
    if config.processes == 0:
        environment = load_environment(config.path, config.arguments)
        if isinstance(environment, Agent):
            raise UserError(f"environment {config.path} is an agent: each is a process of its own", "leave environment.processes out")
        _refuse(config, ("wait_s", "model"), "is no agent, and nobody asks an endpoint")
        return LocalHost(environment)
    from keel.environments.workers import AgentHost, Processes, WorkerHost

    processes = Processes(config)
    try:
        if processes.agent:
            _refuse(config, ("processes",), "is an agent: each is a process of its own, and at_once says how many there are")
            _refuse(config, ("describe_tools",), "is an agent: it shows its tools itself")
            return AgentHost(processes)
        _refuse(config, ("wait_s", "model"), "is no agent, and nobody asks an endpoint")
        return WorkerHost(processes)
    except UserError:
        processes.close()
        raise


def _refuse(config: EnvironmentConfig, names: Sequence[str], why: str) -> None:
    for name in names:
        if name in config.changed:
            raise UserError(f"environment.{name} would have no effect: {config.path} {why}", "leave it out")


@dataclass(slots=True)
class LocalHost:
    """Episodes in this process: for trying out and for tests. Nothing ends one that hangs."""

    environment: Environment
    _plays: dict[int, Play] = field(default_factory=dict[int, Play], init=False)
    _chance: dict[int, Any] = field(default_factory=dict[int, Any], init=False)

    def open(self, starts: Sequence[tuple[int, Start]]) -> list[Opening | Failure]:
        return [self._guarded(number, lambda n=number, s=start: self._open(n, s)) for number, start in starts]

    def _open(self, number: int, start: Start) -> Opening:
        play = Play(self.environment, start)
        self._plays[number] = play
        return play.open()

    def answer(self, answers: Sequence[tuple[int, Answer]]) -> list[Step | Failure]:
        return [self._guarded(number, lambda n=number, a=answer: self._plays[n].answer(*a)) for number, answer in answers]

    def end(self, numbers: Sequence[int]) -> list[End | Failure]:
        return [self._guarded(number, lambda n=number: self._forget(n).end()) for number in numbers]

    def drop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in self._plays:
                self._guarded(number, lambda n=number: self._forget(n).close())

    def close(self) -> None:
        self.drop(list(self._plays))

    def _forget(self, number: int) -> Play:
        self._chance.pop(number, None)
        return self._plays.pop(number)

    def _guarded(self, number: int, ask: Any) -> Any:
        with self._own_chance(number):
            try:
                return ask()
            except UserError:
                raise
            except Exception as error:
                self._plays.pop(number, None)
                return Failure(reason(error))

    @contextmanager
    def _own_chance(self, number: int) -> Iterator[None]:
        """Each episode draws from a generator of its own."""
        kept = random.getstate()
        if number in self._chance:
            random.setstate(self._chance[number])
        try:
            yield
        finally:
            if number in self._plays:
                self._chance[number] = random.getstate()
            random.setstate(kept)


def reason(error: Exception, who: str = "episode") -> str:
    """What an episode raised, in a line."""
    return str(error) if isinstance(error, EpisodeError) else f"the {who} raised {type(error).__name__}: {error}"
