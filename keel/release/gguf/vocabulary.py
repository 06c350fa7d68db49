"""A tokenizer as a GGUF file has it: tokens with their kinds, merges, how text is split into words, ends and beginnings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.errors import ModelError
from keel.render.codec import Codec

_END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SPLITS: Mapping[tuple[str, ...], str] = {  # what stands in tokenizer.json: the name that llama.cpp has for it
    ("words",): "gpt-2",
    ("digits", "words"): "smollm",
    (_START + r"\p{N}" + _END, "bytes"): "qwen2",
    (_START + r"\p{N}{1,3}" + _END, "bytes"): "llama-bpe",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What llama.cpp needs to read and write text as the tokenizer does. ``ends``: all tokens that an answer may end with, the tokenizer's
    own first."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    split: str
    bos: int | None
    ends: tuple[int, ...]
    pad: int | None
    adds_bos: bool
    template: str


def vocabulary_of(tokenizer: Any, rows: int, stops: Sequence[int]) -> Vocabulary:
    """The vocabulary of a byte-level BPE tokenizer, filled up to ``rows`` of the embedding; ``stops``: what ends an answer. Raises
    ModelError for a tokenizer of another kind, or one whose way to split text has no name in llama.cpp."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown("it has no tokenizer.json")
    whole = json.loads(backend.to_str())
    model, split = whole["model"], _split_of(whole)
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unknown(f"its tokenizer is {'SentencePiece' if model.get('byte_fallback') else model['type']}, not byte-level BPE")
    if bool(model.get("ignore_merges")) != (split == "llama-bpe"):
        raise _unknown(f"ignore_merges is {bool(model.get('ignore_merges'))}, which '{split}' is not")
    names = {i: name for name, i in tokenizer.get_vocab().items()}
    added = {row["id"]: row for row in whole["added_tokens"]}
    if len(tokenizer) > rows:
        raise ModelError(f"the tokenizer has {len(tokenizer)} tokens and the model {rows} rows for them", "save the model with Keel first")
    kinds = [_kind(added.get(i)) if i in names else UNUSED for i in range(rows)]
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    template = tokenizer.chat_template
    return Vocabulary(
        tokens=tuple(names.get(i, f"[PAD{i}]") for i in range(rows)),
        kinds=tuple(kinds),
        merges=tuple(" ".join(m) if isinstance(m, list) else m for m in model["merges"]),
        split=split,
        bos=tokenizer.bos_token_id,
        ends=tuple(dict.fromkeys([*own, *stops])),
        pad=tokenizer.pad_token_id,
        adds_bos=bool(Codec(tokenizer).bos),
        template=template if isinstance(template, str) else "",
    )


def _kind(added: Mapping[str, Any] | None) -> int:
    return NORMAL if added is None else CONTROL if added["special"] else USER_DEFINED


def _split_of(whole: Mapping[str, Any]) -> str:
    """llama.cpp's name for how text is cut into words before merges are made."""
    normalizer = whole.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":  # NFC: llama.cpp leaves it out, which composed text does not notice
        raise _unknown(f"text is changed by {normalizer['type']} before it is split")
    found = tuple(_step(part) for part in _parts(whole.get("pre_tokenizer")))
    if found not in _SPLITS:
        raise _unknown(f"its way to split text into words has no name there: {' + '.join(found) or 'none'}")
    return _SPLITS[found]


def _parts(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    return list(pre_tokenizer["pretokenizers"]) if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]


def _step(part: Mapping[str, Any]) -> str:
    kind = part["type"]
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return "words" if part.get("use_regex", True) else "bytes"
    if kind == "Digits" and part.get("individual_digits"):
        return "digits"
    if kind == "Split" and part["behavior"] == "Isolated" and not part.get("invert"):
        return str(part["pattern"].get("Regex", part["pattern"]))
    return str(kind)


def _unknown(why: str) -> ModelError:
    return ModelError(
        f"no GGUF file can be written of this model: {why}", "export it with --to merged, and convert that folder with llama.cpp's script"
    )
