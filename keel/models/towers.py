"""Features of images: made by the model's vision tower and projector, or taken from where they are kept.

What may be kept follows from what is trained. Where neither tower nor projector is, an image's rows are made once. Where the projector is,
the tower's output is kept and the projector runs on it. A tower that is trained, or adapted, runs in every pass.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from keel.core.hashing import digest_bytes
from keel.kernels.narrow import output_layer
from keel.models.checksum import checksum
from keel.models.media import ImageFeatures, MediaStore, image_features
from keel.models.parts import encoders_of, parts_of
from keel.types import MediaRef

log = logging.getLogger("keel")
Scope = Literal["rows", "tower", "nothing"]
_FORMAT = 1
# says nothing of what an image becomes, and differs between a policy and the reward model or critic made of it
_APART = {"text_config", "architectures", "_name_or_path", "dtype", "transformers_version", "id2label", "label2id", "problem_type"}


class Towers:
    """The parts of a model that make features of images."""

    def __init__(self, module: PreTrainedModel, compute_dtype: torch.dtype, device: torch.device) -> None:
        """``device``: where it computes; weights that are shared out may lie elsewhere."""
        self._base: Any = module.base_model
        self._device = device
        self._kind, self._dtype = module.config.model_type, compute_dtype
        config = {name: value for name, value in module.config.to_dict().items() if name not in _APART}
        about = [_FORMAT, type(self._base).__name__, config, str(compute_dtype), torch.__version__, transformers.__version__]
        self._about = json.dumps(about, sort_keys=True, default=str)
        parts = parts_of(module)
        named = list(module.named_parameters())
        self._vision = {name: p for name, p in named if parts[name] == "vision"}
        self._projector = {name: p for name, p in named if parts[name] == "projector"}
        self._buffers = _buffers(module)
        self._rounded = {f"{at}.{name}" for at, x in module.named_modules() if isinstance(x, nn.Linear) for name, _ in x.named_parameters()}
        encoders, own = encoders_of(module), {id(p) for p in self._vision.values()}
        alone = len(encoders) == 1 and all(id(p) in own for p in encoders[0].parameters())
        self._tower = Tower(self._base, encoders[0]) if alone else None
        self._digests: dict[Scope, tuple[Any, str]] = {}
        self._told: set[Scope] = set()

    @property
    def scope(self) -> Scope:
        """What may be kept as far as training goes: the finished rows, the tower's output, or nothing, because the tower changes."""
        if _changes(self._vision):
            return "nothing"
        return "tower" if _changes(self._projector) else "rows"

    def features(self, media: MediaStore, ref: MediaRef) -> ImageFeatures:
        """One image's features: kept ones, or made by the very same call as where nothing is kept.

        Raises ModelError for an image that is not in ``media`` or that has another number of rows than of tokens.
        """
        scope, device = self.scope, self._device

        def pixels() -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in media.get(ref.digest).items()}

        if not media.features.on or not ref.kept:
            return image_features(self._base, pixels(), ref)
        if scope == "tower" and not (self._tower is not None and self._tower.separable(pixels, ref)):
            scope = "nothing"
        self._tell(scope)
        if scope == "tower" and self._tower is not None:
            key = self._key(scope, ref)
            kept = media.features.take(key)
            if kept is None:
                kept = self._tower.output(pixels())
                media.features.keep(key, kept)
            return self._tower.project({name: value.to(device) for name, value in kept.items()}, pixels(), ref)
        if scope != "rows":
            return image_features(self._base, pixels(), ref)
        key = self._key(scope, ref)
        kept = media.features.take(key)
        if kept is not None:
            return ImageFeatures.of({name: value.to(device) for name, value in kept.items()})
        found = image_features(self._base, pixels(), ref)
        media.features.keep(key, found.tensors())
        return found

    def _key(self, scope: Scope, ref: MediaRef) -> str:
        """sha256 over all that features hang on: the image, its processor's settings (both in ``ref``), the weights, the config, the
        precision, the versions."""
        return digest_bytes(json.dumps([scope, ref.digest, ref.n_tokens, self._weights(scope), self._about]).encode())

    def _weights(self, scope: Scope) -> str:
        """The digest of the weights that take part, taken again whenever one of them was written to. Frozen linear weights count as they
        are computed with: some models keep them rounded, others have autocast round them."""
        named = self._vision | self._buffers | (self._projector if scope == "rows" else {})
        stamp = [(t.data_ptr(), t._version, t.dtype) for t in named.values()]
        before, digest = self._digests.get(scope, (None, ""))
        if before != stamp:
            computed = {k: t.to(self._dtype) if k in self._rounded else t for k, t in named.items()}
            sums = [(name, str(t.dtype), list(t.shape), checksum(t)) for name, t in sorted(computed.items())]
            digest = digest_bytes(json.dumps(sums).encode())
            self._digests[scope] = (stamp, digest)
        return digest

    def _tell(self, scope: Scope) -> None:
        if scope in self._told:
            return
        self._told.add(scope)
        says = {
            "rows": "features are made once and kept (neither tower nor projector is trained)",
            "tower": "the vision tower's output is kept, the projector runs in every pass (it is trained)",
            "nothing": "features are made in every pass: the vision tower is trained",
        }[scope]
        if scope == "nothing" and not _changes(self._vision):
            says = "features are made in every pass: the projector is trained, and the vision tower cannot be run apart from it"
        log.info("images of '%s': %s", self._kind, says)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a tower's output is put together again from what is read of it."""

    cls: type[Any]
    lengths: Mapping[str, int]  # of its tuples of tensors
    used: tuple[str, ...]


