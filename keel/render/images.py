"""Images of a prompt: bytes -> pixel tensors in the media store, and the placeholder tokens that stand for them.

Each image goes through the processor by itself, so that no image can change another's size, and once: the store knows it by the digest of
its bytes and of the processor's settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from keel.core.hashing import digest_bytes
from keel.render.codec import Codec
from keel.render.complexity import complexity
from keel.render.pixels import image_bytes, named, open_image
from keel.render.template import RefusedError
from keel.render.twins import TWINS, TwinName
from keel.types import Encoded, ImagePart, MediaRef, Message, Twin

_TOKENS = (
    "image_token",
    "boi_token",
    "eoi_token",
    "fake_image_token",
    "global_image_token",
    "global_image_tag",
    "video_token",
    "vision_start_token",
    "vision_end_token",
    "start_image_token",
    "end_image_token",
    "context_image_token",
)
_TEXT_KEYS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"})
_WRITES_TEXT = frozenset({"PaliGemmaProcessor"})  # these put a beginning and a line break of their own around the whole prompt

Pixels = Mapping[str, Tensor]


class Media(Protocol):
    """Where pixels are kept, by the digest of ``MediaRef``."""

    def put(self, digest: str, pixels: Pixels, make: Callable[[], Pixels] | None = None) -> None: ...

    def get(self, digest: str) -> Pixels: ...

    def drop(self, digest: str) -> None: ...

    def __contains__(self, digest: str) -> bool: ...


def _one_row(tokens_T: Tensor, images: Sequence[Pixels]) -> Tensor | None:
    return None


def _causal(tokens_T: Tensor) -> tuple[tuple[int, int], ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads a prompt with images; the model's side says it."""

    image_token: int | None = None  # what features are put in place of; None: what the processor says
    positions: Callable[[Tensor, Sequence[Pixels]], Tensor | None] = _one_row  # of a prompt's ids and its images
    spans: Callable[[Tensor], tuple[tuple[int, int], ...]] = _causal
    refused: str = ""  # why prompts with images are refused, where they are


@dataclass(frozen=True, slots=True)
class _Expanded:
    """What one image is in a prompt."""

    ref: MediaRef
    ids: list[int]
    text: str | None  # the same as text, where that gives the same ids
    complexity: float


