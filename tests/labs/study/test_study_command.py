"""Both studies from end to end, as small as they can be, and what they refuse."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keel.cli import main
from labs.bench.workload import EOS, FIRST_WORD
from labs.study import frontier, looking, overoptimisation, ways, world
from labs.study.taste import Taste, make_answer, make_taste
from labs.study.world import World

pytestmark = pytest.mark.stages


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    monkeypatch.setattr(world, "_SFT_STEPS", 2)
    monkeypatch.setattr(world, "_FIT_SAMPLES", 4)
    for module in (world, ways):
        monkeypatch.setattr(module, "PARAMS", replace(world.PARAMS, max_tokens=5))
    monkeypatch.setattr(frontier, "_PRICES", (0.1,))
    monkeypatch.setattr(frontier, "_BETAS", {"dpo": (0.1, 0.5), "ipo": (0.1,), "kto": (0.1,), "simpo": (2.0,)})
    for name, proxy in overoptimisation.PROXIES.items():
        fewer = replace(proxy, members=min(proxy.members, 2), rl=name == "ensemble, lower bound")
        monkeypatch.setitem(overoptimisation.PROXIES, name, fewer)
    few = {"voted": 2, "epochs": 1, "held_out": 2, "samples": 2, "every": 2}
    for module, more in ((overoptimisation, {"pool_prompts": 2, "pool": 8, "betas": (0.1,)}), (frontier, {})):
        plan = module.Plan
        monkeypatch.setattr(module, "Plan", lambda *args, plan=plan, more=more: plan(*args, **few, **more))


@pytest.mark.slow
def test_overoptimisation_writes_table_plot_and_numbers(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "new" / "o.json", tmp_path / "out"
    assert main(["study", "overoptimisation", "--seeds", "0", "1", "--steps", "4", "--json", str(file), "--out", str(out)]) == 0
    found = json.loads(file.read_text())
    by = {(c["method"], c["reward"]): c for c in found["curves"]}
    assert {m for m, _ in by} == {"best_of_n", "rl", "dpo"}
    assert [p["n"] for p in by["best_of_n", "large"]["points"]] == [1, 2, 4, 8]
    assert [p["step"] for p in by["rl", "ensemble, lower bound"]["points"]] == [0, 2, 4]
    assert [p["step"] for p in by["dpo", "beta 0.1"]["points"]] == [0, 4, 8]  # 8 x 8 answers a step, RL has 8 x 16
    assert all(len(c["seeds"]) == 2 for c in by.values())
    start = by["rl", "ensemble, lower bound"]["seeds"][0]
    assert start[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert abs(start[-1]["kl"]) > 1e-3  # an estimate from four answers: of either sign
    assert start[0]["gold"] == pytest.approx(by["dpo", "beta 0.1"]["seeds"][1][0]["gold"])  # one start, the same draws
    assert not found["verdict"]["found"]
    table = (out / "overoptimisation.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert "**verdict**" in table
    assert (out / "overoptimisation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_frontier_writes_all_algorithms(small: None, tmp_path: Path) -> None:
    file, out = tmp_path / "f.json", tmp_path / "out"
    assert main(["study", "frontier", "--seeds", "3", "--steps", "4", "--json", str(file), "--out", str(out)]) == 0
    found = json.loads(file.read_text())
    assert {r["algorithm"] for r in found["runs"]} == {"ppo", "grpo", "rloo", "dpo", "ipo", "kto", "simpo"}
    assert all(len(r["seeds"]) == 1 and len(r["points"]) == 3 for r in found["runs"])
    assert any(r["pareto"] for r in found["runs"])
    assert found["equal"] == {"model": "the same start for all", "votes": 8, "prompts": 2, "trained_answers": 4 * 128}
    assert len({r["points"][0]["gold"] for r in found["runs"]}) == 1
    assert len({r["gold"] for r in found["runs"]}) == 8  # every strength is a run of its own
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--seeds", "1", "1"], "twice"),
        (["--seeds", "-1"], "below 0"),
        (["--world", "-1"], "below 0"),
        (["--json", "{folder}"], "is a folder"),
        (["--json", "{file}/x.json"], "cannot be written"),
        (["--out", "{file}"], "cannot be written"),
    ],
)
def test_bad_input_ends_before_the_work(flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    given = [f.format(folder=tmp_path, file=tmp_path / "file") for f in flags]
    for what in ("overoptimisation", "frontier"):
        assert main(["study", what, *given]) == 2
        assert words in capsys.readouterr().err


def test_an_unknown_study_ends_with_2() -> None:
    with pytest.raises(SystemExit) as error:
        main(["study", "everything"])
    assert error.value.code == 2


def test_the_taste_by_hand() -> None:
    a, b = FIRST_WORD, FIRST_WORD + 1
    taste = Taste((1.0, -0.5), ((0.0, 0.25), (2.0, 0.0)), dose=2, excess=0.5, echo=0.1)
    assert taste.of([2, b], [a, b, EOS]) == pytest.approx(1.0 - 0.5 + 0.25 + 0.1)
    assert taste.of([2, b], [a, a, a, a, EOS]) == pytest.approx(4.0 - 0.5 * 4)  # two more than is good
    scaled = taste.scaled(torch.tensor([1.0, 3.0]))
    assert scaled.of([2], [a, EOS]) == pytest.approx((1.0 - 2.0) / 2**0.5)
    assert make_taste(0) == make_taste(0) != make_taste(1)
    assert all(8 <= len(make_answer(random.Random(i))) - 1 <= 12 for i in range(50))


def test_votes_follow_the_gold_reward(small: None, tmp_path: Path) -> None:
    made = World(tmp_path, 0)

    def right(noise: float) -> float:
        flags: list[bool] = []
        for unit in made.votes(12, noise, 1):
            prompt = unit.prompt.tokens_T.tolist()
            gold = [made.gold.of(prompt, b.tokens_T.tolist()) for b in unit.branches]
            flags += [gold[e.winner] > gold[e.loser] for e in unit.target.edges]  # type: ignore[union-attr]
        assert len(flags) == 48
        return sum(flags) / len(flags)

    assert right(1e-3) == 1.0
    assert 0.3 < right(1e3) < 0.7  # a coin: 48 throws


@pytest.mark.slow
def test_looking_measures_every_kind(monkeypatch: pytest.MonkeyPatch, proofs: None, tmp_path: Path) -> None:
    plan = looking.Plan
    monkeypatch.setattr(looking, "Plan", lambda seeds, steps: plan(seeds, rows=8, held_out=4, steps=steps, batch=2))
    file, out = tmp_path / "l.json", tmp_path / "out"
    assert main(["study", "looking", "--seeds", "0", "--steps", "4", "--json", str(file), "--out", str(out)]) == 0
    found = json.loads(file.read_text())
    assert [r["kind"] for r in found["runs"]] == ["healthy", "permuted", "by_text", *(kind for kind, _ in looking.OF_REWARDS)]
    assert all(set(r["moved"]) == {"swapped", "greyed", "blurred"} for r in found["runs"])
    assert {(r["of"], r["sees"] + r["blind"]) for r in found["rates"]} == {("reward", 11), ("policy", 3)}
    assert (out / "looking.png").read_bytes().startswith(b"\x89PNG")
    assert "| reward | scratch | labels follow the picture | 1 |" in (out / "looking.md").read_text()
