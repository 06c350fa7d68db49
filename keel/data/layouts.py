"""The table of layouts: how rows look in the field, and which record each becomes.

A new layout is one entry: a name, the columns it needs, a converter, an example row. The example is documentation and a test at once.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from keel.core.errors import DataError
from keel.data import converters as to
from keel.data import own_rows
from keel.data.fields import Fields
from keel.data.guess import keys_for, written
from keel.data.layout import PAIR_EXTRAS, Layout, Values
from keel.data.vision_layouts import VISION


def _dialogue(values: Values) -> bool:
    return all(isinstance(values[k], str) and values[k].lstrip().startswith("Human:") for k in ("chosen", "rejected"))


def _flag(name: str) -> Callable[[Values], bool]:
    return lambda values: isinstance(values[name], bool) or values[name] in (0, 1, "true", "false", "True", "False")


def _ranked(values: Values) -> bool:
    found = values["completions"]
    return isinstance(found, list) and all(isinstance(c, dict) and "rank" in c for c in found)


def _ends_with(role: str) -> Callable[[Values], bool]:
    def check(values: Values) -> bool:
        found = values["messages"]
        last = found[-1] if isinstance(found, list) and found else None
        return isinstance(last, dict) and (last.get("role") == role)

    return check


def _answers_alone(values: Values) -> bool:
    """Are the answers no whole conversations that repeat the messages?"""
    found = values["chosen"]
    first = found[0] if isinstance(found, list) and found else None
    return _ends_with("user")(values) or not isinstance(first, dict) or first.get("role") == "assistant"


_USER, _GOOD, _POOR = ({"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"})
_FROM, _GPT, _GPT2 = ({"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}, {"from": "gpt", "value": "5"})

# The first that matches wins: layouts with more columns stand before those with fewer.
LAYOUTS: tuple[Layout, ...] = (
    *VISION,
    Layout(
        "comparison",
        ("prompt", "candidates", "outcome", "annotator_id"),
        ("strength", "protocol", "display_order", "source_id"),
        own_rows.comparison,
        {"prompt": "2 + 2?", "candidates": ["4", "5"], "outcome": "first", "annotator_id": "ann"},
    ),
    Layout(
        "hh_rlhf",
        ("chosen", "rejected"),
        PAIR_EXTRAS,
        to.hh_rlhf,
        {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"},
        _dialogue,
    ),
    Layout(
        "sharegpt_preference",
        ("conversations", "chosen", "rejected"),
        PAIR_EXTRAS,
        to.sharegpt_preference,
        {"conversations": [_FROM], "chosen": _GPT, "rejected": _GPT2},
    ),
    Layout(
        "sharegpt_unpaired",
        ("conversations", "kto_tag"),
        (),
        to.sharegpt_unpaired,
        {"conversations": [_FROM, _GPT], "kto_tag": True},
    ),
    Layout("sharegpt", ("conversations",), (), to.sharegpt, {"conversations": [_FROM, _GPT]}),
    Layout(
        "alpaca_preference",
        ("instruction", "chosen", "rejected"),
        ("input", "history", *PAIR_EXTRAS),
        to.alpaca_preference,
        {"instruction": "2 + 2?", "input": "", "chosen": "4", "rejected": "5"},
    ),
    Layout(
        "alpaca_unpaired",
        ("instruction", "output", "kto_tag"),
        ("input", "history"),
        to.alpaca_unpaired,
        {"instruction": "2 + 2?", "output": "5", "kto_tag": False},
    ),
    Layout(
        "alpaca",
        ("instruction", "output"),
        ("input", "history"),
        to.alpaca,
        {"instruction": "Add.", "input": "2, 2", "output": "4"},
    ),
    Layout("alpaca_prompt", ("instruction",), ("input", "history"), to.alpaca_prompt, {"instruction": "2 + 2?"}),
    Layout(
        "rewardbench2",
        ("prompt", "chosen", "rejected", "num_correct"),
        ("num_incorrect", "total_completions", "models", "additional_metadata"),
        to.rewardbench2,
        {"prompt": "2 + 2?", "chosen": ["4"], "rejected": ["5", "22"], "num_correct": 1, "num_incorrect": 2, "subset": "Math"},
        lambda values: isinstance(values["chosen"], list) and isinstance(values["rejected"], list),
    ),
    Layout(
        "preference", ("prompt", "chosen", "rejected"), PAIR_EXTRAS, to.preference, {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    ),
    Layout(
        "messages_preference",
        ("messages", "chosen", "rejected"),
        PAIR_EXTRAS,
        to.messages_preference,
        {"messages": [_USER], "chosen": "4", "rejected": "5"},
        _answers_alone,
    ),
    Layout(
        "preference_implicit",
        ("chosen", "rejected"),
        PAIR_EXTRAS,
        to.preference_implicit,
        {"chosen": [_USER, _GOOD], "rejected": [_USER, _POOR]},
    ),
    Layout(
        "swift_preference",
        ("messages", "rejected_response"),
        PAIR_EXTRAS,
        to.swift_preference,
        {"messages": [_USER, _GOOD], "rejected_response": "5"},
    ),
    Layout(
        "swift_unpaired",
        ("messages", "label"),
        (),
        to.swift_unpaired,
        {"messages": [_USER, _POOR], "label": False},
        _flag("label"),
    ),
    Layout("messages_prompt", ("messages",), (), to.messages_prompt, {"messages": [_USER]}, _ends_with("user")),
    Layout("messages", ("messages",), (), to.messages, {"messages": [_USER, _GOOD]}),
    Layout(
        "stepwise",
        ("prompt", "completions", "labels"),
        (),
        to.stepwise,
        {"prompt": "2 + 2 + 2?", "completions": ["2 + 2 = 4.", "4 + 2 = 7."], "labels": [True, False]},
    ),
    Layout(
        "nemo_ranking",
        ("context", "completions"),
        (),
        to.nemo_ranking,
        {"context": "2 + 2?", "completions": [{"rank": 0, "completion": "4"}, {"rank": 1, "completion": "5"}]},
        _ranked,
    ),
    Layout(
        "ranking", ("prompt", "answers", "ranks"), (), to.ranking, {"prompt": "2 + 2?", "answers": ["4", "5", "four"], "ranks": [1, 3, 2]}
    ),
    Layout(
        "verl",
        ("prompt", "reward_model"),
        (),
        to.verl,
        {
            "data_source": "sums",
            "prompt": [_USER],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": {},
        },
    ),
    Layout(
        "rating", ("prompt", "answer", "scores"), (), to.rating, {"prompt": "2 + 2?", "answer": "4", "scores": {"helpful": 6, "correct": 7}}
    ),
    Layout("rating_one", ("prompt", "answer", "rating"), (), to.rating_one, {"prompt": "2 + 2?", "answer": "5", "rating": 1}),
    Layout(
        "helpsteer",
        ("prompt", "response", "helpfulness"),
        to.HELPSTEER,
        to.helpsteer,
        {"prompt": "2 + 2?", "response": "4", "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 0},
    ),
    Layout(
        "unpaired",
        ("prompt", "completion", "label"),
        ("weight",),
        to.unpaired,
        {"prompt": "2 + 2?", "completion": "4", "label": True},
        _flag("label"),
    ),
    Layout(
        "logged",
        ("prompt", "completion", "reward"),
        (),
        to.logged,
        {"prompt": "2 + 2?", "completion": "4", "reward": 1.0},
    ),
    Layout("prompt_completion", ("prompt", "completion"), (), to.prompt_completion, {"prompt": "2 + 2?", "completion": "4"}),
    Layout("question_answer", ("question", "answer"), (), to.question_answer, {"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}),
    Layout("prompt", ("prompt",), (), to.prompt_only, {"prompt": "2 + 2?"}),
    Layout("text", ("text",), (), to.plain_text, {"text": "Two and two are four."}),
)
BY_NAME: Mapping[str, Layout] = {layout.name: layout for layout in LAYOUTS}


def named(name: str) -> Layout:
    """The layout of that name. Raises DataError with a suggestion."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, 1)
    raise DataError(
        f"data.layout={name}: no such layout" + (f"; did you mean {near[0]!r}?" if near else ""), f"known layouts: {', '.join(BY_NAME)}"
    )


