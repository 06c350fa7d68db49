"""The ways from labels to a better model, in one table: what each needs, what it costs, and the recipe that it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keel.advise.estimate import Kind
from keel.advise.measure import Measures
from keel.plan.work import Mode

PREFERENCES = frozenset({"pair", "comparison", "ranking", "rating"})  # records that give pairs
Needs = Literal["preferences", "judgements", "answers", "demonstrations", "checkable", "steps"]


@dataclass(frozen=True, slots=True)
class Way:
    """``needs``: preferences (pairs or what gives them), judgements (these, or ratings of single answers), answers (labelled one by one, or
    pairs), demonstrations (or what gives them), checkable (prompts whose answers a program checks), steps. ``objective`` is that of
    `keel prefer`, ``algorithm`` that of `keel rl`."""

    name: str
    title: str
    needs: Needs
    kind: Kind
    objective: Mapping[str, Any] = field(default_factory=dict[str, Any])
    algorithm: str = ""
    reward_model: bool = False
    lr: float = 1e-6


_DPO = {"name": "dpo", "beta": 0.1}

WAYS: tuple[Way, ...] = (
    Way("sft", "supervised fine-tuning on the good answers", "demonstrations", "sft", lr=2e-5),
    Way("dpo", "direct preference optimisation", "preferences", "referred", _DPO),
    Way(
        "dpo_length_normalised",
        "DPO on means over tokens in place of sums",
        "preferences",
        "referred",
        {"name": "dpo", "beta": 2.0, "length_normalised": True},
    ),
    Way("ipo", "identity preference optimisation", "preferences", "referred", {"name": "ipo"}),
    Way("robust_dpo", "DPO corrected for wrong labels", "preferences", "referred", {"name": "robust_dpo"}),
    Way("simpo", "simple preference optimisation, length-normalised, no reference", "preferences", "reference_free", {"name": "simpo"}),
    Way("orpo", "odds-ratio preference optimisation, no reference", "preferences", "reference_free", {"name": "orpo"}, lr=8e-6),
    Way("kto", "Kahneman-Tversky optimisation of single answers", "answers", "referred", {"name": "kto"}),
    Way("bco", "binary classifier optimisation of single answers", "answers", "referred", {"name": "bco"}),
    Way("best_of_n", "a reward model, and the best of n samples", "judgements", "reward", reward_model=True, lr=1e-5),
    Way("ppo", "a reward model, then PPO", "judgements", "rl_critic", algorithm="ppo", reward_model=True),
    Way("grpo", "a reward model, then GRPO", "judgements", "rl", algorithm="grpo", reward_model=True),
    Way("rloo", "a reward model, then RLOO", "judgements", "rl", algorithm="rloo", reward_model=True),
    Way("grpo_verifier", "GRPO with a verifier as its reward", "checkable", "rl", algorithm="grpo"),
    Way("rloo_verifier", "RLOO with a verifier as its reward", "checkable", "rl", algorithm="rloo"),
    Way("process_reward", "a reward model of steps, and the best of n samples", "steps", "reward", reward_model=True, lr=1e-5),
)
BY_NAME: Mapping[str, Way] = {way.name: way for way in WAYS}


def lacking(way: Way, m: Measures) -> str:
    """What the data lack for a way, in words; "" when it can be taken."""
    kinds = m.kinds.keys()
    preferred = bool(m.preferences.get("pairs"))
    match way.needs:
        case "preferences":
            return "" if preferred else "no two answers to one prompt are compared"
        case "judgements":
            return "" if preferred or "rating" in kinds else "no two answers to one prompt are compared, and none is rated"
        case "answers":
            both = 0.0 < m.unpaired.get("wanted", 0.0) < 1.0
            one_sided = "all answers have the same label" if "unpaired" in kinds else "no answer has a label"
            return "" if both or (preferred and "unpaired" not in kinds) else one_sided
        case "demonstrations":
            wanted = "demonstration" in kinds or m.unpaired.get("wanted", 0.0) > 0.0
            return "" if wanted or preferred else "there is no answer to imitate"
        case "checkable":
            return "" if m.checkable else "no column says what a program could check (ground_truth, tests, schema, instruction_id_list)"
        case "steps":
            return "" if "steps" in kinds else "no answer is labelled step by step"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a way starts: a verb and its recipe (of `run`: a pipeline)."""

    verb: str
    recipe: dict[str, Any]


def start(way: Way, m: Measures, path: str | list[str], model: str, mode: Mode, data: Mapping[str, Any]) -> Start:
    """The verb and recipe of a way on these data. ``data`` are settings of the data section beside its path."""
    base: dict[str, Any] = {"model": model, "data": {"path": path, **data}, "held_out": 0.1, **_adapters(mode)}
    train = _train(way, mode)
    if way.kind == "sft":
        return Start("sft", _converted({**base, **train}, "" if m.kinds.keys() <= {"demonstration"} else "demonstrations"))
    if way.objective:
        given = {**base, "objective": _objective(way, m), **train}
        return Start("prefer", _converted(given, "" if m.kinds.keys() <= {"pair", "unpaired"} else "pairs"))
    if way.kind == "reward":
        return Start("reward", {**base, **train})
    rl = _rl(way, train)
    if not way.reward_model:
        assert m.checkable is not None
        reward = {"type": m.checkable.verifier, "name": m.checkable.verifier, **m.checkable.settings}
        return Start("rl", {**base, "rewards": [reward], **rl})
    rest = {k: v for k, v in base.items() if k != "model"}
    first = {"model": "@model", **rest, **_train(BY_NAME["best_of_n"], mode)}
    second = {"model": "@model", **rest, "rewards": [{"type": "model", "name": "reward_model", "path": "@reward"}], **rl}
    return Start("run", {"model": model, "stages": {"reward": first, "rl": second}})


def start_own_reward(path: str, model: str, mode: Mode, reward: Mapping[str, Any], data: Mapping[str, Any]) -> Start:
    """Prompts and a reward of the user's own (a section of ``rewards``): the way of a verifier with that reward in its place."""
    way = BY_NAME["grpo_verifier"]
    base: dict[str, Any] = {"model": model, "data": {"path": path, **data}, "held_out": 0.1, **_adapters(mode)}
    return Start("rl", {**base, "rewards": [dict(reward)], **_rl(way, _train(way, mode))})


def _train(way: Way, mode: Mode) -> dict[str, Any]:
    """Adapters learn best at about ten times the rate of all weights (Schulman et al. 2025, LoRA Without Regret)."""
    lr = float(f"{way.lr * (10 if mode == 'lora' else 1):.3g}")
    return {"optim": {"lr": lr, "warmup_ratio": 0.1}, "loop": {"epochs": 1, "batch_size": 16}}


def _rl(way: Way, train: Mapping[str, Any]) -> dict[str, Any]:
    return {"algorithm": {"name": way.algorithm}, "samples": 8, "sampling": {"max_tokens": 128}, **train}


def _adapters(mode: Mode) -> dict[str, Any]:
    return {"lora": {"r": 16, "alpha": 32}} if mode == "lora" else {}


def _converted(recipe: dict[str, Any], to: str) -> dict[str, Any]:
    return recipe if not to else {**recipe, "data": {**recipe["data"], "convert": {"to": to}}}


def _objective(way: Way, m: Measures) -> dict[str, Any]:
    given = dict(way.objective)
    if way.name == "robust_dpo" and m.noise >= 0.01:
        given["label_smoothing"] = round(min(0.3, m.noise), 2)
    return given
