"""Rows of tasks, judgements and annotators: back exactly, and every mistake named by its field."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.feedback.answers import answer_from, answer_row, check_answer, disagreement, from_display, likeness
from keel.feedback.rows import (
    annotator_from,
    annotator_row,
    check_judgement,
    judgement_from,
    judgement_row,
    named,
    task_from,
    task_row,
    utc,
)
from keel.feedback.texts import RowError, by_bytes
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

KINDS = ("pairwise", "ranking", "rating", "spans")
WORDS = ("六十天。", 'a "quoted" word', "\n\u2028", "", "é", "👍🏽", "plain")


def words(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 4)))


def value(draw: random.Random, depth: int = 0) -> Any:
    simple = [None, True, draw.random(), draw.randint(-9, 9), words(draw)]
    if depth < 2 and draw.random() < 0.3:
        return [value(draw, depth + 1)] if draw.random() < 0.5 else {words(draw): value(draw, depth + 1)}
    return draw.choice(simple)


def message(draw: random.Random) -> Message:
    content: Any = words(draw)
    if draw.random() < 0.3:
        content = tuple(draw.choice([TextPart(words(draw)), ImagePart("cat.png")]) for _ in range(draw.randint(1, 3)))
    extra = {"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]} if draw.random() < 0.3 else {}
    return Message(draw.choice(["user", "assistant", "tool"]), content, extra, draw.random() < 0.8)


def answer(draw: random.Random, kind: str, texts: list[str]) -> Answer:
    if draw.random() < 0.1:
        return Choice("cannot", None)
    if kind == "pairwise":
        return Choice(draw.choice(["first", "second", "tie", "both_bad"]), draw.choice([None, 0.0, 1, draw.random()]))  # type: ignore[arg-type]
    if kind == "ranking":
        places = draw.sample(range(len(texts)), len(texts))
        cuts = sorted(draw.sample(range(1, len(texts)), draw.randint(0, len(texts) - 1)))
        return Ranks(tuple(tuple(places[a:b]) for a, b in itertools.pairwise([0, *cuts, len(texts)])))
    if kind == "rating":
        return Scores(draw.randrange(len(texts)), {"accuracy": draw.random(), "style": draw.randint(1, 5)})
    full = [i for i, text in enumerate(texts) if text]
    spans = []
    for i in draw.choices(full, k=draw.randint(0, 3)) if full else []:
        start = draw.randrange(len(texts[i]))
        spans.append(Span(i, start, draw.randint(start + 1, len(texts[i])), "object", words(draw)))
    return Spans(tuple(spans))


def task(draw: random.Random) -> Task:
    kind = draw.choice(KINDS)
    count = 2 if kind == "pairwise" else draw.randint(2 if kind == "ranking" else 1, 4)
    chat = draw.random() < 0.7
    prompt = Prompt(
        f"p{draw.random()}",
        tuple(message(draw) for _ in range(draw.randint(0, 3))) if chat else (),
        None if chat else words(draw),
        ({"type": "function"},) if draw.random() < 0.3 else (),
        words(draw),
        {"m": value(draw)},
        "" if chat else draw.choice(["", "\n"]),
    )
    candidates = tuple(
        Candidate(f"c{i}", words(draw), {"t": value(draw)}, (message(draw),) if draw.random() < 0.3 else ()) for i in range(count)
    )
    expected = answer(draw, kind, [c.text for c in candidates]) if draw.random() < 0.5 else None
    named_here = draw.choice(["", "t1"])
    made = Task(named_here, prompt, candidates, kind, "v1", "g1", "c", expected, "f.jsonl:3", {"m": value(draw)})  # type: ignore[arg-type]
    return made if made.task_id else named(made)


def judgement(draw: random.Random, of: Task) -> Judgement:
    return Judgement(
        event_id=f"e{draw.random()}",
        task_id=of.task_id,
        by="ann",
        purpose=draw.choice(["work", "gold", "repeat", "training", "audit", "adjudication"]),  # type: ignore[arg-type]
        answer=answer(draw, of.kind, [c.text for c in of.candidates]),
        display_order=tuple(draw.sample(range(len(of.candidates)), len(of.candidates))),
        protocol=of.protocol,
        at=utc(draw.random() * 2e9),
        repeat=draw.randint(0, 2),
        active_ms=draw.choice([None, 0, 1234]),
        reason=words(draw),
        guideline=draw.choice(["", "g1"]),
        replaces=draw.choice(["", "e"]),
        late=draw.random() < 0.5,
        source_id=words(draw),
        meta={"m": value(draw)},
    )


@pytest.mark.parametrize("seed", range(300))
def test_random_records_come_back_exactly(seed: int) -> None:
    draw = random.Random(seed)
    of = task(draw)
    said = judgement(draw, of)
    check_judgement(said, of)
    assert task_from(json.loads(json.dumps(task_row(of)))) == of
    assert judgement_from(json.loads(json.dumps(judgement_row(said)))) == said
    who = Annotator(f"a{seed}", draw.choice(["person", "judge", "reward_model", "simulated"]), words(draw), {"m": value(draw)})  # type: ignore[arg-type]
    assert annotator_from(json.loads(json.dumps(annotator_row(who)))) == who


@pytest.mark.parametrize("seed", range(100))
def test_places_on_the_screen_and_back(seed: int) -> None:
    """Shown at place i stands candidate order[i]: an answer about what is on the screen says the same of the same texts."""
    draw = random.Random(seed)
    of = task(draw)
    order = draw.sample(range(len(of.candidates)), len(of.candidates))
    shown = [of.candidates[i].text for i in order]
    said = answer(draw, of.kind, shown)
    meant = from_display(said, order)
    check_answer(meant, of.kind, [c.text for c in of.candidates])
    inverse = [order.index(i) for i in range(len(order))]
    assert from_display(meant, inverse) == said
    texts = [c.text for c in of.candidates]
    if isinstance(said, Ranks) and isinstance(meant, Ranks):
        assert [[shown[i] for i in b] for b in said.buckets] == [[texts[i] for i in b] for b in meant.buckets]
    if isinstance(said, Spans) and isinstance(meant, Spans):
        assert [shown[s.candidate][s.start : s.end] for s in said.spans] == [texts[s.candidate][s.start : s.end] for s in meant.spans]


def test_a_swapped_choice_by_hand() -> None:
    assert from_display(Choice("first", 0.5), (1, 0)) == Choice("second", 0.5)
    assert from_display(Choice("first", 0.5), (0, 1)) == Choice("first", 0.5)
    assert from_display(Choice("both_bad"), (1, 0)) == Choice("both_bad")
    assert from_display(Ranks(((0,), (1, 2))), (2, 0, 1)) == Ranks(((2,), (0, 1)))
    assert from_display(Scores(0, {"a": 1.0}), (2, 0, 1)) == Scores(2, {"a": 1.0})


PAIR = Task("t", Prompt("p", (Message("user", "?"),)), (Candidate("a", "one"), Candidate("b", "two")), "pairwise", "v1")
SAID = Judgement("e", "t", "ann", "work", Choice("first"), (0, 1), "v1", "2026-11-29T12:00:00Z")


def broken(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in (base | changes).items() if v is not ...}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schema": 2}, "schema"),
        ({"colour": 1}, "colour"),
        ({"kind": "poem"}, "kind"),
        ({"kind": ...}, "kind"),
        ({"protocol": ""}, "protocol"),
        ({"prompt": {}}, "prompt.prompt"),
        ({"prompt": {"prompt": [{"role": "user"}], "prompt_id": "", "prompt_source_id": "", "meta": {}}}, "prompt.prompt.0.content"),
        ({"candidates": []}, "candidates"),
        ({"candidates": [{"candidate_id": "a", "text": "x"}] * 2}, "candidates"),
        ({"candidates": [{"candidate_id": "a", "text": "x"}, {"candidate_id": "b"}]}, "candidates.1.text"),
        ({"expected": {"type": "ranks", "buckets": [[0], [1]]}}, "expected"),
        ({"meta": 3}, "meta"),
    ],
)
def test_a_bad_task_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RowError) as error:
        task_from(broken(task_row(PAIR), changes))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"by": ...}, "by"),
        ({"purpose": "fun"}, "purpose"),
        ({"at": "yesterday"}, "at"),
        ({"at": "2026-11-29T12:00:00+01:00"}, "at"),
        ({"repeat": -1}, "repeat"),
        ({"repeat": True}, "repeat"),
        ({"active_ms": 1.5}, "active_ms"),
        ({"active_ms": -1}, "active_ms"),
        ({"replaces": "e"}, "replaces"),
        ({"answer": {"type": "poem"}}, "answer.type"),
        ({"answer": {"type": "choice", "chosen": "first", "strenght": 1}}, "answer.strenght"),
        ({"answer": {"type": "choice", "chosen": "first", "strength": "much"}}, "answer.strength"),
        ({"answer": {"type": "ranks", "buckets": [["a"]]}}, "answer.buckets.0"),
        ({"answer": {"type": "spans", "spans": [{"candidate": 0, "start": 0, "kind": "x"}]}}, "answer.spans.0.end"),
        ({"display_order": ["a"]}, "display_order"),
    ],
)
def test_a_bad_judgement_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RowError) as error:
        judgement_from(broken(judgement_row(SAID), changes))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task_id": "u"}, "task_id"),
        ({"protocol": "v2"}, "protocol"),
        ({"display_order": (0, 0)}, "display_order"),
        ({"display_order": (0,)}, "display_order"),
        ({"answer": Choice("left")}, "answer.chosen"),
        ({"answer": Choice("first", 1.5)}, "answer.strength"),
        ({"answer": Choice("cannot", -0.1)}, "answer.strength"),
        ({"answer": Ranks(((0,), (1,)))}, "answer"),
    ],
)
def test_a_judgement_must_fit_its_task(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RowError) as error:
        check_judgement(replace(SAID, **changes), PAIR)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("answer", "kind", "field"),
    [
        (Ranks(((0, 1),)), "ranking", "answer.buckets"),
        (Ranks(((0,), (), (1, 2))), "ranking", "answer.buckets"),
        (Ranks(((0,), (1, 1, 2))), "ranking", "answer.buckets"),
        (Scores(3, {"a": 1.0}), "rating", "answer.candidate"),
        (Scores(0, {}), "rating", "answer.scores"),
        (Scores(0, {"a": float("nan")}), "rating", "answer.scores.a"),
        (Scores(0, {"a": True}), "rating", "answer.scores.a"),
        (Spans((Span(0, 0, 4, "x"),)), "spans", "answer.spans.0"),
        (Spans((Span(0, 2, 2, "x"),)), "spans", "answer.spans.0"),
        (Spans((Span(0, -1, 2, "x"),)), "spans", "answer.spans.0"),
        (Spans((Span(0, 0, 2, ""),)), "spans", "answer.spans.0.kind"),
        (Spans((Span(-1, 0, 2, "x"),)), "spans", "answer.spans.0.candidate"),
    ],
)
def test_an_answer_must_be_possible(answer: Answer, kind: Any, field: str) -> None:
    with pytest.raises(RowError) as error:
        check_answer(answer, kind, ["one", "two", "six"])
    assert error.value.field == field
    check_answer(Choice("cannot"), kind, ["one"])


def test_spans_count_characters() -> None:
    check_answer(Spans((Span(0, 0, 1, "x"),)), "spans", ["👍"])
    with pytest.raises(RowError):
        check_answer(Spans((Span(0, 0, 2, "x"),)), "spans", ["👍"])


def test_likeness_by_hand() -> None:
    assert likeness(Choice("tie", 0.1), Choice("tie")) == 1.0
    assert likeness(Choice("tie"), Choice("both_bad")) == 0.0
    assert likeness(Choice("cannot"), Ranks(((0,), (1,)))) == 0.0
    # pairs 01, 02, 12: 0<1, 0<2, 1=2 against 0<1, 0<2, 1<2: two of three
    assert likeness(Ranks(((0,), (1, 2))), Ranks(((0,), (1,), (2,)))) == pytest.approx(2 / 3)
    assert likeness(Scores(0, {"a": 1.0, "b": 5.0}), Scores(0, {"a": 2.0, "b": 3.0}), 4.0) == pytest.approx(0.5)
    assert likeness(Scores(0, {"a": 1.0}), Scores(1, {"a": 1.0})) == 0.0
    # 4 characters, 4 characters, 2 in common
    assert likeness(Spans((Span(0, 0, 4, "x"),)), Spans((Span(0, 2, 6, "x"),))) == pytest.approx(0.5)
    assert likeness(Spans((Span(0, 0, 4, "x"),)), Spans((Span(0, 0, 4, "y"),))) == 0.0
    assert likeness(Spans(()), Spans(())) == 1.0
    assert disagreement([Choice("first"), Choice("first"), Choice("second")]) == pytest.approx(2 / 3)
    assert disagreement([Choice("first")]) == 0.0


def test_images_count_by_their_bytes(tmp_path: Path) -> None:
    def asked(folder: str, raw: bytes) -> str:
        file = tmp_path / folder / "picture.png"
        file.parent.mkdir()
        file.write_bytes(raw)
        turn = Message("user", (TextPart("What is this?"), ImagePart(str(file))))
        answers = (replace(PAIR.candidates[0], turns=(replace(turn, role="assistant"),)), PAIR.candidates[1])
        return named(replace(PAIR, task_id="", prompt=replace(PAIR.prompt, messages=(turn,), text=None), candidates=answers)).task_id

    assert asked("here", b"red") == asked("there", b"red") != asked("beside", b"blue")
    gone = Message("user", (ImagePart("gone.png"),))
    assert by_bytes(gone) == gone


def test_ids_follow_from_content_alone() -> None:
    bare = replace(PAIR, task_id="")
    assert named(bare).task_id == named(replace(bare, source_id="elsewhere")).task_id
    others = [replace(bare, protocol="v2"), replace(bare, campaign="x"), replace(bare, candidates=bare.candidates[::-1])]
    assert len({named(t).task_id for t in [bare, *others]}) == 4
    moved = replace(
        bare,
        prompt=replace(bare.prompt, source_id="/elsewhere/f.jsonl:7"),
        candidates=tuple(replace(c, origin={"model": "/elsewhere/final"}) for c in bare.candidates),
    )
    assert named(moved).task_id == named(bare).task_id, "the same file at another place asks the same"
    assert answer_from(answer_row(Choice("first"))) == Choice("first")
    assert utc(0.25) == "1970-01-01T00:00:00.250Z"
