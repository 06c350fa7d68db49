"""The environment of a recipe, ready: its host, its prompts, its sampler, its reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.environments.config import EnvironmentConfig
from keel.environments.host import host_of
from keel.environments.opening import Opener
from keel.environments.parse import Parser
from keel.environments.sampler import ConversationSampler
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
    opener: Opener
    parser: Parser

    def open(self, prompts: Sequence[Prompt]) -> list[Prompt | RefusedError]:
        """The prompts as the policy is given them, or why one has no world."""
        return self.opener(prompts)

    def sampler(self, inner: Sampler) -> ConversationSampler:
        """Conversations over answers of ``inner``."""
        return ConversationSampler(inner, self.opener, self.parser)

    def trial(self, sampler: Sampler) -> ConversationSampler:
        """Conversations of short answers that go on though these are cut, over what ``sampler`` draws from: for the self-test."""
        assert isinstance(sampler, ConversationSampler), "the sampler of a world"
        return ConversationSampler(sampler.inner, self.opener, self.parser, trial=TRIAL)

    def rewards(self) -> tuple[Reward, ...]:
        """The world's own, where it counts or is measured."""
        return () if self.config.weight is None else (Reward(WorldSource(), self.config.weight),)

    def sampled(self, params: SamplingParams) -> int:
        """Tokens that may be sampled in one conversation."""
        return min(self.config.max_tokens, self.config.max_turns * params.max_tokens)


def world_of(config: EnvironmentConfig | None, renderer: Renderer, seed: int) -> World | None:
    """None where the recipe names no environment. Raises UserError for a file, a name or arguments that are not right, DataError for a
    model without a chat template."""
    if config is None:
        return None
    return World(config, Opener(host_of(config), Turns(renderer), config, seed), Parser(renderer.tokenizer))
