"""Logs of other trainers, as they write them, under Keel's names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.watch.foreign import log_file, read_log

TRL = {"loss": 0.1, "grad_norm": 2.0, "learning_rate": 1e-6, "reward": 0.5, "reward_std": 0.2, "kl": 0.01, "epoch": 0.1, "step": 5}
TRL_EVAL, TRL_END = {"eval_loss": 0.3, "eval_reward": 0.7, "step": 5}, {"train_runtime": 9.0, "step": 10}
VERL = {"critic/rewards/mean": 0.2, "actor/kl_loss": 0.01, "actor/entropy": 1.5, "response_length/mean": 90}
VERL_EVAL = {"actor/grad_norm": "NaN", "val-core/gsm8k/acc/mean@1": 0.6}
OPENRLHF = {"policy_loss": 0.1, "actor_lr": 1e-6, "reward": 0.4, "kl": 0.02, "response_length": 70, "global_step": 3}
TINKER = {"step": 4, "env/all/reward/total": 0.9, "optim/entropy": 0.3, "optim/kl_sample_train_v1": 0.001}
FACTORY = {"current_steps": 5, "total_steps": 10, "loss": 1.2, "lr": 1e-5, "accuracy": 0.7, "elapsed_time": "0:00:05"}
Numbers = Mapping[str, float]


def lines(*rows: Mapping[str, Any]) -> str:
    return "\n".join(map(json.dumps, rows))


LOGS: dict[str, tuple[str, str, list[tuple[int, Numbers]]]] = {
    "TRL": (
        "trainer_state.json",
        json.dumps({"global_step": 10, "log_history": [TRL, TRL_EVAL, TRL_END]}),
        [
            (5, {"loss": 0.1, "grad_norm": 2.0, "lr": 1e-6, "reward": 0.5, "kl": 0.01, "eval/loss": 0.3, "eval/reward": 0.7}),
            (10, {"train_runtime": 9.0}),
        ],
    ),
    "verl": (
        "metrics.jsonl",
        lines({"step": 1, "data": VERL}, {"step": 2, "data": VERL_EVAL}),
        [
            (1, {"reward": 0.2, "kl": 0.01, "entropy": 1.5, "completions/mean_length": 90.0}),
            (2, {"grad_norm": math.nan, "eval/val-core/gsm8k/acc/mean@1": 0.6}),
        ],
    ),
    "OpenRLHF": (
        "metrics.jsonl",
        lines({f"train/{name}": value for name, value in OPENRLHF.items()}),
        [(3, {"loss": 0.1, "lr": 1e-6, "reward": 0.4, "kl": 0.02, "completions/mean_length": 70.0})],
    ),
    "tinker": (
        "metrics.jsonl",
        lines({**TINKER, "test/env/all/reward/total": 0.8}),
        [(4, {"reward": 0.9, "entropy": 0.3, "policy/old_kl_avg": 0.001, "eval/reward": 0.8})],
    ),
    "LLaMA-Factory": (
        "trainer_log.jsonl",
        lines(FACTORY, {"current_steps": 5, "total_steps": 10, "eval_loss": 1.1}),
        [(5, {"loss": 1.2, "lr": 1e-5, "rewards/accuracies": 0.7, "eval/loss": 1.1})],
    ),
    "Keel": (
        "metrics.jsonl",
        lines({"step": 1, "loss": "Infinity", "kl": 0.5, "eval/reward": 0.1}),
        [(1, {"loss": math.inf, "kl": 0.5, "eval/reward": 0.1})],
    ),
}


@pytest.mark.parametrize("form", LOGS)
def test_a_log_is_known_by_its_content(tmp_path: Path, form: str):
    name, text, wanted = LOGS[form]
    (tmp_path / name).write_text(text + "\n")
    for place in (tmp_path, tmp_path / name):
        log = read_log(place)
        assert (log.form, [step for step, _ in log.rows]) == (form, [step for step, _ in wanted])
        for (_, found), (_, numbers) in zip(log.rows, wanted):
            assert {n: repr(found.get(n)) for n in numbers} == {n: repr(v) for n, v in numbers.items()}
        assert log.left_out == 0


def test_console_lines_of_verl(tmp_path: Path):
    line = "(main_task pid=1) step:2 - critic/kl:-0.001 - actor/entropy_loss:1.213 - actor/grad_norm:1.000 - critic/rewards/mean:0.025"
    (tmp_path / "out.log").write_text(f"(main_task pid=1) No equation found\n{line}\n")
    log = read_log(tmp_path / "out.log")
    assert log.form == "verl"
    assert log.rows == ((2, {"reward": 0.025, "kl": -0.001, "entropy": 1.213, "grad_norm": 1.0}),)


def test_evaluations_have_the_names_that_rules_look_at(tmp_path: Path):
    """TRL's `eval_x` is `eval/x`; verl's held-out reward is the mean over sources, of each over most answers; tinker says how many groups
    are mixed."""
    file = tmp_path / "metrics.jsonl"
    trl = {"eval_reward": 0.7, "eval_reward_std": 0.2, "eval_rewards/gold/mean": 0.1, "learning_rate": 1e-6, "step": 5}
    file.write_text(json.dumps(trl))
    assert read_log(file).rows[0][1] == {
        "eval/reward": 0.7, "eval/reward_std": 0.2, "eval/rewards/gold/mean": 0.1, "lr": 1e-6
    }  # fmt: skip
    verl = {
        "actor/lr": 1e-6,
        "val-core/gsm8k/reward/mean@1": 0.9,
        "val-aux/gsm8k/reward/mean@8": 0.5,
        "val-core/gsm8k/acc/mean@1": 0.8,
        "val/test_score/math/hard": 0.1,
    }
    file.write_text(json.dumps({"step": 1, "data": verl}))
    found = read_log(file).rows[0][1]
    assert found["eval/reward"] == pytest.approx((0.5 + 0.1) / 2)
    assert found["eval/val-core/gsm8k/acc/mean@1"] == 0.8
    file.write_text(json.dumps({"step": 1, "env/all/reward/total": 0.5, "env/all/by_group/frac_mixed": 0.75}))
    assert read_log(file).rows[0][1]["frac_reward_zero_std"] == 0.25


def test_what_cannot_be_used_is_counted(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "kl": 1}\n{"step": 2, "kl": \n{"kl": 3}\n{"step": 4, "name": "x"}\n{"step": 5, "kl": 5}\n')
    log = read_log(file)
    assert [step for step, _ in log.rows] == [1, 5]
    assert log.left_out == 3


@pytest.mark.parametrize("step", ["NaN", "Infinity", "-Infinity", '"nan"', "1" + "0" * 400, "null", "true", '"x"', "[1]", "1" * 5000])
def test_a_step_that_is_none_is_counted_and_breaks_nothing(tmp_path: Path, step: str):
    """In every form that names its step."""
    file = tmp_path / "metrics.jsonl"
    for name, more in (
        ("step", '"kl": 1'),
        ("current_steps", '"loss": 1'),
        ("global_step", '"actor_lr": 1'),
        ("step", '"data": {"kl": 1}'),
    ):
        good = f'{{"{name}": 1, {more}}}\n'
        file.write_text(f'{good}{{"{name}": {step}, {more}}}\n{good.replace(": 1,", ": 3,", 1)}')
        log = read_log(file)
        assert ([s for s, _ in log.rows], log.left_out) == ([1, 3], 1), name


def test_numbers_of_any_size_and_texts_with_any_sign(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    first = '{"step": 1, "kl": -1' + "0" * 400 + ', "rewards/正确/mean": 0.5, "text": "a\u2028b\x85c"}'
    file.write_text(f'{first}\r\n{"{" * 9}\n{{"step": 2, "x": {"[" * 9999}\n')
    log = read_log(file)
    assert log.rows == ((1, {"kl": -math.inf, "rewards/正确/mean": 0.5}),)
    assert log.left_out == 2
    (tmp_path / "out.log").write_text(f"step:{'9' * 5000} - critic/kl:1\nstep:2 - rewards/正确:0.5 - critic/kl:1\n")
    assert read_log(tmp_path / "out.log").rows == ((2, {"kl": 1.0, "rewards/正确": 0.5}),)


def test_the_last_checkpoint_has_the_whole_history(tmp_path: Path):
    for step in (5, 20, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": step, "loss": 1.0}]}))
    assert log_file(tmp_path).parent.name == "checkpoint-100"


@pytest.mark.parametrize(("content", "words"), [(None, "is not there"), ("", "holds no row"), ("hello\n", "holds no row")])
def test_no_log(tmp_path: Path, content: str | None, words: str):
    file = tmp_path / "log.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=words):
        read_log(file)
    with pytest.raises(DataError, match="holds no log that is known"):
        log_file(tmp_path)


def test_a_pipeline_is_told_to_name_a_stage(tmp_path: Path):
    for stage in ("sft", "rl"):
        (tmp_path / "stages" / stage).mkdir(parents=True)
        (tmp_path / "stages" / stage / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="is a pipeline") as caught:
        log_file(tmp_path)
    assert "stages/sft (rl, sft)" in caught.value.hint


def test_every_name_that_stands_for_one_of_keels_does_so_once_and_keel_has_it():
    from keel.watch.foreign import FORMS
    from keel.watch.names import PLAIN, UNITS

    known = PLAIN | set(UNITS) | {"clip_ratio/region_mean", "completions/mean_length", "completions/clipped_ratio", "rewards/accuracies"}
    for form in FORMS:
        for meant in form.names.values():
            assert meant in known or meant.startswith("eval/"), meant
