"""Conversations on tiny models: chat templates of the kinds that there are, a real sampler, and one that says what a test wants."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests share is beside them

from talking import TEMPLATES, TINY, Chat

from keel.environments.adapters import environment_of
from keel.environments.config import EnvironmentConfig
from keel.environments.host import LocalHost
from keel.environments.opening import Opener
from keel.environments.parse import Parser
from keel.environments.sampler import ConversationSampler
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.render.config import RenderConfig
from keel.render.conversation import Turns
from keel.render.renderer import Renderer
from keel.types import Encoded, Prompt, Rollout, SampleRequest, SamplingParams


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    """A tiny fp32 model whose weights are large enough to show errors."""
    return load_model("tiny:llama?std=0.15&seed=1", ModelOptions(precision="fp32", device="cpu"), seed=1)


@pytest.fixture(scope="session")
def renderer_of(loaded: Loaded) -> Callable[..., Renderer]:
    """``renderer_of("thinking", ends=(...))``: the tiny tokenizer with a chat template of that shape, and more end tokens."""

    def make(name: str = TINY, ends: Sequence[int] = (), **config: Any) -> Renderer:
        given = {} if name == TINY else {"chat_template": str(TEMPLATES / f"{name}.jinja")}
        generation = SimpleNamespace(eos_token_id=[3, *ends])
        return Renderer(loaded.tokenizer, config=RenderConfig(**given, **config), generation_config=generation)

    return make


@pytest.fixture
def conversing() -> Callable[..., ConversationSampler]:
    """``conversing(renderer, inner, Class, max_turns=3)``: conversations with that class's episodes, in this process."""

    def make(renderer: Renderer, inner: Any, world: Any = Chat, arguments: Any = None, **config: Any) -> ConversationSampler:
        host = LocalHost(environment_of(world, "world", arguments or {}))
        settings = EnvironmentConfig(path="world.py:World", processes=0, **config)
        return ConversationSampler(inner, Opener(host, Turns(renderer), settings, 5), Parser(renderer.tokenizer))

    return make


@pytest.fixture
def hold() -> Callable[..., list[Rollout]]:
    """``hold(sampler, prompts, samples=2, params=...)``: the conversations, in order."""

    def run(
        sampler: ConversationSampler, prompts: Sequence[Prompt], samples: int = 2, params: SamplingParams | None = None, **more: Any
    ) -> list[Rollout]:
        opened = sampler.opener(prompts)
        requests: list[SampleRequest] = []
        for prompt, shown in zip(prompts, opened, strict=True):
            assert isinstance(shown, Prompt), shown
            encoded: Encoded = sampler.turns.renderer.prompt(shown)
            used = params or SamplingParams(max_tokens=200, stop_tokens=sampler.turns.renderer.stop_tokens)
            requests.append(SampleRequest(prompt.prompt_id, encoded, samples, used, 7, **more))
        sampler.submit(requests)
        return sorted(sampler.collect(), key=lambda r: (r.prompt_id, r.sample))

    return run
