"""Marks that files put on turns, to say whether they are trained: ``weight: 0``, ``loss: false``, ``train: false`` and their relatives.

Honoured are yes and no. What cannot be honoured (half a weight, a part of a turn, a user's turn that is to be trained) is an error of the
row, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.data.errors import FieldError
from keel.types import Message

# True or 1: trained. OpenAI, Mistral: weight; ms-swift: loss; axolotl: train, training; LLaMA-Factory: loss_weight; others' spellings.
YES = ("weight", "loss", "train", "training", "trainable", "trained", "is_train", "loss_weight", "loss_scale", "loss_mask", "train_on_turn")
# True or 1: not trained
NO = ("masked", "no_loss", "ignore_loss", "skip_loss", "ignore")
UNCLEAR = ("mask", "train_detail", "training_detail")  # files differ in what it means, or parts of a turn
ROW = ("weight", "train", "training", "trainable", "is_train", "loss", "loss_weight", "sample_weight", "loss_mask")  # beside the turns
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def split_flags(name: str, keys: Mapping[str, Any], role: str) -> tuple[dict[str, Any], bool]:
    """(the other keys of a turn, is it trained). ``name`` is the turn's place, for messages.

    Raises FieldError for a mark that cannot be honoured, and for marks that contradict one another.
    """
    found = {k: _mark(f"{name}.{k}", k, v) for k, v in keys.items() if k in (*YES, *NO, *UNCLEAR) and v is not None}
    rest = {k: v for k, v in keys.items() if k not in (*YES, *NO, *UNCLEAR)}
    if len(set(found.values())) > 1:
        raise FieldError(f"{name}.{list(found)[-1]}", f"the marks {', '.join(found)} contradict one another")
    trained = next(iter(found.values()), True)
    asked = next((k for k in found if k not in NO), None)
    if role != "assistant" and trained and asked is not None:
        raise FieldError(f"{name}.{asked}", f"asks to train a {role} turn; only the assistant's are: take the mark away")
    return rest, trained


def check_block(name: str, block: Mapping[str, Any]) -> None:
    """A part of a content cannot be left out of the training. Raises FieldError."""
    for key in (*YES, *NO, *UNCLEAR):
        if block.get(key) is not None and not _mark(f"{name}.{key}", key, block[key]):
            raise FieldError(
                f"{name}.{key}", "a part of a turn cannot be left out of the training: make two rows of it, or mark the whole turn"
            )


def flag_row(values: Mapping[str, Any], messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns of a row with the marks beside them put on: one for all, or a list with one a turn (or one an answer).

    Raises FieldError where the row is not to be trained at all, and for a weight that cannot be honoured.
    """
    turns = tuple(messages)
    for name in ROW:
        value = values.get(name)
        if value is None or (name in ("loss", "train", "training") and not isinstance(value, list) and _number(value) not in (0.0, 1.0)):
            continue  # the loss of some model, the name of a split: no mark
        if isinstance(value, list):
            turns = _each(name, value, turns)
        elif not _mark(name, name, value, f"; data.keys={{unused: {name}}} sets the column aside"):
            raise FieldError(name, "the file marks this row as not to be trained")
    return turns


def _each(name: str, marks: Sequence[Any], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    answers = [i for i, m in enumerate(turns) if m.role == "assistant"]
    if len(marks) not in (len(turns), len(answers)):
        raise FieldError(name, f"{len(marks)} marks for {len(turns)} turns, {len(answers)} of them answers")
    places = answers if len(marks) == len(answers) else range(len(turns))
    said = {place: _mark(f"{name}.{k}", name, mark) for k, (place, mark) in enumerate(zip(places, marks))}
    return tuple(replace(m, trained=m.trained and (m.role != "assistant" or said.get(i, True))) for i, m in enumerate(turns))


def _mark(name: str, key: str, value: Any, way_out: str = "") -> bool:
    """Is it trained? Raises FieldError where the mark is neither yes nor no."""
    number = _number(value)
    if key in UNCLEAR:
        raise FieldError(name, "does not say clearly what is trained: write weight: 0 or weight: 1 on whole turns")
    if number not in (0.0, 1.0):
        raise FieldError(name, f"must be 0 or 1 (true or false), is {str(value)[:40]!r}: a turn is trained or not{way_out}")
    return (number == 1.0) != (key in NO)


def _number(value: Any) -> float:
    if isinstance(value, str):
        value = _WORDS.get(value.strip().lower(), value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
