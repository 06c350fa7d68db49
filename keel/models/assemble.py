"""A vision-language model in LLaVA's form (Liu et al. 2023, https://arxiv.org/abs/2304.08485) of a vision tower and a language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from keel.core.errors import ModelError
from keel.models.config import ModelOptions
from keel.models.dinov2 import read_dinov2
from keel.models.loading import PACKAGE, load_model, package_file
from keel.models.read_errors import plain_errors, quiet

IMAGE = "<image>"
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_FLATTENED = (
    "{%- set all = namespace(flat=[]) -%}{%- for m in messages -%}{%- set one = namespace(text='') -%}"
    "{%- if m.content is string -%}{%- set one.text = m.content -%}{%- else -%}{%- for part in m.content -%}"
    "{%- set one.text = one.text + ('" + IMAGE + "' if part.type == 'image' else part.text) -%}{%- endfor -%}{%- endif -%}"
    "{%- set all.flat = all.flat + [dict(role=m.role, content=one.text)] -%}{%- endfor -%}{%- set messages = all.flat -%}"
)
CHATML = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision encoder and how pixels are given to it. ``class_token``: its first row stands for the whole picture and is left out."""

    module: PreTrainedModel
    pixels: int
    mean: list[float]
    std: list[float]
    class_token: bool

    @property
    def patch(self) -> int:
        """Side of a patch, in pixels."""
        config: Any = self.module.config
        return int(config.patch_size)


def read_tower(spec: str, pixels: int) -> Tower:
    """A tower from an ONNX file of DINOv2 (a path or ``package:NAME/FILE.onnx``), or a folder or Hub id of a vision model or of a
    model that has one (CLIP, SigLIP). ``pixels``: side of the picture; 0 = the tower's own. Raises ModelError."""
    path = package_file(spec) if spec.startswith(PACKAGE) else Path(spec).expanduser()
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ModelError(f"'{spec}' does not exist", "give an .onnx file, or the folder or Hub id of a vision tower")
        module, norms = read_dinov2(path), _IMAGENET
    else:
        module, norms = _read_pretrained(spec)
    config: Any = module.config
    pixels = pixels or int(config.image_size)
    if pixels % config.patch_size or (config.model_type != "dinov2" and pixels != config.image_size):
        fits = f"{config.image_size}" if config.model_type != "dinov2" else f"a multiple of {config.patch_size}"
        raise ModelError(f"pixels={pixels} do not fit the tower '{spec}' ({config.model_type})", f"give {fits}")
    return Tower(module, pixels, list(norms["image_mean"]), list(norms["image_std"]), config.model_type != "siglip_vision_model")


def _read_pretrained(spec: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    folder = Path(spec).expanduser() if Path(spec).expanduser().is_dir() else None
    with plain_errors(spec, folder), quiet():
        whole: Any = transformers.AutoModel.from_pretrained(str(folder or spec), dtype=torch.float32)
        found: dict[str, Any] = dict(transformers.ImageProcessingMixin.get_image_processor_dict(str(folder or spec))[0])
    module = whole if getattr(whole.config, "vision_config", None) is None else _only_vision(whole)
    if not hasattr(module.config, "patch_size") or not {"image_mean", "image_std"} <= found.keys():
        raise ModelError(f"'{spec}' ({whole.config.model_type}) is no vision tower with patches and a preprocessor_config.json")
    return module.eval(), found


def _only_vision(whole: Any) -> PreTrainedModel:
    """The tower of a model of pictures and texts, as the class that LLaVA makes of the tower's config."""
    module: Any = transformers.AutoModel.from_config(whole.config.vision_config, dtype=torch.float32)
    inner = module.vision_model if hasattr(module, "vision_model") else module
    inner.load_state_dict(whole.vision_model.state_dict())
    return module


def assemble(tower: Tower, language: str, feature_layer: int, template: str, seed: int) -> tuple[Any, Any]:
    """The model, float32 with a fresh projector of two layers, and its processor. ``language`` is read as by ``load_model``.

    ``template``: ``chatml`` (no system message by itself) or ``model``, the language model's own. The token ``<image>`` is new, with the
    mean of all embeddings. Raises ModelError.
    """
    base = load_model(language, ModelOptions(precision="fp32", fast_path="off"))
    lm, tokenizer = base.model.module, base.tokenizer
    if base.processor is not None:
        raise ModelError(f"'{language}' reads images already", "give a language model")
    chat = template_of(template, tokenizer, language)
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    side = tower.pixels // tower.patch
    config = transformers.LlavaConfig(
        text_config=lm.config.to_dict(),
        vision_config=tower.module.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default" if tower.class_token else "full",
        image_seq_length=side * side,
        tie_word_embeddings=lm.config.tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = transformers.LlavaForConditionalGeneration(config)
    _fill(module, lm, tower.module, len(tokenizer))
    return module.eval(), _processor(tower, tokenizer, chat)


def _fill(module: Any, lm: Any, tower: PreTrainedModel, vocabulary: int) -> None:
    """Weights of both into the joined model; rows of new tokens are the mean of the others."""
    module.resize_token_embeddings(vocabulary, mean_resizing=False)
    body = {name: t for name, t in lm.base_model.state_dict().items() if name != "embed_tokens.weight"}
    missing, unexpected = module.model.language_model.load_state_dict(body, strict=False)
    assert not unexpected
    assert set(missing) <= {"embed_tokens.weight"}
    for new, old in (
        (module.get_input_embeddings(), lm.get_input_embeddings()),
        (module.get_output_embeddings(), lm.get_output_embeddings()),
    ):
        with torch.no_grad():
            kept = min(len(old.weight), vocabulary)
            new.weight[:kept] = old.weight[:kept]
            new.weight[kept:] = old.weight.mean(0)
    module.tie_weights()
    module.model.vision_tower.load_state_dict(tower.state_dict())
    module.generation_config = lm.generation_config


def template_of(name: str, tokenizer: Any, language: str) -> str:
    """A chat template that takes messages with pictures: theirs are made text, ``<image>`` in the picture's place, before it sees them."""
    own = tokenizer.chat_template
    if name == "model" and not isinstance(own, str):
        raise ModelError(f"'{language}' has no chat template", "use template=chatml, or a model that was tuned on chats")
    known = tokenizer.get_vocab()
    if name == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= known.keys():
        raise ModelError(f"'{language}' does not know <|im_start|> and <|im_end|>", "use template=model")
    return _FLATTENED + (own if name == "model" else CHATML)


def _processor(tower: Tower, tokenizer: Any, chat: str) -> Any:
    side = {"height": tower.pixels, "width": tower.pixels}
    images = transformers.CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=tower.mean, image_std=tower.std)
    return transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        chat_template=chat,
        patch_size=tower.patch,
        vision_feature_select_strategy="default" if tower.class_token else "full",
        num_additional_image_tokens=int(tower.class_token),
    )
