"""What answers make up about scenes (`keel scenes`): the detector of a hallucination reward."""

from keel.rewards.sources.hallucination import Found
from keel.simulate.scenes.judge import judge
from keel.simulate.scenes.read import read
from keel.simulate.scenes.write import scene_of
from keel.types import Prompt


def made_up(prompt: Prompt, completion: str) -> Found:
    """Errors by type with their characters, and the share of the objects that were named. The row's scene is the truth."""
    found = judge(read(completion), scene_of(prompt.meta["scene"]))
    return Found([(error.type, *error.span) for error in found.errors], found.coverage)
