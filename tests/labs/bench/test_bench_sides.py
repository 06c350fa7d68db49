"""Both sides of a comparison on tiny work: Keel's for every verb, the command, and TRL's where TRL is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.cli import main
from keel.data.batching import batch_at
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.types import Encoded, Unit
from labs.bench import keel_side, padded_side, roofline, trl_side
from labs.bench.model import make_model
from labs.bench.workload import MODEL, VERBS, ModelShape, Workload, count_tokens, make_rows, write

SHAPE = ModelShape("llama", vocab=64, hidden=16, layers=1, intermediate=24)
TINY = Workload("rl", SHAPE, prompts=2, group=2, completion=6, prompt_min=3, prompt_max=5, threads=1, steps=1)
FLAGS = "--prompts 1 --group 2 --completion 4 --vocab 64 --hidden 16 --layers 1 --intermediate 16 --prompt-min 3 --prompt-max 4 --threads 1"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    monkeypatch.setattr(roofline, "_SECONDS", 0.0)


def folder_of(work: Workload, path: Path) -> list[list[int]]:
    make_model(work.model, path / MODEL, 0)
    count = work.rows_a_step * (work.steps + 1)
    order = [batch_at(count, step, work.rows_a_step, work.seed) for step in range(work.steps + 1)]
    write(path, work, order)
    return order


def expected_tokens(work: Workload, order: list[list[int]]) -> list[int]:
    rows = make_rows(work)
    return [count_tokens(work, [rows[i] for i in part]) for part in order[1:]]


@pytest.mark.parametrize("verb", VERBS)
def test_keels_side_measures_every_verb(verb: Any, tmp_path: Path) -> None:
    work = replace(TINY, verb=verb)
    order = folder_of(work, tmp_path)
    keel_side.main([str(tmp_path), str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["tokens"] == expected_tokens(work, order)
    parts = {"rl": {"rollout_s", "reference_s", "gradient_s", "optimizer_s"}, "dpo": {"reference_s", "gradient_s", "optimizer_s"}}
    assert parts.get(verb, {"gradient_s", "optimizer_s"}) <= set(found["parts"])
    assert 0 < sum(found["parts"].values()) <= 1.01 * found["step_s"]
    assert 0 < found["loaded_mb"] <= found["peak_mb"] + 1  # the system counts pages with a lag
    assert found["floor_s"][0] > 0


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_any_algorithm_can_be_measured_alone(algorithm: str, tmp_path: Path) -> None:
    folder_of(replace(TINY, algorithm=algorithm), tmp_path)
    keel_side.main([str(tmp_path), str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert ("critic_gradient_s" in found["parts"]) == (algorithm == "ppo")


@pytest.mark.parametrize("processes", ["this one", pytest.param("of their own", marks=pytest.mark.slow)])
def test_the_command_writes_what_it_measured(
    processes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if processes == "this one":
        request.getfixturevalue("in_process")
    file = tmp_path / "new" / "out.json"
    assert main(["bench", "rl", "--against", "none", "--json", str(file), "--repeats", "1", "--steps", "1", *FLAGS.split()]) == 0
    found = json.loads(file.read_text())
    assert {"step_s", "peak_mb", "tokens_per_s", "parts"} <= set(found["keel"])
    assert found["keel"]["tokens_per_s"] == pytest.approx(2 * 4 / found["keel"]["step_s"])
    assert found["roofline_share"] > 0
    assert found["workload"]["model"]["vocab"] == 64
    assert "roofline share" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--repeats", "0"], "--repeats is 0"),
        (["--group", "1"], "--group is 1"),
        (["--prompt-min", "9", "--prompt-max", "3"], "--prompt-max (3) is below --prompt-min (9)"),
        (["--hidden", "20"], "multiple of 8"),
        (["--arch", "lama", "--against", "none"], "no architecture 'lama'"),
        (["--algorithm", "rloo"], "not rloo"),
        (["--top-p", "0.9"], "--top-p is for rl with --against none"),
        (["--top-p", "0", "--against", "none"], "--top-p is 0.0"),
        (["--algorithm", "rlo", "--against", "none"], "rlo"),
        (["--trl-python", "/missing/python"], "cannot be started"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_message(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rl", *FLAGS.split(), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_trl_trains_on_the_same_tokens(verb: Any, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    work = replace(TINY, verb=verb)
    order = folder_of(work, tmp_path)
    subprocess.run([sys.executable, trl_side.__file__, str(tmp_path), str(tmp_path / "out.json")], check=True, capture_output=True)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["tokens"] == expected_tokens(work, order)
    assert found["step_s"] > 0


# ------------------------------------------------------------------------------------------------------------------------ padded


def test_padded_ppo_is_measured_beside_keels(in_process: None, tmp_path: Path) -> None:
    sizes = [*FLAGS.split(), "--repeats", "1", "--steps", "1", "--json", str(tmp_path / "ppo.json")]
    assert main(["bench", "rl", "--algorithm", "ppo", "--against", "padded", *sizes]) == 0
    found = json.loads((tmp_path / "ppo.json").read_text())
    assert {"keel", "padded", "padded_tuned", "speedup", "speedup_tuned", "memory_ratio"} <= set(found)
    assert found["speedup"] == pytest.approx(found["padded"]["step_s"] / found["keel"]["step_s"])
    assert set(found["padded"]["parts"]) == {"rollout_s", "score_s", "gradient_s", "critic_gradient_s"}


def test_padded_code_measures_ppo_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rl", "--against", "padded", *FLAGS.split()]) == 2
    assert "--algorithm ppo" in capsys.readouterr().err


def test_padded_ppo_computes_what_keel_does(tmp_path: Path) -> None:
    """Log-probabilities of padded rows are those of the packed ones; whitened advantages and returns are those by hand."""
    order = folder_of(work := replace(TINY, algorithm="ppo"), tmp_path)
    trainer = padded_side.PaddedPPO(work, tmp_path)
    prompts = [make_rows(work)[i]["prompt"] for i in order[0]]
    ids_BL, mask_BL = trainer.rollout(prompts)
    old_BC, ref_BC, values_BC = trainer.score(ids_BL, mask_BL)
    learner = LocalInference(load_model(str(tmp_path / MODEL), ModelOptions(precision="fp32")).model, BatchConfig())
    rows = [keel_side.branch(row.tolist()) for row in ids_BL[:, -work.completion :]]
    units = [Unit(str(i), Encoded(torch.tensor(prompts[i // work.group])), (row,)) for i, row in enumerate(rows)]
    expected_BC = torch.stack([of[0] for of in learner.logprobs(units)])
    torch.testing.assert_close(old_BC, expected_BC, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ref_BC, old_BC)

    rewards_B = torch.arange(4.0)
    advantages_BC, returns_BC = trainer.advantages(rewards_B, old_BC, ref_BC - 0.5, values_BC)
    raw_BC = returns_BC - values_BC
    torch.testing.assert_close(advantages_BC, (raw_BC - raw_BC.mean()) / raw_BC.std(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw_BC[:, -1], rewards_B - 0.05 * 0.5 - values_BC[:, -1])
    torch.testing.assert_close(raw_BC[:, -2], -0.025 + values_BC[:, -1] - values_BC[:, -2] + 0.95 * raw_BC[:, -1])


def test_padded_ppo_moves_policy_and_critic(tmp_path: Path) -> None:
    order = folder_of(work := replace(TINY, algorithm="ppo"), tmp_path)
    trainer = padded_side.PaddedPPO(work, tmp_path)
    before = [p.detach().clone() for p in (*trainer.policy.parameters(), *trainer.critic_parameters)]
    assert trainer.step([make_rows(work)[i]["prompt"] for i in order[0]]) == work.batch * work.completion
    after = [*trainer.policy.parameters(), *trainer.critic_parameters]
    assert all(not torch.equal(a, b) for a, b in zip(before[:1] + before[-2:], after[:1] + after[-2:], strict=True))
