"""CHAIR: which objects a caption names, the script's numbers by hand, and what mode fixed mends. The lists are of the tests alone."""

from __future__ import annotations

from typing import Any

import pytest

from keel.core.errors import DataError
from keel.evaluate.hallucination.chair import run
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.result import Result
from keel.rewards.reading.lexicon import Finder, Lexicon, original_mentions, read_objects, read_pairs
from keel.rewards.reading.words import Words, original_singular, own, tokens

OBJECTS = """person, man, woman, baby, adult, passenger
dog, puppy
elephant
wine glass
chair, seat
toilet
bus
oven, stove top oven
tie, bow tie
motorcycle,  motor bike
traffic light
car, taxi
"""
PAIRS = """wine glas -> wine glass
wine glass
toilet seat -> toilet
baby elephant -> elephant
bow tie -> tie
motor bike
train track
traffic light
"""
SCRIPT = Words(tokens, original_singular, "the script's")


@pytest.fixture
def lists(write: Any) -> dict[str, str]:
    return {"objects": write("objects.txt", OBJECTS), "pairs": write("pairs.txt", PAIRS)}


def by_script(lists: dict[str, str], caption: str) -> list[str]:
    lexicon = Lexicon(read_objects(lists["objects"], True), read_pairs(lists["pairs"]))
    return [m.node for m in original_mentions(caption, lexicon, SCRIPT)]


def mended(lists: dict[str, str], caption: str) -> list[str]:
    return [m.node for m in Finder(Lexicon(read_objects(lists["objects"], False), read_pairs(lists["pairs"])), own())(caption)]


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("Two dogs and a puppy.", ["dog", "dog"]),
        ("A man with wine glasses, a wine glass", ["person", "wine glass", "wine glass"]),
        ("a baby elephant near a baby", ["elephant", "person"]),
        ("the toilet seat", ["toilet"]),
        ("the seat of a toilet", ["toilet"]),
        ("a man in a bow tie", ["person", "tie"]),
        ("a train track", []),
    ],
)
def test_what_script_and_mode_fixed_find(lists: dict[str, str], caption: str, found: list[str]) -> None:
    assert by_script(lists, caption) == found
    assert mended(lists, caption) == found


@pytest.mark.parametrize(
    ("caption", "script", "fixed"),
    [
        ("a bus and buses", ["bus"], ["bus", "bus"]),  # its library makes "bu" of a bus
        ("a stove top oven", ["oven"], ["oven"]),  # three words: it sees the last one alone
        ("a motor bike", [], ["motorcycle"]),  # a second space in the list
        ("a traffic-light", [], ["traffic light"]),  # a hyphen
        ("a passenger bus and a baby dog", ["person", "person", "dog"], ["bus", "dog"]),  # its rule knows some animals only
        ("a man, woman", ["person", "person"], ["person", "person"]),
    ],
)
def test_where_mode_fixed_differs(lists: dict[str, str], caption: str, script: list[str], fixed: list[str]) -> None:
    assert by_script(lists, caption) == script
    assert mended(lists, caption) == fixed


def test_three_words_are_one_mention(lists: dict[str, str]) -> None:
    finder = Finder(Lexicon(read_objects(lists["objects"], False), {}), own())
    assert [(m.word, m.position) for m in finder("a stove top oven")] == [("stove top oven", 1)]


def test_positions_shift_behind_a_seat_in_the_script_only(lists: dict[str, str]) -> None:
    caption = "seat of a toilet with a dog"
    lexicon = Lexicon(read_objects(lists["objects"], True), read_pairs(lists["pairs"]))
    assert [m.position for m in original_mentions(caption, lexicon, SCRIPT)] == [2, 5]
    assert [m.position for m in Finder(lexicon, own())(caption)] == [3, 6]


