"""Gates over what others measured: a number of an evaluation, hallucination, a checklist, a person's word. Each must be of this very
model."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.recipe_files import parse_yaml
from keel.evaluate.statistics import Interval
from keel.release.candidate import Candidate
from keel.release.config import ChecklistGate, HallucinationGate, NumberGate, SignOffGate
from keel.release.gates.verdict import Verdict, cannot_tell, decide
from keel.runs.directory import read_manifest, read_summary

_STATES = {"pass": "pass", "passed": "pass", "ok": "pass", "fail": "fail", "failed": "fail"}


def number(gate: NumberGate, candidate: Candidate) -> Verdict:
    """A number with its interval out of an evaluation of this model. One of another model, or that does not say whose it is, tells
    nothing; a number without an interval neither."""
    path = Path(gate.path).expanduser()
    if not path.exists():
        return cannot_tell("missing", path=str(path))
    record, model = _record(path)
    model = model or gate.model
    if not model:
        return cannot_tell("unsaid_model", path=str(path))
    if not (own := candidate.measured(model)):
        return cannot_tell("other_model", path=str(path), model=model, own=candidate.fingerprints["released"])
    value = _interval(_at(record, gate.field))
    if value is None:
        return cannot_tell("no_number", path=str(path), field=gate.field)
    facts = {"path": str(path), "field": gate.field, "measured": own}
    why = ("of_source",) if own == "source" else ()
    return decide(value, at_least=gate.at_least, at_most=gate.at_most, fewest=gate.fewest, unit="prompts", why=why, facts=facts)


def hallucination(gate: HallucinationGate, candidate: Candidate) -> Verdict:
    """The same, where the measure could judge enough of the answers."""
    found = number(gate, candidate)
    if found.value is None:
        return found
    covered = _interval(_at(_record(Path(gate.path).expanduser())[0], "coverage"))
    if gate.coverage and (covered is None or covered.low < gate.coverage):
        told = "unknown" if covered is None else f"{covered.mean:.3f} [{covered.low:.3f}, {covered.high:.3f}]"
        return cannot_tell("coverage", **{**found.facts, "told": told, "wanted": gate.coverage})
    return found


def checklist(gate: ChecklistGate, candidate: Candidate) -> Verdict:
    """Every item passes; one that fails decides. People may answer what the program leaves open, not what it found."""
    path = Path(gate.path).expanduser()
    if not path.is_file():
        return cannot_tell("missing", path=str(path))
    record = _json(path)
    items = record.get("items", record.get("checks")) if isinstance(record, dict) else record
    if not isinstance(items, list) or not items or not all(isinstance(i, dict) and i.get("name") for i in items):
        raise DataError(f"{path}: no list of items {{name, state}}", "give the JSON file of a checklist")
    model = record.get("model_fingerprint") if isinstance(record, dict) else None
    if model and not candidate.measured(str(model)):
        return cannot_tell("other_model", path=str(path), model=str(model), own=candidate.fingerprints["released"])
    states = {str(i["name"]): _STATES.get(_said(i), "cannot_tell") for i in items}
    answered = _answers(Path(gate.answers).expanduser(), states) if gate.answers else {}
    states |= {name: a["state"] for name, a in answered.items() if states[name] == "cannot_tell"}
    of = {state: sorted(name for name, found in states.items() if found == state) for state in ("pass", "fail", "cannot_tell")}
    facts: dict[str, Any] = {"path": str(path), "passed": len(of["pass"]), "items": len(items)}
    facts |= {"answered": answered} if answered else {}
    if of["fail"]:
        return Verdict("fail", why=("items_failed",), facts=facts | {"names": ", ".join(of["fail"])})
    if of["cannot_tell"]:
        return cannot_tell("items_open", **facts, names=", ".join(of["cannot_tell"]))
    return Verdict("pass", why=("items_passed",), facts=facts)


def _said(item: Mapping[str, Any]) -> str:
    """An item's state, by whichever of its names: `keel check` says `status`."""
    return str(next((item[key] for key in ("state", "status", "result") if key in item), "")).lower()


