"""`keel doctor`: what this machine is, and whether a model computes on it what it should. The self-test that runs before training, and
checks that cost more: all of them on made-up data, each with its verdict and its time."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import GenerationConfig

from keel.core.config import Section, load
from keel.core.errors import SelfTestError
from keel.evaluate.blindness import changed
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.gathering import sample_groups
from keel.loops.online import with_signal
from keel.methods import rollout_units
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, bf16_in_hardware, compute_dtype, device_of, load_model
from keel.render.config import RenderConfig
from keel.render.renderer import Refusal, Renderer
from keel.rollout.local import LocalSampler
from keel.rollout.prove import company, prove_decode, row_dependence
from keel.runs.checkpoints import Checkpoints
from keel.runs.environment import environment
from keel.runs.memory import peak_mb
from keel.selftest import Check, nats, policy_is_blind, reference, sampling, training
from keel.simulate.scenes.ask import DESCRIBE
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.draw import draw
from keel.simulate.scenes.scene import make_scene
from keel.types import Demonstration, Encoded, ImagePart, Message, Prompt, SampleRequest, SamplingParams, TextPart, Unit
from keel.verbs.shared.session import renderer_of

TOKENS = 16  # length of a sampled answer
_PICTURES = 8
_TALK = (
    ("Does the tent keep the rain out?", "Yes. It is tight up to a water column of 3000 mm."),
    ("How do I wash a down jacket?", "Cold, with a mild soap, and dry it slowly."),
    ("你好,请问有雨衣吗?", "有的,红色和蓝色。"),
    ("Which rope for climbing?", "A dynamic one."),
)


class DoctorRecipe(Section):
    """Settings of `keel doctor`, given as overrides."""

    model_options: ModelOptions = Field(ModelOptions(), description="How the model is loaded and computed.")
    render: RenderConfig = Field(RenderConfig(), description="How messages become tokens.")
    seed: int = Field(0, ge=0, description="Seed of a tiny model and of what is sampled.")
    longest: int = Field(512, ge=8, description="Tokens of the longest unit that goes through a training step.")


@dataclass(slots=True)
class Bench:
    """Runs checks one after the other and keeps every verdict; a check that raises has failed."""

    console: Console
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def run(self, name: str, check: Check, *, needed: bool = True) -> None:
        """``check`` says what is wrong, or "". What is not ``needed`` has something to fall back on: it is told, and is no failure."""
        started = time.perf_counter()
        try:
            wrong = check()
        except Exception as error:  # whatever breaks is the finding
            wrong = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        self.rows.append({"check": name, "passed": not wrong or not needed, "seconds": round(seconds, 3), "note": wrong})
        verdict = "[green]passed[/green]" if not wrong else ("[red]FAILED[/red]" if needed else "[yellow]absent[/yellow]")
        self.console.print(f"  {verdict}  {name:<14} {seconds:6.2f} s", highlight=False)
        if wrong:
            self.console.print(f"          {wrong}", style="red" if needed else "yellow", markup=False)

    def tell(self, name: str, finding: str, value: float) -> None:
        """What was measured, and is neither right nor wrong."""
        self.rows.append({"check": name, "passed": True, "note": "", "measured": value, "finding": finding})
        self.console.print(f"  [cyan]measured[/cyan] {name:<14} {finding}", highlight=False)


def doctor(model: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Print machine and versions, then run every check on ``model``. Returns the summary; raises SelfTestError when a check failed."""
    recipe = load(DoctorRecipe, None, overrides)
    console = Console(stderr=True, emoji=False)
    machine = describe_machine(recipe.model_options)
    print_machine(machine, console)
    started = time.perf_counter()
    loaded = load_model(model, recipe.model_options, seed=recipe.seed)
    console.print(f"\n{model}: loaded in {time.perf_counter() - started:.1f} s, computes in {loaded.model.compute_dtype}", highlight=False)
    bench = Bench(console)
    examine(bench, loaded, recipe)
    failed = [row["check"] for row in bench.rows if not row["passed"]]
    if failed:
        raise SelfTestError(f"doctor: {', '.join(failed)} failed for '{model}' on this machine")
    return {"model": model, "machine": machine, "checks": bench.rows, "peak_mb": round(peak_mb(), 1)}


