"""Sizes and estimates by hand."""

from __future__ import annotations

import math

import pytest

from keel.advise.advise import budget_seconds
from keel.advise.estimate import SHARE, Load, Plan, estimate, forward, training, work_of
from keel.core.errors import ModelError, UserError
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.plan.machine import Machine
from keel.plan.memory import memory
from keel.plan.size import Size, size_of

SIZE = Size(parameters=1000, body=600, head=200, ports=50, layers=2, hidden=8, intermediate=16, cache=4, vocab=100, bytes_per_token=4.0)
LOAD = Load(records=20, prompts=10, prompt_tokens=200, answer_tokens=400, distinct_prompt_tokens=100, answer=10, longest=40)
FP32 = Machine("cpu", 2, 10**9, "float32", wide=1e6, narrow=2.5e5)
PLAN = Plan(epochs=2, samples=4, max_tokens=5, batch=8, rank=3)


def test_operations() -> None:
    assert forward(SIZE, 10, 4) == 2 * (600 * 10 + 200 * 4)
    assert training(SIZE, 10, 4, "full") == 6 * (600 * 10 + 200 * 4)
    assert training(SIZE, 10, 4, "lora") == 4 * (600 * 10 + 200 * 4)


def test_seconds_of_direct_losses() -> None:
    once = 600 * 600 + 200 * 400  # body: all 600 tokens; head: the 400 of answers
    rate = 1e6 * SHARE
    assert estimate("reference_free", "full", LOAD, SIZE, FP32, PLAN).seconds == pytest.approx(2 * 6 * once / rate)
    assert estimate("referred", "full", LOAD, SIZE, FP32, PLAN).seconds == pytest.approx((2 * 6 + 2) * once / rate)
    assert estimate("referred", "lora", LOAD, SIZE, FP32, PLAN).seconds == pytest.approx((2 * 4 + 2) * once / rate)
    assert estimate("reward", "full", LOAD, SIZE, FP32, PLAN).seconds == pytest.approx(2 * 6 * 600 * 600 / rate)
    assert estimate("sft", "full", LOAD, SIZE, FP32, PLAN).steps == math.ceil(20 * 2 / 8)


def test_seconds_of_rl() -> None:
    answers, tokens = 4 * 5 * 10, 100 + 4 * 5 * 10
    decode = 2 * (600 + 200) * answers / (2.5e5 * SHARE)
    passes = 6 * (600 * tokens + 200 * answers) + 2 * 600 * 100 + 2 * (600 * tokens + 200 * answers)
    found = estimate("rl", "full", LOAD, SIZE, FP32, PLAN)
    assert found.seconds == pytest.approx(2 * (decode + passes / (1e6 * SHARE)))
    assert found.steps == math.ceil(10 * 2 / 8)
    critic = estimate("rl_critic", "full", LOAD, SIZE, FP32, PLAN)
    assert critic.seconds - found.seconds == pytest.approx(2 * 8 * 600 * tokens / (1e6 * SHARE))
    scored = estimate("rl", "full", LOAD, SIZE, FP32, PLAN, reward_model=True)
    first = estimate("reward", "full", LOAD, SIZE, FP32, PLAN).seconds
    assert scored.seconds - found.seconds == pytest.approx(first + 2 * 2 * 600 * tokens / (1e6 * SHARE))


def test_memory_is_that_of_the_plan() -> None:
    """What a way asks, by hand; bytes are `keel.plan`'s alone."""
    direct = work_of("referred", "full", LOAD, SIZE, FP32, PLAN)
    tokens = 8 * 600 / 20  # of a batch; the longest record has 40
    assert (direct.microbatch, direct.scored) == (tokens, tokens * 400 / 600)
    assert (direct.inference, direct.rows, direct.reference) == (600, 0, False)
    assert direct.trained == 1000
    assert estimate("referred", "full", LOAD, SIZE, FP32, PLAN).memory == memory(direct).peak
    rl = work_of("rl_critic", "full", LOAD, SIZE, FP32, PLAN, reward_model=True)
    unit = 100 / 10 + 4 * 5
    assert (rl.microbatch, rl.inference, rl.smallest) == (8 * unit, 8 * unit, 100 / 10 + 5)
    assert (rl.rows, rl.prompt, rl.answer) == (32, 10, 5)
    assert (rl.reference, rl.critic, rl.rewards) == (True, True, (SIZE,))
    lora = work_of("rl", "lora", LOAD, SIZE, FP32, PLAN)
    assert (lora.trained, lora.reference, lora.critic) == (3 * 50, False, False)


@pytest.mark.parametrize("spec", ["tiny:llama?seed=1", "tiny:qwen3?hidden=32&layers=3"])
def test_size_is_that_of_the_model(spec: str, proofs: None) -> None:
    size = size_of(spec, ModelOptions())
    model = load_model(spec, ModelOptions(precision="fp32")).model
    assert size.parameters == sum(p.numel() for p in model.module.parameters())
    assert size.head == model.head_weight_VH.numel()
    lora = load_model(spec, ModelOptions(precision="fp32"), LoraConfig(r=5)).model
    assert 5 * size.ports == sum(p.numel() for _, p in lora.trainable())


def test_size_of_nothing() -> None:
    with pytest.raises(ModelError, match=r"cannot be told|does not exist"):
        size_of("./no-such-model", ModelOptions())


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("45m", 2700), ("1h30m", 5400), ("90 s", 90), ("1.5d", 129600), ("2", 7200)])
def test_budget(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "2 weeks", "0h", "h"])
def test_budget_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        budget_seconds(text)
