from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from keel.rewards.offline import text_group
from keel.types import Group, Message, Prompt


@pytest.fixture(scope="session")
def prompt() -> Callable[..., Prompt]:
    def make(text: str = "?", prompt_id: str = "p", **meta: object) -> Prompt:
        return Prompt(prompt_id, (Message("user", text),), source_id="file.jsonl:3", meta=meta)

    return make


@pytest.fixture(scope="session")
def group(prompt: Callable[..., Prompt]) -> Callable[..., Group]:
    """Groups of given texts, some of them ``failed``."""

    def make(*texts: str, failed: tuple[int, ...] = (), prompt_id: str = "p") -> Group:
        valid_G = torch.tensor([i not in failed for i in range(len(texts))], dtype=torch.bool)
        return replace(text_group(prompt(prompt_id=prompt_id), texts), valid_G=valid_G)

    return make