# ------------------------------------------------------------------------------------------------------------------------- machine


def describe_machine(options: ModelOptions) -> dict[str, Any]:
    """Processor, memory, threads, what bf16 costs, GPU, versions."""
    known = environment()
    return {
        "processor": known["processor"]["model"],
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "bf16_in_hardware": bf16_in_hardware(device_of(options)),
        "auto_precision": str(compute_dtype(ModelOptions(device=options.device))).removeprefix("torch."),
        "gpu": known["device"] if known["device"] != "cpu" else "none",
        "python": known["python"],
        **known["packages"],
    }


def print_machine(machine: dict[str, Any], console: Console) -> None:
    """The machine as a table of two columns."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in machine.items():
        table.add_row(name, str(value))
    console.print(table)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float | None:
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


# -------------------------------------------------------------------------------------------------------------------------- checks


def examine(bench: Bench, loaded: Loaded, recipe: DoctorRecipe) -> None:
    """Every check, in the order in which one builds on the other."""
    model = loaded.model
    renderer = renderer_of(loaded, recipe.render)
    units, prompts = made_up(renderer)
    learner = LocalLearner(model, OptimConfig(warmup_steps=0, schedule="constant"), BatchConfig(), 10, recipe.seed)
    bench.run("packed-rows", lambda: "" if model.packed else "padded rows are used, which is slower", needed=False)
    bench.run("decoding", lambda: "" if prove_decode(model) else "transformers' own forward samples, which is slower", needed=False)
    if prove_decode(model):
        dependence = row_dependence(model)
        bench.tell("rows-beside", company(dependence), dependence)
    training(bench.run, learner, SupervisedObjective(), (*units, _longest(units[0], recipe.longest)))
    sampler = LocalSampler(model, renderer.decode)
    params = SamplingParams(TOKENS, stop_tokens=renderer.stop_tokens, banned_tokens=renderer.banned_tokens)
    sampled = sampling(bench.run, learner, sampler, prompts, params)
    frozen = LocalInference(model.frozen_copy(), BatchConfig())
    reference(bench.run, learner, with_signal(sampled, "ref_logprobs", frozen.logprobs(sampled)))
    if renderer.images is not None and not renderer.images.reading.refused:
        bench.run("reads-image", lambda: _blind(learner, sampler, renderer, params))
    bench.run("greedy", lambda: _differs_from_generate(learner, sampler, prompts, replace(params, temperature=0.0)))
    bench.run("resume", lambda: _resume_differs(learner, units))


def made_up(renderer: Renderer) -> tuple[list[Unit], list[tuple[Prompt, Encoded]]]:
    """A few demonstrations as units, and their prompts. Raises SelfTestError when the renderer refuses one."""
    units: list[Unit] = []
    prompts: list[tuple[Prompt, Encoded]] = []
    for i, (question, answer) in enumerate(_TALK):
        prompt = Prompt(f"made-up-{i}", (Message("user", question),), source_id="doctor")
        unit = renderer.unit(Demonstration(prompt.prompt_id, prompt, (Message("assistant", answer),)))
        if isinstance(unit, Refusal):
            raise SelfTestError(
                f"a plain conversation cannot be rendered: {unit.reason}", "see render.* settings, or the model's chat template"
            )
        units.append(unit)
        prompts.append((prompt, renderer.prompt(prompt)))
    return units, prompts


def _longest(unit: Unit, tokens: int) -> Unit:
    """The unit's answer over and over, until it has ``tokens`` tokens."""
    branch = unit.branches[0]
    times = -(-tokens // len(branch))
    long = replace(branch, tokens_T=branch.tokens_T.repeat(times)[:tokens], trained_T=branch.trained_T.repeat(times)[:tokens])
    return replace(unit, unit_id="longest", branches=(long,))


def _blind(learner: LocalLearner, sampler: LocalSampler, renderer: Renderer, params: SamplingParams) -> str:
    """The model's own answers about made-up pictures, with the pictures changed."""
    prompts: dict[str, tuple[Prompt, Encoded]] = {}
    for i in range(_PICTURES):
        out = io.BytesIO()
        draw(make_scene(SceneConfig(), 0, i), SceneConfig()).save(out, "PNG")
        picture = ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())
        asked = TextPart(DESCRIBE["en"][i % len(DESCRIBE["en"])])
        prompt = Prompt(f"picture-{i}", (Message("user", (picture, asked)),), source_id="doctor")
        prompts[prompt.prompt_id] = (prompt, renderer.prompt(prompt))
    requests = [SampleRequest(name, encoded, 1, params, 0, keep_support=True) for name, (_, encoded) in prompts.items()]
    answers = rollout_units(sample_groups(sampler, requests, {name: prompt for name, (prompt, _) in prompts.items()}))
    return policy_is_blind(learner, changed(answers, renderer.twins))


