"""True claims with errors planted in them: what a model that makes things up would say, with the types of what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from keel.simulate.scenes.claims import Claims, Mention
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.judge import ErrorType, judge
from keel.simulate.scenes.scene import Scene, all_looks
from keel.simulate.scenes.words import OPPOSITE

_TRIES = 20


def plant(claims: Claims, scene: Scene, types: Sequence[ErrorType], config: SceneConfig, rng: random.Random) -> Claims:
    """``claims``, which must be true, with one error of each of ``types``, as ``judge`` counts them. A type that this scene has no room
    for (a relation between objects that stand alone, say) is left out: ``judge`` tells which are there."""
    for kind in dict.fromkeys(types):
        wanted = judge(claims, scene).of(kind) + 1
        others = len(judge(claims, scene).errors)
        for _ in range(_TRIES):
            changed = _PLANTERS[kind](claims, scene, config, rng)
            found = None if changed is None else judge(changed, scene)
            if changed is not None and found is not None and found.of(kind) == wanted and len(found.errors) == others + 1:
                claims = changed
                break
    return claims


def _existence(claims: Claims, scene: Scene, config: SceneConfig, rng: random.Random) -> Claims | None:
    shapes = {thing.look.shape for thing in scene.things}
    absent = [look for look in all_looks(config) if look.shape not in shapes]
    if not absent:
        return None
    at = rng.randint(0, len(claims.mentions))
    return replace(claims, mentions=(*claims.mentions[:at], Mention(rng.choice(absent)), *claims.mentions[at:]))


def _count(claims: Claims, scene: Scene, config: SceneConfig, rng: random.Random) -> Claims | None:
    at = rng.randrange(len(claims.mentions) + 1)
    if at == len(claims.mentions):
        return None if claims.total is None else replace(claims, total=max(1, claims.total + rng.choice((-1, 1))))
    mention = claims.mentions[at]
    return _with(claims, at, replace(mention, count=max(1, mention.count + rng.choice((-1, 1, 1)))))


def _attribute(claims: Claims, scene: Scene, config: SceneConfig, rng: random.Random) -> Claims | None:
    at = rng.randrange(len(claims.mentions))
    mention = claims.mentions[at]
    others = [look for look in all_looks(config) if look.shape == mention.look.shape and look not in scene.looks]
    if not others:
        return None
    changed = rng.choice(others)
    again = {mention.look: changed}  # what is said about its place is said about the same object
    relations = tuple(replace(r, a=again.get(r.a, r.a), b=again.get(r.b, r.b)) for r in claims.relations)
    return replace(_with(claims, at, replace(mention, look=changed)), relations=relations)


def _relation(claims: Claims, scene: Scene, config: SceneConfig, rng: random.Random) -> Claims | None:
    if not claims.relations:
        return None
    at = rng.randrange(len(claims.relations))
    turned = replace(claims.relations[at], where=OPPOSITE[claims.relations[at].where])
    return replace(claims, relations=(*claims.relations[:at], turned, *claims.relations[at + 1 :]))


def _with(claims: Claims, at: int, mention: Mention) -> Claims:
    return replace(claims, mentions=(*claims.mentions[:at], mention, *claims.mentions[at + 1 :]))


_PLANTERS: dict[ErrorType, Callable[[Claims, Scene, SceneConfig, random.Random], Claims | None]] = {
    "existence": _existence,
    "count": _count,
    "attribute": _attribute,
    "relation": _relation,
}
