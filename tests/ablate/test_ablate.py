"""Switching settings off: on trainings whose outcome is a formula, and on real ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.ablate import run as ablate_run
from keel.ablate.cells import rows as run_rows
from keel.ablate.off import changes_of
from keel.ablate.result import effects, gaps_of
from keel.ablate.run import run_ablate
from keel.ablate.study import read_study
from keel.cli import main
from keel.core.errors import ConfigError, RunError
from keel.evaluate.statistics import student
from keel.tune.compare import Outcome
from keel.tune.recipe import read_search
from keel.tune.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "ablate_tiny.yaml"
KEYS = ["algorithm.kl.coef", "optim.lr=0.001,0.3", "optim.warmup_steps"]


class Formula:
    """The KL's price is worth 0.5, a small rate costs 0.2, a rate of 0.3 breaks off, the warmup does nothing."""

    trained: list[tuple[int, int]] = []  # noqa: RUF012
    dies_after = math.inf

    def __init__(self, verb: str, recipe: Path, overrides: Any, folder: Path, measure: str) -> None:
        self.folder, self.measure = folder, measure

    def advance(self, trial: Trial, steps: int, whole: int) -> dict[str, Any]:
        assert steps == whole
        if len(Formula.trained) >= Formula.dies_after:
            raise KeyboardInterrupt
        Formula.trained.append((trial.number, trial.seed))
        point, wobble = trial.point, 0.01 * trial.seed**2
        value = 1.0 + wobble
        value -= 0.5 + 0.1 * wobble if point.get("algorithm.kl.coef") == 0 else 0
        value -= 0.2 - 0.5 * wobble if point.get("optim.lr") == 0.001 else 0
        ended = "diverged" if point.get("optim.lr") == 0.3 else ""
        final = self.folder / trial.name / "final"
        final.mkdir(parents=True)
        (final / "model.safetensors").write_text(repr(value))
        row = {"trial": trial.number, "seed": trial.seed, "steps": steps, "run": trial.name, "ended": ended, "at": steps}
        return {**row, "value": None if ended else value, "beside": {"kl": 0.1}, "alarms": []}

    def outcome(self, row: Mapping[str, Any]) -> Outcome:
        return Outcome(math.nan if row["value"] is None else row["value"], {}, row["ended"])


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> type[Formula]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(ablate_run, "Trainer", Formula)
    Formula.trained, Formula.dies_after = [], math.inf
    return Formula


def ablated(folder: Path, *words: str, keys: list[str] | None = None) -> dict[str, Any]:
    return run_ablate(RECIPE, [*(KEYS if keys is None else keys), f"run_dir={folder}", *words], ["optim.warmup_steps=1"])


def test_each_change_is_told_with_its_interval(formula: type[Formula], tmp_path: Path) -> None:
    found = ablated(tmp_path)
    by_name = {c["name"]: c for c in found["changes"]}
    assert list(by_name) == ["algorithm.kl.coef=0", "optim.lr=0.001", "optim.lr=0.3", "optim.warmup_steps=0"]
    assert [c["verdict"] for c in by_name.values()] == ["worse", "worse", "worse", "changes nothing"]
    kl = by_name["algorithm.kl.coef=0"]
    gaps = [-0.5 - 0.001 * seed**2 for seed in (0, 1, 2)]  # by hand: the seeds' own part falls out
    mean = sum(gaps) / 3
    half = student(2) * math.sqrt(sum((g - mean) ** 2 for g in gaps) / 2 / 3)
    assert [kl["change"][k] for k in ("mean", "low", "high")] == pytest.approx([mean, mean - half, mean + half])
    assert (kl["was"], kl["meaning"], kl["seeds"]) == (0.04, "0", 3)
    assert kl["p_holm"] == pytest.approx(2 * kl["p"]), "two changes have a p: the third broke off, the fourth changed nothing"
    assert "did not come to their end" in by_name["optim.lr=0.3"]["why"]
    assert by_name["optim.lr=0.3"]["value_of_measure"] is None
    assert found["own"] == pytest.approx(1 + 0.05 / 3)
    for name, said in (("ablate.html", "Of 4 changes 3 make it worse"), ("ablate.zh.html", "4 项改动中：3 项变差")):
        page = (tmp_path / name).read_text()
        assert said in page
        assert "<script" not in page
    assert json.loads((tmp_path / "ablate.json").read_text())["changes"] == json.loads(json.dumps(found["changes"]))


