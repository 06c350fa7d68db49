"""The model as the rest of Keel sees it: hidden states of packed batches, logits, heads, adapters, weights in and out."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from keel.core.errors import ModelError
from keel.core.hashing import digest_bytes
from keel.kernels import attention
from keel.kernels.attention import AttentionPlan, PackedPlan
from keel.kernels.decode_products import LinearUnit, Product
from keel.kernels.logit_transform import LogitTransform
from keel.kernels.narrow import narrow_linear, output_layer
from keel.kernels.plain import PaddedRows, padded_rows
from keel.kernels.positions import as_input
from keel.kernels.routing import Router, balance_loss
from keel.models import save
from keel.models.checksum import checksum
from keel.models.heads import ScoreHead
from keel.models.lora import ADAPTER, linear_units, set_lora_dropout
from keel.models.media import ImageFeatures, MediaStore, in_place
from keel.models.origin import Origin
from keel.models.parts import belonging, parts_of
from keel.models.pictured import Pictured
from keel.models.placing import image_token, type_ids
from keel.models.start_rows import StartRows, at_start
from keel.models.towers import Towers
from keel.models.vision_value_head import LookingValueHead, views
from keel.types import Batch, MediaRef


def stored_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that are saved with the weights, by name."""
    for prefix, part in module.named_modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


class Trunk(Protocol):
    """The body as its passes go where its weights are shared out over processes."""

    device: torch.device  # where it computes

    def unshard(self) -> Any:
        """Put together what stays whole through a pass. All processes do so in the same passes."""
        ...

    def __call__(self, **inputs: Any) -> Any: ...


PLAIN = "eager"  # the attention every architecture defines itself, soft caps and sinks included


