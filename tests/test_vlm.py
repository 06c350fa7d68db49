"""Vision-language models go through the very stages, loops and samplers that text models go through."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from keel.core.errors import DataError
from keel.models import placing
from keel.models.config import ModelOptions
from keel.models.loading import HeadName, load_model
from keel.models.parts import parts_of
from keel.models.tiny_vision import FAMILIES
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


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Path:
    """Six images of other sizes and colours and a row without one; recipes of one step for every verb that trains."""
    path = folder / "mixed"
    path.mkdir()
    shapes = {"red": (30, 30), "green": (60, 60), "blue": (90, 40), "grey": (40, 90), "cyan": (56, 56), "violet": (200, 50)}
    rows: list[tuple[dict[str, Any], str]] = [({"prompt": [{"role": "user", "content": "Say black"}]}, "black")]
    for k, (name, size) in enumerate(shapes.items()):
        Image.new("RGB", size, (40 * k, 250 - 30 * k, 90)).save(path / f"{name}.png")
        ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}]
        rows.append(({"prompt": ask, "images": [f"{name}.png"]}, name))
    answer = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    for file, labels in {
        "sft": lambda word: {"completion": answer(word)},
        "pairs": lambda word: {"chosen": answer(word), "rejected": answer("no idea")},
        "prompts": lambda word: {"answer": word},
    }.items():
        (path / f"{file}.jsonl").write_text("\n".join(json.dumps(row | labels(word)) for row, word in rows))
    common = "optim: {lr: 1e-3}\nheld_out: 0\nloop: {steps: 1, batch_size: 4, probes: 0, eval_at_start: false}\nsettings: {threads: 1}\n"
    reward = f"rewards: [{{type: python, name: letters, function: '{folder}/rewards.py:letters', worker: {{processes: 1}}}}]\n"
    rl = f"algorithm: {{name: grpo}}\n{reward}samples: 2\nsampling: {{max_tokens: 6}}\n"
    common += "model_options: {precision: fp32}\n"
    for verb, data, more in (("sft", "sft", ""), ("reward", "pairs", ""), ("prefer", "pairs", ""), ("rl", "prompts", rl)):
        (path / f"{verb}.yaml").write_text(f"model: x\ndata: {{path: {path}/{data}.jsonl}}\n{common}{more}")
    return path


@pytest.mark.stages
@pytest.mark.parametrize(
    ("verb", "more"),
    [("sft", ()), ("reward", ()), ("prefer", ()), ("rl", ()), ("rl", ("algorithm.name=ppo",))],
    ids=["sft", "reward", "dpo", "grpo", "ppo"],
)
@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_step_of_every_verb(name: str, verb: str, more: tuple[str, ...], mixed: Path, proofs: None, rows: Rows, tmp_path: Path) -> None:
    model = f"model=tiny:{name}?seed=1&std=0.08"
    summary = run_verb(verb, mixed / f"{verb}.yaml", [model, *more, f"run_dir={tmp_path / 'run'}"])
    assert "refused" not in summary["data"]["train"]
    step = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    norms = [value for key, value in step.items() if key.endswith("grad_norm")]
    assert norms
    assert all(0 < value < float("inf") for value in norms) or verb == "rl"
    checks = {name for row in rows(tmp_path / "run" / "events.jsonl") if row["kind"] == "self_test" for name in row["checks"]}
    assert {"image-tokens", "gradients"} <= checks
    assert ("reward-reads-image" in checks) == (verb == "reward")
    heads = frozenset[HeadName]({"score"} if verb == "reward" else ())
    again = load_model(str(tmp_path / "run" / "final"), ModelOptions(precision="fp32"), heads=heads)
    assert again.model.no_images == ""
    assert again.model.packed


@pytest.mark.stages
def test_rows_that_a_model_cannot_take_stop_the_run(mixed: Path, own_proofs: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A family whose images are not proven would train on its rows without images alone."""
    monkeypatch.setattr(placing, "_SPANS", {})
    overrides = ["model=tiny:paligemma?seed=1&std=0.08", f"run_dir={tmp_path / 'run'}"]
    reason = "images of 'paligemma' are not read as the model reads them"
    with pytest.raises(DataError, match=f"6 of 7 records refused for one reason: {reason}"):
        run_verb("sft", mixed / "sft.yaml", overrides)
    summary = run_verb("sft", mixed / "sft.yaml", [*overrides, "settings.max_refused=1.0", f"run_dir={tmp_path / 'all'}"])
    assert summary["data"]["train"]["refused"] == 6


@pytest.mark.stages
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_adapters_and_the_projector_in_full(name: str, mixed: Path, proofs: None, rows: Rows, tmp_path: Path) -> None:
    lora = ["lora={r: 2, layers: 1}", "model_options.train=[projector]", "loop.steps=2", "settings.checkpoint={every: 1}"]
    summary = run_verb("prefer", mixed / "prefer.yaml", [f"model=tiny:{name}?seed=1&std=0.08", *lora, f"run_dir={tmp_path / 'run'}"])
    assert summary["saved"]["kl"] < 1e-6, "the parts in full are in final/"
    assert summary["saved"]["kl_of_training"] > 1e-9
    first = next(row for row in rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row)
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3), "policy and reference are one model before the first step"
    assert not (tmp_path / "run" / "adapter").exists()
    paths = (f"tiny:{name}?seed=1&std=0.08", str(tmp_path / "run" / "final"))
    start, end = (load_model(path, ModelOptions(precision="fp32")).model.module for path in paths)
    before, after = dict(start.named_parameters()), dict(end.named_parameters())
    moved = {part for key, part in parts_of(start).items() if not torch.allclose(before[key], after[key], atol=1e-7)}
    assert moved == {"language", "projector"}


def test_the_loops_know_nothing_of_images(root: Path) -> None:
    for file in (root / "keel" / "loops").glob("*.py"):
        found = re.findall(r"(?i)\b\w*(?:image|pixel|vision|picture|media(?!n))\w*", file.read_text(encoding="utf-8"))
        assert not found, f"{file.name}: {found}"


@pytest.mark.parametrize("room", ["learner", "rollout"])
def test_positions_are_positions_and_spans_are_spans(room: str, root: Path) -> None:
    """Learner and samplers hand media on; no name in their code is of images. The proof of decoding asks the model for its own prompts."""
    allowed = {"image_tokens", "pictured", "no_images"}
    for file in (root / "keel" / room).glob("*.py"):
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names = {getattr(node, field, None) for node in tree for field in ("id", "attr", "arg", "name")}
        found = {n for n in names if isinstance(n, str) and re.search(r"(?i)image|pixel|vision|picture", n)} - allowed
        assert not found, f"{file.name}: {found}"
