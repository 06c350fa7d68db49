"""Questions about scenes with their right answers, and the words in which a description is asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.scene import Look, Scene, all_looks, place
from keel.simulate.scenes.speak import chinese, english
from keel.simulate.scenes.words import COLOURS, NUMBERS, NUMBERS_ZH, PLACES, SHAPES, Language, plural

QuestionType = Literal["existence", "count", "attribute", "relation"]
QUESTION_TYPES: tuple[QuestionType, ...] = ("existence", "count", "attribute", "relation")

DESCRIBE: dict[Language, tuple[str, ...]] = {
    "en": ("Describe the picture.", "What is in this picture?", "Say what you see, and where it is.", "Describe all objects of the image."),
    "zh": ("请描述这张图。", "图里有什么？", "说说你看到了什么，在哪里。", "描述图中的所有物体。"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its right answer, one word or two."""

    type: QuestionType
    text: str
    answer: str


def ask(scene: Scene, kind: QuestionType, config: SceneConfig, rng: random.Random, language: Language = "en") -> Question | None:
    """A question of this type; yes-or-no questions have either answer with the same chance. None where the scene has no room for one."""
    return _ASKERS[kind](scene, config, rng, language == "zh")


def _yes(zh: bool, true: bool) -> str:
    return ("是" if true else "否") if zh else ("yes" if true else "no")


def _existence(scene: Scene, config: SceneConfig, rng: random.Random, zh: bool) -> Question | None:
    there = [Look(look.shape, look.colour) for look in scene.looks]
    seen = {(look.shape, look.colour) for look in scene.looks}
    absent = [Look(x.shape, x.colour) for x in all_looks(config) if (x.shape, x.colour) not in seen]
    true = rng.random() < 0.5 or not absent
    look = rng.choice(there if true else absent)
    return Question("existence", f"图中有{chinese(look, 0)}吗？" if zh else f"Is there {english(look)}?", _yes(zh, true))


def _count(scene: Scene, config: SceneConfig, rng: random.Random, zh: bool) -> Question | None:
    shape = rng.choice(list(SHAPES)[: config.shapes])
    n = sum(thing.look.shape == shape for thing in scene.things)
    text = f"图中有几个{SHAPES[shape]}？" if zh else f"How many {plural(shape)} are there?"
    return Question("count", text, NUMBERS_ZH[n] if zh else NUMBERS[n])


def _attribute(scene: Scene, config: SceneConfig, rng: random.Random, zh: bool) -> Question | None:
    alone = [thing.look for thing in scene.things if scene.only(Look(thing.look.shape)) is not None]
    if not alone:
        return None
    look = rng.choice(alone)
    text = f"{SHAPES[look.shape]}是什么颜色？" if zh else f"What colour is the {look.shape}?"
    return Question("attribute", text, COLOURS[str(look.colour)] if zh else str(look.colour))


def _relation(scene: Scene, config: SceneConfig, rng: random.Random, zh: bool) -> Question | None:
    alone = [thing for thing in scene.things if scene.looks[thing.look] == 1]
    pairs = [(a, where, b) for a in alone for b in alone if a is not b and (where := place(a, b)) is not None]
    if not pairs:
        return None
    a, where, b = rng.choice(pairs)
    true = rng.random() < 0.5
    axis = ("above", "below") if where in ("above", "below") else ("left of", "right of")
    said = where if true else next(w for w in axis if w != where)
    first, second = (chinese(a.look, 0), chinese(b.look, 0)) if zh else (english(a.look, 0), english(b.look, 0))
    text = f"{first}在{second}的{PLACES[said]}吗？" if zh else f"Is the {first} {said} the {second}?"
    return Question("relation", text, _yes(zh, true))


_ASKERS: dict[QuestionType, Callable[[Scene, SceneConfig, random.Random, bool], Question | None]] = {
    "existence": _existence,
    "count": _count,
    "attribute": _attribute,
    "relation": _relation,
}
