"""What a text says about a picture, apart from its words."""

from __future__ import annotations

from dataclasses import dataclass, field

from keel.simulate.scenes.scene import Look

Span = tuple[int, int]  # first and past-last character; (0, 0) for claims that were not read


@dataclass(frozen=True, slots=True)
class Mention:
    """``count`` objects of this look are there."""

    look: Look
    count: int = 1
    span: Span = field(default=(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Relation:
    """``a`` is ``where`` (as in ``words.PLACES``) of ``b``."""

    a: Look
    where: str
    b: Look
    span: Span = field(default=(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Claims:
    """All that a text claims. ``total``: how many objects there are, where that is said."""

    mentions: tuple[Mention, ...] = ()
    relations: tuple[Relation, ...] = ()
    total: int | None = None
    total_span: Span = field(default=(0, 0), compare=False)

    def __len__(self) -> int:
        return len(self.mentions) + len(self.relations) + (self.total is not None)