class Images:
    """A model's image processor as two functions: an image's placeholder tokens, and a prompt's ids with them expanded."""

    def __init__(self, processor: Any, codec: Codec, media: Media, reading: Reading | None = None) -> None:
        self.processor = processor
        self.media = media
        self.reading = reading or Reading()
        self.settings = settings_digest(processor)
        self._codec = codec
        tokenizer = codec.tokenizer
        self.token = str(getattr(processor, "image_token", "<image>"))
        own = [int(i) for i in getattr(processor, "image_token_ids", None) or [tokenizer.convert_tokens_to_ids(self.token)]]
        self.token_id = own[0] if self.reading.image_token is None else self.reading.image_token  # what features are put in place of
        named_tokens = [getattr(processor, n, None) or getattr(tokenizer, n, None) for n in _TOKENS]
        ids = {tokenizer.convert_tokens_to_ids(str(t)) for t in named_tokens if t} | {self.token_id, *own}
        ids.add(getattr(tokenizer, "image_token_id", None))  # where a processor calls the beginning of an image its image token
        extra = {
            i
            for i, t in tokenizer.added_tokens_decoder.items()
            if t.content.startswith(("<row_", "<image", "<video", "<|image", "<|video"))
        }
        unknown = {None, tokenizer.unk_token_id}
        self.banned: tuple[int, ...] = tuple(sorted((ids | extra) - unknown))
        self._expanded: dict[str, _Expanded] = {}
        self._sources: dict[str, ImagePart] = {}  # by digest: twins are made from the image itself
        self._proven: set[int] = set()

    @property
    def placeholder(self) -> str:
        """What templates write for an image: the processor finds it in the text. Gemma 3 writes the beginning-of-image token."""
        begin = getattr(self.processor, "boi_token", None)
        return str(begin) if begin and getattr(self.processor, "full_image_sequence", None) else self.token

    def encode(self, text: str, messages: Sequence[Message]) -> Encoded:
        """A prompt's text with its images. Raises as ``expand``."""
        ids, refs = self.expand(text, messages)
        return self.placed(ids, refs)

    def placed(self, ids: Sequence[int], refs: Sequence[MediaRef] = ()) -> Encoded:
        """Ids and images with the places that the model gives them. Of several images the most complex one counts."""
        tokens_T = torch.tensor(ids, dtype=torch.long)
        positions_PT = self.reading.positions(tokens_T, [self.media.get(ref.digest) for ref in refs])
        found = max((self._expanded[ref.digest].complexity for ref in refs), default=0.0)
        return Encoded(tokens_T, tuple(refs), positions_PT, self.reading.spans(tokens_T), found)

    def expand(self, text: str, messages: Sequence[Message]) -> tuple[list[int], tuple[MediaRef, ...]]:
        """Ids of a prompt's text with every placeholder expanded, and the images in order.

        Raises RefusedError when images and placeholders do not match one to one (the text itself may hold a placeholder), when an image
        cannot be read, or when the model takes none.
        """
        sources = _sources(messages)
        mark = self._codec.tokenizer.convert_tokens_to_ids(self.placeholder)
        ids = self._codec.encode(text)
        if ids.count(mark) != len(sources):
            raise RefusedError(f"{len(sources)} images for {ids.count(mark)} image placeholders in the rendered prompt")
        if not sources:
            return ids, ()
        if self.reading.refused:
            raise RefusedError(self.reading.refused)
        found = [self._one(source) for source in sources]
        result = self._filled(text, ids, mark, found)
        if len(found) not in self._proven:
            self._prove(text, sources, result)
            self._proven.add(len(found))
        return result, tuple(e.ref for e in found)

    def _filled(self, text: str, ids: Sequence[int], mark: int, found: Sequence[_Expanded]) -> list[int]:
        """The expansions put in: into the text where that can be done, as processors do it, for a tokenizer may join what stands around
        an image with it (line breaks)."""
        pieces = text.split(self.placeholder)
        texts = [e.text for e in found if e.text is not None]
        if len(texts) == len(found) == len(pieces) - 1:
            return self._codec.encode(pieces[0] + "".join(t + piece for t, piece in zip(texts, pieces[1:], strict=True)))
        left = iter(found)
        return [i for token in ids for i in (next(left).ids if token == mark else [token])]

    @property
    def twins(self) -> Mapping[str, Twin]:
        """By name, what makes of a prompt that was encoded here the same prompt with the pictures taken out of its images: as many tokens
        in the same places. None for a prompt without images. Raises RefusedError when a file can no longer be read."""

        def twin(name: TwinName, prompt: Encoded) -> Encoded | None:
            refs = tuple(self._twin(ref, name) for ref in prompt.media)
            return replace(prompt, media=refs, complexity=max(self._expanded[r.digest].complexity for r in refs)) if refs else None

        return {name: partial(twin, name) for name in TWINS}

    def changed(self, ref: MediaRef, name: str, change: Callable[[Image.Image], Image.Image]) -> MediaRef:
        """The image behind ``ref`` after ``change``, which must keep its size: as many tokens in the same places. It goes by the image's
        digest and ``name``, and is kept in the media store until somebody drops it. Raises RefusedError as ``expand``."""
        raw, mark = ref.digest.split("-", 1)
        digest, source = f"{raw}.{name}-{mark}", self._sources[ref.digest]

        def make() -> Pixels:
            return self._pixels(self._process([self.placeholder], [change(self._opened(source, raw))]))

        if digest not in self.media:
            self.media.put(digest, make(), make)
        return replace(ref, digest=digest, kept=False)

    def _twin(self, ref: MediaRef, name: TwinName) -> MediaRef:
        raw, mark = ref.digest.split("-", 1)
        digest, source = f"{raw}.{name}-{mark}", self._sources[ref.digest]
        found = self._known(digest, lambda: TWINS[name](self._opened(source, raw))).ref
        assert found.n_tokens == ref.n_tokens, "as many pixels are as many tokens"
        return found

    def keep_only(self, digests: Collection[str]) -> None:
        """Let go of all other images and of where they came from; shown again, they are read again."""
        for digest in (self._sources.keys() | self._expanded.keys()) - set(digests):
            self._expanded.pop(digest, None)
            self._sources.pop(digest, None)
            self.media.drop(digest)

    def _one(self, source: ImagePart) -> _Expanded:
        """One image in a prompt; its pixels go into the store."""
        raw = image_bytes(source)
        digest = f"{digest_bytes(raw)}-{self.settings}"
        self._sources[digest] = source
        return self._known(digest, lambda: self._opened(source, digest_bytes(raw)))

    @staticmethod
    def _opened(source: ImagePart, digest: str) -> Image.Image:
        """An image that was read before, read again. Raises RefusedError where it is no longer the same."""
        raw = image_bytes(source)
        if digest_bytes(raw) != digest:
            raise RefusedError(f"image {named(source)} is not what it was when it was read first")
        return open_image(raw, named(source))

    def _known(self, digest: str, image: Callable[[], Image.Image]) -> _Expanded:
        """What is known of an image under its digest, made where it is not."""
        if digest not in self._expanded or digest not in self.media:
            opened = image()
            out = self._process([self.placeholder], [opened])
            ids = [int(i) for i in out["input_ids"][0]]
            if type(self.processor).__name__ in _WRITES_TEXT:
                ids = [i for i in ids if i == self.token_id]
            n = ids.count(self.token_id)
            assert n > 0, "the processor expands an image to no token"
            self.media.put(digest, self._pixels(out), lambda: self._pixels(self._process([self.placeholder], [image()])))
            self._expanded[digest] = _Expanded(MediaRef(digest, n), ids, self._as_text(ids), complexity(opened))
        return self._expanded[digest]

    @staticmethod
    def _pixels(out: Mapping[str, Any]) -> Pixels:
        return {k: v for k, v in out.items() if k not in _TEXT_KEYS and isinstance(v, Tensor)}

    def _as_text(self, ids: list[int]) -> str | None:
        text = self._codec.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if self._codec.encode(text) == ids else None

    def _process(self, texts: list[str], images: list[Image.Image]) -> Mapping[str, Any]:
        return self.processor(text=texts, images=[images], return_tensors="pt", add_special_tokens=False)

    def processed(self, text: str, messages: Sequence[Message]) -> Mapping[str, Any]:
        """What transformers' processor makes of the whole prompt at once: for proofs."""
        return self._process([text], [open_image(image_bytes(s), named(s)) for s in _sources(messages)])

    def _prove(self, text: str, sources: Sequence[ImagePart], ids: Sequence[int]) -> None:
        """The processor itself, given the whole prompt, must make the same ids (once for each number of images)."""
        if type(self.processor).__name__ in _WRITES_TEXT:
            return  # beginning and line break are the template's to write
        theirs = [int(i) for i in self._process([text], [open_image(image_bytes(s), named(s)) for s in sources])["input_ids"][0]]
        if theirs != list(ids):
            raise RefusedError(
                "this processor expands images in a way that depends on the text around them", "prompts with one image may still work"
            )


def settings_digest(processor: Any) -> str:
    """A processor's mark: the beginning of the sha256 of what decides which pixels and how many tokens an image gets."""
    plain = {k: v for k, v in vars(processor).items() if isinstance(v, str | int | float | bool) and k != "chat_template"}
    images = getattr(processor, "image_processor", None)
    parts = images.to_json_string() if images is not None else ""
    return digest_bytes(json.dumps([type(processor).__name__, plain, parts], sort_keys=True).encode())[:16]


def _sources(messages: Sequence[Message]) -> list[ImagePart]:
    return [p for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]
