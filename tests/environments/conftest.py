"""Conversations on tiny models: chat templates of the kinds that there are, a real sampler, and one that says what a test wants."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests share is beside them

from talking import Chat, hold, loaded, renderer_of  # noqa: F401 (fixtures)

from keel.environments.adapters import environment_of
from keel.environments.config import EnvironmentConfig
from keel.environments.host import LocalHost
from keel.environments.opening import Opener
from keel.environments.parse import Parser
from keel.environments.sampler import ConversationSampler
from keel.render.conversation import Turns
from keel.render.renderer import Renderer


@pytest.fixture
def conversing() -> Callable[..., ConversationSampler]:
    """``conversing(renderer, inner, Class, max_turns=3)``: conversations with that class's episodes, in this process."""

    def make(renderer: Renderer, inner: Any, world: Any = Chat, arguments: Any = None, **config: Any) -> ConversationSampler:
        host = LocalHost(environment_of(world, "world", arguments or {}))
        settings = EnvironmentConfig(path="world.py:World", processes=0, **config)
        return ConversationSampler(inner, Opener(host, Turns(renderer), settings, 5), Parser(renderer.tokenizer))

    return make
