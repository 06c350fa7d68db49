"""Battles of LMArena (Chatbot Arena) and MT-bench's human judgements.

Read for this: the data cards of lmsys/mt_bench_human_judgments and lmarena-ai/arena-human-preference-100k and -55k (columns and types),
programs that read chatbot_arena_conversations and arena-human-preference-140k. Columns: ``question_id | id, model_a, model_b, winner
(model_a | model_b | tie | tie (bothbad) | both_bad), judge, conversation_a, conversation_b, turn, anony, tstamp | timestamp,
evaluation_session_id, evaluation_order``; conversations are lists of ``{role, content}`` or the same as JSON text, content is text or
blocks. The 55k table has ``prompt, response_a, response_b`` (JSON lists of turns) and ``winner_model_a, winner_model_b, winner_tie``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.fields import prompt_key
from keel.data.left_out import LeftOut
from keel.data.rows import RawRow
from keel.data.sources import read_plain
from keel.data.turns import as_messages
from keel.feedback.exchange import files
from keel.feedback.exchange.beside import columns_of, meta_of
from keel.feedback.exchange.gather import Gather, Vote, short
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.items import make_answer
from keel.feedback.exchange.said import number_of, utc
from keel.feedback.questions import shared_turns
from keel.types.judgements import Choice, Chosen, Judgement, Task
from keel.types.records import Candidate, Message, Prompt

NAME = "lmarena"
_WINNERS: dict[str, Chosen] = {
    "model_a": "first",
    "model_b": "second",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "both_bad": "both_bad",
    "bothbad": "both_bad",
}
_USED = (
    *("question_id", "id", "model_a", "model_b", "winner", "judge", "judge_hash", "conversation_a", "conversation_b", "turn", "anony"),
    *("tstamp", "timestamp", "prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    *("full_conversation", "evaluation_session_id", "evaluation_order"),
)
_is_taken = frozenset(_USED).difference(["turn"]).__contains__  # which turn was judged is kept beside the task


def fits(values: Mapping[str, Any]) -> bool:
    return all(k in values for k in ("model_a", "model_b")) and ("winner" in values or "winner_model_a" in values)


def read(path: Path, content: bytes | None = None) -> Imported:
    """Each battle is a vote on two answers; the models stand in their origins. A battle of several turns compares whole conversations,
    MT-bench's first turn only what was judged. Who voted is ``judge``, ``judge_hash`` or the evaluation's session; where none is told,
    every vote has an annotator of its own. ``judge`` values that name a model (``gpt4_pair``) are judges."""
    gather = Gather(NAME, str(path))
    return gather.read(read_plain(path, content), _name, lambda row: _battle(row, gather, _name(row)))


def _name(row: RawRow) -> str:
    name = row.values.get("question_id", row.values.get("id"))
    return str(name) if name is not None else short(row.file, row.line)


def _battle(row: RawRow, gather: Gather, source_id: str) -> None:
    values = row.values
    chosen = _winner(values)
    turns = [_turns(values, side) for side in ("a", "b")]
    judged = number_of(values.get("turn"))
    if judged is not None and judged >= 1 and _dialogue(turns[0]) and _dialogue(turns[1]):
        turns = [t[: 2 * int(judged)] for t in turns]  # MT-bench's first turn: the second was not judged
    shared = shared_turns(*turns)
    if not shared:
        raise FieldError("conversation_b", "the two conversations do not begin with the same question")
    asked = turns[0][:shared]
    text = asked[0].content if len(asked) == 1 and asked[0] == Message("user", asked[0].text) else None
    prompt = Prompt(
        prompt_key(asked, None), () if isinstance(text, str) else asked, text if isinstance(text, str) else None, source_id=source_id
    )
    candidates: list[Candidate] = []
    for side, rest in zip(("a", "b"), (t[shared:] for t in turns)):
        if not rest or rest[0].role != "assistant":
            raise FieldError(f"conversation_{side}", "has no answer after the question")
        origin = {"model": str(values[f"model_{side}"])} if values.get(f"model_{side}") else {}
        candidates.append(make_answer(prompt.prompt_id, [files.turn(m) for m in rest], origin, candidates, f"conversation_{side}"))
    meta = meta_of({k: v for k, v in values.items() if k not in _USED and v is not None}, _is_taken)
    if judged is not None:
        meta["turn"] = int(judged)
    task = gather.task(source_id, prompt, candidates, "pairwise", "", meta)
    order = values.get("evaluation_order")
    told = {} if order is None else {"evaluation_order": order}
    if values.get("anony") is False or values.get("anony") == "False":
        told["blind"] = False
    at = utc("tstamp", values.get("tstamp", values.get("timestamp")))
    gather.vote(Vote(task.task_id, _by(values, gather, source_id), Choice(chosen), at, place=row.place, meta=told))


def _winner(values: Mapping[str, Any]) -> Chosen:
    if "winner" in values:
        found = _WINNERS.get(str(values["winner"]).strip().lower())
        if found is None:
            raise FieldError("winner", f"must be one of {', '.join(_WINNERS)}, is {str(values['winner'])[:40]!r}")
        return found
    flags = {c: number_of(values.get(k)) for k, c in (("winner_model_a", "first"), ("winner_model_b", "second"), ("winner_tie", "tie"))}
    won = [c for c, flag in flags.items() if flag == 1]
    if len(won) != 1:
        raise FieldError("winner_model_a", "exactly one of winner_model_a, winner_model_b and winner_tie must be 1")
    return won[0]  # type: ignore[return-value]


def _turns(values: Mapping[str, Any], side: str) -> tuple[Message, ...]:
    name = f"conversation_{side}"
    if values.get(name) is not None:
        return as_messages(name, _json(name, values[name]))
    asked, answers = (_json(k, values.get(k)) for k in ("prompt", f"response_{side}"))
    asked, answers = ([x] if isinstance(x, str) else x for x in (asked, answers))
    if not isinstance(asked, list) or not isinstance(answers, list) or len(asked) != len(answers) or not asked:
        raise FieldError(f"response_{side}", "needs as many answers as the prompt has turns")
    if not all(isinstance(x, str) for x in (*asked, *answers)):
        raise FieldError(f"response_{side}", "an answer is missing")
    return tuple(m for q, a in zip(asked, answers) for m in (Message("user", q), Message("assistant", a)))


def _json(name: str, value: Any) -> Any:
    if isinstance(value, str) and value[:1] == "[":
        try:
            return json.loads(value)
        except ValueError as error:
            raise FieldError(name, f"broken JSON: {error}") from None
    return value


def _dialogue(turns: tuple[Message, ...]) -> bool:
    return all(m.role == ("user", "assistant")[i % 2] for i, m in enumerate(turns))


def _by(values: Mapping[str, Any], gather: Gather, source_id: str) -> str:
    judge = values.get("judge")
    if isinstance(judge, list):
        judge = "/".join(map(str, judge))
    if judge and str(judge).lower().startswith(("gpt", "claude", "gemini", "llama")):
        return gather.annotator(judge, "judge", identity=str(judge))
    if judge or values.get("judge_hash"):
        return gather.annotator(judge or values.get("judge_hash"))
    session = values.get("evaluation_session_id")
    return gather.annotator(f"session {session}" if session else f"unknown {source_id}")


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """Rows of the older kind, one a vote. Left out: other kinds than two answers, ``cannot``, votes without the two models' names."""
    kept, left = files.unfit(imported, ("pairwise",), "a battle compares two answers", ("work",))
    rows: list[dict[str, Any]] = []
    for task, judgement in kept:
        if judgement is None:
            left.append(LeftOut(task.task_id, task.source_id, "winner: nobody has voted"))
        elif not isinstance(judgement.answer, Choice) or judgement.answer.chosen == "cannot":
            left.append(LeftOut(judgement.event_id, judgement.source_id, "winner: there is no word for `cannot` there"))
        elif not all(c.origin.get("model") for c in task.candidates):
            left.append(LeftOut(judgement.event_id, judgement.source_id, "model_a: an answer's model is not known"))
        else:
            rows.append(_row(task, judgement, judgement.answer))
    files.write_lines(path, rows)
    return tuple(left)


def _row(task: Task, judgement: Judgement, answer: Choice) -> dict[str, Any]:
    asked = [files.turn(m) for m in (task.prompt.messages or (Message("user", task.prompt.text or ""),))]
    whole = [[*asked, *(files.turn(m) for m in c.messages)] for c in task.candidates]
    row: dict[str, Any] = {"question_id": task.source_id, **{f"model_{s}": c.origin["model"] for s, c in zip("ab", task.candidates)}}
    words = {"first": "model_a", "second": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
    row |= {"winner": words[answer.chosen], "conversation_a": whole[0], "conversation_b": whole[1], **columns_of(task.meta, _is_taken)}
    by = files.foreign(judgement.by)
    if by.startswith("session "):
        row["evaluation_session_id"] = by.removeprefix("session ")
    elif not by.startswith("unknown "):
        row["judge"] = by
    row |= {"anony": False} if judgement.meta.get("blind") is False else {}
    row |= {"evaluation_order": judgement.meta["evaluation_order"]} if "evaluation_order" in judgement.meta else {}
    return row | ({"timestamp": at} if (at := files.at(judgement)) else {})
