"""The from-scratch loop beside the library: from the same weights both draw the same tokens and make the same losses."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from keel.core.hashing import stable_hash, uniform
from keel.learner.config import OptimConfig
from keel.loops.config import LoopConfig
from keel.methods import AlgorithmConfig, resolve
from keel.models import prove
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rollout.local import LocalSampler
from keel.types import Encoded, Group, Prompt, SamplingParams
from keel.verbs.rl.build import RLParts
from keel.verbs.shared.recipes import Training

PATH = Path(__file__).parents[2] / "examples" / "grpo_from_scratch.py"
MODEL_SEED = 1
END_TOKENS = (3, *range(400, 420))  # many, so that answers of all lengths come up from the start
PROMPTS = {"tent": [9, 30, 81, 7], "rope": [51, 12, 300, 6, 44, 95, 8, 210], "map": [77], "hat": [5, 6, 7, 8, 9, 10]}


def _load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpo_from_scratch", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


example = _load_example()
SETTINGS = example.Settings(seed=5, steps=10, samples=4, max_tokens=8)


def share_of_low_ids(tokens: Sequence[int]) -> float:
    return sum(token < 200 for token in tokens) / len(tokens)


class LowIds:
    """The same reward as a source of the library."""

    name = "low_ids"

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        return [torch.tensor([share_of_low_ids(r.tokens_T.tolist()) for r in g.rollouts]) for g in groups]


@dataclass(frozen=True)
class Run:
    """What the steps of a run did, and the weights after them."""

    answers: list[Mapping[str, list[list[int]]]]
    losses: list[float]
    grad_norms: list[float]
    rewards: list[float]
    weights: Mapping[str, Tensor]


def _tiny() -> Loaded:
    return load_model(f"tiny:llama?seed={MODEL_SEED}", ModelOptions(precision="fp32", device="cpu"))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Verdicts of proofs neither come from the user's cache nor go there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(prove, "_memory", {})
        yield


@pytest.fixture(scope="module")
def library_run() -> Run:
    """Ten steps of the library's online loop with its local sampler and learner."""
    return _run_library()


def _run_library() -> Run:
    loaded, s = _tiny(), SETTINGS
    drawn: list[Mapping[str, list[list[int]]]] = []

    def reward(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        drawn.append({g.prompt.prompt_id: [r.tokens_T.tolist() for r in g.rollouts] for g in groups})
        return apply_rewards(groups, [Reward(LowIds())])

    optim = OptimConfig(lr=s.lr, warmup_steps=s.warmup_steps, weight_decay=s.weight_decay, clip_norm=s.clip_norm)
    sampler = LocalSampler(loaded.model, lambda tokens_T: "")
    assert sampler.fast, "the comparison is worth most with the fast path"
    trainer = RLParts.of(
        loaded,
        resolve(AlgorithmConfig(name="grpo"), s.samples),
        sampler,
        reward,
        {"train": {name: (Prompt(name, text=name), Encoded(torch.tensor(tokens))) for name, tokens in PROMPTS.items()}},
        SamplingParams(max_tokens=s.max_tokens, stop_tokens=END_TOKENS),
        s.samples,
        Training(optim, LoopConfig(steps=s.steps, batch_size=len(PROMPTS)), s.seed),
    ).trainer()
    steps = [trainer.step(i) for i in range(s.steps)]
    weights = {name: t.detach().clone() for name, t in loaded.model.module.named_parameters()}
    return Run(drawn, [m["loss"] for m in steps], [m["grad_norm"] for m in steps], [m["reward"] for m in steps], weights)


def _run_scratch(settings: Any = SETTINGS, stop: int = SETTINGS.steps) -> Run:
    """The example's loop; ``stop`` breaks it off after so many steps."""
    loaded = _tiny()
    model = example.make_model(loaded.model.config, MODEL_SEED)
    for name, weight in loaded.model.module.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), f"{name}: the two do not start from the same weights"
    steps = list(islice(example.train(model, PROMPTS, share_of_low_ids, END_TOKENS, settings), stop))
    weights = {name: t.detach() for name, t in model.named_parameters()}
    return Run([s.answers for s in steps], [s.loss for s in steps], [s.grad_norm for s in steps], [s.reward for s in steps], weights)


def _differences(library: Run, scratch: Run) -> list[str]:
    """What the two runs do not agree on, as far as the second one went."""
    found = [f"tokens of step {i + 1}" for i, (x, y) in enumerate(zip(library.answers, scratch.answers)) if x != y]
    for what in ("losses", "grad_norms", "rewards"):
        pairs = zip(getattr(library, what), getattr(scratch, what))
        found += [f"{what} of step {i + 1}" for i, (x, y) in enumerate(pairs) if abs(x - y) > 1e-5]
    return found


def test_same_tokens_and_losses_as_the_library(library_run: Run) -> None:
    scratch = _run_scratch()
    assert len(scratch.answers) == len(library_run.answers) == 10
    assert _differences(library_run, scratch) == []
    for name, weight in library_run.weights.items():
        assert torch.allclose(weight, scratch.weights[name], rtol=0.0, atol=1e-4), f"{name}: the two do not end with the same weights"
    lengths = {len(answer) for step in scratch.answers for group in step.values() for answer in group}
    assert {1, SETTINGS.max_tokens} <= lengths, "answers that end at once and answers that are cut off both took part"
    assert max(map(abs, scratch.losses)) > 1e-3, "the losses are large beside the tolerance"


@pytest.mark.parametrize("change", [{"kl_coef": 0.08}, {"clip_norm": 0.5}, {"weight_decay": 0.2}], ids=str)
def test_the_comparison_notices_a_change(library_run: Run, change: dict[str, Any]) -> None:
    assert _differences(library_run, _run_scratch(replace(SETTINGS, **change), stop=5))


@pytest.mark.parametrize("name", ["mean_of_sequences", "advantages"])
def test_the_comparison_notices_another_formula(library_run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    others = {
        "mean_of_sequences": lambda values_GT, mask_GT: (values_GT * mask_GT).sum() / mask_GT.sum(),  # every token counts the same
        "advantages": lambda rewards: torch.tensor(rewards) - torch.tensor(rewards).mean(),  # no division by the deviation
    }
    monkeypatch.setattr(example, name, others[name])
    assert _differences(library_run, _run_scratch(stop=5))


def test_the_same_hash() -> None:
    for parts in [(0, "p", 0, 0), (7, "订单", 3, 11), (-1, "", 0, 2)]:
        key = example.answer_key(*parts)
        assert key == stable_hash(*parts)
        for position in (0, 1, 500):
            assert example.uniform(key, position) == uniform(np.array([key], dtype=np.uint64), position)[0]


def test_it_stands_alone_and_is_short() -> None:
    source = PATH.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 250
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    modules = [n.module or "" for n in imports if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in imports if isinstance(n, ast.Import) for alias in n.names]
    rooms = {module.split(".")[0] for module in modules}
    assert rooms - set(sys.stdlib_module_names) == {"torch", "transformers"}


def test_running_it_raises_the_reward(capsys: pytest.CaptureFixture[str]) -> None:
    example.main(10)
    rewards = [float(r) for r in re.findall(r"^step +\d+  reward (\S+)", capsys.readouterr().out, re.MULTILINE)]
    assert len(rewards) == 10
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3]) > 0
