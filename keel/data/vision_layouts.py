"""The rows of the table of layouts for images with text. ``layouts`` puts them in front of the others."""

from __future__ import annotations

from collections.abc import Callable

from keel.data import vision as to
from keel.data.layout import PAIR_EXTRAS, Layout, Values

_ASKED, _TOLD = {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cat."}
_TOLD_WRONG = {"from": "gpt", "value": "A dog."}


def _without(*names: str) -> Callable[[Values], bool]:
    """Does the row have none of these columns, which make it a row of another layout?"""
    return lambda values: not any(name in values for name in names)


def _list(name: str, *without: str) -> Callable[[Values], bool]:
    free = _without(*without)
    return lambda values: isinstance(values[name], list | tuple) and free(values)


def _conversation_with_image(values: Values) -> bool:
    turns = values["conversations"]
    first = turns[0] if isinstance(turns, list) and turns else None
    shown = values.get("image") is not None or bool(values.get("images"))
    return shown and isinstance(first, dict) and "from" in first and _without("chosen", "rejected", "kto_tag")(values)


def _asked_pair(values: Values) -> bool:
    return all(isinstance(values[k], str) for k in ("question", "chosen", "rejected")) and _without(
        "prompt", "messages", "conversations", "instruction"
    )(values)


_PROMPTS = ("prompt", "messages", "conversations", "instruction", "question", "chosen", "rejected", "completion")

VISION: tuple[Layout, ...] = (
    Layout(
        "povid",
        ("conversations", "rejected_conversations"),
        PAIR_EXTRAS,
        to.povid,
        {"image": "cat.png", "conversations": [_ASKED, _TOLD], "rejected_conversations": [_ASKED, _TOLD_WRONG]},
    ),
    Layout(
        "llava",
        ("conversations",),
        (),
        to.llava,
        {"image": "cat.png", "conversations": [_ASKED, _TOLD]},
        _conversation_with_image,
    ),
    Layout(
        "rlhf_v",
        ("text",),
        ("image_path", *PAIR_EXTRAS),
        to.rlhf_v,
        {"image": "cat.png", "text": '{"question": "What is this?", "chosen": "A cat.", "rejected": "A dog."}'},
        lambda values: {"question", "chosen", "rejected"} <= set(to.json_text(values["text"])),
    ),
    Layout(
        "question_preference",
        ("question", "chosen", "rejected"),
        ("image_path", *PAIR_EXTRAS),
        to.question_preference,
        {"image": "cat.png", "question": "What is this?", "chosen": "A cat.", "rejected": "A dog."},
        _asked_pair,
    ),
    Layout(
        "mmbench",
        ("question", "A", "B"),
        ("hint", "answer", *to.LETTER_COLUMNS[2:]),
        to.mmbench,
        {"image": "cat.png", "question": "What is this?", "A": "a dog", "B": "a cat", "answer": "B"},
        _without("prompt", "messages", "chosen"),
    ),
    Layout(
        "a_okvqa",
        ("question", "choices", "correct_choice_idx"),
        ("rationales", "image_id"),
        to.a_okvqa,
        {
            "image": "cat.png",
            "question": "What is this?",
            "choices": ["dog", "cat"],
            "correct_choice_idx": 1,
            "direct_answers": ["cat", "a cat"],
            "rationales": ["It has whiskers."],
        },
        _list("choices"),
    ),
    Layout(
        "a_okvqa_prompt",
        ("question", "choices"),
        ("image_id",),
        to.a_okvqa_prompt,
        {"image": "cat.png", "question": "What is this?", "choices": ["dog", "cat"]},
        _list("choices", "answer", "prompt", "messages", "chosen"),
    ),
    Layout(
        "image_objects",
        ("image", "instances"),
        (),
        to.image_objects,
        {"image": "cat.png", "objects": ["cat"], "instances": [{"category": "cat", "bbox": [10, 20, 30, 40], "iscrowd": 0}]},
        _list("instances", *_PROMPTS),
    ),
    Layout(
        "image_region",
        ("image", "phrase", "box"),
        ("image_size",),
        to.image_region,
        {"image": "cat.png", "image_size": [640, 480], "phrase": "a cat's tail", "box": [10, 20, 30, 40]},
        _list("box", *_PROMPTS),
    ),
    Layout(
        "image_caption",
        ("image", "caption"),
        (),
        to.image_caption,
        {"image": "cat.png", "caption": "A cat on a chair.", "references": ["A cat on a chair.", "A cat that sleeps."]},
        _without(*_PROMPTS),
    ),
)
