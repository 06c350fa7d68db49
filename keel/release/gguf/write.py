"""From a folder that `keel` saved to one GGUF file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from keel.core.errors import ModelError
from keel.models.heads import FILE as HEADS_FILE
from keel.release.gguf.architectures import architecture_of, changed, numbers
from keel.release.gguf.vocabulary import Vocabulary, vocabulary_of

Quant = Literal["f32", "f16", "q8_0"]
QUANTS: tuple[Quant, ...] = ("f32", "f16", "q8_0")
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
_TYPES = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}
_ONE_PLACE = 32  # numbers that share a scale in q8_0


def refuse_unwritable(folder: Path) -> None:
    """Raises ModelError, from config and tokenizer alone, where no GGUF file can be made of a model: before it is loaded."""
    config = transformers.AutoConfig.from_pretrained(folder)
    architecture_of(config)
    numbers(config)
    vocabulary_of(transformers.AutoTokenizer.from_pretrained(folder), int(config.vocab_size), stops_of(folder))


def write_gguf(folder: Path, target: Path, quant: Quant = "f32", facts: Mapping[str, str] | None = None) -> None:
    """Write the model in ``folder`` (config, tokenizer, safetensors) to ``target``. Vectors stay float32, matrices are kept as ``quant``
    says. ``facts`` stand in the file under ``keel.``: where the model comes from.

    Raises ModelError without the package gguf, for a model with a score head, and for an architecture or a tokenizer that GGUF has no
    words for here.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("writing GGUF needs the package gguf", "pip install 'keel-align[gguf]'")
    import gguf

    if (folder / HEADS_FILE).is_file():
        raise ModelError(f"{folder} holds a reward model or a critic, whose head a GGUF file does not carry", "export it with --to merged")
    config = transformers.AutoConfig.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    architecture = architecture_of(config)
    vocabulary = vocabulary_of(tokenizer, int(config.vocab_size), stops_of(folder))
    writer = gguf.GGUFWriter(str(target), architecture.name)
    writer.add_name(folder.parent.name if folder.name == "final" else folder.name)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[quant]])
    for name, value in numbers(config).items():
        getattr(writer, f"add_{name}")(value)
    _add_vocabulary(writer, vocabulary)
    for name, text in (facts or {}).items():
        writer.add_string(f"keel.{name}", text)
    names = gguf.get_tensor_name_map(_arch(architecture.name), int(config.num_hidden_layers))
    for name, weight in _tensors(folder):
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(f"no GGUF file can be written of this model: there is no place for {name}", "export it with --to merged")
        array = changed(architecture, name, weight, config).numpy()
        kind = gguf.GGMLQuantizationType[_type_of(array.shape, quant)]
        writer.add_tensor(theirs, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _arch(name: str) -> Any:
    import gguf

    return next(arch for arch, text in gguf.MODEL_ARCH_NAMES.items() if text == name)


def _type_of(shape: tuple[int, ...], quant: Quant) -> str:
    if len(shape) < 2:
        return "F32"
    return "F16" if quant == "q8_0" and shape[-1] % _ONE_PLACE else _TYPES[quant]


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(vocabulary.adds_bos)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    if vocabulary.ends:
        writer.add_eos_token_id(vocabulary.ends[0])
    if len(vocabulary.ends) > 1:
        writer.add_eot_token_id(vocabulary.ends[1])
    if vocabulary.pad is not None:
        writer.add_pad_token_id(vocabulary.pad)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def stops_of(folder: Path) -> tuple[int, ...]:
    """The tokens that an answer may end with, by the folder's generation config."""
    try:
        found = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        return ()
    return () if found is None else tuple(found) if isinstance(found, list | tuple) else (int(found),)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The saved weights by name, one after the other."""
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                weight = tensors.get_tensor(name)
                yield name, weight.to(torch.float32)
