"""Agents on tiny models: programs in processes of their own, which ask the policy over HTTP."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "environments"))  # what the tests share is beside theirs

from talking import hold, loaded, renderer_of  # noqa: F401 (fixtures)

from keel.agents.opening import AgentOpener, Agents
from keel.agents.sampler import AgentSampler
from keel.environments.config import EnvironmentConfig
from keel.environments.host import host_of
from keel.environments.workers import AgentHost
from keel.render.conversation import Turns
from keel.render.renderer import Renderer

PROGRAMS = Path(__file__).parent / "programs.py"


@pytest.fixture(scope="session")
def processes() -> Iterator[Callable[..., AgentHost]]:
    """Agents by name and arguments, started once."""
    known: dict[str, AgentHost] = {}

    def find(settings: EnvironmentConfig) -> AgentHost:
        key = repr((settings.path, settings.arguments))
        if key not in known:
            host = host_of(settings)
            assert isinstance(host, AgentHost)
            known[key] = host
        return known[key]

    yield find
    for host in known.values():
        host.close()


@pytest.fixture
def asking(processes: Callable[..., AgentHost]) -> Iterator[Callable[..., AgentSampler]]:
    """``asking(renderer, inner, "name", {"turns": 3}, max_turns=3)``: conversations with that agent of ``programs.py``."""
    with contextlib.ExitStack() as opened:

        def make(renderer: Renderer, inner: Any, name: str, arguments: Any = None, trial: int = 0, usual: Any = None, **config: Any) -> Any:
            settings = EnvironmentConfig(path=f"{PROGRAMS}:{name}", arguments=arguments or {}, **config)
            turns = Turns(renderer)
            agents = Agents.of(processes(settings), turns)
            opened.callback(agents.endpoints.close)
            return AgentSampler(inner, AgentOpener(agents, turns, settings, 5), usual, trial)

        yield make
