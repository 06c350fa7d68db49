"""The model and the tokenizer of a workload, as a folder that plain transformers reads. Random weights: no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from keel.core.errors import UserError
from keel.models.read_errors import quiet
from keel.models.tiny import ARCHITECTURES, TinySpec
from labs.bench.workload import BOS, EOS, FIRST_WORD, PAD, UNK, ModelShape

WINDOW = 512  # attention window of the architectures that have one
_SPECIAL = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS, "<unk>": UNK}


def make_model(shape: ModelShape, folder: Path, seed: int) -> None:
    """Write model and tokenizer into ``folder``. Raises UserError for an architecture that there is no config for."""
    tokenizer = make_tokenizer(shape.vocab)
    config = make_config(shape, tokenizer)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        assert module.generation_config is not None
        module.generation_config.eos_token_id, module.generation_config.pad_token_id = EOS, PAD
        module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_config(shape: ModelShape, tokenizer: Any) -> Any:
    """The architecture's config with the sizes of ``shape``."""
    text_only = [name for name in ARCHITECTURES if name not in ("llava", "idefics3")]
    if shape.arch not in text_only:
        raise UserError(f"there is no architecture '{shape.arch}' to measure", f"one of: {', '.join(text_only)}")
    spec = TinySpec(shape.arch, seed=0, hidden=shape.hidden, layers=shape.layers, vocab=shape.vocab, window=WINDOW)
    config = ARCHITECTURES[shape.arch](spec, shape.vocab, tokenizer)
    config.intermediate_size = shape.intermediate
    config.pad_token_id, config.eos_token_id, config.bos_token_id = PAD, EOS, BOS
    config.tie_word_embeddings = True
    return config


def make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One word an id (``w17`` is 17), so that a text has exactly the tokens that it was made of."""
    words = _SPECIAL | {f"w{i}": i for i in range(FIRST_WORD, vocab)}
    raw = Tokenizer(tokenizer_models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    named = {name: f"<{name.removesuffix('_token')}>" for name in ("pad_token", "eos_token", "bos_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **named)
