"""Features of images that are kept, over every family: what is kept is what would have been made, whatever is trained, whoever asks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from keel.core.errors import ConfigError
from keel.learner.local import LocalLearner
from keel.models.config import FeaturesConfig, LoraConfig, ModelOptions
from keel.models.features import FeatureStore
from keel.models.loading import HeadName, load_model
from keel.models.model import Model
from keel.models.prove_images import as_batch, image_units
from keel.models.tiny_vision import FAMILIES
from keel.types import Batch
from keel.verbs.run import run_verb

INSIDE = {"glm4v", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"}  # their projector lies inside the tower
SCENES = Path(__file__).parent.parent / "recipes/tiny/scenes"
pytestmark = pytest.mark.usefixtures("proofs")
Load = Callable[..., Model]


def options(**changed: Any) -> ModelOptions:
    return ModelOptions(**{"precision": "fp32", "device": "cpu", **changed})


def shown(spec: str, lora: LoraConfig | None = None, head: HeadName | None = None, **changed: Any) -> tuple[Model, Batch]:
    """A model, and a packed batch with three images (one of them twice), of two prompts."""
    heads = frozenset[HeadName]([head] if head is not None else [])
    model = load_model(f"tiny:{spec}", options(**changed), lora, heads, new_heads=head is not None).model
    assert model.pictured is not None
    samples = model.pictured()
    for sample in samples:
        for digest, pixels in sample.images.items():
            model.media.put(digest, pixels)
    return model, as_batch(image_units(model, samples))


def counts(model: Model) -> tuple[int, int]:
    return model.media.features.hits, model.media.features.misses


def tower_passes(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with a number for each pass of the vision tower."""
    from keel.models.parts import encoders_of

    passes: list[int] = []
    (encoder,) = encoders_of(model.module)
    forward = type(encoder).forward
    monkeypatch.setattr(type(encoder), "forward", lambda self, *a, **k: passes.append(1) or forward(self, *a, **k))
    return passes


