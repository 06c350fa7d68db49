"""The environment of a recipe, ready: its host, its prompts, its sampler, its reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.agents.opening import AgentOpener, Agents
from keel.agents.sampler import AgentSampler
from keel.environments.config import EnvironmentConfig
from keel.environments.host import host_of
from keel.environments.opening import Opener
from keel.environments.parse import Parser
from keel.environments.sampler import ConversationSampler
from keel.environments.workers import AgentHost
from keel.render.conversation import Turns
from keel.render.renderer import Renderer
from keel.render.template import RefusedError
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.world import WorldSource
from keel.types import Prompt, Sampler, SamplingParams

TRIAL = 8  # tokens of an answer that only tries out


@dataclass(frozen=True, slots=True)
class World:
    """What a recipe's environment brings with it."""

    config: EnvironmentConfig
    opener: Opener | AgentOpener
    parser: Parser
    usual: SamplingParams | None = None  # how the training draws: what an agent may say that it wants

    def open(self, prompts: Sequence[Prompt]) -> list[Prompt | RefusedError]:
        """The prompts as the policy is given them, or why one has no world."""
        return self.opener(prompts)

    def sampler(self, inner: Sampler, trial: int = 0) -> ConversationSampler | AgentSampler:
        """Conversations over answers of ``inner``; ``trial``: see there."""
        if isinstance(self.opener, AgentOpener):
            return AgentSampler(inner, self.opener, self.usual, trial)
        return ConversationSampler(inner, self.opener, self.parser, trial)

    def trial(self, sampler: Sampler) -> ConversationSampler | AgentSampler:
        """Conversations of short answers that go on though these are cut, over what ``sampler`` draws from: for the self-test."""
        assert isinstance(sampler, ConversationSampler | AgentSampler), "the sampler of a world"
        return self.sampler(sampler.inner, TRIAL)

    def rewards(self) -> tuple[Reward, ...]:
        """The world's own, where it counts or is measured."""
        return () if self.config.weight is None else (Reward(WorldSource(), self.config.weight),)

    def sampled(self, params: SamplingParams) -> int:
        """Tokens that may be sampled in one conversation; an agent's has branches, each with its own ``max_tokens``."""
        drawn = self.config.max_turns * params.max_tokens
        return drawn if isinstance(self.opener, AgentOpener) else min(self.config.max_tokens, drawn)


def world_of(config: EnvironmentConfig | None, renderer: Renderer, seed: int, usual: SamplingParams | None = None) -> World | None:
    """None where the recipe names no environment. ``usual``: how the training draws. Raises UserError for a file, a name or arguments that
    are not right, DataError for a model without a chat template."""
    if config is None:
        return None
    host, turns = host_of(config), Turns(renderer)
    agents = isinstance(host, AgentHost)
    opener = AgentOpener(Agents.of(host, turns), turns, config, seed) if agents else Opener(host, turns, config, seed)
    return World(config, opener, Parser(renderer.tokenizer), usual)
