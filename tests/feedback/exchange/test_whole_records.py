"""Every format: what is written and not named as left out is read back with the same question, pictures, answers and meaning."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.feedback.exchange import files, table
from keel.feedback.exchange.imported import Imported
from keel.feedback.rows import named
from keel.types import (
    Annotator,
    Answer,
    Candidate,
    Choice,
    ImagePart,
    Judgement,
    Message,
    Prompt,
    Ranks,
    Scores,
    Span,
    Spans,
    Task,
    TextPart,
)

GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
PEOPLE = (Annotator("ann", "person"), Annotator("bob", "person"), Annotator("j1", "judge", "x"), Annotator("j2", "judge", "y"))
FILES = {
    "potato": "project",
    "label_studio": "o.json",
    "argilla": "o.json",
    "keel": "o.jsonl",
    "lmarena": "o.jsonl",
    "distilabel": "o.jsonl",
}
COUNTS = {"pairwise": 2, "ranking": 3, "rating": 2, "spans": 1}


def picture(folder: Path, name: str) -> ImagePart:
    (folder / f"{name}.gif").write_bytes(GIF + name.encode())
    return ImagePart(str(folder / f"{name}.gif"))


def prompts(folder: Path, several: bool) -> list[Prompt]:
    """One a source id; ``several``: with turns before the question."""
    a, b, c = (picture(folder, n) for n in "abc")
    alone = [
        Prompt("p1", text="Ask one?", source_id="f:1"),
        Prompt("p3", messages=(Message("user", (a, TextPart("look"))),), source_id="f:3"),
        Prompt("p5", messages=(Message("user", (a, b, TextPart("both"))),), source_id="f:5"),
        Prompt("p6", messages=(Message("user", (TextPart("before"), a, TextPart("after"), b)),), source_id="f:6"),
    ]
    talk = (Message("user", (b, TextPart("first"))), Message("assistant", "ok"), Message("user", (TextPart("then"), c)))
    told = (Message("system", "Be good"), Message("user", "hi"), Message("assistant", "yes"), Message("user", "more"))
    return [*alone, Prompt("p2", messages=told, source_id="f:2"), Prompt("p4", messages=talk, source_id="f:4")] if several else alone


def answer(folder: Path, prompt: str, k: int, form: str) -> Candidate:
    text, turns = f"{prompt} answer {k}", ()
    if form == "pictures":
        turns = (Message("assistant", (TextPart(text), picture(folder, f"{prompt}{k}"))),)
    elif form == "turns":
        turns = (Message("assistant", f"call {k}"), Message("tool", "res"), Message("assistant", text))
        text = f"call {k}\n\n{text}"
    return Candidate(f"{prompt}-{k}", text, {"model": f"m{k}"}, turns)


def records(folder: Path, kind: str, form: str, several: bool) -> Imported:
    """Two pairs of answers to each prompt, which share its source id; judges and people, sides swapped for every other one."""
    tasks: list[Task] = []
    said: list[Judgement] = []
    for prompt in prompts(folder, several):
        all_of = tuple(answer(folder, prompt.prompt_id, k, form) for k in range(4))
        for shown in (all_of[: COUNTS[kind]], all_of[1 : COUNTS[kind] + 1]):
            task = named(Task("", prompt, shown, kind, f"{kind}-v1", source_id=prompt.source_id))  # type: ignore[arg-type]
            tasks.append(task)
            for n, by in enumerate(PEOPLE):
                order = tuple(range(len(shown)))[:: 1 if n % 2 else -1]
                event = f"e{len(said)}"
                at = f"2026-11-29T12:{len(said) // 60:02d}:{len(said) % 60:02d}Z"
                said.append(Judgement(event, task.task_id, by.annotator_id, "work", _said(kind, n, len(said)), order, task.protocol, at))
    return Imported(tuple(tasks), tuple(said), PEOPLE)


def _said(kind: str, n: int, m: int) -> Answer:
    if kind == "pairwise":
        return Choice(("first", "second", "tie", "both_bad")[(n + m // 4) % 4])  # type: ignore[arg-type]
    if kind == "rating":
        return Scores((m // 4) % 2, {"accuracy": float(n + 1)})
    return Ranks(((2,), (0, 1))) if kind == "ranking" else Spans((Span(0, 0, 3, "object"),))


def _turns(messages: tuple[Message, ...]) -> tuple[Any, ...]:
    def part(x: Any) -> Any:
        return x.text if isinstance(x, TextPart) else ("picture", Path(x.source).name)

    return tuple((m.role, m.content if isinstance(m.content, str) else tuple(map(part, m.content))) for m in messages)


def meaning(found: Imported) -> Counter[Any]:
    """Who said what of which answers to which question, by what these say."""
    tasks, told = {t.task_id: t for t in found.tasks}, Counter[Any]()
    for j in found.judgements:
        task = tasks[j.task_id]
        answers = [_turns(c.messages) for c in task.candidates]
        match j.answer:
            case Choice(chosen=chosen):
                said = (frozenset(answers), answers[("first", "second").index(chosen)] if chosen in ("first", "second") else chosen)
            case Ranks(buckets=buckets):
                said = tuple(frozenset(answers[k] for k in b) for b in buckets)
            case Scores(candidate=k, scores=scores):
                said = (answers[k], tuple(scores.items()))
            case Spans(spans=spans):
                said = tuple((answers[s.candidate], s.start, s.end, s.kind) for s in spans)
            case _:
                raise AssertionError(j.answer)
        told[files.foreign(j.by), _turns(task.prompt.messages or (Message("user", task.prompt.text or ""),)), said] += 1
    return told


@pytest.mark.parametrize("form", ["texts", "pictures", "turns"])
@pytest.mark.parametrize("kind", list(COUNTS))
@pytest.mark.parametrize("name", [n for n in table.FORMATS if n != "distilabel"])
def test_what_is_written_means_the_same_when_it_is_read(tmp_path: Path, name: str, kind: str, form: str) -> None:
    found = records(tmp_path, kind, form, several=True)
    path = tmp_path / FILES.get(name, "o.csv")
    left = table.write(name, found, path)
    lost = {x.record_id for x in left}
    kept = tuple(j for j in found.judgements if j.event_id not in lost)
    if not kept:
        return  # the format has no place for the kind, and says so of every judgement
    back = table.read(name, path)
    assert back.left_out == ()
    assert meaning(back) == meaning(replace(found, judgements=kept))


@pytest.mark.parametrize("name", ["crowd_csv", "mturk", "label_studio", "argilla"])
def test_items_that_share_a_source_id_have_ids_of_their_own(tmp_path: Path, name: str) -> None:
    """Other tools group votes by this id: two pairs of answers to one prompt are two items there."""
    found = records(tmp_path, "pairwise", "texts", several=False)
    assert len({t.source_id for t in found.tasks}) == len(found.tasks) // 2
    table.write(name, found, tmp_path / "o.json" if name in ("label_studio", "argilla") else (tmp_path / "o.csv"))
    back = table.read(name, tmp_path / ("o.json" if name in ("label_studio", "argilla") else "o.csv"))
    assert len({t.source_id for t in back.tasks}) == len(back.tasks) == len(found.tasks)
    assert {t.source_id.partition("#")[0] for t in back.tasks} == {t.source_id for t in found.tasks}
    turned = replace(found, tasks=found.tasks[::-1])
    ids = [{t.task_id: t.source_id for t in files.told_apart(x).tasks} for x in (found, turned)]
    assert ids[0] == ids[1], "whatever stands first"
    fewer = replace(found, tasks=found.tasks[:3])  # the third is alone with its id
    assert [t.source_id for t in files.told_apart(fewer).tasks][2] == found.tasks[2].source_id, "nobody else's id stays what it is"
    more = replace(found, tasks=tuple(replace(t, source_id="") for t in found.tasks))
    assert len({t.source_id for t in files.told_apart(more).tasks} - {""}) == len(found.tasks)


def test_argilla_has_one_suggestion_a_question(tmp_path: Path) -> None:
    found = records(tmp_path, "pairwise", "texts", several=False)
    left = table.write("argilla", found, tmp_path / "o.json")
    assert {j.event_id for j in found.judgements if j.by == "j2"} == {x.record_id for x in left}


TAKEN = (
    *("label", "winner", "worker", "task", "time", "reason", "score.tone", "active_ms", "annotator1", "Label", "PROLIFIC_PID", "id"),
    *("prompt", "image", "left", "answer1", "response", "responses", "models", "model_a", "items", "instruction", "generations"),
    *("ratings", "model_name", "HITId", "HITTypeId", "WorkerId", "SubmitTime", "question_id", "conversation_a", "evaluation_order"),
    *("topic", "meta.topic", "meta.label", "meta.prompt", "meta.meta.id", "instance_id", "data", "annotations"),
)


@pytest.mark.parametrize("name", table.FORMATS)
def test_what_stands_beside_takes_no_columns_place(tmp_path: Path, name: str) -> None:
    """Whatever the columns of somebody's file were called: written and read they are the same, and so is what was judged."""
    found = records(tmp_path, "rating" if name == "distilabel" else "pairwise", "texts", several=False)
    beside = {key: f"said of {key}" for key in TAKEN}
    if name == "distilabel":  # which holds judges' ratings alone
        said = [replace(j, answer=Scores(0, {"rating": 2.0})) for j in found.judgements]
        found = replace(found, judgements=tuple(said), annotators=tuple(replace(a, kind="judge") for a in PEOPLE))
    of_votes = name in ("crowd_csv", "prolific")
    found = replace(
        found,
        tasks=tuple(replace(t, meta={} if of_votes else beside) for t in found.tasks),
        judgements=tuple(replace(j, meta=beside if of_votes else {}) for j in found.judgements),
    )
    path = tmp_path / FILES.get(name, "o.csv")
    lost = {x.record_id for x in table.write(name, found, path)}
    back = table.read(name, path)
    assert back.left_out == ()
    kept = tuple(j for j in found.judgements if j.event_id not in lost)
    assert meaning(back) == meaning(replace(found, judgements=kept))
    metas = [j.meta for j in back.judgements] if of_votes else [t.meta for t in back.tasks]
    assert metas
    assert all({k: v for k, v in m.items() if k in beside or k.startswith("meta.")} == beside for m in metas)


