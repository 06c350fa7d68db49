"""``tiny:<architecture>?option=value``: a small model made from a config and a seed, with its own tokenizer. No download.

For tests, for kill drills and for trying a recipe out in seconds. Options: seed, hidden, layers, vocab, window, std.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from keel.core.errors import ModelError
from keel.models.tiny_vision import FAMILIES

PREFIX = "tiny:"
PAD, BOS, START, END = "<pad>", "<bos>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "system user assistant",
    "Hello, thank you for your message. We are happy to help you with your order, and your parcel will arrive on Monday.",
    "The answer is 12, because 3 + 4 = 7 and 7 + 5 = 12. What is the colour of the square in the image? It is red, green or blue.",
    "I am sorry that the item was broken. Please send it back to the shop, and you will get your money back within 5 days.",
    "您好，感谢您的来信。您的订单将在三天内送达，如有问题请随时联系我们。",
]


@dataclass(frozen=True, slots=True)
class TinySpec:
    """What a ``tiny:`` string says."""

    arch: str
    seed: int
    hidden: int = 64
    layers: int = 2
    vocab: int = 512
    window: int = 16  # sliding window of the architectures that have one
    std: float = 0.02  # spread of the initial weights; large values bring out errors that small ones hide


def parse(spec: str, default_seed: int) -> TinySpec:
    """Read ``tiny:llama?seed=1&hidden=128``. Raises ModelError for an unknown architecture or option."""
    arch, _, query = spec.removeprefix(PREFIX).partition("?")
    if arch not in ARCHITECTURES:
        raise ModelError(f"unknown tiny architecture '{arch}' in '{spec}'", _suggest(arch, list(ARCHITECTURES)))
    values: dict[str, Any] = {"arch": arch, "seed": default_seed}
    known = {f.name: float if f.name == "std" else int for f in fields(TinySpec) if f.name != "arch"}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise ModelError(f"unknown option '{key}' in '{spec}'", _suggest(key, list(known)))
        try:
            values[key] = known[key](value)
        except ValueError as error:
            raise ModelError(f"option '{key}' in '{spec}' is not a number: '{value}'") from error
    result = TinySpec(**values)
    if result.hidden % 8 or result.hidden < 16 or result.layers < 1 or result.vocab < 320:
        raise ModelError(
            f"'{spec}' is too small to build", "hidden is a multiple of 8 and at least 16, layers at least 1, vocab at least 320"
        )
    return result


def build(spec: TinySpec) -> tuple[PreTrainedModel, Any, Any]:
    """The model (fp32, seeded), its tokenizer, and a processor when it takes images."""
    tokenizer = make_tokenizer(spec.vocab, extra_tokens(spec.arch), spec.arch)
    config = ARCHITECTURES[spec.arch](spec, len(tokenizer), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        cls = transformers.AutoModelForImageTextToText if spec.arch in FAMILIES else transformers.AutoModelForCausalLM
        model = cls.from_config(config, dtype=torch.float32)
        for p in model.parameters():
            if spec.arch in FAMILIES and p.dim() > 1 and not bool(p.any()):  # a projector that starts at zero would hide the images
                torch.nn.init.normal_(p, std=spec.std)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer, _processor(spec.arch, tokenizer)


def extra_tokens(arch: str) -> list[str]:
    """What the tokenizer of a vision-language model has beside words: the marks of images."""
    return list(FAMILIES[arch].tokens) if arch in FAMILIES else []


def make_tokenizer(vocab: int, extra: list[str], arch: str = "llama") -> Any:
    """Byte-level BPE of at most ``vocab`` tokens, trained on a few sentences in memory, with a ChatML template."""
    raw = Tokenizer(tokenizer_models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = [PAD, BOS, START, END, "<|endoftext|>", *extra]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(_CORPUS, trainer)
    settings: dict[str, Any] = {"pad_token": PAD, "bos_token": BOS, "eos_token": END, "chat_template": CHAT_TEMPLATE}
    settings["additional_special_tokens"] = specials[2:]
    if arch in FAMILIES:
        settings["extra_special_tokens"] = dict(FAMILIES[arch].named)
        settings["chat_template"] = CHAT_TEMPLATE.replace("<image>", FAMILIES[arch].mark)
    if arch == "qwen2":  # transformers reads every Qwen2 folder with this class, which splits words its own way
        model = json.loads(raw.to_str())["model"]
        cls: Any = transformers.Qwen2Tokenizer
        return cls(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], **settings)
    return PreTrainedTokenizerFast(tokenizer_object=raw, **settings)


def _text(spec: TinySpec, vocab: int, **more: Any) -> dict[str, Any]:
    """Settings that nearly every decoder shares; the special ids are the tokenizer's first four."""
    common = {
        "vocab_size": vocab,
        "hidden_size": spec.hidden,
        "intermediate_size": 2 * spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": spec.std,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "tie_word_embeddings": False,
    }
    return common | more


