"""`keel eval` with outside sets, refusals, HHH and retention: whole runs on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.verbs.run import RECIPES, run_verb

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    *(f"evaluate.{x}" for x in ("max_tokens=6", "samples=1", "limit=8", "draws=100", "shots=[]", "shot_examples=''", "reference=''")),
    *("evaluate.kl_prompts=0", "evaluate.groups=[]", "model_options.precision=fp32", "others=[]"),
)
RIVERS, OWN = "recipes/quickstart/unrelated_text.jsonl", "package:keel/evaluate/hhh/en.jsonl"
PARTS = (
    "evaluate.sets=[{name: shop, role: out, prompts: [recipes/quickstart/prompts_heldout.jsonl], limit: 6}]",
    "evaluate.refusals={limit: 3, max_tokens: 6}",
    "evaluate.hhh={}",
    f"evaluate.retention={{texts: {{rivers: {RIVERS}}}, tasks: {{own: '{OWN}'}}, limit: 10}}",
)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    monkeypatch.chdir(ROOT)


def run(path: Path, *overrides: str) -> dict[str, Any]:
    return run_verb("eval", Path("recipes/tiny_eval.yaml"), [f"run_dir={path}", *SHORT, *overrides])


def test_all_parts_stand_in_the_summary_and_on_both_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path / "run", *PARTS)
    assert found["board"]["models"]["tuned"]["win_rates"]["share_of_e"]["n"] == 8  # the outside set is told apart
    assert found["gap"]["prompts"] == {"in": 8, "shop": 6}
    assert found["gap"]["models"]["tuned"]["share_of_e"]["score"]["out"]["n"] == 6
    assert {s["prompts"] for s in found["refusals"]["tuned"].values()} == {6}
    assert found["hhh"]["start"]["accuracy"]["n"] == 48
    assert set(found["retained"]["tuned"]["parts"]) == {"rivers", "own"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples" / "refusals.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    said = capsys.readouterr().out
    for name, title in (("report.html", "What was forgotten"), ("report.zh.html", "忘记了什么")):
        page = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert title in page
        assert all(f'id="part-{key}"' in page for key in ("gap", "refusals", "hhh", "retained"))
    assert "Out of the distribution" in said


def test_a_model_beside_itself_has_lost_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, *PARTS, "model=tiny:llama?seed=1&std=0.2")
    text = found["retained"]["tuned"]["parts"]["rivers"]
    assert text["state"] == "kept"
    assert text["loss"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert found["hhh_gain"]["tuned"]["lost"] == []
    assert found["gap"]["models"]["tuned"]["share_of_e"]["win_rate"]["gap"]["mean"] == 0.0
    assert found["refusals"]["tuned"] == found["refusals"]["start"]


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def half(prompt, answer):\n    return 'partial'\n\n\ndef bad(prompt, answer):\n    return 'maybe'\n")
    found = run(tmp_path / "a", f"evaluate.refusals={{limit: 2, max_tokens: 4, reader: '{tmp_path}/mine.py:half'}}")
    told = found["refusals"]["tuned"]["safe"]
    assert told["partial"]["mean"] == told["any"]["mean"] == 1.0
    with pytest.raises(UserError, match="is one of full, partial, none, not 'maybe'"):
        run(tmp_path / "b", f"evaluate.refusals={{limit: 2, max_tokens: 4, reader: '{tmp_path}/mine.py:bad'}}")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("evaluate.retention={}", "give texts, tasks, or both"),
        ("evaluate.refusals={safe: [], unsafe: []}", "give safe prompts, unsafe ones, or both"),
        ("evaluate.cluster=doc", "cluster would have no effect"),
        ("evaluate.sets=[{name: a, role: out, prompts: [x]}, {name: a, role: out, prompts: [y]}]", "the same name"),
        ("evaluate.refusals={reader: mine}", "reader is FILE.py:NAME"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(setting: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(RECIPES["eval"], Path("recipes/tiny_eval.yaml"), [setting])


def test_parts_are_of_a_model_by_itself() -> None:
    ensemble = "ensemble={models: ['tiny:llama?seed=5'], weights: [0.5, 0.5]}"
    with pytest.raises(ConfigError, match=r"evaluate\.hhh is of a model by itself"):
        load(RECIPES["eval"], Path("recipes/tiny_eval.yaml"), ["evaluate.hhh={}", ensemble])
