"""The same few held-out prompts, answered at every evaluation: what people look at while a model trains."""

from __future__ import annotations

import copy
from collections.abc import Callable

from keel.core.hashing import stable_hash
from keel.data.dataset import Dataset
from keel.data.text import language
from keel.models.loading import Loaded
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.render.template import RefusedError
from keel.rollout.local import LocalSampler
from keel.runs.directory import RunDir
from keel.types import Encoded, Prompt, SampleRequest, SamplingParams
from keel.verbs.shared.units import Splits

PROBE_SEED = 0  # evaluation draws its own numbers, whatever the training's seed is
PROBE_TOKENS = 64


class SampleProbe:
    """Callable: sample the probe prompts from the model as it is and append the answers to ``samples/training.jsonl``."""

    def __init__(self, model: Model, renderer: Renderer, data: Dataset, n: int, run: RunDir) -> None:
        self.renderer, self.run = renderer, run
        self.prompts = _choose(data, renderer, n)
        self.sampler = LocalSampler(model, renderer.decode) if self.prompts else None

    def only(self, wanted: Callable[[Prompt], bool]) -> SampleProbe:
        """The same for some of the prompts."""
        some = copy.copy(self)
        some.prompts = [(prompt, encoded) for prompt, encoded in self.prompts if wanted(prompt)]
        return some

    def __call__(self, step: int) -> None:
        if self.sampler is None or not self.prompts:
            return
        params = SamplingParams(
            PROBE_TOKENS, temperature=0.7, stop_tokens=self.renderer.stop_tokens, banned_tokens=self.renderer.banned_tokens
        )
        self.sampler.submit([SampleRequest(p.prompt_id, encoded, 1, params, PROBE_SEED) for p, encoded in self.prompts])
        asked = {p.prompt_id: p for p, _ in self.prompts}
        for rollout in self.sampler.collect():
            prompt = asked[rollout.prompt_id]
            row = {"step": step, "prompt_id": prompt.prompt_id, "prompt": prompt.last_user_text, "text": rollout.text, "why": "fixed"}
            raw = self.renderer.tokenizer.decode(rollout.tokens_T, skip_special_tokens=False)
            self.run.write_sample(step, [row | {"raw": raw, "finish_reason": rollout.finish_reason, "language": language(rollout.text)}])


def probe_of(run: RunDir, n: int, loaded: Loaded, renderer: Renderer, splits: Splits) -> SampleProbe:
    """``n`` held-out prompts (training prompts, where none are held out), answered at every evaluation."""
    return SampleProbe(loaded.model, renderer, splits.held_out or splits.train, n, run)


def _choose(data: Dataset, renderer: Renderer, n: int) -> list[tuple[Prompt, Encoded]]:
    chosen: list[tuple[Prompt, Encoded]] = []
    for prompt in sorted(data.prompts(), key=lambda p: stable_hash("probe", p.prompt_id)):
        if len(chosen) == n:
            break
        try:
            encoded = renderer.prompt(prompt, PROBE_TOKENS)
        except RefusedError:
            continue
        if len(encoded):
            chosen.append((prompt, encoded))
    return chosen