def test_cut_off_it_goes_on_and_runs_nothing_twice(formula: type[Formula], tmp_path: Path) -> None:
    whole = ablated(tmp_path / "whole")
    everything = list(formula.trained)
    assert everything == [(n, seed) for seed in (0, 1, 2) for n in range(5)]
    for cut in (0, 1, 7, len(everything) - 1):
        formula.trained, formula.dies_after = [], cut
        with pytest.raises(KeyboardInterrupt):
            ablated(tmp_path / str(cut))
        formula.dies_after = math.inf
        again = ablated(tmp_path / str(cut))
        assert formula.trained == everything
        assert again["changes"] == whole["changes"]


def test_more_seeds_and_keys_come_to_what_is_known_and_nothing_else_does(formula: type[Formula], tmp_path: Path) -> None:
    ablated(tmp_path, keys=KEYS[:1])
    formula.trained = []
    ablated(tmp_path, "ablate.seeds=4", keys=KEYS[:2])
    assert formula.trained == [*((n, s) for s in (0, 1, 2) for n in (2, 3)), *((n, 3) for n in range(4))]
    with pytest.raises(RunError, match="another ablation: changes differ"):
        ablated(tmp_path, keys=KEYS[1:])
    with pytest.raises(RunError, match="another ablation: higher, measure, recipe differ"):
        run_ablate(RECIPE, [*KEYS[:2], f"run_dir={tmp_path}", "ablate.measure=eval/kl", "ablate.mode=min"], ["samples=6"])


def test_one_recipe_may_be_searched_and_ablated(tmp_path: Path) -> None:
    """Each command reads its own section, and a run of either has none of them."""
    both = tmp_path / "both.yaml"
    text = RECIPE.read_text(encoding="utf-8").replace("base: ", f"base: {RECIPE.parent}/")
    both.write_text(text + "\ntune: {search: {optim.lr: {low: 0.001, high: 0.01}}}\n", encoding="utf-8")
    study, own = read_study(both, KEYS[:1]), read_study(RECIPE, KEYS[:1])
    assert (study.training.raw, study.training.recipe, study.trials) == (own.training.raw, own.training.recipe, own.trials)
    search = read_search(both)
    assert (search.raw, set(search.ranges)) == (own.training.raw, {"optim.lr"})
    with pytest.raises(ConfigError, match="sedes"):
        read_study(both, [*KEYS[:1], "ablate.sedes=3"])


