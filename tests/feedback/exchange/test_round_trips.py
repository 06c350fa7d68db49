"""Every format: read -> write -> read gives the same records; formats are told by their rows; records are possible ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import ConfigError, DataError
from keel.feedback import rows
from keel.feedback.exchange import table
from keel.feedback.exchange.imported import Imported, join
from keel.types import Annotator, Candidate, Choice, Judgement, Prompt, Ranks, Scores, Span, Spans, Task

LABEL_STUDIO: list[dict[str, Any]] = [
    {
        "id": 7,
        "data": {"prompt": "首都是哪里？", "answer1": "北京 😀 是首都。", "answer2": "上海。", "topic": "geo", "images": ["a.png"]},
        "annotations": [
            {
                "id": 21,
                "completed_by": 3,
                "created_at": "2026-03-02T09:00:30.5Z",
                "lead_time": 4.288,
                "was_cancelled": False,
                "result": [
                    {"from_name": "pw", "to_name": "answer1,answer2", "type": "pairwise", "value": {"selected": "left"}},
                    {"from_name": "accuracy", "to_name": "answer2", "type": "rating", "value": {"rating": 1}},
                    {"from_name": "why", "to_name": "prompt", "type": "textarea", "value": {"text": ["第二个错了"]}},
                    {
                        "from_name": "err",
                        "to_name": "answer1",
                        "type": "labels",
                        "value": {"start": 6, "end": 8, "text": "是首", "labels": ["odd"]},
                    },
                ],
            },
            {
                "id": 22,
                "completed_by": {"id": 4, "email": "x@example.org"},
                "ground_truth": True,
                "result": [{"from_name": "pw", "to_name": "answer1,answer2", "type": "choices", "value": {"choices": ["both bad"]}}],
            },
        ],
        "predictions": [
            {"model_version": "m1", "score": 0.5, "result": [{"from_name": "pw", "type": "pairwise", "value": {"selected": "right"}}]}
        ],
    },
    {
        "id": 8,
        "data": {
            "prompt": "Rank",
            "items": [{"id": "x", "title": "A", "body": "one"}, {"id": "y", "body": "two"}, {"id": "z", "body": "three"}],
        },
        "annotations": [
            {"id": 30, "completed_by": 3, "result": [{"from_name": "rank", "type": "ranker", "value": {"ranker": ["y", "z", "x"]}}]},
            {
                "id": 31,
                "completed_by": 4,
                "result": [{"from_name": "rank", "type": "ranker", "value": {"ranker": {"rank_2": ["x", "y"], "rank_1": ["z"], "_": []}}}],
            },
        ],
    },
]
ARGILLA: list[dict[str, Any]] = [
    {
        "id": "r1",
        "fields": {"instruction": "Say hi", "response_1": "Hi", "response_2": "嗨\n\n你好"},
        "metadata": {"lang": "zh"},
        "suggestions": {"best": {"value": "response_2", "score": 0.9, "agent": "judge-1"}},
        "responses": {
            "best": [{"value": "response_1", "user_id": "u1"}, {"value": "tie", "user_id": "u2"}],
            "rank": [{"value": ["response_2", "response_1"], "user_id": "u1"}],
            "quality_2": [{"value": 4, "user_id": "u1"}],
            "reason": [{"value": "friendlier", "user_id": "u1"}],
        },
        "vectors": {},
        "_server_id": None,
    },
    {
        "id": "r2",
        "fields": {"prompt": "Describe", "response": "A red dog"},
        "metadata": {},
        "suggestions": {},
        "responses": {"errors": [{"value": [{"start": 2, "end": 5, "label": "colour"}], "user_id": "u2"}]},
    },
]
ARENA: list[dict[str, Any]] = [
    {
        "question_id": 81,
        "model_a": "alpha",
        "model_b": "beta",
        "winner": "tie (bothbad)",
        "judge": "expert_1",
        "conversation_a": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}],
        "conversation_b": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "6"}],
        "turn": 1,
        "anony": True,
        "tstamp": 1700000000.25,
        "language": "English",
    },
    {
        "id": "s-1",
        "evaluation_session_id": "sess",
        "evaluation_order": 2,
        "model_a": "alpha",
        "model_b": "gamma",
        "winner": "model_b",
        "conversation_a": [
            {"role": "user", "content": [{"type": "text", "text": "你好"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "您好"}]},
            {"role": "user", "content": "再说一次"},
            {"role": "assistant", "content": "您好！"},
        ],
        "conversation_b": [
            {"role": "user", "content": [{"type": "text", "text": "你好"}]},
            {"role": "assistant", "content": "嗨"},
            {"role": "user", "content": "再说一次"},
            {"role": "assistant", "content": "嗨嗨"},
        ],
        "timestamp": "2025-07-01 10:00:00",
    },
]
MTURK = (
    '\ufeff"HITId","HITTypeId","Title","Reward","AssignmentId","WorkerId","AssignmentStatus","AcceptTime","SubmitTime","WorkTimeInSeconds",'
    '"Input.prompt","Input.answer1","Input.answer2","Input.topic","Answer.choice.left","Answer.choice.right","Answer.clarity_1","Answer.comment"\r\n'
    '"H1","T","Compare","$0.05","A1","W1","Submitted","Wed Nov 29 10:00:00 PST 2017","Wed Nov 29 10:01:00 PST 2017","60",'
    '"Which, one?","say ""yes""\nor no","没有","x","true","false","4","short\nand clear"\r\n'
)
CROWD = (
    'worker,left,right,winner,prompt,time\nw1,"a, b",c,left,Q?,2026-01-01T00:00:00Z\n'
    'w2,c,"a, b",left,Q?,\nw1,c,"a, b",tie,Q?,2026-01-02T00:00:00Z\n'
)
LABELS = "task,worker,label\nt1,w1,cat\nt1,w2,狗\nt2,w1,3.5\n"
DISTILABEL = [
    {
        "instruction": "Write",
        "generations": ["One.", "Two."],
        "generation_models": ["m1", "m2"],
        "ratings": [4, 2],
        "rationales": ["fine", None],
        "model_name": "judge-x",
    }
]


def json_file(value: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file = folder / "in.json"
        file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return file

    return make


def text_file(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(text.encode("utf-8"))
        return folder / name

    return make


def potato(folder: Path) -> Path:
    root = folder / "project"
    (root / "data").mkdir(parents=True)
    item = {"id": "i1", "prompt": "选一个", "responses": ["甲的回答", "a longer answer"]}
    three = {"id": "i2", "prompt": "Rank", "responses": ["one", "two", "three"]}
    (root / "data" / "items.jsonl").write_text("\n".join(json.dumps(r) for r in (item, three)))
    states = {
        "ann": {
            "user_id": "ann",
            "instance_id_to_label_to_value": {
                "i1": [[{"schema": "pref", "name": "selection"}, "B"], [{"schema": "scale", "name": "scale_value"}, "-2"]],
                "i2": {"order": {"rank_order": "B,A=C"}},
            },
            "instance_id_to_span_to_value": {
                "i1": {"err": [{"start": 2, "end": 8, "label": "wordy", "text": "longer", "target_field": "responses.1"}]}
            },
        },
        "bo": {"user_id": "bo", "instance_id_to_label_to_value": {"i1": {"pref": {"selection": "tie"}, "reason": "都可以"}}},
    }
    for name, state in states.items():
        (root / "annotation_output" / name).mkdir(parents=True)
        (root / "annotation_output" / name / "user_state.json").write_text(json.dumps(state))
    return root


FILES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "label_studio": ("label_studio", json_file(LABEL_STUDIO), "in.json"),
    "argilla": ("argilla", json_file(ARGILLA), "in.json"),
    "distilabel": ("distilabel", json_file(DISTILABEL), "in.jsonl"),
    "lmarena": ("lmarena", json_file(ARENA), "in.jsonl"),
    "mturk": ("mturk", text_file("in.csv", MTURK), "in.csv"),
    "crowd sides": ("crowd_csv", text_file("in.csv", CROWD), "in.csv"),
    "crowd labels": ("crowd_csv", text_file("in.csv", LABELS), "in.csv"),
    "prolific": ("prolific", text_file("in.csv", CROWD.replace("worker", "PROLIFIC_PID")), "in.csv"),
    "potato": ("potato", potato, "again"),
}


def without_images_folder(imported: Imported, folder: Path) -> str:
    return repr((imported.tasks, imported.judgements, imported.annotators)).replace(str(folder), "")


@pytest.mark.parametrize("case", FILES)
def test_what_is_read_and_written_is_read_again(case: str, tmp_path: Path) -> None:
    name, make, again = FILES[case]
    file = make(tmp_path)
    assert table.detect(file) == name
    first = table.read("auto", file)
    assert first.judgements
    (tmp_path / "out").mkdir()
    lost = table.write(name, first, tmp_path / "out" / again)
    assert lost == ()
    second = table.read(name, tmp_path / "out" / again)
    by_id = {t.task_id: t for t in first.tasks}
    for task in second.tasks:
        assert task == by_id[task.task_id]
    assert set(by_id) == {t.task_id for t in second.tasks}
    assert sorted(map(repr, second.annotators)) == sorted(map(repr, first.annotators))
    assert sorted(map(repr, second.judgements)) == sorted(map(repr, first.judgements))


@pytest.mark.parametrize("case", FILES)
def test_records_are_possible_ones_and_keep_to_one_protocol_each(case: str, tmp_path: Path) -> None:
    name, make, _ = FILES[case]
    found = table.read(name, make(tmp_path))
    tasks = {t.task_id: t for t in found.tasks}
    people = {a.annotator_id for a in found.annotators}
    for task in found.tasks:
        rows.check_task(task)
        assert task.protocol.startswith(f"imported:{name}")
        assert task.source_id
    for judgement in found.judgements:
        rows.check_judgement(judgement, tasks[judgement.task_id])
        assert judgement.by in people
        assert judgement.source_id
    assert len({j.event_id for j in found.judgements}) == len(found.judgements)
    assert len({(j.task_id, j.by, j.purpose, j.repeat) for j in found.judgements}) == len(found.judgements)


@pytest.mark.parametrize("case", FILES)
def test_reading_twice_gives_the_same_ids_and_joins_to_one(case: str, tmp_path: Path) -> None:
    name, make, _ = FILES[case]
    (tmp_path / "elsewhere").mkdir()
    first, second = table.read(name, make(tmp_path)), table.read(name, make(tmp_path / "elsewhere"))
    if case != "label_studio":  # its image lies in another folder now
        assert join([first, second]).counts() == first.counts() | {"left_out": 2 * len(first.left_out)}


def own() -> Imported:
    def task(name: str, kind: Any, n: int) -> Task:
        candidates = tuple(Candidate(f"{name}{k}", f"text {k} 汉", {"model": f"m{k}"}) for k in range(n))
        return Task(name, Prompt(f"p-{name}", text="问?", source_id=name), candidates, kind, f"imported:other:{kind}", source_id=name)

    tasks = (task("a", "pairwise", 2), task("b", "ranking", 3), task("c", "rating", 1), task("d", "spans", 1))
    answers = (Choice("both_bad", 0.5), Ranks(((1,), (0, 2))), Scores(0, {"x": 1.5}), Spans((Span(0, 0, 4, "odd"),)))
    who = Annotator("other:w", "person")
    votes = tuple(
        Judgement(f"e{i}", t.task_id, who.annotator_id, "work", a, tuple(range(len(t.candidates))), t.protocol, "2026-01-01T00:00:00Z")
        for i, (t, a) in enumerate(zip(tasks, answers))
    )
    gold = replace(votes[0], event_id="gold", purpose="gold")
    return Imported(tasks, (*votes, gold), (who,))


@pytest.mark.parametrize("name", table.FORMATS)
def test_what_a_format_cannot_hold_is_named(name: str, tmp_path: Path) -> None:
    """Written and left out together are everything; what was written is read again."""
    mine = own()
    lost = table.write(
        name, mine, tmp_path / ("out" if name == "potato" else "out.csv" if name in ("mturk", "prolific", "crowd_csv") else "out.json")
    )
    gone = {entry.record_id for entry in lost}
    assert gone <= {j.event_id for j in mine.judgements}
    assert all(entry.reason for entry in lost)
    if name == "keel":
        assert not gone
    else:
        assert "gold" in gone
    if name == "distilabel":
        assert gone == {j.event_id for j in mine.judgements}
        return
    file = next(p for p in (tmp_path / "out", tmp_path / "out.csv", tmp_path / "out.json") if p.exists())
    assert len(table.read(name, file).judgements) == len(mine.judgements) - len(gone)


def test_keels_own_rows_are_exact(tmp_path: Path) -> None:
    mine = own()
    table.write("keel", mine, tmp_path / "own.jsonl")
    assert table.detect(tmp_path / "own.jsonl") == "keel"
    assert table.read("auto", tmp_path / "own.jsonl") == mine


def test_unknown_formats_and_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label_studio"):
        table.read("label_studo", tmp_path)
    (tmp_path / "x.csv").write_text("colour,size\nred,3\n")
    with pytest.raises(DataError, match="colour, size"):
        table.detect(tmp_path / "x.csv")
    with pytest.raises(DataError, match="no such file"):
        table.detect(tmp_path / "none.json")
    with pytest.raises(DataError, match="folder"):
        table.detect(tmp_path)
