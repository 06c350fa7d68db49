"""Prompts with images, for proofs: as Keel reads them, beside what transformers' processor makes of the whole prompt."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from keel.models.media import MediaStore
from keel.models.placing import ANSWER_TYPE, image_token, positions_of, spans_of
from keel.render.codec import Codec
from keel.render.images import Images, Reading
from keel.types import Encoded, ImagePart, Message

SIZES = ((30, 30), (44, 90))  # width and height in pixels; processors scale as they like
_TYPES = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True, slots=True)
class Pictured:
    """A prompt with images."""

    prompt: Encoded
    images: Mapping[str, Mapping[str, Tensor]]  # what the media store holds of them, by digest
    whole: Mapping[str, Tensor]  # the processor's output for the whole prompt, ids left out
    answer_type: int  # the type of tokens behind the prompt, where tokens have types


def reading_of(module: PreTrainedModel, refused: str = "") -> Reading:
    """How this model reads prompts."""
    return Reading(
        image_token(module),
        lambda tokens_T, images: positions_of(module, tokens_T, images),
        lambda tokens_T: spans_of(module, tokens_T),
        refused,
    )


def pictured(module: PreTrainedModel, tokenizer: Any, processor: Any) -> tuple[Pictured, ...]:
    """A prompt with one small image, and one with two of other sizes. Raises what rendering raises."""
    store = MediaStore()
    images = Images(processor, Codec(tokenizer), store, reading_of(module))
    found: list[Pictured] = []
    for text, sizes in ((f"See {images.placeholder} now", SIZES[:1]), (f"{images.placeholder} or {images.placeholder}", SIZES)):
        messages = (Message("user", tuple(_noise(k, size) for k, size in enumerate(sizes))),)
        prompt = images.encode(text, messages)
        whole = {k: v for k, v in images.processed(text, messages).items() if isinstance(v, Tensor)}
        for name in ("input_ids", "attention_mask", "labels"):
            whole.pop(name, None)
        for name in _TYPES:
            if name in whole and whole[name].shape[1] != len(prompt):  # the processor writes more text than the template
                whole[name] = whole[name].new_zeros(1, len(prompt))
        stored = {ref.digest: store.get(ref.digest) for ref in prompt.media}
        found.append(Pictured(prompt, stored, whole, ANSWER_TYPE.get(module.config.model_type, 0)))
    return tuple(found)


def _noise(seed: int, size: tuple[int, int]) -> ImagePart:
    """A picture without two equal pixels side by side."""
    width, height = size
    pixels_YXC = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels_YXC).save(out, "PNG")
    return ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())
