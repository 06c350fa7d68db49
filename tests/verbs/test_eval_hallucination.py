"""`keel eval hallucination FILE --measure NAME`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.runs.fingerprints import model_fingerprint


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ROWS = [{"id": 1, "answer": "Yes", "label": "no"}, {"id": 2, "answer": "No", "label": "no"}, {"id": 3, "answer": "", "label": "yes"}]


def test_it_prints_the_rate_beside_the_coverage_and_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, verdicts = tmp_path / "out.json", tmp_path / "rows.jsonl"
    file = write(tmp_path / "answers.jsonl", ROWS)
    command = ["eval", "hallucination", file, "--measure", "pope", "--json", str(out), f"rows={verdicts}", "draws=100"]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("pope, mode fixed: hallucination 0.500 [")
    assert "coverage 0.667 [" in printed[0]
    assert "1 empty: 3" in printed
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["measure"], found["mode"], found["rates"]["hallucination"]["mean"]) == ("pope", "fixed", 0.5)
    assert found["coverage"]["mean"] == pytest.approx(2 / 3)
    assert found["overall"] is None
    assert [json.loads(line)["said"] for line in verdicts.read_text(encoding="utf-8").splitlines()] == ["yes", "no", "neither"]


def test_it_says_whose_answers_it_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the settings, or by the rows; a folder by its fingerprint, which is what a gate before a release asks for."""
    out, model = tmp_path / "out.json", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    own = model_fingerprint(model)

    def judged(rows: list[Any], *more: str) -> dict[str, Any]:
        file = write(tmp_path / "answers.jsonl", rows)
        assert main(["eval", "hallucination", file, "--measure", "pope", "--json", str(out), "draws=100", *more]) == 0
        return json.loads(out.read_text(encoding="utf-8"))

    unsaid = judged(ROWS)
    assert ("model_fingerprint" in unsaid, unsaid["answers"]["model"]) == (False, None)
    assert unsaid["answers"]["sha256"] == hashlib.sha256((tmp_path / "answers.jsonl").read_bytes()).hexdigest()
    assert "whose answers these are is not said" in capsys.readouterr().out
    assert judged(ROWS, f"model={model}")["model_fingerprint"] == own
    assert "not said" not in capsys.readouterr().out
    assert "model_fingerprint" not in judged(ROWS, "model=some-api")
    marked = [row | {"model_fingerprint": own, "model": "a" if row["id"] == 1 else "b"} for row in ROWS]
    found = judged(marked)
    assert (found["model_fingerprint"], found["answers"]["models"]) == (own, {"a": 1, "b": 2})
    assert "answers of 2 models are judged as one: a, b" in capsys.readouterr().out
    file = write(tmp_path / "answers.jsonl", [row | {"model_fingerprint": "other"} for row in ROWS])
    assert main(["eval", "hallucination", file, "--measure", "pope", f"model={model}"]) == 2
    assert "model_fingerprint other" in capsys.readouterr().err


def test_the_script_s_numbers_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "hallucination", write(tmp_path / "a.jsonl", ROWS), "mode=original", "--measure", "pope"]) == 0
    assert 'the published script prints: {"TP": 1, "FP": 1, "TN": 1, "FN": 0' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--measure", "pope", "nouns=nltk"], "does not read nouns"),
        (["--measure", "pope", "mode=other"], "mode"),
        (["--measure", "chair"], "objects: not given"),
        (["--measure", "pope", "truth=nowhere.jsonl"], "nowhere.jsonl: no such file"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str) -> None:
    assert main(["eval", "hallucination", write(tmp_path / "answers.jsonl", ROWS), *more]) == 2
    assert told in capsys.readouterr().err


def test_the_answers_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "answers.jsonl", ROWS)
    assert main(["eval", "hallucination", file, "--measure", "pope", "--json", file]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert len(Path(file).read_text(encoding="utf-8").splitlines()) == 3


def test_a_measure_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["eval", "hallucination", "x.jsonl", "--measure", "bleu"])
    assert stop.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