def _answers(path: Path, states: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What people say of items, by item. No file: nobody has said anything yet. Raises DataError."""
    if not path.is_file():
        return {}
    try:
        found = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: answers are a mapping of items", "write ITEM: {state: pass, by: NAME, note: why}")
    if unknown := sorted(map(str, found.keys() - states.keys())):
        raise DataError(f"{path}: the checklist has no item {unknown[0]}", f"items are {', '.join(states)}")
    return {name: _answer(path, name, said) for name, said in found.items()}


def _answer(path: Path, name: str, said: Any) -> dict[str, str]:
    text = {k: str(v or "").strip() for k, v in said.items()} if isinstance(said, dict) else {}
    if text.keys() - {"state", "by", "note"} or text.get("state") not in ("pass", "fail") or not text.get("by"):
        raise DataError(f"{path}: {name}: an answer is {{state: pass or fail, by: NAME, note: why}}", "say who answers, and nothing else")
    return text


def sign_off(gate: SignOffGate, candidate: Candidate) -> Verdict:
    """Records of people, each for this model by its fingerprint. One that refuses decides."""
    path, own = Path(gate.path).expanduser(), candidate.fingerprints["released"]
    if not path.is_file():
        return cannot_tell("nobody_signed", path=str(path), own=own)
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    records = [_signed(path, r) for r in (found if isinstance(found, list) else [found])]
    of_this = {r["name"]: r for r in records if r["model"] == own}  # a person's last word counts
    facts = {"path": str(path), "signed": [{k: r[k] for k in ("name", "date", "decision", "note")} for r in of_this.values()]}
    if against := [r for r in of_this.values() if r["decision"] == "refuse"]:
        return Verdict(
            "fail", why=("refused_by",), facts=facts | {"names": ", ".join(r["name"] for r in against), "note": against[0]["note"]}
        )
    if len(of_this) >= gate.people:
        return Verdict("pass", why=("signed_by",), facts=facts | {"names": ", ".join(of_this)})
    return cannot_tell("some_signed", **facts, own=own, count=len(of_this), people=gate.people, others=len(records) - len(of_this))


def _signed(path: Path, record: Any) -> dict[str, str]:
    if not isinstance(record, dict):
        raise DataError(f"{path}: a signature is a mapping of name, date, model and decision")
    known = {"name", "date", "model", "decision", "note"}
    if unknown := sorted(map(str, record.keys() - known)):
        raise DataError(f"{path}: unknown key {unknown[0]}", f"keys are {', '.join(sorted(known))}")
    for key in ("name", "date", "model", "decision"):
        if not str(record.get(key) or "").strip():
            raise DataError(f"{path}: a signature lacks {key}", "give name, date (YYYY-MM-DD), model (fingerprint) and decision")
    text = {k: str(record.get(k) or "").strip() for k in known}
    if text["decision"] not in ("approve", "refuse"):
        raise DataError(f"{path}: decision is approve or refuse, not '{text['decision']}'")
    try:
        datetime.date.fromisoformat(text["date"])
    except ValueError:
        raise DataError(f"{path}: date '{text['date']}' is none", "write it as YYYY-MM-DD") from None
    return text


def _record(path: Path) -> tuple[Any, str]:
    """What an evaluation found, and the fingerprint of the model it was of; empty where it does not say."""
    if path.is_dir():
        manifest, summary = read_manifest(path), read_summary(path)
        if manifest is None or summary is None:
            raise DataError(f"{path} is no finished run", "give the directory of a finished evaluation")
        spec = manifest.get("config", {}).get("model", "")
        return summary, str(manifest.get("data", {}).get(f"model ({spec})", ""))
    record = _json(path)
    found = record.get("model_fingerprint", "") if isinstance(record, dict) else ""
    return record, found if isinstance(found, str) else ""


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None


def _at(record: Any, field: str) -> Any:
    for key in field.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _interval(value: Any) -> Interval | None:
    if not isinstance(value, Mapping):
        return None
    found = [value.get(k) for k in ("mean", "low", "high")]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in found):
        return None
    n = value.get("n")
    mean, low, high = (float(x) for x in found if x is not None)
    return Interval(mean, low, high, int(n) if isinstance(n, int | float) else 0)
