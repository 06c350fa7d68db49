"""PPO as padded code does it, for comparison: every row as long as the longest, prompts repeated for each sample, all logits at once.

It follows the usual lay-out of PPO trainers for language models: sample with ``generate``; old and reference log-probabilities and
values in micro-batches; KL in the reward; GAE; several passes of clipped policy and value losses. TRL has no PPO to compare with any more.

python -m labs.bench.padded_side FOLDER RESULT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from labs.bench.clock import Clock, peak_mb, resident_mb
from labs.bench.rule import rule_of
from labs.bench.workload import LEARNING_RATE, MODEL, PAD, Workload, read, text_reward

_ROWS = 8  # of a micro-batch
_WHITEN_EPS = 1e-8


class PaddedPPO:
    """Policy, reference and critic as transformers loads them, and one step of PPO. Rows are B, prompts padded to P, samples C tokens."""

    def __init__(self, work: Workload, folder: Path) -> None:
        self.work, self.rule = work, rule_of(work)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / MODEL)
        self.policy: Any
        self.policy, self.reference = (AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32) for _ in range(2))
        self.body = AutoModel.from_pretrained(folder / MODEL, dtype=torch.float32)
        self.value_head = nn.Linear(work.model.hidden, 1)
        self.policy_optimizer = torch.optim.AdamW(self.policy.parameters(), LEARNING_RATE, weight_decay=0.0)
        self.critic_parameters = [*self.body.parameters(), *self.value_head.parameters()]
        self.critic_optimizer = torch.optim.AdamW(self.critic_parameters, LEARNING_RATE, weight_decay=0.0)

    def step(self, prompts: Sequence[Sequence[int]]) -> int:
        """Sample, score and improve. Returns how many tokens were sampled."""
        ids_BL, mask_BL = self.rollout(prompts)
        rewards_B = torch.tensor([text_reward(text) for text in self.texts(ids_BL)])
        old_BC, ref_BC, values_BC = self.score(ids_BL, mask_BL)
        advantages_BC, returns_BC = self.advantages(rewards_B, old_BC, ref_BC, values_BC)
        for _ in range(self.rule.epochs):
            self.improve(ids_BL, mask_BL, old_BC, advantages_BC)
            self.improve_critic(ids_BL, mask_BL, values_BC, returns_BC)
        return old_BC.numel()

    def rollout(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the left, each ``group`` times, with their samples."""
        longest = max(map(len, prompts))
        rows = [[PAD] * (longest - len(p)) + list(p) for p in prompts for _ in range(self.work.group)]
        prompts_BP = torch.tensor(rows)
        mask_BP = (prompts_BP != PAD).long()
        length = self.work.completion
        ids_BL = self.policy.generate(
            input_ids=prompts_BP, attention_mask=mask_BP, do_sample=True, top_k=0, max_new_tokens=length, min_new_tokens=length
        )
        return ids_BL, torch.cat([mask_BP, torch.ones(len(rows), length, dtype=torch.long)], 1)

    def texts(self, ids_BL: Tensor) -> list[str]:
        return self.tokenizer.batch_decode(ids_BL[:, -self.work.completion :], skip_special_tokens=True)

    @torch.no_grad()
    def score(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, ...]:
        """Old and reference log-probabilities and values [B, C]."""
        parts = [
            (self.logprobs(self.policy, ids, mask), self.logprobs(self.reference, ids, mask), self.values(ids, mask))
            for ids, mask in micro_batches(ids_BL, mask_BL)
        ]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def logprobs(self, model: Any, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions(mask_BL)).logits
        scored_BCV = logits_BLV[:, -self.work.completion - 1 : -1]
        return scored_BCV.log_softmax(-1).gather(-1, ids_BL[:, -self.work.completion :, None])[..., 0]

    def values(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        hidden_BLH = self.body(input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions(mask_BL)).last_hidden_state
        return self.value_head(hidden_BLH[:, -self.work.completion - 1 : -1])[..., 0]

    def advantages(self, rewards_B: Tensor, old_BC: Tensor, ref_BC: Tensor, values_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Generalised advantages (Schulman et al. 2016, eq. 16) of per-token rewards, whitened, and returns."""
        credit, kl = self.rule.credit, self.rule.kl
        rewards_BC = -(kl.coef if kl is not None else 0.0) * (old_BC - ref_BC)
        rewards_BC[:, -1] += rewards_B
        advantages_BC, last_B = torch.zeros_like(values_BC), torch.zeros_like(rewards_B)
        for t in reversed(range(values_BC.shape[1])):
            following_B = values_BC[:, t + 1] if t + 1 < values_BC.shape[1] else torch.zeros_like(rewards_B)
            last_B = rewards_BC[:, t] + credit.gamma * following_B - values_BC[:, t] + credit.gamma * credit.lam * last_B
            advantages_BC[:, t] = last_B
        whitened_BC = (advantages_BC - advantages_BC.mean()) / (advantages_BC.std() + _WHITEN_EPS)
        return whitened_BC, advantages_BC + values_BC

    def improve(self, ids_BL: Tensor, mask_BL: Tensor, old_BC: Tensor, advantages_BC: Tensor) -> None:
        """One update of the policy on all rows (Schulman et al. 2017, eq. 7)."""
        low, high = self.rule.clip
        for ids, mask, old, advantages in micro_batches(ids_BL, mask_BL, old_BC, advantages_BC):
            ratio = (self.logprobs(self.policy, ids, mask) - old).exp()
            loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
            (loss.sum() / old_BC.numel()).backward()
        update(self.policy_optimizer, list(self.policy.parameters()))

    def improve_critic(self, ids_BL: Tensor, mask_BL: Tensor, values_BC: Tensor, returns_BC: Tensor) -> None:
        """One update of the critic on all rows, its step clipped around the old values."""
        critic = self.rule.critic
        assert critic is not None
        for ids, mask, old, returns in micro_batches(ids_BL, mask_BL, values_BC, returns_BC):
            values = self.values(ids, mask)
            clipped = old + (values - old).clamp(-critic.clip, critic.clip)
            loss = 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
            (critic.vf_coef * loss.sum() / values_BC.numel()).backward()
        update(self.critic_optimizer, self.critic_parameters)


def positions(mask_BL: Tensor) -> Tensor:
    return (mask_BL.cumsum(1) - 1).clamp(min=0)


def micro_batches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(tensors[0]), _ROWS):
        yield tuple(t[start : start + _ROWS] for t in tensors)


def update(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main(argv: Sequence[str]) -> None:
    folder, out = Path(argv[0]), Path(argv[1])
    work, rows, order = read(folder)
    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)
    trainer, clock = PaddedPPO(work, folder), Clock()
    parts = {"rollout": "rollout_s", "score": "score_s", "improve": "gradient_s", "improve_critic": "critic_gradient_s"}
    for method, name in parts.items():
        clock.part(trainer, method, name)
    loaded, tokens = resident_mb(), list[int]()
    for step, part in enumerate(order):
        clock.start()
        tokens.append(trainer.step([rows[i]["prompt"] for i in part]))
        clock.stop(step)
    out.write_text(json.dumps({**clock.medians(), "peak_mb": peak_mb(), "loaded_mb": loaded, "tokens": tokens[1:]}))


if __name__ == "__main__":
    main(sys.argv[1:])
