"""Claims as text. ``read`` of what is said here gives the same claims again."""

from __future__ import annotations

import random

from keel.simulate.scenes.claims import Claims, Mention, Relation
from keel.simulate.scenes.scene import Look, Scene, place
from keel.simulate.scenes.words import COLOURS, MATERIALS, NUMBERS, NUMBERS_ZH, PLACES, SHAPES, SIZES, Language, plural


def true_claims(scene: Scene, rng: random.Random, relations: int = 1) -> Claims:
    """All objects, how many they are, and up to ``relations`` places between objects that no other object could be taken for."""
    mentions = tuple(Mention(look, count) for look, count in scene.looks.items())
    alone = [thing for thing in scene.things if scene.looks[thing.look] == 1]
    pairs = [(a, where, b) for a in alone for b in alone if a is not b and (where := place(a, b)) is not None]
    chosen = rng.sample(pairs, min(relations, len(pairs)))
    return Claims(mentions, tuple(Relation(a.look, where, b.look) for a, where, b in chosen), len(scene.things))


def say(claims: Claims, language: Language = "en") -> str:
    """The claims in full sentences."""
    return _english(claims) if language == "en" else _chinese(claims)


def _english(claims: Claims) -> str:
    sentences: list[str] = []
    named = [english(m.look, m.count) for m in claims.mentions]
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}" if named else ""
    if claims.total is not None:
        verb = "is" if claims.total == 1 else "are"
        objects = "object" if claims.total == 1 else "objects"
        sentences.append(f"There {verb} {NUMBERS[claims.total]} {objects}" + (f": {listed}" if listed else ""))
    elif listed:
        sentences.append(f"There {'is' if claims.mentions[0].count == 1 else 'are'} {listed}")
    sentences += [f"The {english(r.a, 0)} is {r.where} the {english(r.b, 0)}" for r in claims.relations]
    return "".join(f"{s}. " for s in sentences).strip()


def english(look: Look, count: int = 1) -> str:
    """``a small red circle``, ``two red circles``; without article for ``count`` 0."""
    words = [w for w in (look.size, look.material, look.colour) if w is not None]
    shape = look.shape if count in (0, 1) else plural(look.shape)
    named = " ".join([*words, shape])
    if count == 0:
        return named
    return f"{'an' if named[0] in 'aeiou' else 'a'} {named}" if count == 1 else f"{NUMBERS[count]} {named}"


def _chinese(claims: Claims) -> str:
    sentences: list[str] = []
    named = [chinese(m.look, m.count) for m in claims.mentions]
    listed = named[0] if len(named) == 1 else f"{'、'.join(named[:-1])}和{named[-1]}" if named else ""
    if claims.total is not None:
        sentences.append(f"图中有{NUMBERS_ZH[claims.total]}个物体" + (f"：{listed}" if listed else ""))
    elif listed:
        sentences.append(f"图中有{listed}")
    sentences += [f"{chinese(r.a, 0)}在{chinese(r.b, 0)}的{PLACES[r.where]}" for r in claims.relations]
    return "".join(f"{s}。" for s in sentences)


def chinese(look: Look, count: int = 1) -> str:
    """``一个小的红色圆形``; without number for ``count`` 0."""
    size = f"{SIZES[look.size]}的" if look.size else ""
    material = MATERIALS[look.material] if look.material else ""
    colour = COLOURS[look.colour] if look.colour else ""
    number = f"{NUMBERS_ZH[count]}个" if count else ""
    return f"{number}{size}{material}{colour}{SHAPES[look.shape]}"
