"""`keel prefer` with every loss on a tiny model: it runs, it learns, micro-batches do not show, no reference where none is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import DataError, ModelError
from keel.learner.inference import LocalInference
from keel.methods.preference import PREFERENCE_OBJECTIVES
from keel.types import Branch, Encoded, Unit
from keel.verbs.prefer.answers import answers_to_others
from keel.verbs.shared.parts import OfflineParts

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
Parts = Callable[..., OfflineParts]
QUICK = ("loop.probes=0", "loop.eval_every=0")


@pytest.mark.parametrize("name", sorted(PREFERENCE_OBJECTIVES.keys() - {"mdpo", "conditional"}))  # which need images
def test_two_steps(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    summary = stage("dpo", tmp_path, *QUICK, "loop.steps=2", f"objective={{name: {name}}}")
    assert summary["steps"] == 2
    names = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"}
    for row in rows(tmp_path / "metrics.jsonl")[1:]:
        assert names <= set(row)
        assert row["grad_norm"] > 0
    assert (tmp_path / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["ipo", "kto", "simpo", "orpo", "slic", "bco", "mpo"])
def test_it_learns(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("dpo", tmp_path, *QUICK, "loop.steps=8", f"objective={{name: {name}}}")
    metrics = rows(tmp_path / "metrics.jsonl")
    first, last = metrics[0], metrics[-1]
    assert last["eval/rewards/margins"] > first["eval/rewards/margins"]
    assert last["eval/rewards/accuracies"] > 0.5
    assert last["eval/loss"] < first["eval/loss"]


@pytest.mark.parametrize("name", ["kto", "bco", "aot", "tdpo", "mpo"])
def test_micro_batches_do_not_show(name: str, parts: Parts) -> None:
    def last(cut: int) -> Mapping[str, float]:
        tokens = f"batch={{microbatch_tokens: {cut}, inference_tokens: {cut}}}"
        trainer = parts("dpo", *QUICK, "loop.steps=3", "optim.lr=1e-3", tokens, f"objective={{name: {name}}}").trainer()
        return [trainer.step(step) for step in range(3)][-1]

    whole, split = last(100000), last(1)
    for key in ("loss", "grad_norm", "rewards/margins", *(k for k in ("kl", "kl_point", "reward_shift") if k in whole)):
        assert whole[key] == pytest.approx(split[key], rel=1e-3, abs=1e-4), key


def labelled(path: Path) -> Path:
    """The pairs of the tiny recipe as single answers with labels."""
    pairs = [json.loads(line) for line in (Path(__file__).parents[2] / "recipes/tiny/pairs.jsonl").read_text().splitlines()]
    made = [
        {"prompt": p["prompt"], "completion": p[side], "label": side == "chosen"} for p in pairs[:20] for side in ("chosen", "rejected")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_labelled_answers_without_pairs(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    data = f"data.path={labelled(tmp_path / 'answers.jsonl')}"
    summary = stage("dpo", tmp_path / "run", *QUICK, data, "loop.steps=6", "loop.batch_size=8", f"objective={{name: {name}}}")
    assert summary["answers"] == summary["units"] == 32
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["eval/rewards/chosen"] > last["eval/rewards/rejected"]


def test_pairs_are_needed_where_a_loss_compares_two(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pair records are needed"):
        stage("dpo", tmp_path / "run", f"data.path={labelled(tmp_path / 'answers.jsonl')}", "objective={name: ipo}")


@pytest.mark.parametrize(("name", "passes"), [("simpo", 0), ("dpo", 2), ("kto", 4)])
def test_reference_passes(name: str, passes: int, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes without gradients over training and held-out data before training; the self-test's own are left out."""
    seen: list[int] = []
    original = LocalInference.logprobs
    monkeypatch.setattr(LocalInference, "logprobs", lambda self, units: seen.append(len(units)) or original(self, units))
    skip = "settings.skip_self_test=[reference]"
    stage(
        "dpo", tmp_path, *QUICK, "loop={steps: 1, batch_size: 4, eval_at_start: false}", "held_out=0.2", skip, f"objective={{name: {name}}}"
    )
    large = [n for n in seen if n > 4]
    assert len(large) == passes + (1 if name == "kto" else 0), "KTO measures its held-out reference point at the last evaluation"


