"""Other tools' files into a store and out of it, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.data.config import DataConfig
from keel.data.dataset import load
from keel.feedback import views
from keel.feedback.db import Store
from keel.types import Pair
from tests.feedback.exchange.test_round_trips import LABEL_STUDIO

BATTLES = [
    {"question_id": "q1", "model_a": "m1", "model_b": "m2", "winner": "model_a", "judge": "ann", "turn": 1, "tstamp": 1700000000.0},
    {"question_id": "q1", "model_a": "m1", "model_b": "m2", "winner": "model_b", "judge": "bob", "turn": 1, "tstamp": 1700000001.0},
    {"question_id": "q2", "model_a": "m2", "model_b": "m1", "winner": "tie (bothbad)", "judge": "ann", "turn": 1, "tstamp": 1700000002.0},
    {"question_id": "q3", "model_a": "m2", "model_b": "m1", "winner": "nobody", "judge": "ann", "turn": 1, "tstamp": 1700000003.0},
]


def battles(path: Path) -> Path:
    said = {"q1": ("雨", "Rain"), "q2": ("x", "y"), "q3": ("u", "v")}
    rows: list[dict[str, Any]] = []
    for b in BATTLES:
        texts = said[b["question_id"]]
        texts = texts if b["model_a"] == "m1" else texts[::-1]
        talks = [[{"role": "user", "content": f"Ask {b['question_id']}"}, {"role": "assistant", "content": text}] for text in texts]
        rows.append({**b, "conversation_a": talks[0], "conversation_b": talks[1]})
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def keel(*args: str) -> int:
    return main(["feedback", *args])


def test_battles_of_an_arena_become_votes_and_training_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, file = f"sqlite:///{tmp_path}/f.db", battles(tmp_path / "battles.json")
    assert keel("import", str(file), "--store", url, "--campaign", "arena") == 0
    told = capsys.readouterr().out
    assert "3 judgement" in told
    assert "left out: 1" in told
    with Store(url) as store:
        view = views.of_store(store, "arena")
        assert {c.annotator_id for c in view.comparisons} == {"lmarena:ann", "lmarena:bob"}
        assert len(view.unpaired) == 2, "both bad"
        assert {x.origin["model"] for c in view.comparisons for x in c.candidates} == {"m1", "m2"}
        assert store.campaign("arena").wanted == 2
    assert keel("import", str(file), "--store", url, "--campaign", "arena") == 0
    assert "new: nothing" in capsys.readouterr().out
    out = tmp_path / "again.json"
    assert keel("export", "--store", url, "--campaign", "arena", "--as", "lmarena", "--out", str(out)) == 0
    capsys.readouterr()
    other = f"sqlite:///{tmp_path}/g.db"
    assert keel("import", str(out), "--store", other, "--campaign", "arena") == 0
    with Store(other) as store:
        again = views.of_store(store, "arena")
    assert sorted((c.annotator_id, c.outcome) for c in again.comparisons) == sorted((c.annotator_id, c.outcome) for c in view.comparisons)
    assert len(again.unpaired) == 2


def test_what_was_taken_back_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, file = f"sqlite:///{tmp_path}/f.db", battles(tmp_path / "battles.json")
    keel("import", str(file), "--store", url)
    keel("retract", "lmarena:bob", "--store", url, "--why", "sold the account", "--root", str(tmp_path))
    capsys.readouterr()
    out = tmp_path / "pairs.jsonl"
    assert keel("export", "--store", url, "--campaign", "battles", "--as", "preference", "--out", str(out)) == 0
    told = capsys.readouterr().out
    assert "left out: 1, retracted" in told
    (pair,) = load(DataConfig(path=str(out))).of(Pair)
    assert (pair.chosen[0].text, pair.label) == ("雨", 1.0), "Bob's vote would have made it even"


def test_a_file_with_several_questions_becomes_several_campaigns(tmp_path: Path) -> None:
    (tmp_path / "project.json").write_text(json.dumps(LABEL_STUDIO), encoding="utf-8")
    url = f"sqlite:///{tmp_path}/f.db"
    assert keel("import", str(tmp_path / "project.json"), "--store", url) == 0
    with Store(url) as store:
        kinds = {c.name: c.kind for c in store.campaigns()}
        assert set(kinds.values()) == {"pairwise", "rating", "spans", "ranking"}
        assert all(name.startswith("project/imported:label_studio") for name in kinds)
        assert all({store.task(j.task_id).kind for j in store.judgements(name)} == {kind} for name, kind in kinds.items())


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, file = f"sqlite:///{tmp_path}/f.db", battles(tmp_path / "battles.json")
    for args, word in (
        (["import", "--store", url], "needs a file"),
        (["import", str(tmp_path / "gone.json"), "--store", url], "gone.json"),
        (["import", str(file), "--store", url, "--format", "lmarenna"], "did you mean 'lmarena'"),
        (["export", "--store", url, "--campaign", "no", "--as", "argilla", "--out", str(tmp_path / "x")], "no"),
    ):
        assert keel(*args) == 2
        assert word in capsys.readouterr().err
