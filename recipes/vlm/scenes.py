"""What answers make up about scenes (`keel scenes`): the detector of a hallucination reward."""

from keel.rewards.sources.hallucination import Found
from keel.simulate.scenes.judge import judge
from keel.simulate.scenes.read import read
from keel.simulate.scenes.scene import place
from keel.simulate.scenes.write import scene_of
from keel.types import Prompt


def made_up(prompt: Prompt, completion: str) -> Found:
    """Errors by type with their characters, and the share of the truth that was told: each object by shape and colour, and, where two of
    them can be told apart, one place. The row's scene is the truth."""
    scene, claims = scene_of(prompt.meta["scene"]), read(completion)
    found = judge(claims, scene)
    false = {error.span for error in found.errors}
    placed = any(r.span not in false and scene.only(r.a) and scene.only(r.b) for r in claims.relations)
    alone = [thing for thing in scene.things if scene.looks[thing.look] == 1]
    can_be_placed = any(place(a, b) for a in alone for b in alone if a is not b)
    told = (found.covered + placed) / (found.things + can_be_placed)
    return Found([(error.type, *error.span) for error in found.errors], min(1.0, told))


def seen(prompt: Prompt) -> list[str]:
    """What a perfect detector sees, for grounded decoding: shapes, also with their colours, by the names of `recipes/vlm/looks.txt`."""
    looks = [thing.look for thing in scene_of(prompt.meta["scene"]).things]
    return sorted({look.shape for look in looks} | {f"{look.colour} {look.shape}" for look in looks})


def worth(prompt: Prompt, text: str) -> dict[str, float]:
    """What each feature of a description is worth to a reader, 1 in all at best: the objects that were told, less what is made up. No
    reward reads it; simulated annotators do, through noise, and the evaluation."""
    found = made_up(prompt, text)
    costs = {"existence": 0.25, "count": 0.2, "attribute": 0.15, "relation": 0.1}
    errors = {kind: -cost * sum(k == kind for k, _, _ in found.errors) for kind, cost in costs.items()}
    return {"told": 0.5 * (found.coverage or 0.0), "honest": 0.5, **errors}