def _alternating(layers: int) -> list[str]:
    return ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]


def _plain(config: str, **more: Any) -> Any:
    return lambda spec, vocab, _tok: getattr(transformers, config)(**_text(spec, vocab, **more))


def _head_dim(config: str, **more: Any) -> Any:
    return lambda spec, vocab, _tok: getattr(transformers, config)(**_text(spec, vocab, head_dim=spec.hidden // 4, **more))


def _gemma(config: str) -> Any:
    def make(spec: TinySpec, vocab: int, _tok: Any) -> Any:
        more = {"head_dim": spec.hidden // 4, "query_pre_attn_scalar": spec.hidden // 4, "sliding_window": spec.window}
        return getattr(transformers, config)(**_text(spec, vocab, layer_types=_alternating(spec.layers), tie_word_embeddings=True, **more))

    return make


def _mistral(spec: TinySpec, vocab: int, _tok: Any) -> Any:
    return transformers.MistralConfig(**_text(spec, vocab, sliding_window=spec.window))


def _moe(spec: TinySpec, vocab: int, _tok: Any) -> Any:
    more = {
        "head_dim": spec.hidden // 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": spec.hidden // 2,
        "norm_topk_prob": True,
    }
    return transformers.Qwen3MoeConfig(**_text(spec, vocab, **more))


def _neox(spec: TinySpec, vocab: int, _tok: Any) -> Any:
    settings = _text(spec, vocab)
    del settings["num_key_value_heads"]
    return transformers.GPTNeoXConfig(**settings)


def _family(name: str) -> Any:
    def make(spec: TinySpec, vocab: int, tokenizer: Any) -> Any:
        family = FAMILIES[name]
        more = {"sliding_window": spec.window} if name == "gemma3_vision" else {}
        return family.config(_text(spec, vocab + family.spare, **more), tokenizer)

    return make


def _processor(arch: str, tokenizer: Any) -> Any:
    """The processor of a vision-language model, None for a text model. Some versions of transformers want torchvision for some of them."""
    try:
        return FAMILIES[arch].processor(tokenizer) if arch in FAMILIES else None
    except ImportError as error:
        raise ModelError(f"tiny:{arch} needs torchvision with transformers {transformers.__version__}", "use tiny:llava") from error


ARCHITECTURES = {
    "llama": _plain("LlamaConfig"),
    "qwen2": _plain("Qwen2Config", tie_word_embeddings=True),
    "qwen3": _head_dim("Qwen3Config", tie_word_embeddings=True),
    "gemma2": _gemma("Gemma2Config"),
    "gemma3": _gemma("Gemma3TextConfig"),
    "mistral": _mistral,
    "qwen3_moe": _moe,
    "granite": _plain("GraniteConfig", logits_scaling=4.0, attention_multiplier=0.2, residual_multiplier=0.7, embedding_multiplier=3.0),
    "cohere": _plain("CohereConfig", logit_scale=0.25, tie_word_embeddings=True),
    "gpt_neox": _neox,
    **{name: _family(name) for name in FAMILIES},
}


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return (f"did you mean '{close[0]}'? " if close else "") + "known: " + ", ".join(known)