def _differs_from_generate(
    learner: LocalLearner, sampler: LocalSampler, prompts: Sequence[tuple[Prompt, Encoded]], params: SamplingParams
) -> str:
    """Greedy answers against transformers' ``generate``. Where they part, both tokens must be equally likely up to rounding."""
    requests = [SampleRequest(p.prompt_id, encoded, 1, params, 0) for p, encoded in prompts]
    groups = sample_groups(sampler, requests, {p.prompt_id: p for p, _ in prompts})
    for group in groups:
        ours, theirs = group.rollouts[0].tokens_T, _generate(learner, group.encoded, params)
        if torch.equal(ours, theirs):
            continue
        t = next((t for t, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
        if t == len(ours) or t == len(theirs):
            return f"{len(ours)} tokens where transformers' generate makes {len(theirs)}: an end token is missed"
        before = torch.cat([group.encoded.tokens_T, ours[:t]])[None]
        with torch.no_grad():
            logits_V = learner.model.logits(learner.model.run_plain(before, torch.ones_like(before))[0, -1:])[0]
        gap = float((logits_V[ours[t]] - logits_V[theirs[t]]).abs())
        if gap > nats(learner):
            return f"token {t} of an answer is not that of transformers' generate, which is {gap:.3g} nats away"
    return ""


def _generate(learner: LocalLearner, prompt: Encoded, params: SamplingParams) -> Tensor:
    config = GenerationConfig(
        max_new_tokens=params.max_tokens,
        do_sample=False,
        eos_token_id=list(params.stop_tokens),
        pad_token_id=0,
        suppress_tokens=list(params.banned_tokens) or None,
    )
    tokens = prompt.tokens_T[None].to(learner.model.device)
    with learner.model.own_attention() as module, learner.model.compute():
        out = module.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)  # type: ignore[operator]
    return out[0, len(prompt) :].cpu()


def _resume_differs(learner: LocalLearner, units: Sequence[Unit]) -> str:
    """A step, a checkpoint on disk, another step; then that step again from the checkpoint."""
    _step(learner, units)
    with tempfile.TemporaryDirectory(prefix="keel-doctor-") as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints", keep=1)
        tensors, state = learner.state()
        checkpoints.save(1, {"policy": tensors}, state)
        first = _step(learner, units)
        read = checkpoints.load("latest")
        learner.load_state(read.tensors["policy"], read.state)
    again = _step(learner, units)
    changed = [name for name, tensor in first.items() if not torch.equal(tensor, again[name])]
    return f"{len(changed)} parameters differ after a step that was resumed: {', '.join(changed[:3])}" if changed else ""


def _step(learner: LocalLearner, units: Sequence[Unit]) -> dict[str, Tensor]:
    """One optimizer step; the weights after it."""
    learner.forward_backward(units, SupervisedObjective())
    learner.step()
    return {name: tensor.detach().clone() for name, tensor in learner.model.state_tensors().items()}
