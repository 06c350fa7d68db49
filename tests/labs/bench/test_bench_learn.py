"""The learning table: the tasks by hand, the numbers by hand, and that what it says is so."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from keel.cli import main
from labs.bench import learn, learn_against
from labs.bench.learn import LEARNERS, Curve, markdown, run, sft_start, table_rows
from labs.bench.model import make_model
from labs.bench.tasks import MARK, SYMBOLS, TASKS
from labs.bench.workload import BOS, EOS

pytestmark = pytest.mark.stages

A, B, C = SYMBOLS[1:4]


@pytest.mark.parametrize(
    ("task", "prompt", "answer", "right"),
    [
        ("last", [A, B, C], [C, EOS], True),
        ("last", [A, B, C], [C], False),
        ("last", [A, B, C], [A, EOS], False),
        ("last", [A, B, C], [C, C, EOS], False),
        ("reverse", [A, B], [B, A, EOS], True),
        ("reverse", [A, B], [A, B, EOS], False),
        ("needle", [A], [A, A, A, A, A, MARK, B, B, EOS], True),
        ("needle", [A], [A, A, A, A, A, MARK], True),
        ("needle", [A], [A, A, MARK, A, A, MARK, B, B, EOS], False),
        ("needle", [A], [A, A, A, A, MARK, A, B, B, EOS], False),
        ("needle", [A], [], False),
    ],
)
def test_what_is_right(task: str, prompt: list[int], answer: list[int], right: bool) -> None:
    assert TASKS[task].reward([BOS, *prompt], answer) == float(right)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_demonstrations_are_right_as_often_as_the_noise_leaves_them(task: learn.Task) -> None:
    rng = random.Random(0)
    prompts = [task.prompt(rng) for _ in range(4000)]
    assert {len(p) for p in prompts} == {task.length + 1}
    demonstrations = [task.demonstration(p, rng) for p in prompts]
    assert max(map(len, demonstrations)) <= task.max_tokens
    kept = 1 - task.noise * (1 - 1 / len(SYMBOLS))  # noise draws the right symbol too
    places = sum(task.counts(i) for i in range(len(demonstrations[0]) - 1))
    share = sum(task.reward(p, d) for p, d in zip(prompts, demonstrations, strict=True)) / len(prompts)
    assert share == pytest.approx(kept**places, abs=0.04)


def curve(algorithm: str, seed: int, final: float, needed: int | None) -> Curve:
    return Curve(algorithm, "last", seed, 0.25, final, needed, 640, 2.0 + seed, ())


def test_the_table_is_means_and_medians_over_the_seeds() -> None:
    rows = table_rows([curve("grpo", 0, 0.5, 100), curve("grpo", 1, 0.7, None), curve("grpo", 2, 0.9, 300), curve("rloo", 0, 0.4, None)])
    assert rows[0]["final"] == pytest.approx(0.7)
    assert rows[0]["final_sd"] == pytest.approx(0.2)
    assert rows[0]["samples_to_threshold"] == 300  # of 100, 300 and never
    assert rows[0]["wall_s"] == pytest.approx(3.0)
    assert rows[1]["samples_to_threshold"] is None
    text = markdown({"threshold": 0.8, "table": rows, "tasks": {"last": "say it"}})
    assert "| last | grpo | 0.25 | 0.70 ± 0.20 | 300 | 640 | 3.0 |" in text
    assert "| last | rloo | 0.25 | 0.40 ± 0.00 | never | 640 | 2.0 |" in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, proofs: None) -> Path:
    path = tmp_path_factory.mktemp("learn")
    make_model(learn.SHAPE, path, 0)
    return path


def test_one_start_and_one_seed_give_one_curve_which_rises(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "_SFT_STEPS", 25)
    start = sft_start(folder, TASKS["needle"])
    first, again = (run(folder, start, TASKS["needle"], "grpo", 0, steps, 0.6) for steps in (12, 2))
    assert first.rewards[:2] == again.rewards
    assert first.final > first.start + 0.15
    assert first.samples == 12 * 64
    means = [sum(first.rewards[i : i + 3]) / 3 for i in range(10)]
    reached = next((i for i, mean in enumerate(means) if mean >= 0.6), None)
    assert first.samples_to_threshold == (None if reached is None else (reached + 3) * 64)


def test_the_command_refuses_unknown_names_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proofs: None
) -> None:
    assert main(["bench", "learn", "--algorithms", "grpo,grpoo"]) == 2
    assert "no algorithm is named grpoo" in capsys.readouterr().err
    monkeypatch.setattr(learn, "_SFT_STEPS", 1)
    monkeypatch.setattr(learn, "_HELD_OUT", 8)
    file = tmp_path / "learn.json"
    flags = ["--algorithms", "rloo", "remax", "--tasks", "last", "--seeds", "3", "--steps", "1", "--json", str(file)]
    assert main(["bench", "learn", *flags]) == 0
    found = json.loads(file.read_text())
    assert [(r["algorithm"], r["seed"], r["samples"]) for r in found["runs"]] == [("rloo", 3, 64), ("remax", 3, 72)]  # and greedy ones
    assert "| last | rloo |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_algorithm_beats_its_start(task: str, folder: Path) -> None:
    start = sft_start(folder, TASKS[task])
    for algorithm in LEARNERS:
        found = run(folder, start, TASKS[task], algorithm, 0, 40, 0.8)
        assert found.final > found.start + 0.12, (algorithm, found.start, found.final)  # four standard errors of a share of 256


def test_students_quantiles_are_those_of_the_tables() -> None:
    """Two-sided 95%: 12.706 for 1 degree of freedom, 2.776 for 4, 1.984 for 100."""
    for freedom, expected in ((1, 12.706), (4, 2.776), (100, 1.984)):
        assert learn_against.student_quantile(0.975, freedom) == pytest.approx(expected, abs=2e-3)


def test_the_difference_of_the_sides_has_an_interval_over_the_seeds() -> None:
    """0.5, 0.7, 0.9 and 0.4, 0.6, 0.8: variances 0.04, standard error sqrt(0.08 / 3), 4 degrees of freedom."""
    ours = [curve("grpo", i, x, None) for i, x in enumerate((0.5, 0.7, 0.9))]
    theirs = [curve("trl:grpo", i, x, None) for i, x in enumerate((0.4, 0.6, 0.8))]
    (row,) = learn_against.differences([*ours, *theirs, curve("ppo", 0, 0.1, None)])
    half = 2.776 * (0.08 / 3) ** 0.5
    assert (row["task"], row["algorithm"], row["within_noise"]) == ("last", "grpo", True)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-3)
    assert "| last | grpo | +0.100 |" in learn_against.markdown([row])
    apart = learn_against.differences(
        [curve("grpo", i, 0.9 + i / 100, None) for i in range(3)]
        + theirs[:0]
        + [curve("trl:grpo", i, 0.2 + i / 100, None) for i in range(3)]
    )
    assert apart[0]["within_noise"] is False
    assert learn_against.differences([ours[0], theirs[0]])[0].keys() == {"task", "algorithm", "difference"}


def test_the_threshold_is_reached_by_the_mean_of_three_steps() -> None:
    assert learn.first_reached([0.9, 0.1, 0.8, 0.9, 0.7], 0.75) == 4
    assert learn.first_reached([0.9, 0.9], 0.8) is None


def test_trl_is_asked_for_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "learn", "--algorithms", "ppo", "--against", "trl"]) == 2
    assert "TRL has none of ppo" in capsys.readouterr().err


def test_trl_learns_from_the_same_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.setattr(learn, "_SFT_STEPS", 25)
    start = sft_start(folder, TASKS["needle"])
    ours = run(folder, start, TASKS["needle"], "grpo", 0, 2, 0.8)
    theirs = learn_against.run(Path(sys.executable), (2, 0.8), folder, start, TASKS["needle"], "grpo", 0)
    assert theirs.start == ours.start
    assert theirs.samples == ours.samples
    assert theirs.final != theirs.start