def match(values: Values) -> Layout | None:
    """The first layout whose columns and values fit one row."""
    return next((layout for layout in LAYOUTS if layout.matches(values)), None)


def detect(rows: Sequence[Fields], source: str) -> Layout:
    """The one layout of all rows: the most frequent one, the others being rows of it with something missing.

    Raises DataError when no layout fits or when rows of several layouts are mixed.
    """
    found = [match(row.values) for row in rows]
    counts = Counter(layout.name for layout in found if layout is not None)
    if not counts:
        raise _unknown(rows, source)
    main = BY_NAME[counts.most_common(1)[0][0]]
    others = {layout.name for layout in found if layout is not None and not _incomplete(layout, main)}
    if others:
        first = {
            name: next(r.raw.place for r, f in zip(rows, found) if f is not None and f.name == name)
            for name in (main.name, *sorted(others))
        }
        where = "; ".join(f"{counts[name]} rows of {name!r} (first at {place})" for name, place in first.items())
        raise DataError(
            f"{source}: rows of several layouts are mixed: {where}", "put each layout into a file of its own, or set data.layout"
        )
    return main


def _incomplete(layout: Layout, main: Layout) -> bool:
    """Could a row that looks like ``layout`` be a row of ``main`` with a column missing or a wrong value?"""
    return set(layout.needs) <= {*main.needs, *main.also}


def _unknown(rows: Sequence[Fields], source: str) -> DataError:
    columns = sorted({c for row in rows for c in row.values})

    def distance(layout: Layout) -> tuple[int, int]:
        return (-len(set(layout.needs) & set(columns)), len(set(layout.needs) - set(columns)))

    near = min(LAYOUTS, key=distance)
    separator = next((c for c in ";\t|" if len(columns) == 1 and c in columns[0]), None)
    if separator is not None:
        what = f"the columns are separated by {separator!r}: save the file with commas, or with tabs as .tsv"
        return DataError(f"{source}: no known layout has the column {columns[0]!r}", what)
    missing = [c for c in near.needs if c not in columns]
    guesses = {m: difflib.get_close_matches(m, columns, 1, 0.5) for m in missing}
    by_name = keys_for(columns)
    if not all(guesses.values()) and any(role != column for role, column in by_name.items()):
        hint = f"if the names say it rightly: '{written(by_name)}'; all layouts: docs/data.md"
        return DataError(f"{source}: no known layout has these columns: {', '.join(columns)}", hint)
    if not set(near.needs) & set(columns):
        what = "say what they are, as in data.keys={prompt: YOUR_COLUMN, completion: YOUR_COLUMN}; all layouts: docs/data.md"
        return DataError(f"{source}: no known layout has these columns: {', '.join(columns) or '(none)'}", what)
    keys = ", ".join(f"{m}: {g[0] if g else 'YOUR_COLUMN'}" for m, g in guesses.items())
    hint = f"the nearest layout is {near.name!r}, which also needs {', '.join(missing)}; name the columns with data.keys={{{keys}}}"
    if not missing:
        hint = f"the nearest layout is {near.name!r}, but its values have another form; an example: {dict(near.example)}"
    return DataError(f"{source}: no known layout has these columns: {', '.join(columns) or '(none)'}", hint)
