"""Tiny vision-language models, one of each way in which families handle images: one square an image, tiles, sizes of their own, positions
in three rows, tokens that see each other both ways. ``tiny`` builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

from keel.models.processors import image_only

_IMAGE = {"image_token": "<image>"}
_IDEFICS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_GRID = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
_GLM = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>")
_QWEN = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
_CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_PINPOINTS = [[28, 56], [56, 28], [56, 56]]

Text = Mapping[str, Any]  # settings of the decoder


@dataclass(frozen=True, slots=True)
class Family:
    """What one family needs: its config from the decoder's settings, its processor, and the tokens that both name."""

    config: Callable[[Text, Any], Any]  # of the decoder's settings and the tokenizer
    processor: Callable[[Any], Any]  # of the tokenizer
    tokens: tuple[str, ...]  # added to the tokenizer
    named: Mapping[str, str] = field(default_factory=lambda: _IMAGE)  # how the tokenizer calls some of them
    mark: str = "<image>"  # what the chat template writes for an image
    spare: int = 0  # rows of the embedding for tokens that the processor adds


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def _llava(text: Text, tokenizer: Any) -> Any:
    return transformers.LlavaConfig(
        text_config={**text, "model_type": "llama"},
        vision_config=_CLIP | {"image_size": 28, "patch_size": 14, "projection_dim": 32},
        image_token_index=_id(tokenizer, "<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _llava_next(text: Text, tokenizer: Any) -> Any:
    return transformers.LlavaNextConfig(
        text_config={**text, "model_type": "llama"},
        vision_config=_CLIP | {"image_size": 28, "patch_size": 14, "projection_dim": 32},
        image_token_index=_id(tokenizer, "<image>"),
        image_grid_pinpoints=_PINPOINTS,
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _llava_processor(tokenizer: Any) -> Any:
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **settings)


def _llava_next_processor(tokenizer: Any) -> Any:
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=_PINPOINTS
    )
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaNextProcessor(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **settings)


def _idefics3(kind: str) -> Callable[[Text, Any], Any]:
    def make(text: Text, tokenizer: Any) -> Any:
        return getattr(transformers, f"{kind}Config")(
            text_config={**text, "model_type": "llama"},
            vision_config=_TOWER | {"image_size": 56, "patch_size": 14},
            scale_factor=2,
            image_token_id=_id(tokenizer, "<image>"),
            pad_token_id=0,
            tie_word_embeddings=False,
        )

    return make


def _idefics3_processor(kind: str, tiles: bool) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        images = getattr(transformers, f"{kind}ImageProcessorPil")(
            size={"longest_edge": 112 if tiles else 56}, max_image_size={"longest_edge": 56}, do_image_splitting=tiles
        )
        cls = image_only(getattr(transformers, f"{kind}Processor"))
        return cls(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)

    return make


def _internvl(text: Text, tokenizer: Any) -> Any:
    return transformers.InternVLConfig(
        text_config={**text, "model_type": "qwen2"},
        vision_config=_TOWER | {"image_size": [28, 28], "patch_size": [7, 7]},
        image_token_id=_id(tokenizer, "<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _internvl_processor(tokenizer: Any) -> Any:
    images = transformers.GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4)
    cls = image_only(transformers.InternVLProcessor)
    return cls(image_processor=images, tokenizer=tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template)


def _gemma3(text: Text, tokenizer: Any) -> Any:
    layers = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(text["num_hidden_layers"])]
    head = text["hidden_size"] // 4
    return transformers.Gemma3Config(
        text_config={**text, "head_dim": head, "query_pre_attn_scalar": head, "layer_types": layers, "tie_word_embeddings": True},
        vision_config=_TOWER | {"image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=_id(tokenizer, "<start_of_image>"),
        eoi_token_index=_id(tokenizer, "<end_of_image>"),
        image_token_index=_id(tokenizer, "<image_soft_token>"),
    )


def _gemma3_processor(tokenizer: Any) -> Any:
    images = transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return transformers.Gemma3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )


def _paligemma(text: Text, tokenizer: Any) -> Any:
    size = text["hidden_size"]
    return transformers.PaliGemmaConfig(
        text_config={**text, "model_type": "gemma", "head_dim": size // 4, "tie_word_embeddings": True},
        vision_config=_TOWER
        | {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, "projection_dim": size, "vision_use_head": False},
        image_token_index=_id(tokenizer, "<image>"),
        projection_dim=size,
    )


def _paligemma_processor(tokenizer: Any) -> Any:
    images: Any = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    return transformers.PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)


def _qwen(kind: str, vision: Mapping[str, Any], interleaved: bool = False) -> Callable[[Text, Any], Any]:
    def make(text: Text, tokenizer: Any) -> Any:
        size = text["hidden_size"]
        half = size // 8
        side = half // 4 if interleaved else 3 * half // 8
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [half - 2 * side, side, side]}
        own = {"head_dim": size // 4, "rope_parameters": {**rope, "mrope_interleaved": True}} if interleaved else {"rope_parameters": rope}
        tower = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
        tower |= {key: size if value is None else value for key, value in vision.items()}
        names = {"image_token_id": 1, "video_token_id": 3, "vision_start_token_id": 0, "vision_end_token_id": 2}
        ids = {name: _id(tokenizer, _QWEN[place]) for name, place in names.items()}
        return getattr(transformers, f"{kind}Config")(text_config={**text, **own}, vision_config=tower, tie_word_embeddings=False, **ids)

    return make


def _qwen_processor(kind: str) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        images = transformers.Qwen2VLImageProcessorPil(
            patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=28 * 28, max_pixels=112 * 112
        )
        cls = image_only(getattr(transformers, f"{kind}Processor"))
        return cls(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)

    return make


def _glm(text: Text, tokenizer: Any) -> Any:
    size = text["hidden_size"]
    quarter = size // 64  # of the pairs that are rotated: half of a head's
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    tower = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    names = ("image_token_id", "video_token_id", "image_start_token_id", "image_end_token_id")
    config: Any = transformers.Glm4vConfig
    return config(
        text_config={**text, "rope_parameters": {**rope, "mrope_section": [2 * quarter, quarter, quarter]}},
        vision_config={**tower, "out_hidden_size": size, "intermediate_size": 64, "image_size": 112},
        tie_word_embeddings=False,
        **{name: _id(tokenizer, token) for name, token in zip(names, _GLM, strict=True)},
    )


def _glm_processor(tokenizer: Any) -> Any:
    cls: Any = transformers.Glm4vImageProcessorPil
    images = cls(patch_size=14, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112})
    return image_only(transformers.Glm4vProcessor)(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)