def gradients(model: Model, batch: Batch) -> dict[str, Tensor]:
    model.hidden(batch).square().sum().backward()
    found = {name: p.grad for name, p in model.trainable() if p.grad is not None}
    model.module.zero_grad(set_to_none=True)
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("trained", ["language", "projector"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_kept_is_fresh_bit_for_bit(name: str, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tower frozen no pass but the first makes its output, where the projector can be run apart from it; hidden states and
    gradients are those of a model that keeps nothing."""
    parts = ("language",) if trained == "language" else ("language", "projector")
    model, batch = shown(name, train=parts)
    plain, _ = shown(name, train=parts, features=FeaturesConfig(memory_gib=0))
    passes = tower_passes(model, monkeypatch)
    expected_NH, expected = plain.hidden(batch), gradients(plain, batch)
    first_NH = model.hidden(batch)
    passes.clear()
    kept = trained == "language" or name not in INSIDE
    for _ in range(2):
        assert torch.equal(model.hidden(batch), expected_NH)
        assert same(gradients(model, batch), expected)
    assert torch.equal(first_NH, expected_NH)
    assert (len(passes) == 0) == kept
    assert counts(model) == ((8, 2) if kept else (0, 0))
    assert counts(plain) == (0, 0)
    assert any("projector" in k or "connector" in k or "merger" in k for k in expected) or trained == "language" or name == "internvl"


@pytest.mark.parametrize("name", ["llava", "idefics3_tiles", "qwen3_vl"])
def test_a_tower_that_is_trained_runs_in_every_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = shown(name)
    passes = tower_passes(model, monkeypatch)
    for k in (1, 2):
        model.hidden(batch)
        assert len(passes) == 2 * k
    assert counts(model) == (0, 0)


def test_adapters_in_the_tower_are_training_it() -> None:
    model, batch = shown("llava", LoraConfig(targets=".*vision_tower.*q_proj"))
    model.hidden(batch)
    assert counts(model) == (0, 0)
    for _, p in model.trainable():
        p.requires_grad_(False)  # several adapters on one base are frozen, and switched between passes
    model.hidden(batch)
    assert counts(model) == (0, 0)


def test_adapters_on_the_decoder_are_not() -> None:
    model, batch = shown("llava", LoraConfig())
    model.hidden(batch)
    with model.as_reference() as reference:
        reference.hidden(batch)
    assert counts(model) == (2, 2)


def test_the_reference_of_a_trained_projector_has_its_own_projector() -> None:
    model, batch = shown("llava", LoraConfig(), train=("projector",))
    start_NH = model.hidden(batch)
    with torch.no_grad():
        for name, p in model.trainable():
            if "projector" in name:
                p.add_(0.1)
    moved_NH = model.hidden(batch)
    with model.as_reference() as reference:
        assert torch.equal(reference.hidden(batch), start_NH)
    assert not torch.equal(moved_NH, start_NH)
    assert counts(model) == (4, 2)


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_weights_that_were_written_to_are_another_key(part: str) -> None:
    """Never a stale row, whatever wrote to the weights."""
    model, batch = shown("llava", train=("language",))
    before_NH = model.hidden(batch)
    name, old = next((k, p.clone()) for k, p in model.module.named_parameters() if part in k and k.endswith("weight"))
    model.set_weights({name: old + 0.1})
    changed_NH = model.hidden(batch)
    assert not torch.equal(changed_NH, before_NH)
    assert counts(model) == (0, 4)
    model.set_weights({name: old})
    assert torch.equal(model.hidden(batch), before_NH)
    assert counts(model) == (2, 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_store_for_policy_reference_critic_and_reward_model(precision: str) -> None:
    """Models of one base share what is kept: frozen copies keep their weights rounded in bf16, and heads say nothing of images."""
    policy, batch = shown("llava?seed=1", train=("language",), precision=precision)
    with torch.no_grad():
        expected = policy.hidden(batch)
        others = [policy.frozen_copy()]
        for head in ("value", "score"):
            other, _ = shown("llava?seed=1", head=head, train=("language",), precision=precision)
            other.use_media(policy.media)
            others += [other, other.frozen_copy()]
        for other in others:
            assert torch.equal(other.hidden(batch), expected)
    assert counts(policy) == (2 * len(others), 2)


def test_models_that_differ_share_nothing() -> None:
    policy, batch = shown("llava?seed=1", train=("language",))
    policy.hidden(batch)
    for other, _ in (
        shown("llava?seed=2", train=("language",)),
        shown("llava?seed=1", train=("language",), precision="bf16"),
        shown("llava?seed=1", train=("language",)),
    ):
        if other.compute_dtype == torch.float32 and torch.equal(other.head_weight_VH, policy.head_weight_VH):
            other.config.vision_feature_layer = -1  # the same weights, read at another layer
        other.use_media(policy.media)
        other.hidden(batch)
    assert counts(policy) == (0, 8)


def test_files_serve_another_process_and_damage_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = FeaturesConfig(memory_gib=0, folder=str(tmp_path))
    first, batch = shown("qwen3_vl", train=("language",), features=kept)
    expected = first.hidden(batch)
    assert counts(first) == (0, 2)
    second, _ = shown("qwen3_vl", train=("language",), features=kept)
    assert torch.equal(second.hidden(batch), expected)
    assert counts(second) == (2, 0)
    next(iter(tmp_path.rglob("*.safetensors"))).write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING, "keel"):
        third, _ = shown("qwen3_vl", train=("language",), features=kept)
        assert torch.equal(third.hidden(batch), expected)
    assert counts(third) == (1, 1)
    assert "is not whole; the image's features are made again" in caplog.text


def test_it_is_told_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    said = {
        ("llava", ("language",)): "features are made once and kept",
        ("llava", ("language", "projector")): "the vision tower's output is kept, the projector runs in every pass",
        ("llava", ()): "features are made in every pass: the vision tower is trained",
        ("qwen2_vl", ("projector",)): "the vision tower cannot be run apart from it",
    }
    for (name, train), text in said.items():
        caplog.clear()
        with caplog.at_level(logging.INFO, "keel"):
            model, batch = shown(name, train=train)
            model.hidden(batch)
            model.hidden(batch)
        assert caplog.text.count(text) == 1


# --------------------------------------------------------------------------------------------------------------------- whole stages

SHORT = ["model_options.precision=fp32", "settings={threads: 1, checkpoint: {every: 1}}"]


def sft(path: Path, *overrides: str) -> dict[str, Any]:
    recipe = SCENES.parents[1] / "tiny_vlm_sft.yaml"
    more = ["loop={steps: 4, batch_size: 4}", f"data.path={SCENES}/captions.jsonl", "held_out=0", *SHORT, *overrides]
    return run_verb("sft", recipe, [*more, f"run_dir={path}"])


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path) -> bytes:
    return (path / "final/model.safetensors").read_bytes()


@pytest.mark.stages
def test_a_run_tells_its_gain_and_learns_the_same(tmp_path: Path) -> None:
    longer = ["loop.steps=14", "model_options.train=[language]"]
    found = sft(tmp_path / "kept", *longer)["features"]
    assert found["misses"] > 0
    assert found["hits"] > found["misses"]
    rows = metrics(tmp_path / "kept")
    assert all({"vision/features_hits", "vision/features_misses", "vision/features_mb"} <= row.keys() for row in rows)
    assert sum(row["vision/features_hits"] for row in rows) <= found["hits"]
    off = sft(tmp_path / "off", *longer, "model_options.features.memory_gib=0")
    assert "features" not in off
    assert not any(name.startswith("vision/") for row in metrics(tmp_path / "off") for name in row)
    assert weights(tmp_path / "kept") == weights(tmp_path / "off")


@pytest.mark.stages
def test_a_run_that_was_cut_off_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed with nothing in memory but the folder of the first attempt."""
    train = ["model_options.train=[language,projector]"]
    kept = f"model_options.features.folder={tmp_path / 'features'}"
    sft(tmp_path / "whole", *train)
    step = LocalLearner.step

    def cut(self: LocalLearner) -> Any:
        if self.updates == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(LocalLearner, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            sft(tmp_path / "cut", *train, kept)
    found = sft(tmp_path / "cut", *train, kept)
    assert found["features"]["from_disk"] > 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.stages
@pytest.mark.parametrize("verb", ["dpo", "ppo"])
def test_all_models_of_a_stage_ask_one_store(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[FeatureStore] = []
    take = FeatureStore.take
    monkeypatch.setattr(FeatureStore, "take", lambda self, key: stores.append(self) or take(self, key))
    more = ["loop={steps: 2, batch_size: 2}", "model_options.train=[language]", "held_out=0", *SHORT]
    monkeypatch.chdir(SCENES.parents[2])
    found = run_verb({"dpo": "prefer", "ppo": "rl"}[verb], Path(f"recipes/tiny_vlm_{verb}.yaml"), [*more, f"run_dir={tmp_path}"])[
        "features"
    ]
    assert len({id(s) for s in stores}) == 1
    assert found["misses"] <= len(list((SCENES / "images").iterdir())), "an image is made once, whoever asks"
    assert found["hits"] >= {"dpo": 1, "ppo": 2}[verb] * found["misses"]


def test_settings_of_features_are_refused_for_a_text_model(tmp_path: Path) -> None:
    recipes = SCENES.parents[1]
    data = f"data.path={recipes}/quickstart/demonstrations.jsonl"
    with pytest.raises(ConfigError, match=r"model_options\.features would have no effect: the model reads text only"):
        run_verb("sft", recipes / "tiny_sft.yaml", [data, "model_options.features.memory_gib=2", f"run_dir={tmp_path / 'run'}"])
