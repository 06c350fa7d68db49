"""How large a model is, from its config alone: no weights are read."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from keel.core.errors import ModelError, UserError
from keel.data.sources import package_file
from keel.kernels.narrow import output_layer
from keel.models import tiny
from keel.models.config import ModelOptions
from keel.models.read_errors import quiet


@dataclass(frozen=True, slots=True)
class Size:
    """Counts of values. ``body`` are the weights of the matrices that every token goes through (of experts, as many as are chosen),
    ``head`` those of the output layer, ``ports`` the sum of inputs and outputs of the body's matrices (adapters of rank r have r times
    as many weights)."""

    parameters: int
    body: int
    head: int
    ports: int
    layers: int
    hidden: int
    intermediate: int
    cache: int  # keys and values of one token in one layer
    vocab: int
    bytes_per_token: float  # of text, as the tokenizer cuts it
    linear: int = 0  # values of the layers' matrices, with biases, that are kept in compute precision where they are frozen
    experts: int = 0  # values of a mixture's stacked experts, which stay float32
    largest: int = 0  # values of the largest of them
    sides: int = 0  # rows and columns of all trained tensors of two dimensions, and values of the others
    tower: int = 0  # parameters of what reads images
    image_tokens: int = 0  # of one image
    pixels: int = 0  # values of one image, as the processor leaves it

    @property
    def matrices(self) -> int:
        """Values of the matrices of layers; ``body`` where nobody counted them."""
        return self.linear + self.experts or self.body

    @property
    def rounded(self) -> int:
        """Values that a frozen model keeps in compute precision."""
        return self.linear if self.linear or self.experts else self.body

    @property
    def layer(self) -> float:
        """Values of one layer."""
        return self.matrices / self.layers

    @property
    def root(self) -> int:
        """Values outside the layers: tables, head, norms."""
        return self.parameters - self.matrices

    def to_json(self) -> dict[str, Any]:
        """As it stands in the advice."""
        return asdict(self)


def size_of(spec: str, options: ModelOptions) -> Size:
    """The size of a model that ``load_model`` would load. Raises ModelError when its config cannot be read."""
    try:
        with quiet():
            config, bytes_per_token = _config(spec, options)
            vision = type(config) in transformers.AutoModelForImageTextToText._model_mapping
            cls = transformers.AutoModelForImageTextToText if vision else transformers.AutoModelForCausalLM
            with torch.device("meta"):
                module = cls.from_config(config, trust_remote_code=options.trust_remote_code)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"the size of '{spec}' cannot be told: {str(error).splitlines()[0]}", "give a folder with a config.json, or tiny:llama"
        ) from error
    return _measure(module, config.get_text_config(), bytes_per_token)


def _config(spec: str, options: ModelOptions) -> tuple[Any, float]:
    """The config and how many bytes of text a token is worth: what byte-level vocabularies of a size give for plain text."""
    if spec.startswith(tiny.PREFIX):
        parsed = tiny.parse(spec, 0)
        tokenizer = tiny.make_tokenizer(parsed.vocab, tiny.extra_tokens(parsed.arch), parsed.arch)
        return tiny.ARCHITECTURES[parsed.arch](parsed, len(tokenizer), tokenizer), 1.6
    path = package_file(spec) if spec.startswith("package:") else Path(spec).expanduser()
    if path.suffix == ".gguf":
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(f"reading '{path.name}' needs the package gguf", "pip install gguf")
        if not path.is_file():
            raise ModelError(f"model file '{path}' does not exist")
        return transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name), 4.0
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"'{spec}' has no config.json", "give the folder that holds config.json and the weights")
    name = str(path) if path.is_dir() else spec
    more: dict[str, Any] = {} if path.is_dir() or options.revision is None else {"revision": options.revision}
    if not path.is_dir():
        more["local_files_only"] = True  # of a model of the Hub what is here already: nothing is downloaded to make a plan
    return transformers.AutoConfig.from_pretrained(name, trust_remote_code=options.trust_remote_code, **more), 4.0


def _measure(module: Any, text: Any, bytes_per_token: float) -> Size:
    head = output_layer(module)
    matrices = [m for m in module.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    stacked = [p for p in module.parameters() if p.dim() == 3]
    chosen = getattr(text, "num_experts_per_tok", None) or 0
    active = sum(int(p.numel() * min(1.0, chosen / p.shape[0])) for p in stacked)
    heads = text.num_attention_heads
    kv = getattr(text, "num_key_value_heads", None) or heads
    per_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Size(
        parameters=sum(p.numel() for p in module.parameters()),
        body=sum(m.weight.numel() for m in matrices) + active,
        head=head.weight.numel(),
        ports=sum(sum(m.weight.shape) for m in matrices),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        cache=2 * kv * per_head,
        vocab=head.weight.shape[0],
        bytes_per_token=bytes_per_token,
        linear=sum(p.numel() for m in matrices if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)),
        experts=sum(p.numel() for p in stacked),
        largest=max((m.weight.numel() for m in matrices), default=0),
        sides=sum(sum(p.shape) if p.dim() == 2 else p.numel() for p in module.parameters()),
        **_images(module),
    )


def _images(module: Any) -> dict[str, int]:
    """What reads images: its parameters, and tokens and pixels of one image of the tower's own size; nothing of a model without one."""
    vision = getattr(module.config, "vision_config", None)
    if vision is None:
        return {}
    inner = {id(p) for p in module.get_decoder().parameters()} | {id(output_layer(module).weight)}
    side, patch = getattr(vision, "image_size", 0) or 0, getattr(vision, "patch_size", 0) or 1
    side = side[0] if isinstance(side, list | tuple) else side
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    tokens = getattr(module.config, "image_seq_length", None) or (side // patch) ** 2
    return {"tower": sum(p.numel() for p in module.parameters() if id(p) not in inner), "image_tokens": tokens, "pixels": 3 * side * side}
