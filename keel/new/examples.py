"""Example rows for each kind of label, in text or about pictures that are drawn here: to be run once, then replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from keel.new.words import example_rows
from keel.simulate.scenes.ask import DESCRIBE, ask
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.draw import draw
from keel.simulate.scenes.judge import ERROR_TYPES
from keel.simulate.scenes.plant import plant
from keel.simulate.scenes.scene import chance, make_scene
from keel.simulate.scenes.speak import say, true_claims

Row = dict[str, Any]
PICTURES = 16
HELD_OUT = 4  # of the rows: for the evaluation alone
_SUMS = tuple((a, b) for a in (7, 12, 25, 31) for b in (4, 9, 16, 38))


def write_examples(folder: Path, labels: str, images: bool, language: Literal["en", "zh"]) -> tuple[str, str]:
    """Write ``train.jsonl`` and ``heldout.jsonl`` (and ``images/``) into ``folder``; their names come back."""
    items = _pictured(folder / "images", labels, language) if images else _texts(labels, language)
    rows = [labelled(item, labels) for item in items]
    names = ("train.jsonl", "heldout.jsonl")
    for name, part in zip(names, (rows[HELD_OUT:], rows[:HELD_OUT]), strict=True):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for of_item in part for row in of_item)
        (folder / name).write_text(text, encoding="utf-8")
    return names


def labelled(item: Row, labels: str) -> Sequence[Row]:
    """Rows of one question: ``item`` has prompt, good, poor, and perhaps images."""
    base = {"prompt": item["prompt"]}
    more = {"images": item["images"]} if "images" in item else {}
    match labels:
        case "demonstrations":
            return [{**base, "completion": item["good"], **more}]
        case "pairs":
            return [{**base, "chosen": item["good"], "rejected": item["poor"], **more}]
        case "ratings":
            return [{**base, "answer": item[which], "rating": score, **more} for which, score in (("good", 5), ("poor", 2))]
        case "verifiable":
            return [{**base, "ground_truth": item["good"], **more}]
        case _:
            return [{**base, **more}]


def _texts(labels: str, language: str) -> list[Row]:
    if labels == "verifiable":
        asked = "{a} + {b} 等于多少？只回答数字。" if language == "zh" else "What is {a} + {b}? Answer with the number alone."
        return [{"prompt": asked.format(a=a, b=b), "good": str(a + b)} for a, b in _SUMS]
    return [{"prompt": row["question"], "good": row["good"], "poor": row["poor"]} for row in example_rows(language)]


def _pictured(folder: Path, labels: str, language: Literal["en", "zh"]) -> list[Row]:
    folder.mkdir(parents=True)
    config, items = SceneConfig(), []
    for i in range(PICTURES):
        scene, rng = make_scene(config, 0, i), chance("new", i)
        draw(scene, config).save(folder / f"{i}.png")
        if labels == "verifiable":
            question = ask(scene, "count", config, rng, language)
            assert question is not None  # there is always something to count
            text, good, poor = question.text, question.answer, ""
        else:
            claims = true_claims(scene, rng)
            planted = (plant(claims, scene, [ERROR_TYPES[(i + k) % len(ERROR_TYPES)]], config, rng) for k in range(len(ERROR_TYPES)))
            wrong = next(w for w in planted if w != claims)
            text, good, poor = DESCRIBE[language][0], say(claims, language), say(wrong, language)
        prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        said = {"good": good, "poor": poor} if labels == "verifiable" or labels == "ratings" else {"good": _said(good), "poor": _said(poor)}
        items.append({"prompt": prompt, **said, "images": [f"images/{i}.png"]})
    return items


def _said(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]
