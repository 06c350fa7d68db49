"""Where attention goes and what is alike, on attention that is known."""

from __future__ import annotations

import base64
import io
import math

import pytest
import torch
from PIL import Image

from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.looking import _entropy, looking
from keel.render.config import RenderConfig
from keel.types import Demonstration, ImagePart, Message, Prompt, TextPart, Unit
from keel.verbs.shared.session import renderer_of


def shown(colour: int) -> ImagePart:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (colour, 10, 200)).save(out, "PNG")
    return ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())


def units_of(loaded: Loaded, n: int) -> list[Unit]:
    renderer = renderer_of(loaded, RenderConfig())
    found: list[Unit] = []
    for i in range(n):
        prompt = Prompt(f"p{i}", (Message("user", (shown(40 * i), TextPart("Which colour?"))),))
        unit = renderer.unit(Demonstration(f"d{i}", prompt, (Message("assistant", f"number {i}"),)))
        assert isinstance(unit, Unit)
        found.append(unit)
    return found


def model_of(spec: str) -> Loaded:
    return load_model(f"tiny:{spec}?seed=1&std=0.15", ModelOptions(precision="fp32", device="cpu"))


def test_attention_that_looks_everywhere_alike() -> None:
    """With queries of 0 each token looks alike at all up to itself: a token at place t sees 4 image tokens of t + 1."""
    loaded = model_of("llava")
    with torch.no_grad():
        for name, p in loaded.model.module.named_parameters():
            if "language" in name and "q_proj" in name:
                p.zero_()
    (unit,) = units_of(loaded, 1)
    found = looking(loaded.model, [unit])
    at = [len(unit.prompt) - 1 + int(t) for t in unit.branches[0].trained_T.nonzero()[:, 0]]
    assert found["attention/image_mass"] == pytest.approx(sum(4 / (t + 1) for t in at) / len(at), rel=1e-4)
    assert found["attention/image_entropy"] == pytest.approx(1.0, abs=1e-5)
    assert "alignment/lead" not in found, "one unit has no others"


def test_entropy_by_hand() -> None:
    rows = torch.tensor([[0.1, 0.1, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0]])
    assert _entropy(rows) == pytest.approx((math.log(2) / math.log(4) + 0.0) / 2)
    assert _entropy(torch.ones(3, 1)) is None
    assert _entropy(torch.zeros(0, 4)) is None


@pytest.mark.parametrize("spec", ["llava", "qwen3_vl", "gemma3_vision", "internvl"])
def test_families_are_measured_in_their_ranges_and_packed_rows_go_on(spec: str) -> None:
    loaded = model_of(spec)
    units = units_of(loaded, 3)
    found = looking(loaded.model, units)
    assert set(found) == {"attention/image_mass", "attention/image_entropy", "alignment/cosine", "alignment/lead"}
    assert 0 < found["attention/image_mass"] < 1
    assert 0 < found["attention/image_entropy"] <= 1
    assert -1 <= found["alignment/cosine"] <= 1
    same = looking(loaded.model, [units[0]] * 3)
    assert same["alignment/lead"] == pytest.approx(0.0, abs=1e-6), "all answers alike"


def test_text_has_nothing_to_look_at() -> None:
    loaded = load_model("tiny:llama?seed=1", ModelOptions(precision="fp32", device="cpu"))
    unit = renderer_of(loaded, RenderConfig()).unit(
        Demonstration("d", Prompt("p", (Message("user", "Hi"),)), (Message("assistant", "Yes"),))
    )
    assert isinstance(unit, Unit)
    assert looking(loaded.model, [unit]) == {}