@pytest.mark.parametrize("texts", [("tie", "both bad"), ("right", "left"), ("B", "A"), ("2", "1"), ("answer2", "answer1"), ("same", "Tie")])
@pytest.mark.parametrize("name", [n for n in table.FORMATS if n != "distilabel"])
def test_answers_that_say_a_word_of_choice(tmp_path: Path, name: str, texts: tuple[str, str]) -> None:
    """``tie`` as an answer's text catches no label, whichever way the sides stand."""
    found = records(tmp_path, "pairwise", "texts", several=False)
    said = {t.task_id: texts if n % 2 else texts[::-1] for n, t in enumerate(found.tasks)}
    tasks = [replace(t, candidates=tuple(replace(c, text=x) for c, x in zip(t.candidates, said[t.task_id]))) for t in found.tasks]
    found = replace(found, tasks=tuple(tasks))
    path = tmp_path / FILES.get(name, "o.csv")
    lost = {x.record_id for x in table.write(name, found, path)}
    back = table.read(name, path)
    assert back.left_out == ()
    assert meaning(back) == meaning(replace(found, judgements=tuple(j for j in found.judgements if j.event_id not in lost)))


def test_a_label_that_may_be_a_word_or_a_text_is_left_out_by_name(tmp_path: Path) -> None:
    rows = ["q1,ann,2,1,2", "q2,ann,2,3,3", "q3,ann,tie,no,tie", "q4,ann,yes,no,yes", "q5,ann,1,2,1"]
    (tmp_path / "v.csv").write_text("\n".join(["task,worker,left,right,label", *rows]) + "\n")
    found = table.read("crowd_csv", tmp_path / "v.csv")
    asked = {t.task_id: t for t in found.tasks}
    chosen: dict[str, str] = {}
    for j in found.judgements:
        assert isinstance(j.answer, Choice)
        task, word = asked[j.task_id], j.answer.chosen
        chosen[task.source_id] = task.candidates[("first", "second").index(word)].text if word in ("first", "second") else word
    assert chosen == {"q2": "3", "q3": "tie", "q4": "yes", "q5": "1"}
    (left,) = found.left_out
    assert (left.record_id, "'2' is the text" in left.reason) == ("q1", True)


