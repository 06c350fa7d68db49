"""A critic's head that looks at the images again."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from keel.core.errors import ModelError
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.learner.packing import pack
from keel.methods.objectives.value import ValueObjective
from keel.models.heads import load_heads, make_head
from keel.models.loading import Loaded
from keel.models.media import image_features
from keel.models.vision_value_head import LookingValueHead, View, views
from keel.render.config import RenderConfig
from keel.types import Branch, Encoded, ImagePart, Message, Prompt, TextPart, Unit
from keel.verbs.shared.session import renderer_of

Load = Callable[..., Loaded]
VALUE = frozenset({"value"})
SIZES = {"one": [(30, 30)], "two": [(30, 30), (60, 30)], "none": []}


def critic(load: Load, arch: str = "llava", **options: object) -> Loaded:
    """With weights that show errors: no part of the head is 0."""
    loaded = load(arch, heads=VALUE, value="image_attention", **options)
    head = loaded.model.value_head
    assert isinstance(head, LookingValueHead)
    with torch.no_grad():
        head.gate.fill_(0.8)
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(4)))
        head.bias.fill_(0.3)
    return loaded


@pytest.fixture
def units(tmp_path: Path) -> Callable[[Loaded], tuple[Unit, ...]]:
    """Prompts with one image, with two of other sizes, and with none; three, one and two answers."""

    def make(loaded: Loaded) -> tuple[Unit, ...]:
        renderer = renderer_of(loaded, RenderConfig())
        found = []
        for k, (name, sizes) in enumerate(SIZES.items()):
            parts: list[TextPart | ImagePart] = [TextPart("See")]
            for i, size in enumerate(sizes):
                path = tmp_path / f"{name}{i}.png"
                Image.linear_gradient("L").rotate(90 * i).resize(size).convert("RGB").save(path)
                parts += [ImagePart(str(path)), TextPart(f"so {i}")]
            encoded = renderer.prompt(Prompt(name, (Message("user", tuple(parts)),)))
            answers = [torch.arange(20 + j, 24 + 2 * j) for j in range((3, 1, 2)[k])]
            branches = [Branch(t, torch.ones(len(t), dtype=torch.bool)) for t in answers]
            found.append(Unit(name, encoded, tuple(branches)))
        return tuple(found)

    return make


def values(loaded: Loaded, units: tuple[Unit, ...], tokens: int = 10_000) -> list[Tensor]:
    learner = LocalLearner(loaded.model, OptimConfig(), BatchConfig(inference_tokens=tokens), 1, 0)
    return [torch.cat(row) for row in learner.values(units)]


# -------------------------------------------------------------------------------------------------------------------- the maths


def test_attention_by_hand() -> None:
    """Two tokens, the second behind an image of two rows; all maps the identity, one head."""
    head = LookingValueHead(2, 0)
    with torch.no_grad():
        for layer in (head.query, head.key, head.view, head.out):
            layer.weight.copy_(torch.eye(2))
        head.gate.fill_(math.atanh(0.5))
    hidden_NH = torch.tensor([[3.0, 1.0], [1.0, 5.0]])
    rows_FH = torch.tensor([[0.0, 4.0], [6.0, 2.0]])
    looked_NH = head.look(hidden_NH, [View(0, 2, rows_FH, torch.tensor([1, 1]))])
    # normed: h = (-1, 1), f = (-1, 1), (1, -1); logits 2 / sqrt 2 and -2 / sqrt 2; weights w and 1 - w
    w = 1 / (1 + math.exp(-4 / math.sqrt(2)))
    expected = torch.tensor([[3.0, 1.0], [1.0 + 0.5 * (1 - 2 * w), 5.0 + 0.5 * (2 * w - 1)]])
    torch.testing.assert_close(looked_NH, expected, rtol=1e-4, atol=1e-4)


def test_a_token_sees_the_images_before_it_only() -> None:
    head = LookingValueHead(64, 1)
    with torch.no_grad():
        head.gate.fill_(1.0)
    hidden_NH, rows_FH = torch.randn(12, 64), torch.randn(5, 64)
    from_F = torch.tensor([2, 2, 2, 6, 6])

    def at(rows: Tensor) -> Tensor:
        return head.look(hidden_NH, [View(1, 10, rows, from_F)])

    base_NH = at(rows_FH)
    other = rows_FH.clone()
    other[3:] = torch.randn(2, 64)
    moved_N = (at(other) - base_NH).abs().amax(1) > 0
    assert moved_N.tolist() == [False] * 7 + [True] * 4 + [False], "tokens 6 .. 9 of the unit that begins at 1"
    changed_N = (base_NH - hidden_NH).abs().amax(1) > 0
    assert changed_N.tolist() == [False] * 3 + [True] * 8 + [False]


def test_where_images_end() -> None:
    """Tiles put other tokens between the rows of one image."""
    from keel.types import MediaRef

    tokens = torch.tensor([1, 9, 9, 2, 9, 3, 9, 9, 4])
    prompt = Encoded(tokens, (MediaRef("a", 3), MediaRef("b", 2)))
    text = Unit("t", Encoded(torch.tensor([1, 2])), (Branch(torch.tensor([5]), torch.tensor([True])),))
    unit = Unit("u", prompt, (Branch(torch.tensor([5, 6]), torch.tensor([True, True])),))
    rows = {"a": torch.zeros(3, 4), "b": torch.ones(2, 4)}
    (view,) = views(pack([text, unit]), rows, 9)
    assert (view.first, view.length) == (3, 11)
    assert view.from_F.tolist() == [5, 5, 5, 8, 8]
    assert view.rows_FH[:, 0].tolist() == [0, 0, 0, 1, 1]


# ------------------------------------------------------------------------------------------------------------------- on a model


@pytest.mark.parametrize("arch", ["llava", "idefics3_tiles", "qwen2_5_vl", "gemma3_vision"])
def test_packed_is_plain_and_one_by_one(load: Load, units, arch: str) -> None:
    packed, plain = critic(load, arch), critic(load, arch, fast_path="off")
    assert packed.model.packed
    assert not plain.model.packed
    mine, theirs = values(packed, units(packed)), values(plain, units(plain))
    alone = values(packed, units(packed), tokens=1)
    for a, b, c in zip(mine, theirs, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(a, c, rtol=1e-5, atol=2e-5)


def test_values_by_hand_of_one_sample(load: Load, units) -> None:
    loaded = critic(load)
    unit = units(loaded)[1]
    model, head = loaded.model, loaded.model.value_head
    assert isinstance(head, LookingValueHead)
    tokens_BL = torch.cat([unit.prompt.tokens_T, unit.branches[0].tokens_T])[None]
    with torch.no_grad():
        states_LH = model.run_plain(tokens_BL, torch.ones_like(tokens_BL), unit.prompt.media)[0]
        features = [image_features(model.module.base_model, model.media.get(ref.digest), ref).rows_NH for ref in unit.prompt.media]
        norm = torch.nn.functional.layer_norm
        rows_FH = norm(torch.cat(features), (states_LH.shape[1],))
        at = len(unit.prompt) - 1  # predicts the first token of the answer: both images are before it
        q_D = head.query(norm(states_LH[at], (states_LH.shape[1],)))
        weights_F = torch.softmax(head.key(rows_FH) @ q_D / q_D.shape[0] ** 0.5, 0)
        seen_H = states_LH[at] + math.tanh(0.8) * head.out(weights_F @ head.view(rows_FH))
        expected = float(head.weight[0] @ seen_H + 0.3)
    assert head.n_heads == 1
    assert float(values(loaded, (unit,))[0][0]) == pytest.approx(expected, abs=1e-4)


def test_at_the_start_and_without_images_it_is_the_plain_head(load: Load, units) -> None:
    looking, plain = critic(load), load("llava", heads=VALUE)
    linear = plain.model.value_head
    with torch.no_grad():
        linear.weight.copy_(looking.model.value_head.weight)
        linear.bias.copy_(looking.model.value_head.bias)
    one, two, none = values(looking, units(looking))
    plain_one, plain_two, plain_none = values(plain, units(plain))
    assert torch.equal(none, plain_none)
    assert float((one - plain_one).abs().min()) > 1e-4
    assert float((two - plain_two).abs().min()) > 1e-4
    torch.nn.init.zeros_(looking.model.value_head.gate)
    for a, b in zip(values(looking, units(looking)), (plain_one, plain_two, plain_none), strict=True):
        assert torch.equal(a, b)
    fresh = load("llava", heads=VALUE, value="image_attention").model.value_head
    assert float(fresh.gate.detach()) == 0.0
    assert not fresh.weight.any(), "the first values are 0"
    assert not fresh.bias.any()


def test_gradients_are_those_of_a_difference(load: Load, units) -> None:
    """Into the head, and through the features into projector and tower."""
    loaded = critic(load)
    made = tuple(with_returns(u, 1.0) for u in units(loaded))
    learner = LocalLearner(loaded.model, OptimConfig(), BatchConfig(), 1, 0)
    objective = ValueObjective(clip=math.inf)
    learner.forward_backward(made, objective)
    named = dict(loaded.model.trainable())
    parts = loaded.model.parts()
    chosen = ["value_head.gate", "value_head.query.weight", "value_head.key.weight", "value_head.view.weight", "value_head.out.weight"]
    chosen += [
        next(n for n, part in parts.items() if part == "projector"),
        next(n for n in parts if "vision_tower" in n and "q_proj.weight" in n),
    ]
    for name in chosen:
        p, grad = named[name], named[name].grad
        assert grad is not None, name
        way = grad / grad.norm()
        losses = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                p.add_(sign * 1e-2 * way)
                losses.append(learner.evaluate(made, objective).metrics["loss"])
                p.sub_(sign * 1e-2 * way)
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(float(grad.norm()), rel=2e-2, abs=1e-3), name


def with_returns(unit: Unit, value: float) -> Unit:
    def signalled(branch: Branch) -> Branch:
        n = len(branch)
        return Branch(branch.tokens_T, branch.trained_T, {"returns": torch.full((n,), value), "values": torch.zeros(n)})

    return Unit(unit.unit_id, unit.prompt, tuple(map(signalled, unit.branches)))


# ----------------------------------------------------------------------------------------------------------------------- files


def test_it_is_saved_read_again_and_not_cut_to_a_linear_one(load: Load, units, tmp_path: Path) -> None:
    loaded = critic(load)
    loaded.model.save(tmp_path / "critic", loaded.tokenizer, loaded.processor)
    again = load(str(tmp_path / "critic"), heads=VALUE)
    for a, b in zip(values(loaded, units(loaded)), values(again, units(again)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="a linear one would be a part of it"):
        load(str(tmp_path / "critic"), heads=VALUE, value="linear")


def test_it_goes_on_from_a_linear_one(load: Load, tmp_path: Path) -> None:
    plain = load("llava", heads=VALUE)
    torch.nn.init.constant_(plain.model.value_head.weight, 0.5)
    plain.model.save(tmp_path / "critic", plain.tokenizer, plain.processor)
    head = make_head("value", plain.model.value_head.in_features, 0, value="image_attention")
    assert load_heads(tmp_path / "critic", {"value": head}) == ["value"]
    assert float(head.weight.detach().min()) == 0.5  # type: ignore[operator]
    assert float(head.gate.detach()) == 0.0  # type: ignore[operator]


def test_a_model_that_reads_no_images_has_no_such_head(load: Load) -> None:
    with pytest.raises(ModelError, match="reads none"):
        load("llama", heads=VALUE, value="image_attention")


# ------------------------------------------------------------------------------------------------------------------- learning


def pictures(loaded: Loaded, folder: Path) -> tuple[list[Unit], Tensor]:
    """Sixteen pictures, one prompt and one answer to all of them; the value is the picture's colour, with mean 0 and variance 1."""
    renderer, units = renderer_of(loaded, RenderConfig()), []
    wanted_K = (torch.arange(16) - 7.5) / 4.61
    for k, value in enumerate(wanted_K.tolist()):
        path = folder / f"{k}.png"
        Image.new("RGB", (30, 30), (16 * k, 255 - 16 * k, 40)).save(path)
        encoded = renderer.prompt(Prompt(str(k), (Message("user", (ImagePart(str(path)), TextPart("How bright?"))),)))
        units.append(with_returns(Unit(str(k), encoded, (Branch(torch.tensor([20, 21]), torch.tensor([True, True])),)), value))
    return units, wanted_K


