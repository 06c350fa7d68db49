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
    path = tmp_path / {"potato": "project", "label_studio": "o.json", "argilla": "o.json", "keel": "o.jsonl", "lmarena": "o.jsonl"}.get(
        name, "o.csv"
    )
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
    assert {t.source_id for t in found.tasks} < {t.source_id for t in back.tasks}, "the first keeps its own"
    more = replace(found, tasks=tuple(replace(t, source_id="") for t in found.tasks))
    assert len({t.source_id for t in files.told_apart(more).tasks} - {""}) == len(found.tasks)


def test_argilla_has_one_suggestion_a_question(tmp_path: Path) -> None:
    found = records(tmp_path, "pairwise", "texts", several=False)
    left = table.write("argilla", found, tmp_path / "o.json")
    assert {j.event_id for j in found.judgements if j.by == "j2"} == {x.record_id for x in left}
