"""Tiny tokenizers and chat templates of the kinds that real models have."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.types import Unit

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>\n"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_SHORT = MARKED.replace("{{ m.content }}<|im_end|>\n{% endgeneration %}", "{{ m.content }}{% endgeneration %}<|im_end|>\n")
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + CHATML
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ bos_token }}"
    "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
# Reasoning is kept in the last answer only, where an empty one is written out: adding a turn changes those before it.
THINK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Reasoning is kept in the last assistant turn, wherever it stands: the prompt of turn 2 shows turn 1 in another way than the whole does.
KEEPS_LAST = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 == ns.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The generation prompt opens the reasoning, finished answers have none.
OPENS_THINK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<image>", "<fake_token_around_image>", "<global-img>"]
CORPUS = [
    "What is two and two? It is four.",
    "user assistant system model USER: ASSISTANT:",
    "Name a colour. Red, green or blue.",
    "你好，请问多少钱？",
] * 8


def make_tokenizer(template: str | None, *, bos: bool = False, metaspace: bool = False) -> Any:
    """A byte-level BPE tokenizer, or a SentencePiece-like one; ``bos``: it writes <bos> in front by itself."""
    special = ["<pad>", "<bos>", "<eos>", *SPECIAL]
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=metaspace))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        alphabet = sorted(set("".join(CORPUS) + "▁\n<>/:'abcdefghijklmnopqrstuvwxyz0123456789"))
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=SPECIAL,
        chat_template=template,
    )


class Store:
    """A media store that counts its writes."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, torch.Tensor]] = {}
        self.puts = 0

    def put(self, digest: str, features: Any, make: Any = None) -> None:
        self.items[digest] = dict(features)
        self.puts += 1

    def get(self, digest: str) -> dict[str, torch.Tensor]:
        return self.items[digest]

    def __contains__(self, digest: str) -> bool:
        return digest in self.items


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    templates = {
        "chatml": CHATML,
        "marked": MARKED,
        "marked_short": MARKED_SHORT,
        "default_system": DEFAULT_SYSTEM,
        "llama3": LLAMA3,
        "gemma": GEMMA,
        "think": THINK,
        "opens_think": OPENS_THINK,
        "keeps_last": KEEPS_LAST,
        "no_end": NO_END,
        "none": None,
    }
    made = {name: make_tokenizer(template) for name, template in templates.items()}
    made["bos"] = make_tokenizer(None, bos=True)
    made["llama3"] = make_tokenizer(LLAMA3, bos=True)
    made["metaspace"] = make_tokenizer(None, metaspace=True)
    return made


@pytest.fixture
def render(tokenizers: dict[str, Any]) -> Callable[..., Renderer]:
    """``render("chatml", max_prompt=4)``: a renderer with that tokenizer and those settings."""
    return lambda name, **config: Renderer(tokenizers[name], config=RenderConfig(**config))


@pytest.fixture
def trained_text() -> Callable[..., list[str]]:
    """``trained_text(renderer, unit, k)``: the runs of trained tokens of a branch, as text."""

    def runs(renderer: Renderer, unit: Unit, k: int = 0) -> list[str]:
        branch = unit.branches[k]
        tokens = zip(branch.tokens_T.tolist(), branch.trained_T.tolist())
        return [renderer.tokenizer.decode([t for t, _ in run]) for trained, run in groupby(tokens, key=itemgetter(1)) if trained]

    return runs


@pytest.fixture
def whole() -> Callable[..., str]:
    """``whole(renderer, unit, k)``: prompt and branch as text."""
    return lambda renderer, unit, k=0: renderer.tokenizer.decode(torch.cat([unit.prompt.tokens_T, unit.branches[k].tokens_T]))


@pytest.fixture
def store() -> Store:
    return Store()
