"""Prompts with their tokens, and those that have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from keel.core.errors import DataError
from keel.render.renderer import Refusal, Renderer
from keel.render.template import RefusedError
from keel.types import Encoded, Prompt
from keel.verbs.shared.account import Account
from keel.verbs.shared.units import Splits

Prompts = Mapping[str, tuple[Prompt, Encoded]]


def encode(
    prompts: Sequence[Prompt], renderer: Renderer, account: Account, side: str, max_tokens: int
) -> dict[str, tuple[Prompt, Encoded]]:
    """Prompts with their tokens, by id; those that cannot be rendered, or leave no room for ``max_tokens`` of an answer, are refused."""
    encoded: dict[str, tuple[Prompt, Encoded]] = {}
    refused: list[Refusal] = []
    before = Counter(renderer.shortened)
    for prompt in prompts:
        try:
            encoded[prompt.prompt_id] = (prompt, renderer.prompt(prompt, max_tokens))
        except RefusedError as error:
            refused.append(Refusal(prompt.prompt_id, prompt.source_id, error.reason))
    account.shorten(side, renderer.shortened - before)
    account.refuse(side, refused)
    if not encoded:
        first = f" (first: {refused[0].source_id}: {refused[0].reason})" if refused else ""
        raise DataError(f"no prompt is left: all {len(refused)} were refused{first}", "look at the rows with keel data show")
    account.check_refused(side, len(prompts))
    return encoded


def encode_sides(splits: Splits, renderer: Renderer, account: Account, max_tokens: int) -> dict[str, Prompts]:
    """The prompts of ``train``, ``held_out`` and ``test``, as ``encode``; a side that is not there has none."""
    return {
        name: encode(side.prompts(), renderer, account, name, max_tokens) if (side := splits.sides.get(name)) is not None else {}
        for name in ("train", "held_out", "test")
    }
