"""What ranks are held against one process by: models, objectives and batches of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.host import Host
from keel.learner.local import LocalLearner
from keel.learner.remote import RankLearner
from keel.methods.math.policy import POLICY_LOSSES
from keel.methods.math.reduce import REDUCTIONS
from keel.methods.objectives.policy import PolicyObjective
from keel.methods.objectives.preference import PreferenceObjective, TokenPreferenceObjective
from keel.methods.objectives.reward import RewardObjective
from keel.methods.objectives.supervised import SupervisedObjective
from keel.methods.objectives.value import ValueObjective
from keel.models.config import LoraConfig, ModelOptions
from keel.models.heads import HeadSpec, ValueKind
from keel.models.loading import load_model
from keel.models.model import Model
from keel.types import Branch, Edge, Encoded, Objective, PairTarget, Unit

BATCH = BatchConfig(microbatch_tokens=64, inference_tokens=64)
OPTIM = OptimConfig(lr=1e-3, schedule="constant", warmup_steps=0)


def units(n: int = 6, branches: int = 4, seed: int = 0) -> list[Unit]:
    """Units of uneven lengths, with every signal that an objective reads; the first is much longer than the others."""
    g = torch.Generator().manual_seed(seed)

    def branch(k: int) -> Branch:
        trained = torch.ones(k, dtype=torch.bool)
        trained[1::4] = False
        logprobs = -5 - torch.rand(3, k, generator=g)
        signals = {"advantages": torch.randn(k, generator=g), "sampler_logprobs": logprobs[0], "ref_logprobs": logprobs[1]}
        signals |= {"returns": torch.randn(k, generator=g), "values": torch.zeros(k)}
        return Branch(torch.randint(10, 500, (k,), generator=g), trained, signals)

    def one(i: int) -> Unit:
        prompt = Encoded(torch.randint(10, 500, (4 + i % 5,), generator=g))
        return Unit(f"u{i}", prompt, tuple(branch(3 + (5 * i + 7 * j) % 11 + (20 if i == 0 else 0)) for j in range(branches)))

    return [one(i) for i in range(n)]


def pairs(n: int = 7) -> list[Unit]:
    """Pairs, one of them a tie that is said to be one: only its micro-batch has a gradient for the weight of ties."""
    edges = [Edge(0, 1, 0.5 if i == 2 else 1.0, tie=1.0 if i == 2 else 0.0) for i in range(n)]
    return [replace(u, target=PairTarget((edge,))) for u, edge in zip(units(n, 2), edges, strict=True)]


def plain(given: list[Unit]) -> list[Unit]:
    """Without signals."""
    return [replace(u, branches=tuple(replace(b, signals={}) for b in u.branches)) for u in given]


@dataclass(frozen=True)
class Case:
    """One learner's work."""

    name: str
    objective: Objective
    given: list[Unit] = field(default_factory=units)
    arch: str = "llama"
    lora: LoraConfig | None = None
    heads: frozenset[Any] = frozenset()
    score: HeadSpec | None = None
    value: ValueKind | None = None
    options: dict[str, Any] = field(default_factory=dict)
    allowed: float = 5e-6  # relative
    images: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # pixels by digest, in the driver alone
    folder: str = ""  # where the weights are read from; empty: they are made from a seed

    def model(self) -> Model:
        """The same each time."""
        options = ModelOptions(**{"device": "cpu", "precision": "fp32", **self.options})
        model = load_model(
            self.folder or f"tiny:{self.arch}?std=0.15", options, self.lora, self.heads, 3, True, self.score, self.value
        ).model
        for digest, pixels in self.images.items():
            model.media.put(digest, pixels)
        return model

    def alone(self) -> LocalLearner:
        """In this process."""
        return LocalLearner(self.model(), OPTIM, BATCH, 10, 5)

    def over(self, host: Host) -> RankLearner:
        """On ranks."""
        return RankLearner(host, self.name, self.model(), OPTIM, BATCH, 10, 5)


TIES = HeadSpec(ties=True, pooling="last_mean", norm="layer")
LORA = LoraConfig(r=4, alpha=8)
SCORE, VALUE = frozenset({"score"}), frozenset({"value"})
CASES = (
    Case("grpo per token", PolicyObjective()),
    Case("grpo per prompt", PolicyObjective(reduction=REDUCTIONS["per_prompt"])),
    Case("gspo", PolicyObjective(POLICY_LOSSES["gspo"], REDUCTIONS["per_sequence"])),
    Case("sft", SupervisedObjective(), plain(units())),
    Case("dpo", PreferenceObjective(), pairs()),
    Case("token dpo", TokenPreferenceObjective(), pairs()),
    Case("token dpo lora", TokenPreferenceObjective(), pairs(), lora=LORA),
    Case("reward", RewardObjective(), plain(pairs()), heads=SCORE),
    Case("reward ties", RewardObjective(pairs="davidson"), plain(pairs()), heads=SCORE, score=TIES),
    Case("critic", ValueObjective(), heads=VALUE),
    Case("tied", PolicyObjective(), arch="gemma2"),
    Case("moe", PolicyObjective(), arch="qwen3_moe", options={"router_aux_loss": 0.01}),
    Case("lora", PolicyObjective(), lora=LORA),
    Case("lora dropout", SupervisedObjective(), plain(units()), lora=LoraConfig(r=4, alpha=8, dropout=0.3)),
    Case("lora on bf16", PolicyObjective(), lora=LORA, options={"precision": "bf16"}),
    Case("bf16", PolicyObjective(), options={"precision": "bf16"}),
    Case("checkpointing", PolicyObjective(), options={"gradient_checkpointing": True}),
    Case("a rank without work", PolicyObjective(), units(1, 1)),
)


def rounded(case: Case) -> Case:
    """The same, computed in bfloat16."""
    return replace(case, options={**case.options, "precision": "bf16"})
