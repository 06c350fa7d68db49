"""What the tests of conversations share: a world, a policy that says what it is told to, and chat templates of the kinds that there are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.loading import Loaded
from keel.render.renderer import Renderer
from keel.types import Branch, Message, Prompt, Reply, Rollout, SampleRequest, Unit

TEMPLATES = Path(__file__).parents[1] / "render/templates"
TINY = "tiny"  # the tiny models' own, ChatML
NAMES = (TINY, "chatml_tools", "ipython", "thinking", "strips_thoughts", "opens_thought", "alternating", "instruct")


class Chat:
    """A world that says something different at every turn, with a tool, in several writings."""

    SAYS = ("Go on.", "再来一次，谢谢。", "Nice 🙂 more", "  two\n lines ")

    def __init__(self, prompt: Prompt, seed: int, turns: int = 4) -> None:
        self.turns, self.n, self.random = turns, 0, random.Random(seed)
        self.word = self.random.choice(["red", "blue"])

    def start(self) -> str:
        return f"Think of {self.word}."

    @property
    def tools(self) -> list[Callable[..., Any]]:
        return [self.add]

    def add(self, a: int, b: int = 2) -> int:
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """
        return a + b

    def answer(self, message: Message) -> Reply:
        self.n += 1
        if self.n == self.turns:
            return Reply(reward=1.0, done=True)
        return Reply([Message("user", self.SAYS[self.n % len(self.SAYS)])], reward={"length": 0.1 * len(message.text)})

    def reward(self) -> float:
        return 0.5


class Scripted:
    """A ``Sampler`` whose answers are a function of (prompt id, sample, turn), an end token behind each. Their log-probabilities are the
    model's behind the very tokens of the request."""

    def __init__(self, loaded: Loaded, renderer: Renderer, say: Callable[[str, int, int], str]) -> None:
        self.inference, self.renderer, self.say = LocalInference(loaded.model, BatchConfig()), renderer, say
        self.queue: list[SampleRequest] = []
        self.turns: dict[tuple[str, int], int] = {}
        self.submitted: list[list[SampleRequest]] = []

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        self.queue += requests
        self.submitted.append(list(requests))

    def collect(self) -> Iterator[Rollout]:
        while self.queue:
            request = self.queue.pop(0)
            assert request.n == 1
            key = (request.prompt_id, request.first_sample)
            text = self.say(*key, self.turns.get(key, 0))
            self.turns[key] = self.turns.get(key, 0) + 1
            end = self.renderer.template.end_token if self.renderer.template else None
            ids = [*self.renderer.codec.encode(text), end or self.renderer.tokenizer.eos_token_id]
            kept = ids[: request.params.max_tokens]
            tokens_T = torch.tensor(kept)
            mask_T = torch.ones(len(kept), dtype=torch.bool)
            ((logprobs_T,),) = self.inference.logprobs([Unit("u", request.prompt, (Branch(tokens_T, mask_T),))])
            finish = "stop" if len(kept) == len(ids) else "length"
            version_T = torch.zeros(len(kept), dtype=torch.int64)
            yield Rollout(
                key[0], request.attempt, key[1], tokens_T, mask_T, logprobs_T, version_T, finish, text=self.renderer.decode(tokens_T)
            )

    def load(self, version: object, weights: object) -> None: ...
