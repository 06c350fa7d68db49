"""Vision-language models over ranks: prompts with one image, with two, and without one, in one batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rank_cases import LORA, SCORE, VALUE, Case, pairs, plain, units
from torch import Tensor

from keel.methods.objectives.policy import PolicyObjective
from keel.methods.objectives.preference import PreferenceObjective, TokenPreferenceObjective
from keel.methods.objectives.reward import RewardObjective
from keel.methods.objectives.supervised import SupervisedObjective
from keel.methods.objectives.value import ValueObjective
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.pictured import Pictured
from keel.types import Branch, Unit

_FIRST = 60  # ids below it are marks, those of images among them
LAST = (-1,)  # places of the units with images: in the smallest one alone
MIXED = (0, 2, 5)
ALL = (0, 1, 2, 3, 4, 5)


@functools.cache
def samples(arch: str) -> tuple[Pictured, ...]:
    """A prompt with one image, one with two."""
    model = load_model(f"tiny:{arch}?std=0.15", ModelOptions(device="cpu", precision="fp32", fast_path="off"), seed=3).model
    assert model.pictured is not None
    return model.pictured()


def images(arch: str) -> Mapping[str, Mapping[str, Tensor]]:
    """Pixels by digest."""
    return {digest: pixels for sample in samples(arch) for digest, pixels in sample.images.items()}


def seen(arch: str, given: list[Unit], where: tuple[int, ...]) -> list[Unit]:
    """The units with prompts with images at these places, with two images at every second one. No answer holds a mark."""

    def words(branch: Branch) -> Branch:
        return replace(branch, tokens_T=branch.tokens_T.clamp(min=_FIRST))

    out = [replace(u, branches=tuple(map(words, u.branches)), prompt=_words(u)) for u in given]
    for k, i in enumerate(where):
        out[i] = replace(out[i], prompt=samples(arch)[k % 2].prompt)
    return out


def _words(unit: Unit) -> Any:
    return replace(unit.prompt, tokens_T=unit.prompt.tokens_T.clamp(min=_FIRST))


def _case(name: str, objective: Any, arch: str, given: list[Unit], where: tuple[int, ...] = MIXED, **more: Any) -> Case:
    return Case(name, objective, seen(arch, given, where), arch, images=images(arch), **more)


def parts(*names: str) -> dict[str, Any]:
    """Options that train these parts alone."""
    return {"options": {"train": names}}


@functools.cache
def pictured_cases() -> tuple[Case, ...]:
    """Frozen towers and trained ones, of several families."""
    tower = LoraConfig(r=4, alpha=8, parts=("language", "vision"))
    one = [replace(u, branches=u.branches[:1]) for u in plain(units())]
    return (
        _case("images: sft", SupervisedObjective(), "llava", plain(units())),
        _case("images: one image", SupervisedObjective(), "llava", one, LAST),
        _case("images: grpo, frozen tower", PolicyObjective(), "llava", units(), **parts("language")),
        _case("images: projector alone", SupervisedObjective(), "qwen2_5_vl", one, LAST, **parts("projector")),
        _case("images: projector beside", PolicyObjective(), "llava", units(), **parts("language", "projector")),
        _case("images: grpo, deepstack", PolicyObjective(), "qwen3_vl", units()),
        _case("images: tied, two ways", PolicyObjective(), "gemma3_vision", units(), ALL),
        _case("images: dpo", PreferenceObjective(), "internvl", pairs()),
        _case("images: token dpo", TokenPreferenceObjective(), "qwen2_5_vl", pairs()),
        _case("images: reward", RewardObjective(), "llava", plain(pairs()), heads=SCORE),
        _case("images: critic", ValueObjective(), "idefics3", units(), heads=VALUE),
        _case("images: looking critic", ValueObjective(), "llava", units(), heads=VALUE, value="image_attention"),
        _case("images: lora", PolicyObjective(), "llava", units(), lora=LORA),
        _case("images: lora and projector", PolicyObjective(), "llava", units(), lora=LORA, **parts("projector")),
        _case("images: lora, tower too", PolicyObjective(), "qwen2_5_vl", units(), lora=tower),
        _case("images: checkpointing", SupervisedObjective(), "llava", plain(units()), options={"gradient_checkpointing": True}),
        _case("images: bf16", PolicyObjective(), "llava", units(), options={"precision": "bf16"}),
    )
