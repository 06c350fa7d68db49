"""The checklists: each item on facts where it holds, where it does not, and where nothing is known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.check import run_check
from keel.cli import main
from keel.evaluate.checklists.checks import CHECKS
from keel.evaluate.checklists.facts import Facts
from keel.evaluate.checklists.lists import STATUSES, check_items, items
from keel.runs.columns import Columns

ROOT = Path(__file__).resolve().parents[2]
NAMES = {item.name: item for item in items()}


def run(steps: int = 40, **series: Any) -> Columns:
    rows = []
    for step in range(1, steps + 1):
        row = {name.replace("__", "/"): of(step) if callable(of) else of for name, of in series.items()}
        rows.append({"step": step, **{k: v for k, v in row.items() if v is not None}})
    return Columns.of_rows(rows)


def facts(metrics: Columns | None = None, verb: str = "rl", **more: Any) -> Facts:
    config = more.pop("config", {})
    return Facts(verb, config, metrics if metrics is not None else Columns(), **more)


def status(name: str, of: Facts) -> str:
    item = NAMES[name]
    return CHECKS[item.check](of, dict(item.limits)).status


GOOD = {
    "reward": lambda s: 0.1 * s + 0.02 * (s % 3),
    "objective__kl": 5.0,
    "completions__mean_length": 80.0,
    "completions__distinct_2": 0.8,
    "entropy": 1.0,
    "grad_norm": 2.0,
    "eval__reward": lambda s: 0.1 * s if s % 10 == 0 else None,
}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("reward-rises", {"reward": lambda s: -0.1 * s}),
        ("reward-regular", {"reward": lambda s: 0.1 * s + 0.01 * (s % 3) + (50.0 if s == 20 else 0.0)}),
        ("reward-regular", {"reward": lambda s: float("nan") if s == 9 else 0.1 * s}),
        ("kl-range", {"objective__kl": 40.0}),
        ("length-range", {"completions__mean_length": 3.0}),
        ("gradient-steady", {"grad_norm": lambda s: 400.0 if s == 11 else 1.0}),
        ("gradient-steady", {"grad_norm": lambda s: float("inf") if s == 11 else 1.0}),
        ("variety", {"completions__distinct_2": lambda s: 0.9 - 0.02 * s}),
        ("variety", {"entropy": 0.01}),
        ("not-gamed", {"eval__reward": lambda s: 1.0 - 0.02 * s if s % 10 == 0 else None}),
    ],
)
def test_what_metrics_say(name: str, changed: Mapping[str, Any]) -> None:
    assert status(name, facts(run(**GOOD))) == "pass"
    assert status(name, facts(run(**{**GOOD, **changed}))) == "fail"
    assert status(name, facts()) == "cannot tell"
    assert status(name, facts(run(3, **GOOD))) == "cannot tell", "three steps say nothing"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("held-out", {"held_out": 0.1, "loop": {"eval_every": 5}}, {"held_out": 0.0, "loop": {"eval_every": 5}}),
        ("held-out", {"held_out": {"path": "x"}, "loop": {"eval_tokens": 5}}, {"held_out": 0.2, "loop": {"eval_every": 0}}),
        ("hidden-measure", {"rewards": [{"name": "gold", "weight": 0.0}]}, {"rewards": [{"name": "gold"}]}),
        ("gaming-detectors", {"rewards": [{"type": "gaming"}]}, {"rewards": [{"type": "math"}]}),
        ("gaming-detectors", {"settings": {"tracking": {"red_team": {"every": 9}}}}, {"settings": {"tracking": {"audit": {"every": 0}}}}),
        ("alarms-on", {"settings": {"watch": {"defaults": True}}}, {"settings": {"watch": {"defaults": False, "rules": [], "files": []}}}),
        (
            "way-back",
            {"settings": {"checkpoint": {"every": 5}}, "loop": {"steps": 9}},
            {"settings": {"checkpoint": {"every": 50}}, "loop": {"steps": 9}},
        ),
        ("learning-rate", {"optim": {"lr": 2e-6}}, {"optim": {"lr": 1e-3}}),
        ("best-checkpoint", {"loop": {"best": {"metric": "eval/reward"}}}, {"loop": {"best": None}}),
    ],
)
def test_what_a_recipe_says(name: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert status(name, facts(config=good)) == "pass"
    assert status(name, facts(config=bad)) == "fail"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("beats-the-start", {"win_rate": {"mean": 0.7, "low": 0.6, "high": 0.8}}, {"win_rate": {"mean": 0.3, "low": 0.2, "high": 0.4}}),
        ("ability-kept", {"retention": {"ratio": 1.01}}, {"retention": {"ratio": 1.5}}),
        ("what-is-saved", {"saved": {"kl": 1e-5}}, {"saved": {"kl": 0.4}}),
        ("annotators-agree", {"agreement": {"krippendorff_alpha": 0.7}}, {"agreement": {"krippendorff_alpha": 0.3}}),
        ("came-to-its-end", {"steps": 9}, {"steps": 9, "never_recovered": "the run never recovered: ..."}),
    ],
)
def test_what_a_summary_says(name: str, good: dict[str, Any], bad: dict[str, Any], tmp_path: Path) -> None:
    assert status(name, facts(summary=good, folder=tmp_path)) == "pass"
    assert status(name, facts(summary=bad, folder=tmp_path)) == "fail"
    assert status(name, facts(folder=tmp_path)) == "cannot tell"


def test_an_interval_that_holds_one_half_tells_nothing() -> None:
    assert status("beats-the-start", facts(summary={"win_rate": {"mean": 0.55, "low": 0.45, "high": 0.65}})) == "cannot tell"


def test_reward_models_are_looked_up_and_the_worst_counts(tmp_path: Path) -> None:
    for name, accuracy, pairs in (("a", 0.9, 20_000), ("b", 0.6, 20_000), ("c", 0.7, 200)):
        final = tmp_path / name / "final"
        final.mkdir(parents=True)
        (final / "keel_reward.json").write_text(json.dumps({"accuracy": accuracy}))
        (tmp_path / name / "summary.json").write_text(json.dumps({"pairs": pairs}))

    def of(*names: str) -> Facts:
        return facts(config={"rewards": [{"type": "model", "path": str(tmp_path / n / "final")} for n in names]})

    assert [status("reward-model-accuracy", of(*n)) for n in (("a",), ("a", "b"), ("a", "nowhere"), ())] == [
        "pass",
        "fail",
        "cannot tell",
        "cannot tell",
    ]
    assert [status("pairs", of(*n)) for n in (("a",), ("a", "c"), ())] == ["pass", "fail", "cannot tell"]


def test_alarms_count_only_where_rules_were_there(tmp_path: Path) -> None:
    watched = {"settings": {"watch": {"defaults": True}}}
    assert status("no-alarm", facts(config=watched, folder=tmp_path)) == "pass"
    loud = [{"kind": "warning", "level": "critical", "rule": "kl"}]
    assert status("no-alarm", facts(config=watched, folder=tmp_path, events=loud)) == "fail"
    assert status("no-alarm", facts(config={"settings": {"watch": {"defaults": False}}}, folder=tmp_path)) == "cannot tell"


def test_nothing_at_all_breaks_no_check() -> None:
    found = check_items(Facts("", {}))
    assert {c.status for c in found} <= set(STATUSES)
    assert not [c for c in found if c.status == "pass" and c.item.name not in ("alarms-on",)], "a pass out of nothing"


@pytest.mark.parametrize("page", ["docs/checklists.md", "docs/checklists.zh.md"])
def test_the_data_and_the_pages_hold_the_same_items(page: str) -> None:
    rows = [n for n in re.findall(r"^\| ([a-z-]+) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE) if n != "item"]
    assert rows == [item.name for item in items()]


def test_every_item_is_in_two_languages_and_leads_somewhere() -> None:
    assert {item.check for item in items() if item.check} == set(CHECKS)
    for item in items():
        assert re.search(r"[一-鿿]", item.zh), item.name
        assert not re.search(r"[一-鿿]", item.en), item.name
        file, _, anchor = item.page.partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not anchor or anchor in anchors, item.page


def test_a_recipe_has_the_first_list(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    found = run_check("recipes/tiny_grpo.yaml", ["optim.lr=2e-6"])
    told = {row["name"]: row["status"] for row in found["items"]}
    assert set(told) == {item.name for item in items() if item.when == "before"}
    assert (told["learning-rate"], told["kl-price"], told["clip"], told["hidden-measure"]) == ("pass", "pass", "pass", "fail")
    capfd.readouterr()
    assert main(["check", "recipes/tiny_grpo.yaml", "optim.lrr=1"]) == 2
    assert "Did you mean optim.lr?" in capfd.readouterr().err
    assert main(["check", "recipes/quickstart.yaml"]) == 2
    assert "recipe of a pipeline" in capfd.readouterr().err


@pytest.mark.stages
def test_a_run_has_all_three_and_its_report_too(finished: Any, capfd: pytest.CaptureFixture[str]) -> None:
    path = finished("grpo")
    told = {row["name"]: row["status"] for row in run_check(str(path), lang="zh")["items"]}
    assert set(told) == set(NAMES)
    assert (told["came-to-its-end"], told["kl-price"], told["people-judge"]) == ("pass", "pass", "for a person")
    assert "训练前" in capfd.readouterr().out
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "Checklists" in page
    assert NAMES["not-gamed"].zh in page
