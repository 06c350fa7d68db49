"""Answers that were not sampled here (a file of prompts and answers, demonstrations) in the form that every source scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from keel.types import Branch, Encoded, Group, Prompt, Rollout, empty_group

_NO_TOKENS = torch.zeros(1, dtype=torch.int64)


def text_group(prompt: Prompt, texts: Sequence[str]) -> Group:
    """A group for sources that read text alone: one stand-in token a text, no tokenizer needed. A reward model must not see it."""
    stand_in = Branch(_NO_TOKENS, torch.ones(1, dtype=torch.bool))
    return answered_group(prompt, Encoded(_NO_TOKENS), [stand_in] * len(texts), texts)


def answered_group(prompt: Prompt, encoded: Encoded, branches: Sequence[Branch], texts: Sequence[str]) -> Group:
    """A group of given answers: ``branches`` as the renderer made them of ``texts``. Log-probabilities are 0: nothing was sampled."""
    assert len(branches) == len(texts), f"{len(branches)} branches for {len(texts)} texts"
    rollouts = [_rollout(prompt, i, branch, text) for i, (branch, text) in enumerate(zip(branches, texts, strict=True))]
    return empty_group(prompt, encoded, rollouts)


def _rollout(prompt: Prompt, sample: int, branch: Branch, text: str) -> Rollout:
    zeros_T = torch.zeros(len(branch), dtype=torch.int64)
    return Rollout(
        prompt_id=prompt.prompt_id,
        attempt=0,
        sample=sample,
        tokens_T=branch.tokens_T,
        sampled_T=branch.trained_T,
        logprobs_T=zeros_T.float(),
        version_T=zeros_T,
        finish_reason="stop",
        text=text,
    )
