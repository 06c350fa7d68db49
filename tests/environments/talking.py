"""What the tests of conversations share: a world, a policy that says what it is told to, and chat templates of the kinds that there are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.methods import rollout_units
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.types import Branch, Encoded, Group, Message, Prompt, Reply, Rollout, SampleRequest, SamplingParams, Unit, empty_group

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


def groups_of(sampler: Any, rollouts: Sequence[Rollout]) -> list[Group]:
    """The rollouts as groups, in order."""
    found: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.prompt_id, []).append(rollout)
    renderer = sampler.turns.renderer
    return [
        empty_group(prompt, renderer.prompt(shown), found[prompt.prompt_id])
        for prompt, shown in sampler.opener.prompts.values()
        if prompt.prompt_id in found
    ]


def furthest(loaded: Loaded, sampler: Any, rollouts: Sequence[Rollout]) -> float:
    """The largest difference of trainer and sampler over sampled tokens. Each sampled token is trained exactly once."""
    units = rollout_units(groups_of(sampler, rollouts))
    trained = sum(int(b.trained_T.sum()) for u in units for b in u.branches)
    assert trained == sum(int(r.sampled_T.sum()) for r in rollouts) > 0
    own = LocalInference(loaded.model, BatchConfig()).logprobs(units)
    pairs = [(b, o) for u, found in zip(units, own, strict=True) for b, o in zip(u.branches, found, strict=True)]
    return max(float((o - b.signals["sampler_logprobs"])[b.trained_T].abs().max()) for b, o in pairs if b.trained_T.any())


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
def hold() -> Callable[..., list[Rollout]]:
    """``hold(sampler, prompts, samples=2, params=...)``: the conversations, in order."""

    def run(sampler: Any, prompts: Sequence[Prompt], samples: int = 2, params: SamplingParams | None = None, **more: Any) -> list[Rollout]:
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
