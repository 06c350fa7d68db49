"""Studies of one setting: they resolve, they run, the table says what the runs did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.cli import main
from keel.methods import resolve
from labs.bench import learn
from labs.bench.sweep import STUDIES, WATCHED, Run, table_rows
from labs.bench.tasks import TASKS

pytestmark = pytest.mark.stages


@pytest.mark.parametrize("name", STUDIES)
def test_every_setting_holds_and_differs_from_the_others(name: str) -> None:
    study = STUDIES[name]
    assert set(study.tasks) <= TASKS.keys()
    assert study.shows in WATCHED
    algorithms = [resolve(s.algorithm, s.samples) for s in study.settings.values()]
    assert len({(repr(a), s.lr, s.samples) for a, s in zip(algorithms, study.settings.values(), strict=True)}) == len(algorithms)
    if name == "group":
        assert {s.samples * s.prompts for s in study.settings.values()} == {64}
    if study.shows == "policy/clipfrac_avg":
        assert all(a.needs_old_logprobs for a in algorithms if a.name != "rloo"), "there is something to clip"


def test_the_table_is_means_over_the_seeds() -> None:
    curves = {"right": (0.2, 0.4, 0.6, 0.8), "kl": (0.0, 1.0, 2.0, None)}
    runs = [
        Run("last", "a", seed, 0.1, final, 64, 1.0, {**curves, "kl": (0.0, 0.0, 0.0, kl)})
        for seed, final, kl in ((0, 0.5, 1.0), (1, 0.7, 3.0))
    ]
    (row,) = table_rows(runs, "kl")
    assert (row["final"], row["over_run"], row["shown"]) == pytest.approx((0.6, 0.5, 2.0))
    assert row["final_sd"] == pytest.approx(0.1414, abs=1e-4)
    (bare,) = table_rows([Run("last", "a", 0, 0.1, 0.5, 64, 1.0, {"right": (0.2,)})], "kl")
    assert bare["shown"] is None


def test_a_study_writes_its_table_and_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proofs: None
) -> None:
    assert main(["bench", "sweep", "--study", "nothing"]) == 2
    assert "no study is named nothing" in capsys.readouterr().err
    monkeypatch.setattr(learn, "_SFT_STEPS", 1)
    monkeypatch.setattr(learn, "_HELD_OUT", 8)
    files = tmp_path / "s.json", tmp_path / "s.png"
    assert main(["bench", "sweep", "--study", "kl", "--seeds", "3", "--steps", "2", "--json", str(files[0]), "--plot", str(files[1])]) == 0
    found = json.loads(files[0].read_text())
    assert [(r["label"], r["seed"], r["samples"], len(r["curves"]["kl"])) for r in found["runs"]] == [
        (label, 3, 128, 2) for label in STUDIES["kl"].settings
    ]
    assert found["settings"]["0.5"]["algorithm"]["kl"] == {"coef": 0.5}
    assert "| needle | 0.5 |" in capsys.readouterr().out
    assert files[1].read_bytes()[:4] == b"\x89PNG"
