from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.types import Encoded, Rollout, SampleRequest, SamplingParams


@pytest.fixture(autouse=True)
def own_cache(own_proofs: None) -> None:
    """Each test here proves its models itself."""


@pytest.fixture(scope="session")
def load() -> Callable[..., Loaded]:
    """``load("llama")``: a tiny fp32 model, its weights large enough to show errors. Kept for the session: do not change it."""
    kept: dict[tuple[str, str], Loaded] = {}

    def make(arch: str, query: str = "std=0.1", lora: LoraConfig | None = None) -> Loaded:
        spec = f"tiny:{arch}?{query}"
        if lora is not None:
            return load_model(spec, ModelOptions(precision="fp32", device="cpu"), lora, seed=3)
        if (arch, query) not in kept:
            kept[arch, query] = load_model(spec, ModelOptions(precision="fp32", device="cpu"), seed=3)
        return kept[arch, query]

    return make


@pytest.fixture(scope="session")
def prompts() -> list[Encoded]:
    """Ragged prompts, two of them longer than the sliding windows of the tiny models."""
    generator = torch.Generator().manual_seed(0)
    return [Encoded(torch.randint(5, 300, (n,), generator=generator)) for n in (9, 4, 23, 40, 1)]


@pytest.fixture(scope="session")
def sampler() -> Callable[..., LocalSampler]:
    """``sampler(loaded, max_rows=..., path=...)``."""

    def make(loaded: Loaded, **config) -> LocalSampler:
        return LocalSampler(
            loaded.model, lambda tokens_T: loaded.tokenizer.decode(tokens_T, skip_special_tokens=True), SamplerConfig(**config)
        )

    return make


@pytest.fixture(scope="session")
def sample(sampler: Callable[..., LocalSampler]) -> Callable[..., dict[tuple[str, int], Rollout]]:
    """``sample(loaded, prompts, params, n)``: rollouts by (prompt id, sample)."""

    def run(
        loaded: Loaded, prompts: Sequence[Encoded], params: SamplingParams, n: int = 2, *, attempt: int = 0, seed: int = 7, **config
    ) -> dict[tuple[str, int], Rollout]:
        local = sampler(loaded, **config)
        local.submit([SampleRequest(f"p{i}", p, n, params, seed, attempt) for i, p in enumerate(prompts)])
        return {(r.prompt_id, r.sample): r for r in local.collect()}

    return run


@pytest.fixture(scope="session")
def plain_logits() -> Callable[[Loaded, Encoded, Tensor], Tensor]:
    """Logits [T, V] that transformers gives for each token of a completion."""

    @torch.no_grad()
    def run(loaded: Loaded, prompt: Encoded, tokens_T: Tensor) -> Tensor:
        with loaded.model.own_attention() as module:
            logits_LV = module(input_ids=torch.cat([prompt.tokens_T, tokens_T])[None], use_cache=False).logits[0]
        return logits_LV[len(prompt) - 1 : -1].float()

    return run