def test_chinese_captions(write: Any) -> None:
    objects = write("zh.txt", "人，男人，女人\n狗、小狗\n马\n公交车，巴士\n")
    pairs = write("zh_pairs.txt", "马路\n")
    found = Finder(Lexicon(read_objects(objects, False), read_pairs(pairs)), own())("男人牵着一只小狗走过马路，旁边有巴士和马。")
    assert [(m.word, m.node) for m in found] == [("男 人", "人"), ("小 狗", "狗"), ("巴 士", "公交车"), ("马", "马")]


def test_pairs_are_read_from_a_script(write: Any) -> None:
    path = write(
        "chair.py",
        "coco_double_words = ['hot dog', 'bow tie']\n        animal_words = ['cub']\n        vehicle_words = ['jet']\n"
        "        self.double_word_dict['bow tie'] = 'tie'\n        print 'x'\n",
    )
    assert read_pairs(path) == {"hot dog": "hot dog", "bow tie": "tie", "baby cub": "cub", "adult cub": "cub", "passenger jet": "jet"}
    with pytest.raises(DataError, match=r"not the published chair\.py"):
        read_pairs(write("other.py", "x = []\n"))


CAPTIONS = [
    {"image_id": 1, "caption": "A dog and a dog and a car.", "objects": ["dog"], "references": ["a man and his puppy"]},
    {"image_id": 2, "caption": "A red thing.", "objects": ["car"]},
    {"image_id": 3, "caption": "A woman in a car with a chair", "objects": ["car"], "references": ["A baby"]},
]


def measured(write: Any, lists: dict[str, str], captions: Any, name: str = "captions.jsonl", **settings: Any) -> Result:
    return run(HallucinationConfig(file=write(name, captions), measure="chair", draws=100, **lists, **settings))


def means(result: Result) -> dict[str, float | None]:
    return {k: None if v is None else v.mean for k, v in result.rates.items()}


@pytest.mark.parametrize("mode", ["original", "fixed"])
def test_the_rates_by_hand(write: Any, lists: dict[str, str], mode: Any) -> None:
    """Mentions: dog dog car*, none, person car chair*: 2 of 6; captions 2 of 3, of those with objects 2 of 2. There: dog person, car,
    car person: 5; named: dog, -, person car: 3."""
    result = measured(write, lists, CAPTIONS, mode=mode)
    assert means(result) == {"chair_i": pytest.approx(2 / 6), "chair_s": pytest.approx(2 / 3), "chair_s_with_objects": 1.0}
    assert result.coverage is not None
    assert result.coverage.mean == pytest.approx(3 / 5)
    assert result.named["without_objects"] == ["2"]
    if mode == "original":
        assert result.printed == {"CHAIRs": 2 / 3, "CHAIRi": 2 / 6}
    assert result.rows[0]["hallucinated"][0]["word"] == "car"
    assert result.rows[0]["not_named"] == ["person"]


def test_silence_does_not_win(write: Any, lists: dict[str, str]) -> None:
    """Nothing said: no rate and no coverage. The script calls an empty caption clean, and has nothing beside it."""
    silent = [{**row, "caption": ""} for row in CAPTIONS]
    result = measured(write, lists, silent)
    assert means(result) == {"chair_i": None, "chair_s": None, "chair_s_with_objects": None}
    assert result.coverage is not None
    assert result.coverage.mean == 0.0
    assert result.named["empty"] == ["1", "2", "3"]
    assert measured(write, lists, silent, mode="original").printed == {"CHAIRs": 0.0, "CHAIRi": None}


def test_thoughts_are_no_caption(write: Any, lists: dict[str, str]) -> None:
    row = {**CAPTIONS[0], "caption": "<think>a car, a bus</think>A dog."}
    assert measured(write, lists, [row]).rows[0]["mentions"] == ["dog"]
    assert measured(write, lists, [row], mode="original").rows[0]["mentions"] == ["car", "dog"]
    assert measured(write, lists, [{**row, "caption": "<think>a car"}]).named["empty"] == ["1"]