class Tower:
    """A vision tower whose output can be put in the place of its pass, so that what comes behind it runs alone."""

    def __init__(self, base: Any, encoder: Any) -> None:
        self._base, self._encoder = base, encoder
        self._form: _Form | None = None
        self._refused = False

    def separable(self, pixels: Callable[[], Mapping[str, Tensor]], ref: MediaRef) -> bool:
        """Whether the kept part of the output gives this image's features bit for bit. Found out with the first image."""
        if self._form is None and not self._refused:
            try:
                self._form = self._found(pixels(), ref)
            except Exception as error:  # whatever transformers raises: the tower then runs in every pass
                log.debug("the tower's output cannot stand for its pass: %s", error)
            self._refused = self._form is None
        return self._form is not None

    @torch.no_grad()
    def output(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is read of the tower's output for one image, by name."""
        assert self._form is not None, "separable comes first"
        flat, _, _ = self._run(pixels)
        return {name: flat[name] for name in self._form.used}

    def project(self, kept: Mapping[str, Tensor], pixels: Mapping[str, Tensor], ref: MediaRef) -> ImageFeatures:
        """What the model makes of an image when its tower gives ``kept``."""
        assert self._form is not None, "separable comes first"
        return self._behind(kept, self._form.cls, self._form.lengths, pixels, ref)

    def _behind(
        self, flat: Mapping[str, Tensor], cls: type[Any], lengths: Mapping[str, int], pixels: Mapping[str, Tensor], ref: MediaRef
    ) -> ImageFeatures:
        fields: dict[str, Any] = {name: tensor for name, tensor in flat.items() if "." not in name}
        fields |= {name: tuple(flat.get(f"{name}.{i}") for i in range(n)) for name, n in lengths.items()}
        with _in_place_of(self._encoder, lambda *_, **__: cls(**fields)):
            return image_features(self._base, pixels, ref)

    def _run(self, pixels: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], type[Any], dict[str, int]]:
        """The tower's output for one image: tensors by name (``hidden_states.3``), its class, the lengths of its tuples."""
        seen: list[tuple[type[Any], dict[str, Any]]] = []
        forward = self._encoder.forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            seen.append((type(out), dict(out.items())))  # models write into their tower's output
            return out

        with _in_place_of(self._encoder, watched):
            self._base.get_image_features(**pixels, return_dict=True)
        ((cls, fields),) = seen
        lengths = {name: len(value) for name, value in fields.items() if isinstance(value, tuple)}
        flat = fields | {f"{name}.{i}": fields[name][i] for name, n in lengths.items() for i in range(n)}
        return {name: value for name, value in flat.items() if isinstance(value, Tensor)}, cls, lengths

    def _found(self, pixels: Mapping[str, Tensor], ref: MediaRef) -> _Form | None:
        """Which tensors of the output are read: those that the features have a gradient for. None where they do not give the features."""
        with torch.no_grad():
            flat, cls, lengths = self._run(pixels)
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in flat.items()}
        with torch.enable_grad():
            rows_NH = self._behind(leaves, cls, lengths, pixels, ref).rows_NH
            gradients = torch.autograd.grad(rows_NH.float().sum(), list(leaves.values()), allow_unused=True)
        form = _Form(cls, lengths, tuple(name for name, g in zip(leaves, gradients, strict=True) if g is not None))
        with torch.no_grad():
            got = self._behind({name: flat[name] for name in form.used}, cls, lengths, pixels, ref)
            expected = image_features(self._base, pixels, ref)
        pairs = zip((got.rows_NH, *got.layers), (expected.rows_NH, *expected.layers), strict=True)
        return form if all(torch.equal(a, b) for a, b in pairs) else None


@contextlib.contextmanager
def _in_place_of(encoder: Any, forward: Callable[..., Any]) -> Iterator[None]:
    encoder.__dict__["forward"] = forward
    try:
        yield
    finally:
        del encoder.__dict__["forward"]


def _changes(named: Mapping[str, nn.Parameter]) -> bool:
    """Trained, or with adapters: those may be switched between passes."""
    return any(p.requires_grad or ".lora_" in name for name, p in named.items())


def _buffers(module: PreTrainedModel) -> dict[str, Tensor]:
    """Buffers beside the decoder's."""
    language = {id(b) for layer in (module.get_decoder(), output_layer(module)) for b in layer.buffers()}
    return {name: buffer for name, buffer in module.named_buffers() if id(buffer) not in language}
