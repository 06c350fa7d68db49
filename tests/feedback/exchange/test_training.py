"""What is exported for training is read again by the loader of data, images included; what is not in it is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.core.errors import DataError
from keel.data.config import ConversionConfig, DataConfig
from keel.data.dataset import load
from keel.feedback.exchange import files
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.training import demonstrations, export, training_rows
from keel.types import (
    Annotator,
    Candidate,
    Choice,
    Comparison,
    Demonstration,
    ImagePart,
    Judgement,
    Message,
    Pair,
    Prompt,
    Ranking,
    Ranks,
    Rating,
    Scores,
    Task,
    TextPart,
    Unpaired,
)


def votes(kind: Any, answers: list[Any], folder: Path, n: int = 2, **changes: Any) -> Imported:
    """One task with an image, an answer by a person each."""
    Image.new("RGB", (8, 8), (200, 0, 0)).save(folder / "red.png")
    asked = Message("user", (ImagePart(str(folder / "red.png")), TextPart("什么颜色？")))
    prompt = Prompt("p", (asked,), source_id="7")
    candidates = tuple(Candidate(f"c{k}", f"answer {k}", {"model": f"m{k}"}) for k in range(n))
    task = Task("t", prompt, candidates, kind, "imported:x", source_id="7")
    made = [
        Judgement(f"e{i}", "t", f"w{i}", "work", a, tuple(range(n)), "imported:x", "2026-01-01T00:00:00Z", source_id=f"7/w{i}")
        for i, a in enumerate(answers)
    ]
    return replace(Imported((task,), tuple(made), tuple(Annotator(f"w{i}", "person") for i in range(len(made)))), **changes)


def read(folder: Path, **options: Any) -> list[Any]:
    found = load(DataConfig(path=str(folder / "out.jsonl"), strict=True, **options))
    assert all(isinstance(r.prompt.messages[0].content[0], ImagePart) for r in found.records)
    return list(found.records)


CHOICES = [Choice("first", 0.5), Choice("first"), Choice("second"), Choice("tie"), Choice("both_bad"), Choice("cannot")]


def test_comparisons_and_pairs(tmp_path: Path) -> None:
    mine = votes("pairwise", CHOICES, tmp_path)
    n, left = export(mine, "comparison", tmp_path / "out.jsonl")
    found = read(tmp_path)
    assert n == len(found) == 4
    assert all(isinstance(r, Comparison) for r in found)
    assert [(r.outcome, r.strength, r.annotator_id) for r in found[:2]] == [("first", 0.5, "w0"), ("first", 1.0, "w1")]
    assert {e.record_id for e in left} == {"e4", "e5"}
    n, _ = export(mine, "preference", tmp_path / "out.jsonl")
    (pair,) = read(tmp_path)
    assert isinstance(pair, Pair)
    assert (n, pair.label, pair.tie, pair.chosen[0].text) == (1, pytest.approx(2.5 / 4), 0.25, "answer 0")


def test_both_bad_is_two_answers_that_nobody_wants(tmp_path: Path) -> None:
    n, left = export(votes("pairwise", [Choice("both_bad"), Choice("tie")], tmp_path), "unpaired", tmp_path / "out.jsonl")
    found = read(tmp_path)
    assert [(r.answer[0].text, r.desirable, r.weight) for r in found if isinstance(r, Unpaired)] == [
        ("answer 0", False, 1.0),
        ("answer 1", False, 1.0),
    ]
    assert (n, [e.record_id for e in left]) == (2, ["e1"])
    rows, left = training_rows(votes("pairwise", [Choice("first"), Choice("second"), Choice("both_bad")], tmp_path), "unpaired")
    assert [(r["label"], round(r["weight"], 3)) for r in rows] == [(False, 0.333), (False, 0.333)]  # (+1 -1 -1) / 3 each
    rows, left = training_rows(votes("pairwise", [Choice("first"), Choice("second")], tmp_path), "unpaired")
    assert (rows, len(left)) == ([], 4)


def test_rankings_and_ratings(tmp_path: Path) -> None:
    export(votes("ranking", [Ranks(((2,), (0, 1)))], tmp_path, 3), "ranking", tmp_path / "out.jsonl")
    (ranking,) = read(tmp_path)
    assert isinstance(ranking, Ranking)
    assert ranking.ranks == (2, 2, 1)
    assert len(read(tmp_path, convert=ConversionConfig(to="pairs"))) == 2
    export(votes("rating", [Scores(0, {"accuracy": 4.0, "style": 2})], tmp_path, 1), "rating", tmp_path / "out.jsonl")
    (rating,) = read(tmp_path)
    assert isinstance(rating, Rating)
    assert rating.scores == {"accuracy": 4.0, "style": 2.0}


def test_only_first_answers_given_as_work_are_trained_on(tmp_path: Path) -> None:
    mine = votes("pairwise", [Choice("first")] * 4, tmp_path)
    one, two, three, four = mine.judgements
    mine = replace(mine, judgements=(one, replace(two, purpose="gold"), replace(three, repeat=1), replace(four, purpose="adjudication")))
    rows, left = training_rows(mine, "comparison")
    assert [r["record_id"] for r in rows] == ["e0"]
    assert [e.reason.partition(":")[0] for e in left] == ["purpose", "repeat", "purpose"]
    silent = replace(mine, tasks=(replace(mine.tasks[0], prompt=Prompt("p", text=" ")),))
    assert "prompt" in training_rows(silent, "comparison")[1][0].reason


def test_protocols_are_not_mixed(tmp_path: Path) -> None:
    mine = votes("pairwise", [Choice("first"), Choice("second")], tmp_path)
    other = replace(mine.tasks[0], task_id="t2", protocol="imported:y")
    mine = replace(
        mine, tasks=(*mine.tasks, other), judgements=(mine.judgements[0], replace(mine.judgements[1], task_id="t2", protocol="imported:y"))
    )
    with pytest.raises(DataError, match="imported:x, imported:y"):
        training_rows(mine, "preference")
    rows, left = training_rows(mine, "comparison", "imported:y")
    assert [r["protocol"] for r in rows] == ["imported:y"]
    assert left[0].reason == "protocol: is imported:x, not imported:y"
    with pytest.raises(DataError, match="left out"):
        export(mine, "ranking", tmp_path / "out.jsonl")


def test_answers_that_people_accepted_become_demonstrations(tmp_path: Path) -> None:
    mine = votes("rating", [Scores(0, {"accept": x}) for x in (1.0, 1.0, 0.0)], tmp_path, 1)
    rows, left = demonstrations(mine, at_least=0.6, votes=3)
    files.write_lines(tmp_path / "out.jsonl", rows)
    (found,) = read(tmp_path)
    assert isinstance(found, Demonstration)
    assert (found.completion[0].text, left) == ("answer 0", ())
    assert demonstrations(mine, at_least=0.7)[1][0].reason == "not accepted: mean accept 0.666667 is below 0.7"
    assert demonstrations(mine, votes=4)[1][0].reason == "not accepted: 3 of 4 votes"
    judges = replace(mine, annotators=tuple(replace(a, kind="judge") for a in mine.annotators))
    rows, left = demonstrations(judges)
    assert rows == []
    assert [e.reason.partition(":")[0] for e in left] == ["by", "by", "by", "not accepted"]


def test_answers_of_several_turns_and_with_images_stay_whole(tmp_path: Path) -> None:
    mine = votes("pairwise", [Choice("second")], tmp_path)
    picture = ImagePart(str(tmp_path / "red.png"))
    turns = (Message("assistant", "Red?"), Message("user", "Look again."), Message("assistant", (picture, TextPart("Yes, red."))))
    first, second = mine.tasks[0].candidates
    mine = replace(mine, tasks=(replace(mine.tasks[0], candidates=(first, replace(second, turns=turns))),))
    export(mine, "comparison", tmp_path / "out.jsonl")
    (comparison,) = read(tmp_path)
    assert comparison.candidates[1].messages == turns
    export(mine, "preference", tmp_path / "out.jsonl")
    (pair,) = read(tmp_path)
    assert pair.chosen == turns
    export(mine, "unpaired", tmp_path / "out.jsonl")
    assert [r.answer for r in read(tmp_path)] == [(Message("assistant", "answer 0"),), turns]
