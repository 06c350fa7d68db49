"""Scenes: a text says what was claimed, true claims have no error, a planted error is found as what it is, and silence covers nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from keel.core.errors import UserError
from keel.simulate.scenes.ask import ask
from keel.simulate.scenes.claims import Claims, Mention, Relation
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.draw import draw
from keel.simulate.scenes.judge import ERROR_TYPES, judge
from keel.simulate.scenes.plant import plant
from keel.simulate.scenes.read import read
from keel.simulate.scenes.scene import Look, Scene, Thing, chance, make_scene
from keel.simulate.scenes.speak import say, true_claims
from keel.simulate.scenes.words import LANGUAGES, PLACES, RGB
from keel.simulate.scenes.write import FILES, scene_json, scene_of, write_scenes
from keel.verbs.scenes import run_scenes

EASY = SceneConfig()
HARD = SceneConfig(objects=(1, 6), shapes=5, colours=6, sizes=2, materials=2, repeats=0.3)
RED, BLUE, STAR = Look("circle", "red"), Look("circle", "blue"), Look("star", "green")
SCENE = Scene("s", (Thing(RED, 0, 0), Thing(RED, 0, 2), Thing(STAR, 2, 1)))


@pytest.mark.parametrize("config", [EASY, HARD])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_said_is_read_again_and_is_true(config: SceneConfig, language) -> None:
    for i in range(300):
        scene = make_scene(config, 1, i)
        claims = true_claims(scene, chance(i), relations=2)
        assert read(say(claims, language)) == claims
        assert all(scene.looks[look] == 1 for r in claims.relations for look in (r.a, r.b))
        found = judge(claims, scene)
        assert (found.errors, found.coverage) == ((), 1.0)


@pytest.mark.parametrize("config", [EASY, HARD])
@pytest.mark.parametrize("kind", ERROR_TYPES)
def test_a_planted_error_is_found_as_what_it_is(config: SceneConfig, kind) -> None:
    there = 0
    for i in range(200):
        scene = make_scene(config, 2, i)
        wrong = plant(true_claims(scene, chance(i), 2), scene, [kind], config, chance("plant", i))
        for language in LANGUAGES:
            errors = judge(read(say(wrong, language)), scene).errors
            assert {e.type for e in errors} <= {kind}
            assert len(errors) <= 1
        named = {m.look for m in wrong.mentions}
        assert all({r.a, r.b} <= named for r in wrong.relations)  # what is said of its place is said of the same object
        there += len(errors)
    assert there > 60


def test_errors_by_hand() -> None:
    def types(*mentions: Mention, total: int | None = None, relations: tuple[Relation, ...] = ()) -> list[str]:
        return [e.type for e in judge(Claims(mentions, relations, total), SCENE).errors]

    assert types(Mention(RED, 2), Mention(STAR), total=3) == []
    assert types(Mention(RED)) == []  # one of two is no lie
    assert types(Mention(RED, 3)) == ["count"]
    assert types(Mention(Look("circle"), 2)) == []
    assert types(Mention(BLUE)) == ["attribute"]
    assert types(Mention(Look("cross", "red"))) == ["existence"]
    assert types(total=2) == ["count"]
    assert types(Mention(STAR, 0)) == ["count"]
    assert types(Mention(BLUE, 0)) == []
    below = Relation(STAR, "below", RED)
    assert types(Mention(RED, 2), Mention(STAR), relations=(below,)) == []  # which red circle? nothing is claimed that could be false
    one = Scene("t", (Thing(RED, 0, 0), Thing(STAR, 2, 1)))
    assert [e.type for e in judge(Claims((), (Relation(STAR, "above", RED),)), one).errors] == ["relation"]
    assert judge(Claims((), (Relation(STAR, "right of", RED),)), one).errors == ()  # below, and to the right
    level = Scene("u", (Thing(RED, 1, 0), Thing(STAR, 1, 2)))
    assert [len(judge(Claims((), (Relation(STAR, where, RED),)), level).errors) for where in PLACES] == [1, 1, 1, 0]
    assert [e.type for e in judge(Claims((), (Relation(BLUE, "above", STAR),)), one).errors] == ["attribute"]  # its objects are claims too


def test_coverage_counts_objects_once_and_silence_covers_nothing() -> None:
    def coverage(*mentions: Mention) -> float:
        return judge(Claims(mentions), SCENE).coverage

    assert coverage() == 0
    assert coverage(Mention(RED)) == pytest.approx(1 / 3)
    assert coverage(Mention(RED), Mention(RED), Mention(RED)) == pytest.approx(2 / 3)
    assert coverage(Mention(RED, 5), Mention(STAR)) == 1.0
    assert coverage(Mention(Look("circle")), Mention(Look("star"))) == 0  # without a colour anything could be said


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("I see a red circle and 2 Blue Squares!", [(Look("circle", "red"), 1), (Look("square", "blue"), 2)]),
        ("There is no star here.", [(Look("star"), 0)]),
        ("图中有二个红色的圆形。", [(Look("circle", "red"), 2)]),
        ("A dog sits on a bench.", []),
        ("", []),
    ],
)
def test_other_ways_of_saying_it(text: str, claims: list[tuple[Look, int]]) -> None:
    assert [(m.look, m.count) for m in read(text).mentions] == claims


def test_relations_within_a_sentence_and_their_characters() -> None:
    text = "There is a red circle. The green star is to the left of the red circle, I think."
    found = read(text)
    assert found.relations == (Relation(STAR, "left of", RED),)
    start, end = found.relations[0].span
    assert text[start:end] == "The green star is to the left of the red circle"


def test_objects_of_a_relation_are_no_mentions_of_their_own() -> None:
    found = read("A red circle is above a green star.")
    assert (found.mentions, found.relations) == ((), (Relation(RED, "above", STAR),))


def test_repeats_are_how_often_an_object_looks_like_one_before() -> None:
    def different(repeats: float) -> float:
        scenes = [make_scene(SceneConfig(objects=(4, 4), shapes=5, colours=6, repeats=repeats), 4, i) for i in range(100)]
        return sum(len(scene.looks) for scene in scenes) / 100

    assert different(1.0) == 1.0
    assert 2.0 < different(0.5) < different(0.0) < 4.0


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_have_the_right_answer(language) -> None:
    yes = {"en": "yes", "zh": "是"}[language]
    answers: dict[str, list[bool]] = {"existence": [], "relation": []}
    for i in range(300):
        scene = make_scene(EASY, 3, i)
        for kind, found in answers.items():
            question = ask(scene, kind, EASY, chance("ask", i), language)
            if question is None:
                continue
            found.append(question.answer == yes)
            claims = read(question.text.replace("Is there", "There is").replace("吗？", "。").replace("有", "有一个"))
            if kind == "existence":
                assert (not judge(claims, scene).errors) == (question.answer == yes)
            else:
                said = read(re.sub(r"^Is (the \w+ \w+) (.*)\?$", r"\1 is \2.", question.text).replace("吗？", "。")).relations
                assert len(said) == 1
                assert (not judge(Claims((), said), scene).errors) == (question.answer == yes)
    for found in answers.values():
        assert 0.35 < sum(found) / len(found) < 0.65
    assert ask(SCENE, "count", EASY, chance("c", 1), "en") is not None


def test_a_picture_shows_its_objects_where_they_are() -> None:
    config = SceneConfig(pixels=84)
    picture = np.asarray(draw(SCENE, config)).astype(int)
    assert picture.shape == (84, 84, 3)
    for row, column, colour in ((0, 0, "red"), (0, 2, "red"), (2, 1, "green")):
        middle = picture[28 * row + 12 : 28 * row + 16, 28 * column + 12 : 28 * column + 16].reshape(-1, 3).mean(0)
        assert abs(middle - RGB[colour]).max() < 30
    assert np.asarray(draw(SCENE, config)).tobytes() == np.asarray(draw(SCENE, config)).tobytes()


def test_a_folder_of_scenes(tmp_path: Path) -> None:
    rows = write_scenes(tmp_path, 12, 5, EASY, planted={"attribute": 1.0})
    assert rows == dict.fromkeys(FILES, 12)
    read_rows = {name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in FILES}
    for row in read_rows["captions.jsonl"]:
        scene = scene_of(row["scene"])
        assert scene_json(scene) == row["scene"]
        assert [e.type for e in judge(read(row["completion"][0]["content"]), scene).errors] == row["errors"] == ["attribute"]
        assert (tmp_path / row["images"][0]).exists()
    for row in read_rows["pairs.jsonl"]:
        scene = scene_of(row["scene"])
        assert not judge(read(row["chosen"][0]["content"]), scene).errors
        assert [e.type for e in judge(read(row["rejected"][0]["content"]), scene).errors] == row["errors"] != []
    assert len({row["errors"][0] for row in read_rows["pairs.jsonl"]}) >= 3


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="there already"):
        run_scenes(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    found = run_scenes(str(tmp_path / "new"), ["n=3", "scenes.objects=[2,4]", "planted.count=0.5"])
    assert found["rows"]["pairs.jsonl"] == 3
    with pytest.raises(UserError, match="objects"):
        run_scenes(str(tmp_path / "other"), ["scenes.objects=[0,99]"])
