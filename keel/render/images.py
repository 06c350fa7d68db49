"""Images of a prompt: bytes -> pixel tensors in the media store, and the placeholder tokens that stand for them.

Each image goes through the processor by itself, so that no image can change another's size, and once: the store knows it by the digest of
its bytes.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from keel.core.hashing import digest_bytes
from keel.render.codec import Codec
from keel.render.template import RefusedError
from keel.types import ImagePart, MediaRef, Message

_TOKENS = (
    "image_token",
    "boi_token",
    "eoi_token",
    "fake_image_token",
    "global_image_token",
    "global_image_tag",
    "video_token",
    "vision_start_token",
)
_TEXT_KEYS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


class Media(Protocol):
    """Where pixels are kept, by the digest of the image's bytes."""

    def put(self, digest: str, features: Mapping[str, Tensor]) -> None: ...

    def get(self, digest: str) -> Mapping[str, Tensor]: ...

    def __contains__(self, digest: str) -> bool: ...


class Images:
    """A model's image processor as two functions: an image's placeholder tokens, and a prompt's ids with them expanded."""

    def __init__(self, processor: Any, codec: Codec, media: Media) -> None:
        self.processor = processor
        self.media = media
        self._codec = codec
        tokenizer = codec.tokenizer
        self.token = str(getattr(processor, "image_token", "<image>"))  # what features are put in place of
        self.token_id = int(tokenizer.convert_tokens_to_ids(self.token))
        named = [getattr(processor, n, None) or getattr(tokenizer, n, None) for n in _TOKENS]
        ids = {tokenizer.convert_tokens_to_ids(str(t)) for t in named if t} | {self.token_id}
        extra = {
            i
            for i, t in tokenizer.added_tokens_decoder.items()
            if t.content.startswith(("<row_", "<image", "<video", "<|image", "<|video"))
        }
        unknown = {None, tokenizer.unk_token_id}
        self.banned: tuple[int, ...] = tuple(sorted((ids | extra) - unknown))
        self._expanded: dict[str, tuple[MediaRef, list[int]]] = {}
        self._proven: set[int] = set()

    @property
    def placeholder(self) -> str:
        """What templates write for an image: the processor finds it in the text. Gemma 3 writes the beginning-of-image token."""
        begin = getattr(self.processor, "boi_token", None)
        return str(begin) if begin and getattr(self.processor, "full_image_sequence", None) else self.token

    def expand(self, text: str, messages: Sequence[Message]) -> tuple[list[int], tuple[MediaRef, ...]]:
        """Ids of a prompt's text with every placeholder expanded, and the images in order.

        Raises RefusedError when images and placeholders do not match one to one (the text itself may hold a placeholder).
        """
        sources = [p for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]
        mark = self._codec.tokenizer.convert_tokens_to_ids(self.placeholder)
        ids = self._codec.encode(text)
        if ids.count(mark) != len(sources):
            raise RefusedError(f"{len(sources)} images for {ids.count(mark)} image placeholders in the rendered prompt")
        pictures = [_bytes(s) for s in sources]
        refs: list[MediaRef] = []
        result: list[int] = []
        for token in ids:
            if token != mark:
                result.append(token)
                continue
            ref, expansion = self._one(pictures[len(refs)])
            refs.append(ref)
            result += expansion
        if len(refs) not in self._proven and refs:
            self._prove(text, pictures, result)
            self._proven.add(len(refs))
        return result, tuple(refs)

    def _one(self, raw: bytes) -> tuple[MediaRef, list[int]]:
        """Placeholder tokens of one image; its pixels go into the store."""
        digest = digest_bytes(raw)
        if digest not in self._expanded or digest not in self.media:
            out = self._process([self.placeholder], [_open(raw)])
            ids = [int(i) for i in out["input_ids"][0]]
            n = ids.count(self.token_id)
            assert n > 0, "the processor expands an image to no token"
            self.media.put(digest, {k: v for k, v in out.items() if k not in _TEXT_KEYS and isinstance(v, Tensor)})
            self._expanded[digest] = (MediaRef(digest, n), ids)
        return self._expanded[digest]

    def _process(self, texts: list[str], images: list[Image.Image]) -> Mapping[str, Any]:
        return self.processor(text=texts, images=[images], return_tensors="pt", add_special_tokens=False)

    def _prove(self, text: str, pictures: Sequence[bytes], ids: Sequence[int]) -> None:
        """The processor itself, given the whole prompt, must make the same ids (once for each number of images)."""
        theirs = [int(i) for i in self._process([text], [_open(p) for p in pictures])["input_ids"][0]]
        if theirs != list(ids):
            raise RefusedError(
                "this processor expands images in a way that depends on the text around them", "prompts with one image may still work"
            )


def _bytes(part: ImagePart) -> bytes:
    """The image's own bytes, from a file or a ``data:`` URL."""
    try:
        if part.source.startswith("data:"):
            return base64.b64decode(part.source.partition(",")[2], validate=True)
        return Path(part.source).expanduser().read_bytes()
    except (OSError, binascii.Error) as error:
        raise RefusedError(f"image {part.source[:80]!r} cannot be read: {error}") from None


def _open(raw: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(raw)).convert("RGB")
    except (OSError, ValueError) as error:  # PIL's own UnidentifiedImageError is an OSError
        raise RefusedError(f"an image cannot be decoded: {error}") from None
