"""Gates over what others measured: only of this very model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.release.candidate import Candidate, Reader
from keel.release.config import ChecklistGate, HallucinationGate, NumberGate, SignOffGate
from keel.release.gates.numbers import checklist, hallucination, number, sign_off

OWN, MADE_FROM = "fingerprint-of-this", "fingerprint-of-source"
RATE = {"mean": 0.05, "low": 0.03, "high": 0.08, "n": 200}


def none(spec: str) -> Reader:
    raise AssertionError("no model is read")


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    return Candidate("spec", tmp_path, {"released": OWN, "source": MADE_FROM}, none, lambda reader, path, limit: ())


def written(path: Path, record: Any) -> str:
    path.write_text(json.dumps(record), encoding="utf-8")
    return str(path)


def test_a_number_of_this_model_decides(tmp_path: Path, candidate: Candidate) -> None:
    path = written(tmp_path / "r.json", {"model_fingerprint": OWN, "a": {"b": RATE}})
    assert number(NumberGate(path=path, field="a.b", at_most=0.1), candidate).state == "pass"
    assert number(NumberGate(path=path, field="a.b", at_most=0.01), candidate).state == "fail"
    assert number(NumberGate(path=path, field="a.c", at_most=0.01), candidate).why == ("no_number",)


def test_one_of_what_it_was_made_from_is_told(tmp_path: Path, candidate: Candidate) -> None:
    path = written(tmp_path / "r.json", {"model_fingerprint": MADE_FROM, "a": RATE})
    said = number(NumberGate(path=path, field="a", at_most=0.1), candidate)
    assert (said.state, said.why) == ("pass", ("of_source",))


def test_one_of_another_model_tells_nothing(tmp_path: Path, candidate: Candidate) -> None:
    path = written(tmp_path / "r.json", {"model_fingerprint": "another", "a": RATE})
    said = number(NumberGate(path=path, field="a", at_most=0.1), candidate)
    assert (said.state, said.why, said.facts["model"]) == ("cannot_tell", ("other_model",), "another")
    claimed = number(NumberGate(path=path, field="a", at_most=0.1, model=OWN), candidate)
    assert claimed.state == "cannot_tell", "what the file says itself is not talked over"


def test_one_that_does_not_say_whose_it_is(tmp_path: Path, candidate: Candidate) -> None:
    path = written(tmp_path / "r.json", {"a": RATE})
    assert number(NumberGate(path=path, field="a", at_most=0.1), candidate).why == ("unsaid_model",)
    assert number(NumberGate(path=path, field="a", at_most=0.1, model=OWN), candidate).state == "pass"
    assert number(NumberGate(path=str(tmp_path / "no.json"), field="a", at_most=0.1), candidate).why == ("missing",)


def test_a_run_says_by_its_manifest_which_model_it_measured(tmp_path: Path, candidate: Candidate) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for fingerprint, state in ((OWN, "pass"), ("another", "cannot_tell")):
        written(run / "manifest.json", {"schema": 1, "config": {"model": "m"}, "data": {"model (m)": fingerprint}})
        written(run / "summary.json", {"schema": 1, "win_rate": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 50}})
        assert number(NumberGate(path=str(run), field="win_rate", at_least=0.5), candidate).state == state
    (run / "summary.json").unlink()
    with pytest.raises(DataError, match="no finished run"):
        number(NumberGate(path=str(run), field="win_rate", at_least=0.5), candidate)


def test_what_was_not_judged_may_be_made_up(tmp_path: Path, candidate: Candidate) -> None:
    covered = {"mean": 0.8, "low": 0.75, "high": 0.84, "n": 200}
    path = written(tmp_path / "h.json", {"model_fingerprint": OWN, "rates": {"hallucination": RATE}, "coverage": covered})
    assert hallucination(HallucinationGate(path=path, at_most=0.1), candidate).state == "pass"
    said = hallucination(HallucinationGate(path=path, at_most=0.1, coverage=0.9), candidate)
    assert (said.state, said.why) == ("cannot_tell", ("coverage",))


@pytest.mark.parametrize(
    ("states", "state", "names"),
    [
        (["pass", "pass"], "pass", None),
        (["pass", "cannot tell", "for a person"], "cannot_tell", "1, 2"),
        (["cannot_tell", "fail"], "fail", "1"),
    ],
)
def test_checklists(tmp_path: Path, candidate: Candidate, states: list[str], state: str, names: str | None) -> None:
    path = written(tmp_path / "c.json", {"items": [{"name": str(i), "state": s} for i, s in enumerate(states)]})
    said = checklist(ChecklistGate(path=path), candidate)
    assert (said.state, said.facts.get("names")) == (state, names)
    assert checklist(ChecklistGate(path=str(tmp_path / "none.json")), candidate).state == "cannot_tell"
    with pytest.raises(DataError, match="no list of items"):
        checklist(ChecklistGate(path=written(tmp_path / "c.json", {"items": []})), candidate)


KEEL_CHECK = {"items": [{"name": n, "when": "after", "status": s} for n, s in zip("abcd", ("pass", "cannot tell", "for a person", "pass"))]}


@pytest.mark.parametrize(
    ("answers", "state", "names"),
    [
        ("", "cannot_tell", "b, c"),
        ("b: {state: pass, by: A. Reader}", "cannot_tell", "c"),
        ("b: {state: pass, by: A. Reader}\nc: {state: pass, by: A. Reader, note: I read them}", "pass", None),
        ("b: {state: pass, by: A. Reader}\nc: {state: fail, by: A. Reader}", "fail", "c"),
    ],
)
def test_people_answer_what_the_program_leaves_open(
    tmp_path: Path, candidate: Candidate, answers: str, state: str, names: str | None
) -> None:
    gate = ChecklistGate(path=written(tmp_path / "c.json", KEEL_CHECK), answers=str(tmp_path / "a.yaml"))
    assert checklist(gate, candidate).state == "cannot_tell", "no file, no answers"
    (tmp_path / "a.yaml").write_text(answers, encoding="utf-8")
    said = checklist(gate, candidate)
    assert (said.state, said.facts.get("names")) == (state, names)


def test_nobody_talks_a_failure_away(tmp_path: Path, candidate: Candidate) -> None:
    (tmp_path / "a.yaml").write_text("a: {state: pass, by: A. Reader}", encoding="utf-8")
    path = written(tmp_path / "c.json", {"items": [{"name": "a", "status": "fail"}]})
    assert checklist(ChecklistGate(path=path, answers=str(tmp_path / "a.yaml")), candidate).state == "fail"


@pytest.mark.parametrize("answers", ["z: {state: pass, by: A}", "a: {state: pass}", "a: pass", "a: {state: perhaps, by: A}", "[a]"])
def test_what_is_no_answer_is_refused(tmp_path: Path, candidate: Candidate, answers: str) -> None:
    (tmp_path / "a.yaml").write_text(answers, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.yaml"):
        checklist(ChecklistGate(path=written(tmp_path / "c.json", KEEL_CHECK), answers=str(tmp_path / "a.yaml")), candidate)


@pytest.mark.parametrize(("model", "state"), [(OWN, "pass"), (MADE_FROM, "pass"), ("another", "cannot_tell")])
def test_a_checklist_is_of_this_model(tmp_path: Path, candidate: Candidate, model: str, state: str) -> None:
    path = written(tmp_path / "c.json", {"model_fingerprint": model, "items": [{"name": "a", "status": "pass"}]})
    assert checklist(ChecklistGate(path=path), candidate).state == state


ONCE = f"{{name: A, date: 2026-11-30, model: {OWN}, decision: approve}}"
AGAIN = ONCE.replace("11-30", "12-01")
SIGNED = f"name: A. Reader\ndate: 2026-11-30\nmodel: {OWN}\ndecision: approve\n"


@pytest.mark.parametrize(
    ("text", "people", "state", "why"),
    [
        (SIGNED, 1, "pass", "signed_by"),
        (SIGNED.replace(OWN, "another"), 1, "cannot_tell", "some_signed"),
        (SIGNED, 2, "cannot_tell", "some_signed"),
        (SIGNED.replace("approve", "refuse\nnote: too slow"), 1, "fail", "refused_by"),
        (f"- {ONCE}\n- {AGAIN}".replace("approve", "refuse", 1), 1, "pass", "signed_by"),
        (f"- {ONCE}\n- {AGAIN}", 2, "cannot_tell", "some_signed"),
    ],
)
def test_a_person_s_word(tmp_path: Path, candidate: Candidate, text: str, people: int, state: str, why: str) -> None:
    path = tmp_path / "sign.yaml"
    path.write_text(text, encoding="utf-8")
    said = sign_off(SignOffGate(path=str(path), people=people), candidate)
    assert (said.state, said.why) == (state, (why,))


def test_nobody_s_word(tmp_path: Path, candidate: Candidate) -> None:
    said = sign_off(SignOffGate(path=str(tmp_path / "sign.yaml")), candidate)
    assert (said.state, said.why, said.facts["own"]) == ("cannot_tell", ("nobody_signed",), OWN)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("just a word", "is a mapping"),
        ("name: A\ndate: 2026-11-30\ndecision: approve", "lacks model"),
        (SIGNED.replace("approve", "yes!"), "approve or refuse"),
        (SIGNED.replace("2026-11-30", "yesterday"), "'yesterday' is none"),
        (SIGNED + "signed: true", "unknown key signed"),
    ],
)
def test_what_is_no_signature_is_refused(tmp_path: Path, candidate: Candidate, text: str, told: str) -> None:
    path = tmp_path / "sign.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        sign_off(SignOffGate(path=str(path)), candidate)
