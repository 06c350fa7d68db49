"""Vision-language models go through the very stages, loops and samplers that text models go through."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.rollout.local import LocalSampler
from keel.types import ImagePart, Message, Prompt, SampleRequest, SamplingParams, TextPart
from keel.verbs.run import run_verb
from keel.verbs.shared.session import renderer_of

COLOURS = {"red": (220, 30, 30), "green": (20, 200, 60), "blue": (30, 60, 220)}
MODELS = ["tiny:llava", "tiny:idefics3"]
SHORT = ("model_options.precision=fp32", "settings={threads: 1, checkpoint: {every: 1}}", "held_out=0")

Rows = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of one colour each, demonstrations, prompts, pairs, recipes and a reward."""
    folder = tmp_path_factory.mktemp("images")
    asks: list[dict[str, Any]] = []
    for colour, rgb in COLOURS.items():
        Image.new("RGB", (30, 30), rgb).save(folder / f"{colour}.png")
        ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}]
        asks.append({"prompt": ask, "images": [f"{colour}.png"]})

    def rows(name: str, more: Callable[[str], dict[str, Any]]) -> None:
        lines = [json.dumps(ask | more(colour)) for ask, colour in zip(asks, COLOURS, strict=True)]
        (folder / name).write_text("\n".join(lines) + "\n")

    rows("demonstrations.jsonl", lambda colour: {"completion": [{"role": "assistant", "content": colour}]})
    rows("prompts.jsonl", lambda colour: {"answer": colour})
    (folder / "rewards.py").write_text(
        "def letters(prompt, completion):\n    assert prompt.meta['answer']\n    return float(sum(c.isalpha() for c in completion))\n"
    )
    (folder / "sft.yaml").write_text(f"model: tiny:llava\ndata: {{path: {folder}/demonstrations.jsonl}}\noptim: {{lr: 3e-3}}\n")
    (folder / "rl.yaml").write_text(
        f"model: tiny:llava\ndata: {{path: {folder}/prompts.jsonl}}\nalgorithm: {{name: grpo}}\noptim: {{lr: 1e-3}}\n"
        f"rewards: [{{type: python, name: letters, function: '{folder}/rewards.py:letters'}}]\n"
    )
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_sft_and_a_step_of_grpo(model: str, folder: Path, proofs: None, rows: Rows, tmp_path: Path) -> None:
    loop = "loop={steps: 4, batch_size: 3, probes: 1}"
    run_verb("sft", folder / "sft.yaml", [f"model={model}?seed=1", loop, *SHORT, f"run_dir={tmp_path / 'sft'}"])
    losses = [row["loss"] for row in rows(tmp_path / "sft" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]

    final = tmp_path / "sft" / "final"
    overrides = [f"model={final}", "samples=3", "sampling.max_tokens=6", "loop={steps: 1, batch_size: 3, probes: 1}"]
    run_verb("rl", folder / "rl.yaml", [*overrides, *SHORT, f"run_dir={tmp_path / 'rl'}"])
    step = rows(tmp_path / "rl" / "metrics.jsonl")[-1]
    assert step["rewards/letters/std"] > 0
    assert step["grad_norm"] > 0
    checks = [row for row in rows(tmp_path / "rl" / "events.jsonl") if row["kind"] == "self_test"]
    assert {"image-tokens", "sampler", "reference"} <= {name for row in checks for name in row["checks"]}
    before, after = (
        AutoModelForImageTextToText.from_pretrained(path / "final").state_dict() for path in (tmp_path / "sft", tmp_path / "rl")
    )
    tower = [key for key in before if "vision" in key and key.endswith("weight")]
    assert any(not torch.equal(before[key], after[key]) for key in tower), "the gradient reaches the image"


def test_a_step_of_ppo(folder: Path, proofs: None, rows: Rows, tmp_path: Path) -> None:
    """The critic is a model of its own that looks at the policy's images."""
    short = ["samples=2", "sampling.max_tokens=6", "loop={steps: 1, batch_size: 3, probes: 0, eval_at_start: false}"]
    run_verb("rl", folder / "rl.yaml", ["model=tiny:llava?seed=1", "algorithm.name=ppo", *short, *SHORT, f"run_dir={tmp_path / 'ppo'}"])
    step = rows(tmp_path / "ppo" / "metrics.jsonl")[-1]
    assert step["loss/value_avg"] > 0
    assert step["critic/grad_norm"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_the_sampler_sees_the_image(model: str, folder: Path, proofs: None) -> None:
    """The same question about another image has other probabilities; the same one the same; no placeholder is ever sampled."""
    loaded = load_model(f"{model}?seed=1&std=0.15", ModelOptions(precision="fp32"))
    renderer = renderer_of(loaded, RenderConfig())
    sampler = LocalSampler(loaded.model, renderer.decode)
    params = SamplingParams(8, stop_tokens=renderer.stop_tokens, banned_tokens=renderer.banned_tokens)
    logprobs: dict[str, torch.Tensor] = {}
    for name, colour in (("red", "red"), ("again", "red"), ("blue", "blue")):
        parts = (ImagePart(str(folder / f"{colour}.png")), TextPart("Which colour?"))
        sampler.submit([SampleRequest("same", renderer.prompt(Prompt("same", (Message("user", parts),))), 2, params, seed=0)])
        rollouts = sorted(sampler.collect(), key=lambda r: r.sample)
        assert len(rollouts) == 2
        logprobs[name] = rollouts[0].logprobs_T[:1]
        assert not {int(t) for r in rollouts for t in r.tokens_T} & set(renderer.banned_tokens)
    assert torch.equal(logprobs["red"], logprobs["again"])
    assert not torch.equal(logprobs["red"], logprobs["blue"])


def test_the_loops_know_nothing_of_images(root: Path) -> None:
    for file in (root / "keel" / "loops").glob("*.py"):
        found = re.findall(r"(?i)\b\w*(?:image|pixel|vision|picture|media(?!n))\w*", file.read_text(encoding="utf-8"))
        assert not found, f"{file.name}: {found}"
