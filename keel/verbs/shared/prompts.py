"""Prompts with their tokens, and those that have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from keel.core.errors import DataError
from keel.render.renderer import Refusal, Renderer
from keel.render.template import RefusedError
from keel.types import Encoded, Prompt
from keel.verbs.shared.account import Account
from keel.verbs.shared.units import Splits

Prompts = Mapping[str, tuple[Prompt, Encoded]]
Opener = Callable[[Sequence[Prompt]], Sequence[Prompt | RefusedError]]


def encode(
    prompts: Sequence[Prompt], renderer: Renderer, account: Account, side: str, max_tokens: int, opener: Opener | None = None
) -> dict[str, tuple[Prompt, Encoded]]:
    """Prompts with their tokens, by id; those that cannot be rendered, or leave no room for ``max_tokens`` of an answer, are refused.
    ``opener`` makes of them what the policy is given."""
    encoded: dict[str, tuple[Prompt, Encoded]] = {}
    refused: list[Refusal] = []
    before = Counter(renderer.shortened)
    for prompt, shown in zip(prompts, opener(prompts) if opener is not None else prompts, strict=True):
        try:
            if isinstance(shown, RefusedError):
                raise shown
            encoded[prompt.prompt_id] = (shown, renderer.prompt(shown, max_tokens))
        except RefusedError as error:
            refused.append(Refusal(prompt.prompt_id, prompt.source_id, error.reason))
    account.shorten(side, renderer.shortened - before)
    account.refuse(side, refused)
    if not encoded:
        first = f" (first: {refused[0].source_id}: {refused[0].reason})" if refused else ""
        raise DataError(f"no prompt is left: all {len(refused)} were refused{first}", "look at the rows with keel data show")
    account.check_refused(side, len(prompts))
    return encoded


def encode_sides(splits: Splits, renderer: Renderer, account: Account, max_tokens: int, opener: Opener | None = None) -> dict[str, Prompts]:
    """The prompts of ``train``, ``held_out`` and ``test``, as ``encode``; a side that is not there has none."""
    return {
        name: encode(side.prompts(), renderer, account, name, max_tokens, opener) if (side := splits.sides.get(name)) is not None else {}
        for name in ("train", "held_out", "test")
    }
