"""What each reader makes of a file in the layout that its tool documents, by hand: answers, order, times, names, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.errors import FieldError
from keel.feedback.exchange import crowd_csv, said, table
from keel.feedback.exchange.imported import NO_TIME, Imported
from keel.types import Choice, ImagePart, Judgement, Ranks, Scores, Span, Spans
from tests.feedback.exchange.test_round_trips import ARENA, ARGILLA, CROWD, DISTILABEL, LABEL_STUDIO, MTURK, potato


def load(folder: Path, name: str, value: Any) -> Imported:
    file = folder / ("in.csv" if isinstance(value, str) else "in.json")
    file.write_bytes(value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode())
    return table.read(name, file)


def answers(found: Imported, scheme: str) -> list[Judgement]:
    return [j for j in found.judgements if j.protocol.endswith(f":{scheme}")]


def reasons(found: Imported) -> list[str]:
    return [entry.reason for entry in found.left_out]


def test_label_studio(tmp_path: Path) -> None:
    found = load(tmp_path, "label_studio", LABEL_STUDIO)
    first, truth, judge = answers(found, "pw")
    assert (first.answer, first.by, first.at, first.active_ms) == (Choice("first"), "label_studio:3", "2026-03-02T09:00:30.500000Z", 4288)
    assert (first.reason, first.source_id, first.purpose) == ("第二个错了", "21", "work")
    assert (truth.answer, truth.purpose, truth.by) == (Choice("both_bad"), "adjudication", "label_studio:4")
    assert (judge.answer, judge.by, judge.meta) == (Choice("second"), "label_studio:m1", {"score": 0.5})
    assert {a.annotator_id: a.kind for a in found.annotators}["label_studio:m1"] == "judge"
    task = next(t for t in found.tasks if t.task_id == first.task_id)
    assert (task.source_id, task.expected, task.meta) == ("7", Choice("both_bad"), {"topic": "geo"})
    assert task.prompt.messages[0].content[0] == ImagePart(str(tmp_path / "a.png"))
    assert [c.text for c in task.candidates] == ["北京 😀 是首都。", "上海。"]
    (score,) = answers(found, "rating")
    assert score.answer == Scores(0, {"accuracy": 1.0})
    assert next(t for t in found.tasks if t.task_id == score.task_id).candidates[0].text == "上海。"
    (marked,) = answers(found, "spans")
    assert marked.answer == Spans((Span(0, 5, 7, "odd"),))  # the face is two places in a browser, one character here
    one, two = answers(found, "rank")
    assert one.answer == Ranks(((1,), (2,), (0,)))
    assert two.answer == Ranks(((2,), (0, 1)))
    ranked = next(t for t in found.tasks if t.task_id == one.task_id)
    assert ranked.candidates[0].origin == {"title": "A"}


def test_label_studios_odd_entries_are_named(tmp_path: Path) -> None:
    data = {"prompt": "q", "answer1": "x", "answer2": "y"}
    pairwise = {"from_name": "pw", "type": "pairwise", "value": {"selected": "left"}}
    rows = [
        {"id": 1, "data": data, "annotations": [{"id": 1, "completed_by": 1, "was_cancelled": True, "result": []}]},
        {"id": 2, "data": data, "annotations": [{"id": 2, "completed_by": 1, "result": []}]},
        {"id": 3, "data": data, "annotations": [{"id": 3, "result": [pairwise]}]},
        {"id": 4, "data": {"prompt": "q"}, "annotations": [{"id": 4, "completed_by": 1, "result": [pairwise]}]},
        {"id": 5, "data": data, "annotations": []},
        {"id": 6, "data": data, "annotations": [{"id": 6, "completed_by": 1, "result": [pairwise]}] * 2},
        {"id": 6, "data": {**data, "answer1": "other"}, "annotations": []},
        {"id": 7, "data": data, "annotations": [{"id": 7, "completed_by": 1, "created_at": "soon", "result": [pairwise]}]},
        {
            "id": 8,
            "data": data,
            "annotations": [
                {
                    "id": 8,
                    "completed_by": 1,
                    "result": [{"from_name": "r", "type": "ranker", "value": {"ranker": {"good": ["answer1"], "bad": []}}}],
                }
            ],
        },
    ]
    found = load(tmp_path, "label_studio", rows)
    told = "\n".join(f"{e.record_id} {e.source_id.rpartition(':')[2]} {e.reason}" for e in found.left_out)
    for part in (
        "1 1 was_cancelled",
        "2 2 result: is empty",
        "3 3 annotator",
        "4 4 answers",
        "5 5 annotations: nobody",
        "6 6 id: this answer stands twice",
    ):
        assert part in told
    for part in (
        "6 7 id: 6 stands twice with different data",
        "7 8 created_at: is no time",
        "8 9 ranker: its buckets (good, bad) are categories",
    ):
        assert part in told
    assert len(found.judgements) == 1


def test_what_label_studio_marks_twice_or_without_a_label_is_named(tmp_path: Path) -> None:
    results = [
        {"from_name": "c", "type": "choices", "value": {"choices": ["left", "right"]}},
        {"from_name": "s", "to_name": "answer1", "type": "labels", "value": {"start": 0, "end": 1, "labels": []}},
        {"from_name": "r", "type": "ranker", "value": {"ranker": {"_": "answer1"}}},
        {"from_name": "n", "to_name": "prompt", "type": "number", "value": {"number": 4}},
    ]
    row = {
        "id": 1,
        "data": {"prompt": "q", "answer1": "x", "answer2": "y"},
        "annotations": [{"id": 1, "completed_by": 1, "result": results}],
    }
    found = load(tmp_path, "label_studio", [row])
    assert not found.judgements
    assert reasons(found) == [
        "c: 2 choices where one is needed",
        "s: a span without a label says nothing",
        "ranker: must be a list or buckets of lists",
        "n: 'prompt' is none of the answers",
    ]


def test_argilla(tmp_path: Path) -> None:
    found = load(tmp_path, "argilla", ARGILLA)
    assert [(j.answer, j.by) for j in answers(found, "best")] == [
        (Choice("first"), "argilla:u1"),
        (Choice("tie"), "argilla:u2"),
        (Choice("second"), "argilla:judge-1"),
    ]
    assert [j.answer for j in answers(found, "rank")] == [Ranks(((1,), (0,)))]
    assert [(j.answer, j.reason, j.at) for j in answers(found, "rating")] == [(Scores(0, {"quality": 4.0}), "friendlier", NO_TIME)]
    assert [j.answer for j in answers(found, "spans")] == [Spans((Span(0, 2, 5, "colour"),))]
    older = {"id": "o", "fields": {"prompt": "q", "response-1": "a", "response-2": "b", "response-3": "c"}}
    ranks = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}, {"value": "response-3", "rank": 2}]
    found = load(tmp_path, "argilla", [{**older, "responses": {"r": [{"value": ranks, "user_id": "u", "status": "submitted"}]}}])
    assert found.judgements[0].answer == Ranks(((1,), (0, 2)))
    found = load(tmp_path, "argilla", [{**older, "responses": {"r": [{"value": ranks, "user_id": "u", "status": "discarded"}]}}])
    assert not found.judgements
    assert reasons(found) == ["status: the response is discarded, not submitted"]


def test_lmarena(tmp_path: Path) -> None:
    found = load(tmp_path, "lmarena", ARENA)
    bad, second = found.judgements
    assert (bad.answer, bad.by, bad.at) == (Choice("both_bad"), "lmarena:expert_1", "2023-11-14T22:13:20.250000Z")
    assert (second.answer, second.by, second.meta) == (Choice("second"), "lmarena:session sess", {"evaluation_order": 2})
    one, two = found.tasks
    assert [c.origin["model"] for c in one.candidates] == ["alpha", "beta"]
    assert (one.prompt.text, one.source_id, one.meta) == ("2+2?", "81", {"language": "English", "turn": 1})
    assert [m.role for m in two.candidates[1].turns] == ["assistant", "user", "assistant"]
    assert two.candidates[0].text == "您好\n\n您好！"
    first_turn = {**ARENA[1], "turn": 1, "question_id": 5}
    assert load(tmp_path, "lmarena", [first_turn]).tasks[0].candidates[0].text == "您好"  # the second turn was not judged


def test_lmarenas_table_of_2024_and_bad_battles(tmp_path: Path) -> None:
    head = "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
    row = '1,m,n,"[""hi"",""and?""]","[""a"",""b""]","[""c"",""d""]",0,1,0\n'
    found = load(
        tmp_path, "auto", head + row + '2,m,n,"[""hi""]","[null]","[""c""]",1,0,0\n' + '3,m,n,"[""hi""]","[""a""]","[""b""]",1,1,0\n'
    )
    assert found.judgements[0].answer == Choice("second")
    assert found.judgements[0].by == "lmarena:unknown 1"
    assert [r.partition(":")[0] for r in reasons(found)] == ["response_a", "winner_model_a"]
    other = {**ARENA[0], "conversation_b": [{"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}]}
    assert "same question" in reasons(load(tmp_path, "lmarena", [other]))[0]
    assert "winner: must be one of" in reasons(load(tmp_path, "lmarena", [{**ARENA[0], "winner": "b"}]))[0]


def test_mturk(tmp_path: Path) -> None:
    found = load(tmp_path, "mturk", MTURK)
    (vote,) = answers(found, "choice")
    assert (vote.answer, vote.by, vote.source_id, vote.active_ms) == (Choice("first"), "mturk:W1", "A1", 60000)
    assert (vote.at, vote.reason) == ("2017-11-29T18:01:00Z", "short\nand clear")
    task = next(t for t in found.tasks if t.task_id == vote.task_id)
    assert [c.text for c in task.candidates] == ['say "yes"\nor no', "没有"]
    assert task.meta == {"topic": "x", "HITTypeId": "T", "Title": "Compare"}
    assert [j.answer for j in answers(found, "rating")] == [Scores(0, {"clarity": 4.0})]
    assert reasons(found) == ["columns: not read: Reward"]
    rejected = load(tmp_path, "mturk", MTURK.replace('"Submitted"', '"Rejected"'))
    assert not rejected.judgements
    assert "AssignmentStatus: the assignment was rejected" in reasons(rejected)
    form = '"[{""choice"":{""left"":false,""right"":true}}]"'
    text = f"HITId,AssignmentId,WorkerId,Input.left,Input.right,Answer.taskAnswers\nH,A,W,x,y,{form}\n"
    assert load(tmp_path, "mturk", text).judgements[0].answer == Choice("second")


def test_crowds_sides_are_display_order_and_second_answers_are_repeats(tmp_path: Path) -> None:
    found = load(tmp_path, "crowd_csv", CROWD)
    assert len(found.tasks) == 1
    first, other, again = found.judgements
    won = [found.tasks[0].candidates[0 if j.answer == Choice("first") else 1].text for j in (first, other)]
    assert won == ["a, b", "c"]
    assert first.display_order == again.display_order[::-1] == other.display_order[::-1]
    assert [j.repeat for j in found.judgements] == [0, 0, 1]
    named = "worker,left,right,label\nw,item one,item two,item two\nv,item two,item one,item two\n"
    found = load(tmp_path, "crowd_csv", named)
    assert {found.tasks[0].candidates[0 if j.answer == Choice("first") else 1].text for j in found.judgements} == {"item two"}


def test_crowd_labels_numbers_and_wide_tables(tmp_path: Path) -> None:
    found = load(tmp_path, "crowd_csv", "task,worker,label\nt1,w1,cat\nt1,w2,2\nt1,w2,2\nt2,,cat\nt3,w1,\n")
    assert [j.answer for j in found.judgements] == [Scores(0, {"label:cat": 1.0}), Scores(0, {"label": 2.0}), Scores(0, {"label": 2.0})]
    assert [j.repeat for j in found.judgements] == [0, 0, 1]  # no id, no time: whether it is one answer twice cannot be told
    assert [r.partition(":")[0] for r in reasons(found)] == ["annotator", "label"]
    wide = "id,prompt,response1,response2,annotator1,annotator2,annotator3\n1,q,x,y,1,0,2\n2,q,x2,y2,2,,maybe\n"
    found = load(tmp_path, "auto", wide)
    assert [j.answer for j in found.judgements] == [Choice("first"), Choice("tie"), Choice("second"), Choice("second")]
    assert [r.partition(":")[0] for r in reasons(found)] == ["annotator2", "annotator3"]


def test_tables_with_marks_breaks_and_huge_fields(tmp_path: Path) -> None:
    huge = "字" * 300_000
    text = f'\ufefftask,worker,text,label,browser\r\nt1,w1,"{huge}",4,"a ""b""\nc"\r\nt2,w1,[1],3\r\nt3,w1,"[1, 2]",5,x\r\n'
    found = load(tmp_path, "crowd_csv", text)
    assert [t.candidates[0].text for t in found.tasks] == [huge, "[1, 2]"]
    assert found.judgements[0].meta == {"browser": 'a "b"\nc'}
    assert [(e.source_id.rpartition(":")[2], e.reason) for e in found.left_out] == [("4", "this row has 4 columns, the header 5")]


def test_prolific(tmp_path: Path) -> None:
    head = "Submission id,Participant id,Status,Started at,Completed at,Time taken,Age\n"
    found = load(tmp_path, "auto", head + "s1,p1,APPROVED,2024-10-25T12:27:09Z,,1150,25\ns2,p2,RETURNED,,,,31\n")
    assert [(a.annotator_id, a.meta["seconds"]) for a in found.annotators] == [("prolific:p1", 1150.0)]
    assert reasons(found) == ["Status: the submission was returned", "columns: not taken over (they may be personal): Age"]
    assert set(found.annotators[0].meta) == {"submission", "status", "started_at", "seconds"}
    found = load(tmp_path, "auto", "PROLIFIC_PID,STUDY_ID,task,text,rating\np1,s,t,hello,4\n")
    assert (found.judgements[0].by, found.judgements[0].meta) == ("prolific:p1", {"STUDY_ID": "s"})


def test_potato(tmp_path: Path) -> None:
    found = table.read("auto", potato(tmp_path))
    votes = [(j.answer, j.by, j.reason) for j in answers(found, "pref")]
    assert votes == [(Choice("second"), "potato:ann", ""), (Choice("tie"), "potato:bo", "都可以")]
    assert [(j.answer, j.meta) for j in answers(found, "scale")] == [(Choice("first"), {"scale_value": -2.0})]
    assert [j.answer for j in answers(found, "order")] == [Ranks(((1,), (0, 2)))]
    assert [j.answer for j in answers(found, "spans")] == [Spans((Span(1, 2, 8, "wordy"),))]
    state = tmp_path / "project" / "annotation_output" / "bo" / "user_state.json"
    state.write_text(
        json.dumps(
            {"user_id": "bo", "instance_id_to_label_to_value": {"i9": {"pref": {"selection": "A"}}, "i2": {"pref": {"selection": "A"}}}}
        )
    )
    told = reasons(table.read("potato", tmp_path / "project"))
    assert any("i9: is no item" in r for r in told)
    (tmp_path / "project" / "data" / "more.csv").write_text("id,prompt,response1,response2\nlonely,q,x,y\n")
    alone = [e for e in table.read("potato", tmp_path / "project").left_out if e.record_id == "lonely"]
    assert [e.reason for e in alone] == ["annotations: nobody has annotated this item"]
    assert any("'A' is no choice between 3 answers" in r for r in told)
    with pytest.raises(DataError, match="folder"):
        table.read("potato", state)


def test_distilabel(tmp_path: Path) -> None:
    found = load(tmp_path, "auto", [*DISTILABEL, {"instruction": "x", "generations": ["a", "b"], "ratings": [None, 3], "model_name": "j"}])
    assert [(j.answer, j.reason) for j in found.judgements] == [
        (Scores(0, {"rating": 4.0}), "fine"),
        (Scores(0, {"rating": 2.0}), ""),
        (Scores(0, {"rating": 3.0}), ""),
    ]
    assert found.tasks[1].candidates[0].origin == {"model": "m2"}
    assert reasons(found) == ["ratings.0: the judge gave no rating (None)"]
    assert all(a.kind == "judge" for a in found.annotators)


@pytest.mark.parametrize(
    ("word", "chosen"),
    [
        ("Left", "first"),
        ("B", "second"),
        ("No preference", "tie"),
        ("tie (bothbad)", "both_bad"),
        ("左边", "first"),
        ("一样好", "tie"),
        (2, "second"),
    ],
)
def test_words_for_choices(word: Any, chosen: str) -> None:
    found = said.choice_of(word)
    assert found is not None
    assert found.chosen == chosen
    assert said.choice_of("perhaps") is None
    assert said.choice_of("B", (("B", "x"), ("A", "y"))) == Choice("first")  # the file's own names count first


def test_spans_are_checked_against_what_they_quote() -> None:
    text = "a😀b汉c"
    assert said.span_of("v", 0, text, 3, 5, "k", "b汉") == Span(0, 2, 4, "k")
    assert said.span_in_utf16(text, 2, 4) == (3, 5)
    for start, end, quoted in ((3, 5, "zz"), (0, 9, None), (2, 2, None), (-1, 2, None)):
        with pytest.raises(FieldError):
            said.span_of("v", 0, text, start, end, "k", quoted)


@pytest.mark.parametrize("order", ["x,y", "x,y,z,x", "x,y,w"])
def test_rankings_name_every_answer_once(order: str) -> None:
    names = (("x",), ("y",), ("z",))
    with pytest.raises(FieldError):
        said.ranks_of("r", [[n] for n in order.split(",")], names)


def test_a_file_can_be_given_as_bytes() -> None:
    found = crowd_csv.read(Path("in.csv"), CROWD.encode())
    assert len(found.judgements) == 3
    with pytest.raises(DataError, match="UTF-16"):
        crowd_csv.read(Path("in.csv"), CROWD.encode("utf-16"))