@dataclass(slots=True, eq=False)
class Model:
    """A causal language model (text or vision-language) of transformers, with what Keel adds to it.

    ``module`` stays in evaluation mode: no dropout but the adapters', when it is asked for. Trained parameters are float32; with
    ``compute_dtype`` bfloat16 the products are made under autocast.
    """

    module: PreTrainedModel
    transform: LogitTransform
    compute_dtype: torch.dtype
    media: MediaStore
    score_head: ScoreHead | None = None
    value_head: nn.Linear | None = None
    peft_model: peft.PeftModel | None = None
    start_rows: Sequence[StartRows] = ()  # of added tokens and of ``whole_parts``, trained beside the adapters
    whole_parts: tuple[str, ...] = ()  # parts of a vision-language model that are trained in full beside the adapters
    lm_head: bool = True  # False: the files lacked it, it is random, and only the scalar heads are used
    router: Router | None = None  # of a mixture of experts
    loaded_weights: str = ""  # digest of a sample of them, by which verdicts of proofs are kept
    packed: bool = True  # packed rows with shared prompts proved equal to the model's own attention
    members: tuple[Model, ...] = ()  # of an ensemble of models, the first of which this one is
    adapter: str = ""  # the one that this member computes with, of several on one base
    pictured: Callable[[], tuple[Pictured, ...]] | None = None  # makes prompts with images, for proofs; None: the model takes none
    processor_key: str = ""  # digest of the processor's settings, by which verdicts of proofs are kept too
    no_images: str = ""  # why prompts with images are refused, where they are
    offset: float = 0.0  # taken off this member's score, so that members have one zero
    stop_tokens: tuple[int, ...] = ()  # all that an answer may end with, from the renderer: saved, so that plain generate stops there
    quantised: str = ""  # how its matrices are kept, where that is in 8 bits: it is read, and neither trained nor saved
    towers: Towers | None = None  # what makes features of images, once an image was shown
    origin: Origin | None = None  # how another process loads the same
    trunk: Trunk | None = None  # the body as its passes go, where its weights are shared out over processes
    for_nothing: MediaRef | None = None  # looked at in training passes without an image; adds 0 to what looking at one adds to

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def text_config(self) -> Any:
        """The decoder's part of the config (the config itself for a text model)."""
        return self.module.config.get_text_config()

    @property
    def precision(self) -> str:
        """``float32`` or ``bfloat16``: what products are computed in."""
        return str(self.compute_dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device if self.trunk is None else self.trunk.device

    @property
    def head_weight_VH(self) -> Tensor:
        return output_layer(self.module).weight

    @property
    def head_bias_V(self) -> Tensor | None:
        return getattr(output_layer(self.module), "bias", None)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The heads beside the language-model head that are there, by name."""
        return {name: head for name, head in (("score", self.score_head), ("value", self.value_head)) if head is not None}

    # ---------------------------------------------------------------------------------------------------------------- forward

    def compute(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast to ``compute_dtype`` (nothing for float32). Hold it around many calls of ``run``: casts of trained weights are then
        made once."""
        if self.compute_dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)

    def run(self, tokens_BL: Tensor, positions: Tensor, plan: AttentionPlan, media: tuple[MediaRef, ...] = ()) -> Tensor:
        """One pass through the body with the attention of ``plan``: hidden states [B, L, H] after the final norm. ``positions`` [B, L], or
        [3, B, L] for a model that counts in three rows."""
        self._use(attention.NAME)
        return self.body(tokens_BL, media, position_ids=positions.to(self.device), keel_plan=plan).last_hidden_state

    def run_plain(self, tokens_BL: Tensor, mask_BL: Tensor, media: tuple[MediaRef, ...] = ()) -> Tensor:
        """The same with the model's own attention; ``mask_BL`` is 1 at real tokens, rows are padded on the right, positions count in one
        row, and every token sees what is before it."""
        nothing_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        return self._plain(tokens_BL, mask_BL, torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL), nothing_BL, media).last_hidden_state

    def hidden(self, batch: Batch, *, look: bool = True) -> Tensor:
        """Hidden states [N, H] at the packed positions of ``batch``: by the packed path, or by padded rows where that is not proven. With a
        value head that looks at images they are what it makes of them; without ``look`` they are the module's own."""
        return self._pass(batch, look)[0]

    def hidden_and_balance(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Hidden states as ``hidden`` gives them, and the routers' load-balancing loss over the tokens of ``batch`` (None for a dense
        model)."""
        if self.router is None:
            return self.hidden(batch), None
        hidden_NH, logits = self._pass(batch, output_router_logits=True)
        return hidden_NH, balance_loss(logits, self.router.top_k)

    def _pass(self, batch: Batch, look: bool = True, **inputs: Any) -> tuple[Tensor, list[Tensor]]:
        """Hidden states [N, H], and each router's logits [N, E] where ``inputs`` ask for them."""
        looks = look and bool(batch.media) and isinstance(self.value_head, LookingValueHead)
        features = self._features(batch.media) if looks else None
        if self.packed:
            self._use(attention.NAME)
            plan, positions = PackedPlan(batch.groups), as_input(batch.positions_PN[:, None]).to(self.device)
            out = self.body(batch.tokens_N[None], batch.media, features, position_ids=positions, keel_plan=plan, **inputs)
            routed = [layer.flatten(0, -2) for layer in getattr(out, "router_logits", None) or ()]
            return self._looked(batch, out.last_hidden_state[0], features), routed
        rows = padded_rows(batch)
        row_N, column_N = rows.row_N.to(self.device), rows.column_N.to(self.device)
        out = self.plain_rows(rows, features, **inputs)
        logits = [layer.view(*rows.tokens_RL.shape, -1)[row_N, column_N] for layer in getattr(out, "router_logits", None) or ()]
        return self._looked(batch, out.last_hidden_state[row_N, column_N], features), logits

    def _looked(self, batch: Batch, hidden_NH: Tensor, features: Mapping[str, ImageFeatures] | None) -> Tensor:
        """What the value head reads: the hidden states, with what they see in the images where it looks at them again."""
        if features is None or not isinstance(self.value_head, LookingValueHead):
            return hidden_NH
        rows = {digest: found.rows_NH for digest, found in features.items()}
        return self.value_head.look(hidden_NH, views(batch, rows, image_token(self.module)))

    def logits(self, hidden_BH: Tensor, head: Product | None = None) -> Tensor:
        """float32 logits [B, V]: the head (by the product ``head``, if given) and what the architecture does after it. For a few rows;
        training uses tiles."""
        with self.compute():
            raw_BV = head(hidden_BH) if head is not None else narrow_linear(hidden_BH, self.head_weight_VH, self.head_bias_V)
            raw_BV = raw_BV.float().contiguous()
        return self.transform(raw_BV) if raw_BV.requires_grad else self.transform.apply_(raw_BV)

    def linear_units(self) -> tuple[list[LinearUnit], LinearUnit]:
        """The linear layers that every decoded token goes through: those of the decoder, and the head."""
        self._use_adapter()
        return linear_units(self.module.get_decoder()), LinearUnit(output_layer(self.module), self.head_weight_VH, self.head_bias_V)

    def plain_rows(self, rows: PaddedRows, features: Mapping[str, ImageFeatures] | None = None, **inputs: Any) -> Any:
        """transformers' own output of padded rows, with the model's own attention. ``inputs``: what else it is asked for."""
        return self._plain(rows.tokens_RL, rows.mask_RL, as_input(rows.positions_PRL), rows.span_RL, rows.media, features, **inputs)

    def _plain(
        self,
        tokens_BL: Tensor,
        mask_BL: Tensor,
        positions: Tensor,
        span_BL: Tensor,
        media: tuple[MediaRef, ...],
        features: Mapping[str, ImageFeatures] | None = None,
        **inputs: Any,
    ) -> Any:
        self._use(PLAIN)
        inputs |= {name: value.to(self.device) for name, value in type_ids(self.module, span_BL).items()}
        inputs |= {"position_ids": positions.to(self.device), "attention_mask": mask_BL.to(self.device)}
        return self.body(tokens_BL, media, features, **inputs)

    def body(
        self, tokens_BL: Tensor, media: Sequence[MediaRef] = (), features: Mapping[str, ImageFeatures] | None = None, /, **inputs: Any
    ) -> Any:
        """transformers' own output of the body, with the images' features put in place of their tokens: ``features`` by digest, where they
        are made already."""
        self._use_adapter()
        with self.compute(), self._shown(media, features) as pixels:
            trunk = self.module.base_model if self.trunk is None else self.trunk
            return trunk(input_ids=tokens_BL.to(self.device), **({"use_cache": False} | inputs), **pixels)

    @contextlib.contextmanager
    def _shown(self, media: Sequence[MediaRef], features: Mapping[str, ImageFeatures] | None) -> Iterator[dict[str, Tensor]]:
        """Within this context the body finds these images."""
        if not media:
            with self._looking_for_nothing():
                yield {}
            return
        found = self._features(media) if features is None else features
        with in_place(self.module.base_model, ImageFeatures.join([found[ref.digest] for ref in media])) as inputs:
            yield inputs

    @contextlib.contextmanager
    def _looking_for_nothing(self) -> Iterator[None]:
        """Within this context 0 times the features of ``for_nothing`` is added to the embedded tokens, so that a backward pass goes through
        all layers and weights that it goes through where an image is."""
        if self.for_nothing is None or not torch.is_grad_enabled():
            yield
            return
        found = self._features([self.for_nothing])[self.for_nothing.digest]
        nothing = torch.stack([(rows_NH * 0.0).sum() for rows_NH in (found.rows_NH, *found.layers)]).sum()

        def add(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
            return out + nothing.to(out.dtype)

        hook = self.module.get_input_embeddings().register_forward_hook(add)  # type: ignore[arg-type]
        try:
            yield
        finally:
            hook.remove()

    def _features(self, media: Sequence[MediaRef]) -> dict[str, ImageFeatures]:
        """Each distinct image through tower and projector once, or not at all where its features are kept; by digest."""
        self._refuse_strange(media)
        self._use_adapter()
        self.towers = self.towers or Towers(self.module, self.compute_dtype, self.device)
        if self.trunk is not None:
            self.trunk.unshard()  # what is trained of the towers is put together with it
        found: dict[str, ImageFeatures] = {}
        with self.compute():
            for ref in media:
                if ref.digest not in found:
                    found[ref.digest] = self.towers.features(self.media, ref)
        return found

    def _refuse_strange(self, media: Sequence[MediaRef]) -> None:
        """Raise ModelError for images that were made for another model: it would look at something else."""
        if not hasattr(self.module.base_model, "get_image_features"):
            raise ModelError(f"a model of type '{self.config.model_type}' reads text only, and a prompt holds images")
        if any(self.processor_key and ref.processor not in ("", self.processor_key) for ref in media):
            raise ModelError(
                f"the images were made by another processor than that of this '{self.config.model_type}' model",
                "models that read the same prompts need the same processor settings (processor_config.json)",
            )

    def _use_adapter(self) -> None:
        if self.adapter and self.peft_model is not None and self.peft_model.active_adapter != self.adapter:
            self.peft_model.set_adapter(self.adapter, inference_mode=True)

    def _use(self, implementation: str) -> None:
        """Switch the text decoder's attention; a vision tower keeps its own."""
        decoder = self.module.get_decoder()
        if decoder.config._attn_implementation != implementation:
            decoder.set_attn_implementation(implementation)

    @contextlib.contextmanager
    def own_attention(self) -> Iterator[PreTrainedModel]:
        """The module, callable as transformers made it: with the model's own attention."""
        self._use(PLAIN)
        yield self.module

    @contextlib.contextmanager
    def showing(self, samples: Sequence[Pictured]) -> Iterator[None]:
        """Within this context the images of these prompts are found, and no others."""
        before, self.media = self.media, MediaStore()
        for sample in samples:
            for digest, pixels in sample.images.items():
                self.media.put(digest, pixels)
        try:
            yield
        finally:
            self.media = before

    def use_media(self, media: MediaStore) -> None:
        """Take images from this store, which another model shares."""
        for model in (self, *self.members):
            model.media = media

    # -------------------------------------------------------------------------------------------------------------- adapters

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[Model]:
        """This model with its adapters off and the rows of added tokens put back: the weights training started from. Not for use between a
        forward pass and its backward. Raises ModelError without LoRA."""
        if self.peft_model is None:
            raise ModelError("a model without LoRA cannot serve as its own reference", "make a frozen_copy() before training")
        with self.peft_model.disable_adapter(), at_start(self.start_rows):
            yield self

    @property
    def has_lora_dropout(self) -> bool:
        return self.peft_model is not None and self.peft_model.peft_config[ADAPTER].lora_dropout > 0  # type: ignore[union-attr]

    @contextlib.contextmanager
    def lora_dropout(self) -> Iterator[None]:
        """The adapters' dropout on, for a training forward and its backward."""
        set_lora_dropout(self.module, True)
        try:
            yield
        finally:
            set_lora_dropout(self.module, False)

    def frozen_copy(self) -> Model:
        """A copy that is not trained: a reference. Where compute is bfloat16 its linear weights are kept in it, which changes no result."""
        return copy.deepcopy(self, {id(self.media): self.media}).freeze()

    def freeze(self) -> Model:
        """Train nothing of this model, nor of its members. Where compute is bfloat16 linear weights but the head's are kept in it: half
        their memory, no cast in every pass, the same results."""
        for model in (self, *self.members):
            for p in model.named_parameters().values():
                p.requires_grad_(False)
            model.round_frozen()
        return self

    def round_frozen(self) -> None:
        """Keep frozen linear weights in ``compute_dtype``: autocast would round them to it anyway."""
        head = output_layer(self.module)
        for layer in self.module.modules():
            if isinstance(layer, nn.Linear) and layer is not head and not layer.weight.requires_grad:
                layer.to(self.compute_dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass. Only the layers' own flag is set: dropout stays off."""
        self.module.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in self.module.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True

    # --------------------------------------------------------------------------------------------------------------- weights

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, trained or not, those of the heads with them."""
        heads = {f"{name}_head.{k}": p for name, head in self.heads.items() for k, p in head.named_parameters()}
        return dict(self.module.named_parameters()) | heads

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Trained parameters by name, heads included, in a fixed order."""
        return [(name, p) for name, p in self.named_parameters().items() if p.requires_grad]

    def parts(self) -> dict[str, str]:
        """The part of every parameter of the module, by its name; heads beside it have none."""
        return dict(parts_of(self.module))

    def belonging(self, names: Sequence[str], setting: str) -> frozenset[str]:
        """Names of the parameters of these parts or of their last layers (``vision:last2``); heads belong to all. Raises ModelError, in
        which ``setting`` named them, for what the model does not have."""
        heads = self.named_parameters().keys() - dict(self.module.named_parameters()).keys()
        return belonging(self.module, names, setting) | heads

    def state_tensors(self) -> dict[str, Tensor]:
        """The trained parameters by name (views, not copies): what a checkpoint needs beside the base model."""
        return {name: p.detach() for name, p in self.trainable()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the trained parameters. Raises ModelError when names or shapes differ."""
        own = dict(self.trainable())
        wrong = sorted(own.keys() ^ tensors.keys()) or sorted(k for k in own if own[k].shape != tensors[k].shape)
        if wrong:
            raise ModelError(
                f"the stored weights do not fit this model: {', '.join(wrong[:5])}", "it was made by another model or LoRA setting"
            )
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(tensors[name])

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, heads with them, trained or not (views, not copies)."""
        return {name: p.detach() for name, p in self.named_parameters().items()}

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Set parameters by name, trained or not, each in the precision that it is kept in."""
        own = self.named_parameters()
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def digest(self) -> str:
        """sha256 over the names and checksums of the trained parameters (of all, when none is trained): a check against weights that did
        not arrive, not against an adversary. Computed where the weights lie."""
        return digest_bytes(json.dumps([(name, checksum(p)) for name, p in self.digested()]).encode())

    def proven(self) -> dict[str, Tensor]:
        """All weights that come from files or a seed, buffers that files hold with them: not a language-model head that the files lacked
        and nothing uses."""
        random = None if self.lm_head else self.head_weight_VH
        return {name: p for name, p in self.named_parameters().items() if p is not random} | dict(stored_buffers(self.module))

    def digested(self) -> list[tuple[str, nn.Parameter]]:
        """What ``digest`` is of, in its order."""
        return self.trainable() or list(self.named_parameters().items())

    def refuse_quantised(self, what: str) -> None:
        """Raise ModelError where matrices are kept in 8 bits: "it cannot be ``what``"."""
        if self.quantised:
            raise ModelError(f"a model that is kept in {self.quantised} cannot be {what}", "leave model_options.quantise out")

    def save(self, folder: Path, tokenizer: Any, processor: Any = None) -> None:
        """Write a folder that plain transformers and vLLM load: float32 weights, adapters merged, tokenizer, template. A model with a score
        head becomes a sequence classifier where the architecture has one; one without heads gets its ``stop_tokens`` into
        ``generation_config.json``. Raises ModelError for a model that is kept in 8 bits."""
        self.refuse_quantised("saved")
        save.save_model(self, Path(folder), tokenizer, processor)

    def save_adapter(self, folder: Path, tokenizer: Any = None) -> None:
        """Write the adapters as PEFT does; with a tokenizer, it and the generation config too. Raises ModelError without LoRA."""
        save.save_adapter(self, Path(folder), tokenizer)
