"""Whole answers in three classes, both languages; rates and agreement by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.dataset import read as read_data
from keel.evaluate.refusals import read
from keel.evaluate.refusals.points import POINTS
from keel.evaluate.refusals.rates import Asked, agreement, changes, labels_of, rates
from keel.evaluate.refusals.signs import act, sentences, signs
from keel.evaluate.statistics import wilson
from keel.verbs.eval_refusals.run import run_eval_refusals

ROWS: list[dict[str, str]] = [
    json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['label']}-{row['language']}-{row['text'][:12]}")
def test_an_answer_is_of_its_class(row: dict[str, str]) -> None:
    """``misread``: what it is taken for. Such rows are here to be counted, and to be noticed when they are read as meant."""
    assert read(row["text"]).refusal == row.get("misread", row["label"])


def test_no_more_are_misread_than_the_docs_say() -> None:
    assert Counter(row["language"] for row in ROWS if "misread" in row) == {"zh": 10}


@pytest.mark.parametrize("row", [r for r in ROWS if r.get("misread", r["label"]) != "none"], ids=lambda row: row["text"][:12])
def test_a_refusal_names_its_sentence(row: dict[str, str]) -> None:
    sentence = read(row["text"]).sentence
    assert sentence
    assert sentence in row["text"]
    assert len(sentence) < len(row["text"]) or row["text"].count(sentence[-1]) == 1


def test_marks_of_lists_and_of_bold_are_no_words() -> None:
    assert sentences("Here:\n1. **Sit** down.\n2) Wait\n- Go!") == ["Here:", "Sit down.", "Wait", "Go!"]
    assert sentences("好的。首先，坐下！\n然后等。") == ["好的。", "首先，坐下！", "然后等。"]


def test_every_sign_has_points_and_every_point_a_sign() -> None:
    seen = signs("a", ["a"], [act("a")])
    assert set(seen) | {"always"} == set(POINTS)
    assert all(0 <= v <= 1 for v in seen.values())


def test_the_own_prompts_stand_side_by_side_in_both_languages() -> None:
    for language in ("en", "zh"):
        sides = {
            side: read_data(f"package:keel/evaluate/refusals/prompts/{side}_{language}.jsonl").prompts() for side in ("safe", "unsafe")
        }
        pairs = {side: [p.meta["pair"] for p in prompts] for side, prompts in sides.items()}
        assert pairs["safe"] == pairs["unsafe"]
        assert len(set(pairs["safe"])) == len(pairs["safe"]) >= 40
        assert not {p.last_user_text for p in sides["safe"]} & {p.last_user_text for p in sides["unsafe"]}


def test_rates_by_hand() -> None:
    texts = ("I can't help with that.", "Boil the water first.", "", None)
    assert labels_of("?", texts) == ("full", "none")
    rows = [Asked("a", "safe", "?", texts, labels_of("?", texts), "en"), Asked("b", "safe", "?", ("Yes.",), ("none",), "zh")]
    found = rates(rows)["safe"]
    assert (found["prompts"], found["empty"], found["failed"]) == (2, 1, 1)
    assert found["full"]["mean"] == found["any"]["mean"] == 0.25
    assert found["none"]["mean"] == 0.75
    assert found["by_language"]["en"]["full"]["mean"] == 0.5
    assert rates([Asked("c", "unsafe", "?", ("",), ())])["unsafe"] == {"prompts": 1, "empty": 1, "failed": 0}


def test_a_change_is_paired_by_prompt() -> None:
    def asked(labels: str) -> list[Asked]:
        names: Any = {"f": "full", "p": "partial", "n": "none"}
        return [Asked(f"p{i}", "safe", "?", ("x",), (names[c],)) for i, c in enumerate(labels)]

    found = changes(asked("ffnn"), asked("fnpn"))["safe"]
    assert found["full"]["mean"] == -0.25
    assert found["partial"]["mean"] == 0.25
    assert found["any"]["mean"] == 0.0
    assert found["any"]["low"] < 0 < found["any"]["high"]


def test_agreement_by_hand() -> None:
    rows: list[Any] = [("a", "full", "full"), ("b", "full", "partial"), ("c", "none", "none"), ("d", "partial", "none")]
    found = agreement(rows)
    assert found["classes"] == wilson(2, 4).to_json()
    assert found["full"]["mean"] == 0.75
    assert found["refuses"]["mean"] == 0.75
    assert found["table"]["full"] == {"full": 1, "partial": 1, "none": 0}
    assert found["found_by_class"] == {"full": 0.5, "partial": 0.0, "none": 1.0}


def test_a_reader_of_ones_own_says_a_class() -> None:
    assert labels_of("?", ("x", ""), lambda prompt, text: "partial") == ("partial",)
    with pytest.raises(ValueError, match="is one of full, partial, none, not 'maybe'"):
        labels_of("?", ("x",), lambda prompt, text: "maybe")


def test_a_file_beside_peoples_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.csv"
    file.write_text(
        "prompt,completion,people\na,I cannot help with that.,2_full_refusal\nb,Boil it.,1_full_compliance\nb,Fry it.,full_refusal\n"
    )
    found = run_eval_refusals([str(file)], str(tmp_path / "out.json"), ["label=people", f"wrong={tmp_path}/wrong.jsonl"])
    assert found["read"] == {"full": 1, "partial": 0, "none": 2}
    assert found["agreement"]["classes"]["mean"] == pytest.approx(2 / 3)
    assert found["agreement"]["classes"]["n"] == 2
    assert json.loads((tmp_path / "out.json").read_text())["read"] == found["read"]
    wrong = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text().splitlines()]
    assert [(w["said"], w["read"], w["answer"]) for w in wrong] == [("full", "none", "Fry it.")]
    assert "agreement on three classes: 66.7%" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"'a' in column 'prompt' is no label"):
        run_eval_refusals([str(file)], "", ["label=prompt"])
    with pytest.raises(DataError, match="no text in column 'answer'"):
        run_eval_refusals([str(file)], "", ["answer=answer"])


def test_classes_are_all_there() -> None:
    assert Counter(r["language"] for r in ROWS)["zh"] >= 30
    assert {(r["language"], r["label"]) for r in ROWS} == {(a, b) for a in ("en", "zh") for b in ("full", "partial", "none")}
