"""The truth that a description of a scene tells: objects, and one place where there is one to tell."""

from __future__ import annotations

import pytest

from keel.core.python_file import load_object
from keel.simulate.scenes.scene import Look, Scene, Thing
from keel.simulate.scenes.write import scene_json
from keel.types import Message, Prompt

TWO = Scene("two", (Thing(Look("circle", "red"), 0, 0), Thing(Look("star", "green"), 2, 1)))
TWINS = Scene("twins", (Thing(Look("circle", "red"), 0, 0), Thing(Look("circle", "red"), 2, 1)))


@pytest.mark.parametrize(
    ("scene", "text", "coverage", "errors"),
    [
        (TWO, "There are two objects: a red circle and a green star. The red circle is above the green star.", 1, []),
        (TWO, "There are two objects: a red circle and a green star.", 2 / 3, []),
        (TWO, "There are two objects: a red circle and a green star. The red circle is below the green star.", 2 / 3, ["relation"]),
        (TWO, "There is a red circle.", 1 / 3, []),
        (TWO, "", 0, []),
        (TWO, "There is a red circle. The red circle is above the blue cross.", 1 / 3, ["existence"]),
        (TWINS, "There are two objects: two red circles.", 1, []),
        (TWINS, "There are two objects: a red circle and a red circle.", 1, []),
        (TWO, "There are two objects: a red circle and a red circle.", 1 / 3, ["count"]),
        (TWO, "There is a red circle. A red circle is there, and a green star.", 2 / 3, []),
        (TWO, "图中有两个物体：一个红色圆形和一个红色圆形。", 1 / 3, ["count"]),
        (TWINS, "图中有两个物体：两个红色圆形。", 1, []),
    ],
)
def test_what_is_told_and_what_is_made_up(scene: Scene, text: str, coverage: float, errors: list[str]) -> None:
    made_up = load_object("recipes/vlm/scenes.py:made_up", "detector")
    worth = load_object("recipes/vlm/scenes.py:worth", "utility")
    prompt = Prompt("p", (Message("user", "Describe the picture."),), meta={"scene": scene_json(scene)})
    found = made_up(prompt, text)
    assert found.coverage == pytest.approx(coverage)
    assert [kind for kind, _, _ in found.errors] == errors
    prices = {"existence": 0.25, "count": 0.2, "relation": 0.1}
    assert sum(worth(prompt, text).values()) == pytest.approx(0.5 + 0.5 * coverage - sum(prices[e] for e in errors))
