"""Every family of vision-language models, with large random weights, against plain transformers on each sample by itself:
log-probabilities, gradients down to the tower, sampling. Several images a prompt, other sizes, tiles, prompts that are shared, rows
without an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from keel.learner.packing import pack
from keel.models import tiny
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.parts import parts_of
from keel.models.tiny_vision import FAMILIES
from keel.render.config import RenderConfig
from keel.render.pixels import image_bytes, open_image
from keel.render.renderer import Renderer
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.types import ImagePart, Message, Prompt, Ranking, SampleRequest, SamplingParams, TextPart, Unit
from keel.verbs.shared.session import renderer_of

TYPES = ("token_type_ids", "mm_token_type_ids")
Folder = Callable[[str], Path]


def noise(seed: int, width: int, height: int) -> ImagePart:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())


SQUARE, WIDE, HIGH = noise(0, 56, 56), noise(1, 90, 40), noise(2, 40, 100)


def record(name: str, parts: list[ImagePart | str], *answers: str) -> Ranking:
    content = tuple(TextPart(p) if isinstance(p, str) else p for p in parts)
    ranks = tuple(range(1, len(answers) + 1))
    return Ranking(name, Prompt(name, (Message("user", content),)), tuple((Message("assistant", a),) for a in answers), ranks)


RECORDS = [
    record("a", [SQUARE, "what colour?"], "red", "a large blue square"),
    record("b", ["no image"], "green", "it is blue"),
    record("c", [WIDE, "what?"], "red"),
    record("d", ["now", HIGH, "which?"], "blue it is"),
    record("e", [WIDE, "and", HIGH, "same?"], "yes red", "no"),
    record("f", ["see", SQUARE, HIGH, "?"], "large", "red", "blue blue"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, proofs: None) -> Folder:
    """``folder("gemma3_vision")``: a saved tiny model, its matrices spread so that errors show."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            module, tokenizer, processor = tiny.build(tiny.parse(f"tiny:{name}?seed=0&layers=3", 0))
            generator = torch.Generator().manual_seed(0)
            words = 0.05 if module.config.get_text_config().tie_word_embeddings else 0.4  # tied, larger ones would only repeat themselves
            for key, p in module.named_parameters():
                if p.dim() > 1:
                    torch.nn.init.normal_(p, std=words if "embed" in key else 0.12, generator=generator)
            made[name] = tmp_path_factory.mktemp(name)
            module.save_pretrained(made[name])
            tokenizer.save_pretrained(made[name])
            processor.save_pretrained(made[name])
        return made[name]

    return make


class Plain:
    """Plain transformers, one sample at a time."""

    def __init__(self, path: Path, loaded: Loaded, renderer: Renderer) -> None:
        self.module = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        self.processor, self.renderer = loaded.processor, renderer

    def inputs(self, prompt: Prompt, ids_T: Tensor) -> tuple[dict[str, Tensor], int]:
        """The processor's output for the whole prompt, ids left out, and the type of the tokens behind it."""
        images = [open_image(image_bytes(p), "") for p in prompt.messages[0].content if isinstance(p, ImagePart)]
        if type(self.processor).__name__ == "PaliGemmaProcessor":  # it writes a beginning and a line break, and demands an image
            inputs = {"token_type_ids": torch.zeros(1, len(ids_T), dtype=torch.long)}
            if images:
                inputs["pixel_values"] = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
            return inputs, 1
        assert self.renderer.template is not None
        text = self.renderer.template.render(prompt.messages, True)
        out = dict(self.processor(text=[text], return_tensors="pt", add_special_tokens=False, **({"images": [images]} if images else {})))
        assert out.pop("input_ids")[0].tolist() == ids_T.tolist()
        out.pop("attention_mask")
        return out, 0

    def logprobs(self, prompt: Prompt, ids_T: Tensor, answer_T: Tensor) -> Tensor:
        inputs, kind = self.inputs(prompt, ids_T)
        for name in TYPES:
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], inputs[name].new_full((1, len(answer_T)), kind)], 1)
        row = torch.cat([ids_T, answer_T])[None]
        logits = self.module(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, **inputs).logits[0]
        banned = torch.tensor(self.renderer.banned_tokens)
        return logits[len(ids_T) - 1 : -1].index_fill(1, banned, -torch.inf).log_softmax(-1).gather(1, answer_T[:, None])[:, 0]


