"""`recipes/gates/full.yaml` on a tiny run, whole: a model that nobody has looked at, one that is refused, one that goes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from keel.cli import main
from keel.core.recipe_files import read_recipe
from keel.runs.fingerprints import model_fingerprint

pytestmark = pytest.mark.slow
FULL = "recipes/gates/full.yaml"
GATES: list[dict[str, Any]] = list(read_recipe(Path(__file__).resolve().parents[2] / FULL)["gates"])
KINDS = [g["kind"] for g in GATES]
SHORT = {
    "refusal": {"max_tokens": 4},
    "length": {"max_tokens": 8, "at_least": 1},
    "speed": {"tokens": 4, "repeats": 6},
    "memory": {"tokens": 4},
}
OTHERS = {"number": "number.json", "hallucination": "rates.json", "checklist": "checks.json", "sign_off": "sign.yaml"}
LOOSE = {"quantisation": {"at_most": 9}, "retention": {"at_most": 9}, "refusal": {"at_most": 1, "at_least": 0}, "length": {"at_most": None}}
LOOSE |= {"speed": {"at_least": 1e-6}, "memory": {"at_most": 1e9}}
# What fails whatever the model: no share is above 1, no change below -90%.
STRICT = {"quantisation": {"at_most": -0.9}, "retention": {"at_most": -0.9}, "length": {"at_most": 1e-3, "at_least": 0}}
STRICT |= {"speed": {"at_least": 1e9}, "memory": {"at_most": 1e-3}}
FEW = {"quantisation": {"limit": 4}, "retention": {"limit": 4}, "refusal": {"limit": 4}, "length": {"limit": 4}}
HIGH, LOW = ({"mean": m, "low": m - 0.01, "high": m + 0.01, "n": 200} for m in (0.9, 0.02))


@pytest.fixture(autouse=True)
def _in_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def overrides(folder: Path, *settings: dict[str, dict[str, Any]]) -> list[str]:
    """Settings by kind, for every gate of that kind; limits that a gate does not have in the file are not given to it."""
    found: dict[str, Any] = {}
    for i, gate in enumerate(GATES):
        if gate["kind"] in OTHERS:
            found[f"gates.{i}.path"] = str(folder / OTHERS[gate["kind"]])
        if gate["kind"] == "checklist":
            found[f"gates.{i}.answers"] = str(folder / "answers.yaml")
        for one in settings:
            for key, value in one.get(gate["kind"], {}).items():
                if gate["kind"] != "refusal" or not key.startswith("at_") or key in gate:
                    found[f"gates.{i}.{key}"] = value
    return [f"{key}={json.dumps(value)}" for key, value in found.items()]


def release(run: Path, out: Path, *words: str) -> tuple[int, dict[str, str]]:
    code = main(["release", str(run), "--gates", FULL, "--out", str(out), *words])
    record = json.loads((out / "gates.json").read_text(encoding="utf-8"))
    return code, {name: gate["state"] for name, gate in record["gates"].items()}


def checked(run: Path, folder: Path, state: str) -> None:
    """What `keel check` finds, and what people say of all that it leaves open; what failed is mended (a run of 4 steps cannot pass)."""
    assert main(["check", str(run), "--out", str(folder / "checks.json")]) == 0
    found = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
    assert len(found["items"]) == 38
    assert found["model_fingerprint"] == model_fingerprint(run / "final")
    answers = {i["name"]: {"state": state, "by": "A. Reader"} for i in found["items"] if i["status"] in ("cannot tell", "for a person")}
    assert answers
    (folder / "answers.yaml").write_text(yaml.safe_dump(answers), encoding="utf-8")
    for item in found["items"]:
        item["status"] = "pass" if item["status"] == "fail" else item["status"]
    (folder / "checks.json").write_text(json.dumps(found), encoding="utf-8")


def measured(folder: Path, fingerprint: str, win_rate: Any, rate: Any, decision: str) -> None:
    (folder / "number.json").write_text(json.dumps({"model_fingerprint": fingerprint, "win_rate": win_rate}), encoding="utf-8")
    rates = {
        "model_fingerprint": fingerprint,
        "rates": {"hallucination": rate},
        "coverage": {"mean": 0.99, "low": 0.98, "high": 1.0, "n": 200},
    }
    (folder / "rates.json").write_text(json.dumps(rates), encoding="utf-8")
    signed = {"name": "A. Reader", "date": "2026-11-30", "model": fingerprint, "decision": decision}
    (folder / "sign.yaml").write_text(yaml.safe_dump(signed), encoding="utf-8")


def test_every_gate_can_tell_nothing_fail_and_pass(finished: Callable[[str], Path], tmp_path: Path) -> None:
    run, out = finished("sft"), tmp_path / "out"
    code, said = release(run, out, *overrides(tmp_path, LOOSE, SHORT, FEW))
    told = dict(zip(said, KINDS, strict=True))
    assert code == 1
    # speed and memory are measured or not: they tell nothing only where the process that answers ends without a word
    assert {n for n, state in said.items() if state != "cannot_tell"} == {n for n, kind in told.items() if kind in ("speed", "memory")}

    own = json.loads((out / "gates.json").read_text(encoding="utf-8"))["export"]["fingerprint"]
    checked(run, tmp_path, "fail")
    measured(tmp_path, own, LOW, HIGH, "refuse")
    never = {"refusal": {"at_most": 1e-9, "at_least": 1}}
    code, said = release(run, out, *overrides(tmp_path, SHORT, STRICT, never))
    assert code == 1
    assert not (out / "model").exists()
    # a model of 4 steps refuses nothing: over-refusal cannot fail on it, and is held to 0 by an interval that holds 0
    assert {n: s for n, s in said.items() if s != "fail"} == {"over-refusal": "cannot_tell"}

    checked(run, tmp_path, "pass")
    measured(tmp_path, own, HIGH, LOW, "approve")
    code, said = release(run, out, *overrides(tmp_path, SHORT, LOOSE))
    assert (code, {n: s for n, s in said.items() if s != "pass"}) == (0, {})
    assert (out / "model" / "model.gguf").is_file()