def test_it_learns_what_only_the_picture_says(load: Load, tmp_path: Path) -> None:
    """The trunk rests and its states are hidden from the head, which is left with what it looks at: without that all values would be equal
    and their error at least the variance, 1."""
    loaded = load("llava", heads=VALUE, value="image_attention")
    head, (units, wanted_K) = loaded.model.value_head, pictures(loaded, tmp_path)
    assert isinstance(head, LookingValueHead)
    for p in loaded.model.module.parameters():
        p.requires_grad_(False)
    optim = OptimConfig(lr=1e-2, schedule="constant", warmup_ratio=0.0)
    learner = LocalLearner(loaded.model, optim, BatchConfig(), 60, 0)
    look = head.look

    def blind(hidden_NH: Tensor, seen: list[View]) -> Tensor:
        return look(torch.ones_like(hidden_NH), seen)

    head.look = blind  # type: ignore[method-assign]
    torch.nn.init.constant_(head.weight, 0.1)  # the states are all equal: nothing would move the head off 0, and with it the gate
    for _ in range(60):
        learner.forward_backward(units, ValueObjective(clip=math.inf))
        learner.step()
    found_K = torch.stack([v.mean() for v in values(loaded, tuple(units))])
    assert float((found_K - wanted_K).square().mean()) < 0.25
