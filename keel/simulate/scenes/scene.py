"""What is in a picture. Everything is a function of the settings, a seed and a number."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keel.core.hashing import stable_hash
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.words import COLOURS, MATERIALS, SHAPES, SIZES


@dataclass(frozen=True, slots=True)
class Look:
    """What can be said of one object by itself. ``size`` and ``material`` are None where nothing is said about them; of a scene's
    objects they always stand, unless the settings have but one."""

    shape: str
    colour: str | None = None
    size: str | None = None
    material: str | None = None

    def fits(self, other: Look) -> bool:
        """Is everything that this look says true of ``other``?"""
        said = ((self.shape, other.shape), (self.colour, other.colour), (self.size, other.size), (self.material, other.material))
        return all(mine is None or mine == its for mine, its in said)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: its look and the cell that it stands in."""

    look: Look
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects of a picture, in the order in which they are named: top to bottom, left to right."""

    scene_id: str
    things: tuple[Thing, ...]

    @property
    def looks(self) -> Counter[Look]:
        """How often each look is there."""
        return Counter(thing.look for thing in self.things)

    def only(self, look: Look) -> Thing | None:
        """The one object that ``look`` fits; None if there is none, or more than one."""
        found = [thing for thing in self.things if look.fits(thing.look)]
        return found[0] if len(found) == 1 else None


def place(a: Thing, b: Thing) -> str | None:
    """Where ``a`` is as seen from ``b``, by the larger of both distances; None where they are equal."""
    down, right = a.row - b.row, a.column - b.column
    if abs(down) == abs(right):
        return None
    if abs(down) > abs(right):
        return "below" if down > 0 else "above"
    return "right of" if right > 0 else "left of"


def chance(*parts: str | int) -> random.Random:
    """A generator whose numbers hang on ``parts`` alone."""
    return random.Random(stable_hash(*parts))


def all_looks(config: SceneConfig) -> list[Look]:
    """Every look that these settings allow."""
    sizes: Sequence[str | None] = list(SIZES)[: config.sizes] if config.sizes > 1 else [None]
    materials: Sequence[str | None] = list(MATERIALS)[: config.materials] if config.materials > 1 else [None]
    shapes, colours = list(SHAPES)[: config.shapes], list(COLOURS)[: config.colours]
    return [Look(shape, colour, size, material) for shape in shapes for colour in colours for size in sizes for material in materials]


def make_scene(config: SceneConfig, seed: int, number: int) -> Scene:
    """Scene ``number`` of the series ``seed``."""
    rng = chance("scene", seed, number)
    looks = all_looks(config)
    chosen: list[Look] = []
    for _ in range(rng.randint(*config.objects)):
        repeated = bool(chosen) and rng.random() < config.repeats
        chosen.append(rng.choice(chosen if repeated else looks))
    cells = rng.sample(range(config.grid**2), len(chosen))
    things = sorted(
        (Thing(look, *divmod(cell, config.grid)) for look, cell in zip(chosen, cells, strict=True)), key=lambda t: (t.row, t.column)
    )
    return Scene(f"scene-{seed}-{number}", tuple(things))