def ours(loaded: Loaded, units: list[Unit]) -> Tensor:
    batch = pack(units)
    logits = loaded.model.logits(loaded.model.hidden(batch)[batch.source_S])
    return logits.log_softmax(-1).gather(1, batch.target_S[:, None])[:, 0]


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}
    module.zero_grad()
    return found


def apart(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    squares = sum(float((got[k] - expected[k]).square().sum()) for k in expected)
    return (squares / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_family_is_exact(name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(str(folder(name)), ModelOptions(precision="fp32", device="cpu"))
    renderer = renderer_of(loaded, RenderConfig())
    plain = Plain(folder(name), loaded, renderer)
    units = [renderer.unit(r) for r in RECORDS]
    assert all(isinstance(u, Unit) for u in units)
    assert loaded.model.packed
    assert not loaded.model.no_images

    pairs = [(r.prompt, u.prompt.tokens_T, b) for r, u in zip(RECORDS, units, strict=True) for b in u.branches]
    expected = torch.cat([plain.logprobs(prompt, ids, b.tokens_T)[b.trained_T] for prompt, ids, b in pairs])
    expected.sum().backward()
    theirs = gradients(plain.module)
    tower = [k for k, part in parts_of(plain.module).items() if part == "vision" and bool(theirs[k].any())]
    assert tower

    calls: list[Any] = []
    body = loaded.model.module.base_model
    original = body.get_image_features
    monkeypatch.setattr(type(body), "get_image_features", lambda self, **pixels: calls.append(1) or original(**pixels))
    for packed in (True, False):
        loaded.model.packed = packed
        got = ours(loaded, units)
        got.sum().backward()
        assert torch.allclose(got, expected, atol=1e-5, rtol=1e-6)
        mine = gradients(loaded.model.module)
        assert apart(mine, theirs) < 1e-5
        assert apart({k: mine[k] for k in tower}, {k: theirs[k] for k in tower}) < 1e-5
    assert len(calls) == 2 * 3, "three distinct images in a batch, whatever their number in prompts and rows"


@pytest.mark.parametrize("name", list(FAMILIES))
def test_what_is_sampled_is_what_plain_transformers_gives(name: str, folder: Folder) -> None:
    loaded = load_model(str(folder(name)), ModelOptions(precision="fp32", device="cpu"))
    renderer = renderer_of(loaded, RenderConfig())
    plain = Plain(folder(name), loaded, renderer)
    params = SamplingParams(8, stop_tokens=renderer.stop_tokens, banned_tokens=renderer.banned_tokens)
    by_name = {r.record_id: r.prompt for r in RECORDS}
    drawn: list[dict[tuple[str, int], list[int]]] = []
    for path in ("auto", "plain"):
        sampler = LocalSampler(loaded.model, renderer.decode, SamplerConfig(path=path))
        assert sampler.fast == (path == "auto")
        sampler.submit([SampleRequest(r.record_id, renderer.prompt(r.prompt), 2, params, seed=1) for r in RECORDS])
        rollouts = list(sampler.collect())
        drawn.append({(r.prompt_id, r.sample): r.tokens_T.tolist() for r in rollouts})
        for rollout in rollouts:
            prompt = by_name[rollout.prompt_id]
            with torch.no_grad():
                expected_T = plain.logprobs(prompt, renderer.prompt(prompt).tokens_T, rollout.tokens_T)
            assert torch.allclose(rollout.logprobs_T, expected_T, atol=1e-5, rtol=1e-6)
    assert drawn[0] == drawn[1]