def test_one_safe_word_has_no_coverage_to_show(write: Any, lists: dict[str, str]) -> None:
    short = [{**CAPTIONS[0], "caption": "A dog."}, {**CAPTIONS[1], "caption": ""}, {**CAPTIONS[2], "caption": ""}]
    result = measured(write, lists, short)
    assert means(result)["chair_i"] == 0.0
    assert result.coverage is not None
    assert result.coverage.mean == pytest.approx(1 / 5)


def test_images_that_were_not_described_count_for_the_coverage(write: Any, lists: dict[str, str]) -> None:
    truth = write("truth.jsonl", [{"image_id": 1, "objects": ["dog"]}, {"image_id": 9, "objects": ["car", "bus"], "captions": ["a puppy"]}])
    result = measured(write, lists, [{"image_id": 1, "caption": "A dog."}], truth=truth)
    assert result.named["missing"] == ["9"]
    assert result.coverage is not None
    assert result.coverage.mean == pytest.approx(1 / 4)


def coco(write: Any) -> dict[str, Any]:
    instances = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "car"}],
        "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 2, "category_id": 8}, {"image_id": 4, "category_id": 8}],
    }
    captions = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a man with a dog"}]}
    return {"instances": [write("instances.json", instances)], "references": [write("captions.json", captions)]}


def test_cocos_files_and_the_scripts_own_format(write: Any, lists: dict[str, str]) -> None:
    """Image 1: dog and person there, image 2: car, image 3: nothing known."""
    caps = {"overall": {}, "imgToEval": {str(i): {"image_id": i, "caption": c} for i, c in ((1, "a man"), (2, "a dog"), (3, "a car"))}}
    result = measured(write, lists, caps, "caps.json", mode="original", **coco(write))
    assert result.printed == {"CHAIRs": pytest.approx(2 / 3), "CHAIRi": pytest.approx(2 / 3)}
    assert any("nothing is known to be there" in note for note in result.notes)


def test_segments_alone_are_told(write: Any, lists: dict[str, str]) -> None:
    result = measured(write, lists, [{"image_id": 1, "caption": "a man"}], instances=coco(write)["instances"])
    assert result.notes[0].startswith("the truth is what was segmented alone")


@pytest.mark.parametrize(
    ("captions", "told"),
    [
        ([{"image_id": 1, "caption": "a", "objects": ["cat"]}], r"captions.jsonl:1: objects: 'cat' is no name in the list"),
        ([{"image_id": 1, "caption": "a"}], r"captions.jsonl:1: 1 captions are of images that the truth does not know: 1"),
        ([{"image_id": 1, "caption": "a", "objects": []}] * 2, r"captions.jsonl:2: the id 1 stands at .*:1 already"),
        ([{"image_id": 1, "objects": []}], r"captions.jsonl:1: none of the fields caption"),
        ([{"image_id": 1, "caption": "a", "objects": "dog"}], r"captions.jsonl:1: objects: must be a list of texts"),
    ],
)
def test_what_cannot_be_used_is_told(write: Any, lists: dict[str, str], captions: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        measured(write, lists, captions)


def test_lists_that_cannot_be_used_are_told(write: Any) -> None:
    with pytest.raises(DataError, match="objects: not given"):
        run(HallucinationConfig(file="x", measure="chair"))
    with pytest.raises(DataError, match=r"o.txt:2: 'dog' is a name of 'animal' already"):
        read_objects(write("o.txt", "animal, dog\npet, dog\n"), False)
    with pytest.raises(DataError, match=r"p.txt:1: must be `words -> word`"):
        read_pairs(write("p.txt", "toilet seat ->\n"))


def test_the_script_cannot_read_chinese(write: Any) -> None:
    file = write("zh.jsonl", [{"image_id": 1, "caption": "狗", "objects": []}])
    with pytest.raises(DataError, match="the published script cannot find '公交车'"):
        run(HallucinationConfig(file=file, measure="chair", mode="original", objects=write("zh.txt", "狗\n公交车\n")))
