"""Folders of scenes: pictures, and rows of demonstrations, questions, pairs and prompts about them.

Each row has ``images: [path]`` and the scene itself under ``scene``, so that rewards and evaluations know what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.simulate.scenes.ask import DESCRIBE, QUESTION_TYPES, ask
from keel.simulate.scenes.claims import Claims
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.draw import draw
from keel.simulate.scenes.judge import ERROR_TYPES, ErrorType, judge
from keel.simulate.scenes.plant import plant
from keel.simulate.scenes.scene import Look, Scene, Thing, chance, make_scene
from keel.simulate.scenes.speak import chinese, english, say, true_claims
from keel.simulate.scenes.words import Language

Row = dict[str, Any]
FILES = ("captions.jsonl", "questions.jsonl", "pairs.jsonl", "prompts.jsonl", "cells.jsonl")


def write_scenes(
    folder: Path, n: int, seed: int, config: SceneConfig, chinese: float = 0.25, planted: Mapping[ErrorType, float] | None = None
) -> dict[str, int]:
    """Write ``n`` scenes of series ``seed`` into ``folder``: ``images/*.png`` and the files of ``FILES``. Returns rows by file.

    ``chinese``: share of the rows in Chinese. ``planted``: for each type, the share of captions that get such an error: demonstrations of a
    model that makes things up. The rejected answers of pairs have an error of one type each, all types in turn.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = {name: [] for name in FILES}
    for i in range(n):
        scene = make_scene(config, seed, i)
        draw(scene, config).save(images / f"{i}.png")
        for name, row in _rows(scene, i, seed, config, chinese, planted or {}):
            rows[name].append({**row, "images": [f"images/{i}.png"], "scene": scene_json(scene)})
    for name, found in rows.items():
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return {name: len(found) for name, found in rows.items()}


def _rows(
    scene: Scene, i: int, seed: int, config: SceneConfig, chinese: float, planted: Mapping[ErrorType, float]
) -> Iterator[tuple[str, Row]]:
    rng = chance("rows", seed, i)
    language: Language = "zh" if rng.random() < chinese else "en"
    prompt = _asked(rng.choice(DESCRIBE[language]))
    claims = true_claims(scene, rng)
    types: list[ErrorType] = [kind for kind in ERROR_TYPES if rng.random() < planted.get(kind, 0.0)]
    shown = plant(claims, scene, types, config, rng)
    yield "captions.jsonl", {"prompt": prompt, "completion": _answer(say(shown, language)), "errors": _error_types(shown, scene)}
    order = rng.sample(QUESTION_TYPES, len(QUESTION_TYPES))
    questions = [q for kind in order if (q := ask(scene, kind, config, rng, language)) is not None]
    for question in questions[:1]:
        yield "questions.jsonl", {"prompt": _asked(question.text), "completion": _answer(question.answer), "type": question.type}
    wrong = next(w for k in range(len(ERROR_TYPES)) if (w := plant(claims, scene, [ERROR_TYPES[(i + k) % 4]], config, rng)) != claims)
    pair = {"chosen": _answer(say(claims, language)), "rejected": _answer(say(wrong, language)), "errors": _error_types(wrong, scene)}
    yield "pairs.jsonl", {"prompt": prompt, **pair}
    yield "prompts.jsonl", {"prompt": prompt}
    yield "cells.jsonl", {"cells": _cells(scene, config, language)}


def _cells(scene: Scene, config: SceneConfig, language: Language) -> list[list[str]]:
    """What stands in each cell of the grid; "" where nothing does."""
    name = chinese if language == "zh" else english
    there = {(thing.row, thing.column): name(thing.look, 0) for thing in scene.things}
    return [[there.get((row, column), "") for column in range(config.grid)] for row in range(config.grid)]


def _asked(text: str) -> list[Row]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def _answer(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def _error_types(claims: Claims, scene: Scene) -> list[str]:
    return [error.type for error in judge(claims, scene).errors]


def scene_json(scene: Scene) -> Row:
    """The scene as JSON; ``scene_of`` reads it."""
    things = [{"shape": t.look.shape, "colour": t.look.colour, "size": t.look.size, "material": t.look.material} for t in scene.things]
    places = [{"row": t.row, "column": t.column} for t in scene.things]
    return {"id": scene.scene_id, "things": [thing | where for thing, where in zip(things, places, strict=True)]}


def scene_of(raw: Mapping[str, Any]) -> Scene:
    """The scene of a row. Raises KeyError or TypeError for what is none."""
    things: Sequence[Mapping[str, Any]] = raw["things"]
    looks = [Look(t["shape"], t.get("colour"), t.get("size"), t.get("material")) for t in things]
    return Scene(str(raw["id"]), tuple(Thing(look, int(t["row"]), int(t["column"])) for look, t in zip(looks, things, strict=True)))