@pytest.mark.parametrize(
    ("word", "better"),
    [("left", 0), ("right", 1), ("A", 0), ("b", 1), ("1", 0), ("2", 1), ("model_b", 1), ("answer 1", 0), ("B>A", 1), ("A,B", 0)],
)
@pytest.mark.parametrize("column", ["worker,label", "annotator1", "worker,score.left,score.right"])
def test_a_word_speaks_of_the_answers_as_they_stood(tmp_path: Path, column: str, word: str, better: int) -> None:
    """Rows of tables name answers by side, the store by content: whichever way a row stands, its own winner wins."""
    if column == "annotator1" and word in ("B>A", "A,B"):
        return  # ranks have a column of their own
    texts = [(f"one {i}", f"two {i}") for i in range(12)]
    said = {"worker,label": f"ann,{word!r}".replace("'", '"'), "annotator1": word}.get(column, f"ann,{1 - better},{better}")
    rows = [f"q{i},{left},{right},{said}" for i, (left, right) in enumerate(texts)]
    (tmp_path / "v.csv").write_text("\n".join([f"task,left,right,{column}", *rows]) + "\n")
    found = table.read("crowd_csv", tmp_path / "v.csv")
    assert found.left_out == ()
    asked, best = {t.task_id: t for t in found.tasks}, dict[str, tuple[float, str]]()
    for j in found.judgements:
        task, answer = asked[j.task_id], j.answer
        if isinstance(answer, Choice):
            score, text = 1.0, task.candidates[("first", "second").index(answer.chosen)].text
        elif isinstance(answer, Ranks):
            score, text = 1.0, task.candidates[answer.buckets[0][0]].text
        else:
            assert isinstance(answer, Scores)
            score, text = next(iter(answer.scores.values())), task.candidates[answer.candidate].text
        name = task.source_id.partition("/")[0]
        best[name] = max(best.get(name, (-1.0, "")), (score, text))
    assert {name: text for name, (_, text) in best.items()} == {f"q{i}": pair[better] for i, pair in enumerate(texts)}
