"""Columns that no layout reads and that look as if they should be: a question's context, its history, its choices, a thought beside the
answer; and what somebody thought of an answer that is imitated all the same. They are kept with the prompt (rewards may read them); nobody
should have to find out that the training did not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from keel.data.identity import Item, prompt_of
from keel.data.thoughts import is_thought
from keel.types import Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, Steps, Unpaired

_SPEAKS = re.compile(
    r"\A(?:(?:in)?context|history|passage|document|article|evidence|knowledge|background|paragraph|premise|hypothesis|persona|"
    r"few_?shot\w*|examples?|demonstrations?|inputs?|quer(?:y|ie)|question|instruction|dialog(?:ue)?|conversation|turn|message|choice|option|"
    r"table|schema_text|code_context|上下文|背景|历史)s?\Z",
    re.IGNORECASE,
)

_JUDGES = re.compile(
    r"\A(?:thumbs?(?:_?(?:up|down))?|(?:user_|human_)?(?:ratings?|scores?|stars|feedback|votes?|labels?|grades?)|upvotes?|downvotes?|"
    r"liked?|disliked?|is_?(?:good|bad|correct|chosen|accepted)|accepted|helpful|correct|desirable|评分|打分|得分|点赞|好评|是否有用|反馈)\Z",
    re.IGNORECASE,
)
_WORDS = ("up", "down", "good", "bad", "yes", "no", "true", "false", "like", "dislike", "positive", "negative", "accepted", "rejected")
_WORDS_ZH = ("好", "差", "坏", "是", "否")


def judged_columns(records: Iterable[Item]) -> dict[str, Counter[str]]:
    """Columns beside demonstrations that look like judgements of their answers, with how often each value stands there (the eight most
    frequent). One value alone says nothing: such a column is left out."""
    found: dict[str, Counter[str]] = {}
    for record in records:
        if isinstance(record, Demonstration):
            for name, value in prompt_of(record).meta.items():
                if _JUDGES.match(name) and (isinstance(value, int | float) or str(value).strip().lower() in (*_WORDS, *_WORDS_ZH)):
                    found.setdefault(name, Counter())[str(value)] += 1
    return {name: Counter(dict(values.most_common(8))) for name, values in found.items() if len(values) > 1}


def unheard(columns: dict[str, Counter[str]], layout: str) -> str:
    """The judgements in words, with what to do; "" without any."""
    if not columns:
        return ""
    name = next(iter(columns))
    counts = "; ".join(f"{n!r} ({', '.join(f'{v}: {count}' for v, count in values.items())})" for n, values in columns.items())
    return (
        f"columns that look like judgements of the answers, and that layout {layout!r} does not read: {counts}; every answer is imitated,"
        f" the poor ones too: say what they are (data.keys={{label: {name}}} or rating), or set the column aside with"
        f" data.keys={{unused: {name}}}"
    )


def unread_columns(records: Iterable[Item]) -> Counter[str]:
    """How many records have something in each such column that neither their prompt nor their answers say; a thought counts beside a
    demonstration only, whose answer it may belong to."""
    found: Counter[str] = Counter()
    for record in records:
        prompt = prompt_of(record)
        imitated = isinstance(record, Demonstration)
        names = [name for name in prompt.meta if _SPEAKS.match(name) or (imitated and is_thought(name))]
        if not names:
            continue
        said = _loose("\n".join([prompt.text or "", *_said(prompt.messages), *_answers(record)]))
        found.update(name for name in names if any(_loose(text) not in said for text in _texts(prompt.meta[name])))
    return found


def told(columns: Counter[str], layout: str) -> str:
    """The columns in words, with what to do; "" without any."""
    if not columns:
        return ""
    name = max(columns, key=lambda n: columns[n])
    under = (
        f"data.keys={{input: {name}}} puts {name!r} under the instruction" if layout.startswith("alpaca") else "put them into the prompt"
    )
    counts = ", ".join(f"{n!r} ({count} rows)" for n, count in columns.items())
    return (
        f"columns that look as if the model should read them, and that layout {layout!r} does not show it: {counts}; they are kept for"
        f" rewards alone: {under}, or set one aside with data.keys={{unused: {name}}}"
    )


def _answers(record: Item) -> Iterator[str]:
    match record:
        case Pair():
            yield from _said((*record.chosen, *record.rejected))
        case Comparison():
            yield from (c.text for c in record.candidates)
        case Ranking():
            yield from _said([m for answer in record.answers for m in answer])
        case Rating() | Unpaired():
            yield from _said(record.answer)
        case Demonstration():
            yield from _said(record.completion)
        case Steps():
            yield from record.steps
        case Prompt():
            return


def _said(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        yield message.text
        yield from _texts(dict(message.extra))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "from", "type", "id"):
                yield from _texts(inner)


def _loose(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()
