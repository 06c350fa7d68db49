"""The arithmetic of comparisons: workloads, medians, ratios, the floor, all by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from keel.core.errors import UserError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from labs.bench import compare, roofline
from labs.bench.clock import Clock
from labs.bench.model import make_model, make_tokenizer
from labs.bench.report import summary, table
from labs.bench.roofline import Product, Weight, body_weights, products
from labs.bench.workload import EOS, VERBS, ModelShape, Workload, as_text, count_tokens, make_rows, read, write

SHAPE = ModelShape("qwen2", vocab=64, hidden=16, layers=2, intermediate=24)


def work(verb: Any, **more: Any) -> Workload:
    return Workload(verb, SHAPE, **{"prompts": 2, "group": 3, "completion": 8, "prompt_min": 4, "prompt_max": 6, "steps": 2, **more})


# ---------------------------------------------------------------------------------------------------------------------- workload


@pytest.mark.parametrize("verb", VERBS)
def test_rows_are_those_of_the_seed_and_as_long_as_asked(verb: Any) -> None:
    rows = make_rows(work(verb))
    assert rows == make_rows(work(verb))
    assert rows != make_rows(work(verb, seed=1))
    assert len(rows) == (2 if verb == "rl" else 6) * 3
    for row in rows:
        assert set(row) == {"rl": {"prompt"}, "sft": {"text"}}.get(verb, {"prompt", "chosen", "rejected"})
        for name, ids in row.items():
            low, high = {"prompt": (4, 6), "text": (3, 25)}.get(name, (3, 8))
            assert low <= len(ids) <= high
            assert all(4 <= i < 64 for i in ids[:-1])
            assert (ids[-1] == EOS) == (name != "prompt")


def test_what_tokens_are_counted() -> None:
    pair = [{"prompt": [5, 6, 7], "chosen": [8, 9, EOS], "rejected": [8, EOS]}]
    assert count_tokens(work("dpo"), pair) == 5
    assert count_tokens(work("reward"), pair) == 5 + 2 * 3
    assert count_tokens(work("sft"), [{"text": [5, 6, EOS]}, {"text": [5, EOS]}]) == 2 + 1
    assert count_tokens(work("rl"), [{"prompt": [5]}, {"prompt": [5, 6]}]) == 2 * 3 * 8


def test_a_workload_and_its_texts_come_back_as_they_were(tmp_path: Path) -> None:
    write(tmp_path, work("dpo"), [[1, 0], [2, 3]])
    assert read(tmp_path) == (work("dpo"), make_rows(work("dpo")), [[1, 0], [2, 3]])
    make_tokenizer(64).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ids = [5, 63, 17, EOS]
    assert tokenizer(as_text(ids))["input_ids"] == ids
    assert tokenizer("w5 " + "w7<eos>")["input_ids"] == [5, 7, EOS]  # as a trainer appends the end token


@pytest.mark.parametrize("arch", ["llama", "gemma2", "qwen3_moe"])
def test_a_model_of_any_architecture_has_the_sizes(arch: str, tmp_path: Path) -> None:
    make_model(ModelShape(arch, vocab=64, hidden=16, layers=2, intermediate=24), tmp_path, 0)
    model = load_model(str(tmp_path), ModelOptions(precision="fp32", device="cpu")).model
    assert tuple(model.head_weight_VH.shape) == (64, 16)
    assert model.text_config.num_hidden_layers == 2


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no architecture 'lama'"):
        make_model(ModelShape("lama"), tmp_path, 0)


# -------------------------------------------------------------------------------------------------------------------- clock, report


def test_the_clock_leaves_the_first_step_out_and_adds_stretches_up() -> None:
    clock = Clock()
    for step, (seconds, part) in enumerate([(100.0, 50.0), (3.0, 1.0), (5.0, 4.0), (4.0, 2.0)]):
        clock.steps[step].update({"step_s": seconds, "parts/a": part})
    clock.steps[3]["parts/b"] = 9.0
    assert clock.medians() == {"step_s": 4.0, "parts": {"a": 2.0, "b": 0.0}}

    class Owner:
        def work(self, x: int) -> int:
            return x + 1

    owner, clock = Owner(), Clock()
    clock.part(owner, "work", "work_s")
    for stretch in ("", "whole_s"):
        clock.start()
        assert owner.work(1) == 2
        clock.add_all({"given_s": 2.0})
        clock.stop(7, stretch)
    step = clock.steps[7]
    assert step["parts/given_s"] == 4.0
    assert 0 < step["parts/work_s"] <= step["step_s"]
    assert 0 < step["parts/whole_s"] < step["step_s"]


def one(step_s: float, peak: float = 200.0, **more: Any) -> dict[str, Any]:
    fixed = {
        "cpu_s": 2 * step_s,
        "page_faults": 1.0,
        "loaded_mb": 100.0,
        "tokens": [10, 30],
        "parts": {"a_s": step_s / 2},
        "floor_s": [1.0, 3.0],
    }
    return {"step_s": step_s, "peak_mb": peak, **fixed, **more}


def test_the_summary_is_medians_and_their_ratios() -> None:
    runs = {
        "keel": [one(4.0), one(2.0), one(8.0)],
        "trl": [one(20.0, 500.0), one(30.0, 600.0), one(40.0, 400.0)],
        "trl_tuned": [one(8.0), one(9.0), one(12.0)],
    }
    found = summary(runs)
    assert found["keel"]["step_s"] == 4.0
    assert found["keel"]["tokens_per_s"] == 20 / 4.0
    assert found["keel"]["parts"] == {"a_s": 2.0}
    assert found["keel"]["above_loaded_mb"] == 100.0
    assert found["speedup"] == 30 / 4
    assert found["speedup_range"] == [5.0, 15.0]
    assert found["speedup_tuned"] == 9 / 4
    assert found["cpu_speedup"] == 60 / 8
    assert found["memory_ratio"] == 200 / 500
    assert found["memory_ratio_above_loaded"] == 100 / 400
    assert found["roofline_share"] == 2.0 / 4.0  # of shares 2/4, 2/2, 2/8
    assert "| trl | 30.000 | 60.000 | 1 | 500 | 400 | 1 |" in table(found)
    alone = summary({"keel": runs["keel"]})
    assert "speedup" not in alone
    assert "roofline share 0.50" in table(alone)


def test_sides_that_counted_other_tokens_are_refused() -> None:
    compare.check_tokens({"keel": [{"tokens": [5, 6]}], "trl": [{"tokens": [5, 6]}]})
    with pytest.raises(UserError, match="same tokens"):
        compare.check_tokens({"keel": [{"tokens": [5, 6]}], "trl": [{"tokens": [5, 7]}]})
    with pytest.raises(UserError, match="same tokens"):
        compare.check_tokens({"keel": [{"tokens": [5, 6]}, {"tokens": [6, 6]}]})


def test_an_interpreter_without_trl_is_told_what_to_do(tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\nexit 1\n")
    empty.chmod(0o755)
    with pytest.raises(UserError, match=r"TRL is not installed(.|\n)*keel-align\[bench\](.|\n)*--against none"):
        compare.trl_version(empty)
    with pytest.raises(UserError, match="cannot be started"):
        compare.trl_version(tmp_path / "missing")


# ---------------------------------------------------------------------------------------------------------------------- roofline


def flops(counted: Any, kind: str) -> float:
    return sum(n * p.flops for p, n in counted.items() if p.kind == kind)


def test_the_least_work_of_a_step_is_that_of_the_formulas() -> None:
    weights = [Weight(10, 4), Weight(4, 10), Weight(6, 4, share=0.5)]
    body, head = 40 + 40 + 12, 64 * 4
    rows = [{"prompt": [5] * 5}, {"prompt": [5] * 7}]
    prompt, scored = 12, 2 * 3 * 8
    sampled = body * (prompt + scored) + head * scored
    for kl in (0.04, 0.0):
        counted = products(work("rl", kl=kl), weights, (64, 4), rows)
        assert flops(counted, "forward") == pytest.approx(2 * sampled * (2 if kl else 1))
        assert flops(counted, "train") == pytest.approx(6 * (body * (prompt + scored) + head * scored))
    pair = [{"prompt": [5] * 5, "chosen": [5] * 3, "rejected": [5] * 2}]
    counted = products(work("dpo"), weights, (64, 4), pair)
    assert flops(counted, "forward") == pytest.approx(2 * (body * 10 + head * 5))
    assert flops(counted, "train") == pytest.approx(6 * (body * 10 + head * 5))
    counted = products(work("reward"), weights, (64, 4), pair)
    assert flops(counted, "forward") == 0
    assert flops(counted, "train") == pytest.approx(6 * body * 10)
    counted = products(work("sft"), weights, (64, 4), [{"text": [5] * 4}, {"text": [5] * 6}])
    assert flops(counted, "train") == pytest.approx(6 * (body * 10 + head * 8))


def test_products_have_the_rows_that_go_side_by_side() -> None:
    counted = products(work("rl", kl=0.0), [Weight(10, 4)], (64, 4), [{"prompt": [5] * 5}, {"prompt": [5] * 7}])
    assert counted == {
        Product("forward", 12, 10, 4): 1.0,  # prompts, all at once
        Product("forward", 6, 10, 4): 8.0,  # six rows, a token at a time
        Product("forward", 6, 64, 4): 8.0,
        Product("train", 60, 10, 4): 1.0,
        Product("train", 48, 64, 4): 1.0,
    }


def test_the_body_is_the_layers_without_the_head_and_the_experts_that_a_token_takes(tmp_path: Path) -> None:
    make_model(SHAPE, tmp_path / "dense", 0)
    model = load_model(str(tmp_path / "dense"), ModelOptions(precision="fp32", device="cpu")).model
    layer = 16 * 16 * 2 + 2 * 16 * 8 + 3 * 16 * 24  # q and o, k and v, gate, up and down
    assert sum(w.out * w.into for w in body_weights(model)) == 2 * layer
    make_model(ModelShape("qwen3_moe", vocab=64, hidden=16, layers=1, intermediate=24), tmp_path / "moe", 0)
    model = load_model(str(tmp_path / "moe"), ModelOptions(precision="fp32", device="cpu")).model
    attention = 16 * 16 * 2 + 2 * 16 * 8
    experts = 2 * 3 * 16 * 8  # 2 of 4, each with gate, up and down of 8
    counted = sum(w.out * w.into * w.share for w in body_weights(model))
    router = 4 * 16
    assert counted in (attention + experts, attention + experts + router)


def test_epochs_and_a_critic_are_counted() -> None:
    """PPO trains its policy four times, reads values once and trains its critic's body four times."""
    rows, weights = [{"prompt": [5] * 5}, {"prompt": [5] * 7}], [Weight(10, 4)]

    def total(name: str, parts: list[Weight]) -> float:
        return sum(n * p.flops for p, n in products(work("rl", kl=0.04, algorithm=name), parts, (64, 4), rows).items())

    head = total("grpo", []) / 5  # of one pass: sampling and reference make one, training three
    body = total("grpo", weights) / 5 - head
    assert total("ppo", weights) == pytest.approx((2 + 4 * 3) * (body + head) + (1 + 4 * 3) * body)


def test_the_floor_is_the_sum_of_the_products_best_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_model(SHAPE, tmp_path, 0)
    model = load_model(str(tmp_path), ModelOptions(precision="fp32", device="cpu")).model
    monkeypatch.setattr(roofline, "best_seconds", lambda product, dtype, device: product.flops * 1e-9)
    rows = [{"text": [5] * 4}, {"text": [5] * 6}]
    expected = sum(n * p.flops for p, n in products(work("sft"), body_weights(model), (64, 16), rows).items()) * 1e-9
    assert roofline.floor_seconds(model, work("sft"), [rows, rows]) == pytest.approx([expected] * 2)
    monkeypatch.undo()
    monkeypatch.setattr(roofline, "_SECONDS", 0.0)
    seconds = roofline.best_seconds(Product("train", 4, 8, 8), torch.float32, torch.device("cpu"))
    assert 0 < seconds < math.inf
