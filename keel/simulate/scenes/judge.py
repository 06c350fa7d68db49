"""Claims against the scene: what is made up, by type, and how much of the scene was said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keel.simulate.scenes.claims import Claims, Mention, Relation, Span
from keel.simulate.scenes.scene import Scene

ErrorType = Literal["existence", "count", "attribute", "relation"]
ERROR_TYPES: tuple[ErrorType, ...] = ("existence", "count", "attribute", "relation")


@dataclass(frozen=True, slots=True)
class Error:
    """A claim that is false, and the characters that make it."""

    type: ErrorType
    span: Span


@dataclass(frozen=True, slots=True)
class Finding:
    """``claims``: how many there were; ``covered`` of ``things`` objects were named with shape and colour, and rightly."""

    errors: tuple[Error, ...]
    claims: int
    covered: int
    things: int

    @property
    def coverage(self) -> float:
        return self.covered / self.things

    def of(self, kind: ErrorType) -> int:
        """Errors of this type."""
        return sum(e.type == kind for e in self.errors)


def judge(claims: Claims, scene: Scene) -> Finding:
    """Each mention of a shape that is not there is an ``existence`` error; of one that is there, but not like this, an ``attribute`` error;
    of more objects than fit, or of fewer where the number is said, a ``count`` error. A relation is false where its two objects are known
    and stand otherwise; one about objects that are not there, or that fit several, claims nothing more than its mentions did."""
    errors = [error for mention in claims.mentions if (error := _of_mention(mention, scene)) is not None]
    errors += [Error("relation", r.span) for r in claims.relations if _is_false(r, scene)]
    errors += [error for r in claims.relations for error in _of_ends(r, claims, scene)]
    if claims.total is not None and claims.total != len(scene.things):
        errors.append(Error("count", claims.total_span))
    return Finding(tuple(errors), len(claims), _covered(claims.mentions, scene), len(scene.things))


def _of_mention(mention: Mention, scene: Scene) -> Error | None:
    fitting = sum(count for look, count in scene.looks.items() if mention.look.fits(look))
    if mention.count == 0:
        return Error("count", mention.span) if fitting else None
    if not fitting:
        there = any(look.shape == mention.look.shape for look in scene.looks)
        return Error("attribute" if there else "existence", mention.span)
    if mention.count > fitting or (mention.count > 1 and mention.count < fitting):
        return Error("count", mention.span)
    return None


def _is_false(relation: Relation, scene: Scene) -> bool:
    a, b = scene.only(relation.a), scene.only(relation.b)
    if a is None or b is None:
        return False
    down, right = a.row - b.row, a.column - b.column
    seen = {"above": down < 0, "below": down > 0, "left of": right < 0, "right of": right > 0}
    return not seen[relation.where]


def _of_ends(relation: Relation, claims: Claims, scene: Scene) -> list[Error]:
    """A relation's objects that no mention spoke of before: they are claimed to be there."""
    named = {m.look for m in claims.mentions}
    new = [Mention(look, 1, relation.span) for look in dict.fromkeys((relation.a, relation.b)) if look not in named]
    return [error for mention in new if (error := _of_mention(mention, scene)) is not None]


def _covered(mentions: Sequence[Mention], scene: Scene) -> int:
    """Objects that mentions with a shape and a colour stand for, each object once."""
    left = Counter(scene.looks)
    for mention in mentions:
        count = mention.count if mention.look.colour is not None else 0
        for look in [look for look in left if mention.look.fits(look)]:
            used = min(count, left[look])
            left[look] -= used
            count -= used
    return len(scene.things) - sum(left.values())
