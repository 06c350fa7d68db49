"""The model, the processor and the images of a workload with images, as a folder that plain transformers reads. Random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from keel.models.read_errors import quiet
from labs.bench.vlm_work import SPECIAL, VOCAB, Shape

TEMPLATE = (
    "{% for m in messages %}<bos>{% if m.content is string %} {{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %} <image>{% else %} {{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' %} <eos>{% endif %} {% endfor %}{% if add_generation_prompt %}<bos>{% endif %}"
)
_TEXT = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
_IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": True}
_SIGLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 512, "patch_size": 16}
_DINO = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}


def make_model(shape: Shape, folder: Path, seed: int) -> None:
    """Write model and processor into ``folder``."""
    tokenizer = _tokenizer()
    config, processor = _MADE["demo" if shape.geometry == "demo" else "smolvlm"](shape, tokenizer)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        module = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        module.generation_config.eos_token_id, module.generation_config.pad_token_id = 1, 0
        module.save_pretrained(folder)
    processor.save_pretrained(folder)


def make_image(side: int, path: Path, seed: int) -> None:
    """Noise, ``side`` pixels wide and high."""
    pixels_YXC = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels_YXC).save(path)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One word an id, as of the text workloads."""
    words = {token: i for i, token in enumerate(SPECIAL)} | {f"w{i}": i for i in range(len(SPECIAL), VOCAB)}
    raw = Tokenizer(tokenizer_models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    named = {name: f"<{name.removesuffix('_token')}>" for name in ("pad_token", "eos_token", "bos_token", "unk_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=TEMPLATE, **named)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[4:])})
    return tokenizer


def _smolvlm(shape: Shape, tokenizer: Any) -> tuple[Any, Any]:
    tower, decoder = shape.layers
    config_of: Any = transformers.Idefics3Config
    config = config_of(
        text_config={**_TEXT, **_IDS, "num_hidden_layers": decoder},
        vision_config={**_SIGLIP, "num_hidden_layers": tower},
        scale_factor=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": shape.image}, max_image_size={"longest_edge": 512}, do_image_splitting=shape.image > 512
    )
    return config, transformers.Idefics3Processor(images, tokenizer, image_seq_len=64, chat_template=TEMPLATE)


def _demo(shape: Shape, tokenizer: Any) -> tuple[Any, Any]:
    """DINOv2-S and SmolLM2-135M in LLaVA's form."""
    tower, decoder = shape.layers
    config = transformers.LlavaConfig(
        text_config={**_TEXT, **_IDS, "num_hidden_layers": decoder},
        vision_config={**_DINO, "num_hidden_layers": tower},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(shape.image // 14) ** 2,
        tie_word_embeddings=True,
    )
    images = transformers.CLIPImageProcessorPil(size={"height": shape.image, "width": shape.image}, do_center_crop=False)
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return config, transformers.LlavaProcessor(images, tokenizer, chat_template=TEMPLATE, **settings)


_MADE: dict[str, Callable[[Shape, Any], tuple[Any, Any]]] = {"smolvlm": _smolvlm, "demo": _demo}