def test_token_level_dpo_of_adapters_has_its_base_as_reference(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("dpo", tmp_path, *QUICK, "loop.steps=3", "lora={r: 4, alpha: 8}", "objective={name: tdpo}")
    kl = [row["kl"] for row in rows(tmp_path / "metrics.jsonl") if "kl" in row]
    assert abs(kl[0]) < 1e-5, "at the start the policy is its reference"
    assert kl[-1] > 1e-5


def test_strangers_belong_to_other_prompts() -> None:
    def unit(i: int, prompt: int) -> Unit:
        return Unit(f"u{i}", Encoded(torch.tensor([prompt])), (Branch(torch.tensor([i]), torch.tensor([True]), {"x": torch.ones(1)}),))

    units = [unit(i, 0 if i < 6 else i) for i in range(9)]
    strangers = answers_to_others(units, seed=1)
    for own, stranger in zip(units, strangers, strict=True):
        other = units[int(stranger.branches[0].tokens_T)]
        assert stranger.prompt is own.prompt
        assert not torch.equal(other.prompt.tokens_T, own.prompt.tokens_T)
        assert stranger.branches[0].signals == {}
    with pytest.raises(DataError, match="only one prompt"):
        answers_to_others(units[:6], seed=1)


@pytest.mark.parametrize("name", ["dpo", "tdpo"])
def test_the_reference_may_be_another_model(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    settings = (*QUICK, "loop.steps=1", f"objective={{name: {name}}}", f"reference_cache={tmp_path / 'cache'}")
    stage("dpo", tmp_path / "own", *settings)
    stage("dpo", tmp_path / "other", *settings, "reference_model=tiny:llama?seed=2")
    stage("dpo", tmp_path / "same", *settings, "reference_model=tiny:llama?seed=1")
    own, other, same = (
        next(r for r in rows(tmp_path / run / "metrics.jsonl") if "rewards/margins" in r) for run in ("own", "other", "same")
    )
    assert abs(own["rewards/margins"]) < 1e-4 < abs(other["rewards/margins"])
    assert same["loss"] == pytest.approx(own["loss"], rel=1e-6)
    assert "the reference's weights (float32)" in json.loads((tmp_path / "other" / "manifest.json").read_text())["pinned"]


def test_a_reference_with_other_tokens_is_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="another tokenizer"):
        stage("dpo", tmp_path, *QUICK, "loop.steps=1", "reference_model=tiny:qwen2?seed=1&vocab=400")


def test_the_reference_is_taken_once_for_all_runs_that_share_its_folder(stage: Stage, tmp_path: Path) -> None:
    shared, calls = f"reference_cache={tmp_path / 'cache'}", []
    with pytest.MonkeyPatch.context() as patch:
        counted = LocalInference.logprobs
        patch.setattr(LocalInference, "logprobs", lambda self, units: calls.append(len(units)) or counted(self, units))
        taken = []
        for name, settings in {"a": (), "b": ("objective.beta=0.3",), "other": ("model=tiny:llama?seed=2",)}.items():
            calls.clear()
            summary = stage("dpo", tmp_path / name, *QUICK, "loop.steps=1", "settings.skip_self_test=[reference]", shared, *settings)
            taken.append((len(calls), summary["last_eval"]["eval/loss"]))
    assert [n for n, _ in taken] == [2, 0, 2], "training and held-out side; the same model and data; another model"
    kept = sorted((tmp_path / "cache").iterdir())
    assert len(kept) == 4
    own = stage("dpo", tmp_path / "own", *QUICK, "loop.steps=1")
    assert own["last_eval"]["eval/loss"] == taken[0][1]
    assert len(list((tmp_path / "own" / "reference").iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-4] + b"abcd", lambda data: b""])
def test_a_damaged_reference_is_taken_again(damage: Callable[[bytes], bytes], stage: Stage, tmp_path: Path) -> None:
    shared = f"reference_cache={tmp_path / 'cache'}"
    first = stage("dpo", tmp_path / "a", *QUICK, "loop.steps=1", shared)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(damage(file.read_bytes()))
    again = stage("dpo", tmp_path / "b", *QUICK, "loop.steps=1", shared)
    assert again["last_eval"]["eval/loss"] == first["last_eval"]["eval/loss"]