def _qwen_family(kind: str, vision: Mapping[str, Any], interleaved: bool = False) -> Family:
    named = {"image_token": _QWEN[1], "video_token": _QWEN[3]}
    return Family(_qwen(kind, vision, interleaved), _qwen_processor(kind), _QWEN, named, "".join(_QWEN[:3]))


_GEMMA_NAMES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
_INTERN_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_INTERN = tuple(_INTERN_NAMES.values())

FAMILIES: Mapping[str, Family] = {
    "llava": Family(_llava, _llava_processor, ("<image>", *_IDEFICS)),
    "llava_next": Family(_llava_next, _llava_next_processor, ("<image>",)),
    "idefics3": Family(_idefics3("Idefics3"), _idefics3_processor("Idefics3", False), ("<image>", *_IDEFICS)),
    "idefics3_tiles": Family(_idefics3("Idefics3"), _idefics3_processor("Idefics3", True), ("<image>", *_IDEFICS, *_GRID)),
    "smolvlm": Family(_idefics3("SmolVLM"), _idefics3_processor("SmolVLM", False), ("<image>", *_IDEFICS, *_GRID)),
    "smolvlm_tiles": Family(_idefics3("SmolVLM"), _idefics3_processor("SmolVLM", True), ("<image>", *_IDEFICS, *_GRID)),
    "internvl": Family(_internvl, _internvl_processor, _INTERN, _INTERN_NAMES, "<IMG_CONTEXT>"),
    "gemma3_vision": Family(_gemma3, _gemma3_processor, tuple(_GEMMA_NAMES.values()), _GEMMA_NAMES, "<start_of_image>"),
    "paligemma": Family(_paligemma, _paligemma_processor, ("<image>",), spare=1160),
    "glm4v": Family(
        _glm, _glm_processor, _GLM, {"image_token": _GLM[0], "video_token": _GLM[1]}, "<|begin_of_image|><|image|><|end_of_image|>"
    ),
    "qwen2_vl": _qwen_family("Qwen2VL", {"embed_dim": 32, "hidden_size": None, "mlp_ratio": 2}),
    "qwen2_5_vl": _qwen_family(
        "Qwen2_5_VL", {"out_hidden_size": None, "intermediate_size": 64, "window_size": 56, "fullatt_block_indexes": [1]}
    ),
    "qwen3_vl": _qwen_family(
        "Qwen3VL",
        {"out_hidden_size": None, "intermediate_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        interleaved=True,
    ),
}