def test_a_dry_run_says_what_and_after_the_first_how_long(
    formula: type[Formula], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["ablate", str(RECIPE), "algorithm.kl.coef", f"run_dir={tmp_path / 'x'}", "--dry-run", "--jobs", "2"]
    assert main(command) == 0
    told = capfd.readouterr().err
    assert "off: algorithm.kl.coef: 0.04 -> 0 (0)" in told
    assert "runs: 6 of 9 steps" in told
    assert "6 to go, 2 at a time" in told
    assert "time:" not in told
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "trials.jsonl").write_text('{"trial": 0, "seed": 0, "seconds": 60.0}\n')
    assert main(command) == 0
    assert "time: about 3 min" in capfd.readouterr().err, "five to go, two at a time"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["ablate.keys=[]"], "nothing to switch off"),
        (["optim.lrr"], r"optim\.lrr: unknown key.*lr"),
        (["optim.lrr=1"], r"optim\.lrr: unknown key"),
        (["optim.lr"], r"optim\.lr is 0\.003 and has no off\n.*optim\.lr=VALUE"),
        (["optim.lr=0.003"], "is what the recipe has"),
        (["optim.lr=1e-3,-1"], "optim"),
        (["optim.lr="], "gives no value"),
        (["optim.warmup_steps=3,3"], "asked for twice"),
        (["held_out"], "no longer be the same"),
        (["seed=1,2"], "no longer be the same"),
        (["rewards.0.weight", "ablate.measure=eval/reward"], "it would be another measure"),
        (["algorithm.kl.coef", "ablate.seeds=1"], "seeds"),
        (["algorithm.kl.coef", "ablate.verb=eval"], "no stage that trains"),
        (["..", "algorithm.kl.coef"], "no key of a recipe"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words: list[str], why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as found:
        run_ablate(RECIPE, [*words, f"run_dir={tmp_path / 'x'}"])
    assert re.search(why, str(found.value), re.DOTALL), str(found.value)
    assert not (tmp_path / "x").exists()


def test_what_off_means_follows_from_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    training = read_study(RECIPE, ["optim.warmup_steps"], ["optim.warmup_steps=2", "lora={r: 4}"]).training
    found = changes_of(training, ["optim.warmup_steps", "optim.clip_norm", "lora", "rewards.0.weight"])
    assert [(c.key, c.value, c.meaning) for c in found] == [
        ("optim.warmup_steps", 0, "0"),
        ("optim.clip_norm", None, "null"),
        ("lora", None, "null"),
        ("rewards.0.weight", 0, "0"),
    ]
    assert all(c.about for c in found), "the schema's words stand beside"


def test_one_of_many_is_not_called_found(tmp_path: Path) -> None:
    """Three seeds, a difference that alone leaves 0 out (p = 0.04), and nine others beside it."""
    own = [{"weights": "", "value": 0.0, "ended": ""}] * 3
    t = student(2) * 1.05  # a little more than the quantile
    gaps = [1 + d for d in (-1, 0, 1)]
    scale = math.sqrt(3) / t  # stdev 1 -> mean / (stdev / sqrt 3) = t
    values = [1 + (g - 1) * scale for g in gaps]
    noise = [0.1, -0.3, 0.2]
    sides = {"real": values, **{f"n{i}": noise for i in range(9)}}
    outcomes = {i: [Outcome(v, {}) for v in side] for i, side in enumerate([[0.0] * 3, *sides.values()])}
    rows = {name: [{"weights": "", "value": v, "ended": ""} for v in side] for name, side in sides.items()}
    alone = effects(own, {"real": rows["real"]}, {0: outcomes[0], 1: outcomes[1]}, True)["real"]
    assert alone.verdict == "better"
    among = effects(own, rows, outcomes, True)["real"]
    assert (among.verdict, among.change) == ("cannot tell", alone.change)
    assert "after Holm" in among.why
    lower = effects(own, {"real": rows["real"]}, {0: outcomes[0], 1: outcomes[1]}, False)["real"]
    assert (lower.verdict, lower.change) == ("worse", alone.change), "in the measure's own units, whichever is better"


def test_seeds_that_hold_out_different_prompts_are_paired_within_each_seed() -> None:
    before = [Outcome(1.5, {"a": 1.0, "b": 2.0}), Outcome(2.5, {"b": 2.0, "c": 3.0})]
    after = [Outcome(2.0, {"a": 1.0, "b": 3.0}), Outcome(3.5, {"b": 3.0, "c": 4.0})]
    seeds, prompts = gaps_of(before, after)
    assert prompts is not None
    assert (seeds.mean, seeds.n) == (0.75, 2)
    assert (prompts.mean, prompts.n) == (0.75, 3), "changes 0 of a, 1 and 1 of b, 1 of c: 3 / 4"
    assert gaps_of([Outcome(1.0, {})], [Outcome(2.0, {})])[1] is None


@pytest.mark.slow
def test_real_runs_side_by_side_see_what_matters_and_what_does_not(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    short = ["loop.steps=2", "sampling.max_tokens=4", "settings.threads=1"]
    words = ["optim.lr=1e-6", "optim.min_lr_ratio=0.5", "ablate.seeds=2", f"run_dir={tmp_path}"]
    found = run_ablate(RECIPE, [*words, "ablate.jobs=2"], [*short, "optim.warmup_steps=0"])
    assert len(found["trials"]) == 6
    assert [c["verdict"] == "changes nothing" for c in found["changes"]] == [False, True], "a constant schedule has no end to go down to"
    assert all(row["weights"] and row["seconds"] > 0 for row in found["trials"])
    again = run_ablate(RECIPE, [*words, "ablate.jobs=1"], [*short, "optim.warmup_steps=0"])
    assert again["changes"] == found["changes"]
    study = read_study(RECIPE, words, [*short, "optim.warmup_steps=0"])
    fresh = ablate_run.Trainer("rl", tmp_path / "recipe.yaml", (), tmp_path / "alone", study.measure)
    (row,) = run_rows(fresh, study.trials[:1], study.steps, 1)
    known = next(r for r in found["trials"] if (r["trial"], r["seed"]) == (0, study.seeds[0]))
    assert (row["weights"], row["value"]) == (known["weights"], known["value"]), "beside others or alone: the same bit for bit"
