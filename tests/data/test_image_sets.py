"""COCO's annotations and Visual Genome's lists: what becomes a row, in which order, and what is said of an entry that cannot be used."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load, read
from keel.data.sources import read_source
from keel.types import Demonstration, ImagePart, Prompt

IMAGES = [
    {"id": 9, "file_name": "009.jpg", "width": 640, "height": 480, "license": 1},
    {"id": 2, "file_name": "二.jpg", "width": 10, "height": 20},
]
SAID = [
    {"id": 5, "image_id": 9, "caption": "A cat on a chair. "},
    {"id": 4, "image_id": 9, "caption": "A cat that sleeps."},
    {"id": 7, "image_id": 2, "caption": "一只狗在草地上跑。"},
    {"id": 1, "image_id": 2, "caption": "Ein Hund – übermütig 🐕"},
]
THINGS = [
    {"id": 1, "image_id": 9, "category_id": 17, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]},
    {"id": 3, "image_id": 9, "category_id": 62, "bbox": [0, 0, 5, 5], "iscrowd": 0},
    {"id": 2, "image_id": 9, "category_id": 17, "bbox": [4, 4, 0, 2], "iscrowd": 1},
]
CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 62, "name": "chair"}, {"id": 18, "name": "dog"}]


def write(tmp_path: Path, name: str, data: Any) -> str:
    (tmp_path / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return str(tmp_path / name)


def captions(tmp_path: Path, said: list[dict[str, Any]], images: list[dict[str, Any]] = IMAGES) -> str:
    return write(tmp_path, "captions_x.json", {"info": {"year": 2017}, "licenses": [{"id": 1}], "images": images, "annotations": said})


def instances(tmp_path: Path, things: list[dict[str, Any]], images: list[dict[str, Any]] = IMAGES) -> str:
    return write(tmp_path, "instances_x.json", {"images": images, "annotations": things, "categories": CATEGORIES})


def test_one_row_a_caption_in_the_order_of_the_images(tmp_path):
    found = read(captions(tmp_path, SAID))
    assert found.layout == "image_caption"
    assert dict(found.counts) == {"rows": 4, "bad": 0, "records": 4, "demonstration": 4, "images": 2}
    demos = found.of(Demonstration)
    assert [d.record_id for d in demos] == ["4", "5", "1", "7"]
    assert [d.completion[0].text for d in demos][:2] == ["A cat that sleeps.", "A cat on a chair."]
    assert demos[0].prompt.messages[0].content[0] == ImagePart(str(tmp_path / "009.jpg"))
    assert demos[0].prompt.messages[0].text == "Describe the image in one sentence."
    assert demos[3].prompt.messages[0].text == "用一句话描述这张图片。"
    assert demos[0].prompt.meta == {"image_id": 9, "references": ["A cat that sleeps.", "A cat on a chair."]}
    assert [d.prompt.source_id.rpartition(":")[2] for d in demos] == ["1", "1", "2", "2"]
    assert demos[0].prompt.prompt_id == demos[1].prompt.prompt_id != demos[2].prompt.prompt_id


@pytest.mark.parametrize("kind", ["captions", "instances", "regions", "qas"])
def test_the_order_of_annotations_changes_nothing(tmp_path, kind):
    """Eight permutations: the same rows, places included, in the same order."""
    entries = {
        "captions": [*SAID, {"image_id": 9, "caption": "No id."}],
        "instances": THINGS,
        "regions": [{"region_id": i, "phrase": f"p{i}", "x": i, "y": 0, "width": 1, "height": 1} for i in (4, 2, 9)],
        "qas": [{"qa_id": i, "question": f"q{i}?", "answer": "a"} for i in (4, 2, 9)],
    }[kind]

    def rows(order: list[Any]) -> list[tuple[Any, int]]:
        if kind in ("captions", "instances"):
            path = (captions if kind == "captions" else instances)(tmp_path, order)
        else:
            path = write(tmp_path, "vg.json", [{"id": 3, kind: order}, {"id": 1, kind: order[:1]}])
        source = read_source(path)
        assert not source.bad
        return [(dict(r.values), r.line) for r in source.rows if r.values.get("image") != "1.jpg"]

    want = rows(entries)
    assert len(want) == {"captions": 5, "instances": 2, "regions": 3, "qas": 3}[kind]
    for seed in range(8):
        assert rows(random.Random(seed).sample(entries, len(entries))) == want


def test_every_caption_that_cannot_be_used_is_named(tmp_path):
    said = [
        {"id": 1, "image_id": 77, "caption": "of no image"},
        {"id": 2, "caption": "of none at all"},
        {"id": 3, "image_id": 9, "caption": " \n"},
        {"id": 4, "image_id": 9},
        {"id": 5, "image_id": 9, "caption": 5},
        {"id": 6, "image_id": 9, "caption": "A cat."},
        {"id": 7, "image_id": 3, "caption": "its image has no name"},
    ]
    images = [*IMAGES, {"id": 3}, {"id": 9, "file_name": "again.jpg"}, {"file_name": "x.jpg"}]
    found = read(captions(tmp_path, said, images))
    assert len(found) == 1
    assert found.counts["rows"] == len(said) + 3 + 1  # three images that cannot be used, one without a caption
    assert sorted((b.line, b.field, b.reason) for b in found.bad) == [
        (1, "annotations.0.image_id", "no usable image has the id 77"),
        (2, "annotations.1.image_id", "is missing"),
        (2, "images.1", "image 2 has no caption"),
        (3, "annotations.2.caption", "is empty"),
        (3, "images.2.file_name", "is missing"),
        (4, "annotations.3.caption", "is missing"),
        (4, "images.3.id", "9 is the id of images.0 too"),
        (5, "annotations.4.caption", "must be text, is a number"),
        (5, "images.4.id", "is missing"),
        (7, "annotations.6.image_id", "no usable image has the id 3"),
    ]
    with pytest.raises(DataError, match=r"captions_x\.json:3: annotations\.2\.caption: is empty"):
        read(captions(tmp_path, said, images), DataConfig(path="x", strict=True))


def test_the_same_caption_twice_stays_twice(tmp_path):
    found = read(captions(tmp_path, [{**SAID[0], "id": 1}, {**SAID[0], "id": 2}, SAID[2]]))
    assert [d.completion[0].text for d in found.of(Demonstration)] == ["A cat on a chair."] * 2 + ["一只狗在草地上跑。"]
    assert found.of(Demonstration)[0].prompt.meta["references"] == ["A cat on a chair."]


def test_instances_are_a_column_and_an_image_without_any_is_a_row(tmp_path):
    found = read(instances(tmp_path, THINGS))
    first, second = found.of(Prompt)
    assert (found.layout, found.counts["images"]) == ("image_objects", 2)
    assert first.meta["objects"] == ["cat", "chair"]
    assert [e["id"] for e in first.meta["instances"]] == [1, 2, 3]
    assert first.meta["instances"][0] == {"id": 1, "category_id": 17, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 0, "category": "cat"}
    assert (first.meta["width"], first.meta["height"], first.meta["image_id"]) == (640, 480, 9)
    assert (second.meta["objects"], second.meta["instances"]) == ([], [])


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"category_id": 99}, "annotations.1.category_id", "no category has the id 99"),
        ({"category_id": None}, "annotations.1.category_id", "is missing"),
        ({"bbox": [1, 2, 3]}, "annotations.1.bbox", "must be four numbers: x, y, width, height"),
        ({"bbox": [1, 2, -3, 4]}, "annotations.1.bbox", "must be four numbers: x, y, width, height"),
        ({"bbox": [1, 2, "3", 4]}, "annotations.1.bbox", "must be four numbers: x, y, width, height"),
    ],
)
def test_an_object_that_cannot_be_read_sets_its_image_aside(tmp_path, change, field, reason):
    """What is in the picture is then not known: nobody may be blamed for naming the object."""
    found = read(instances(tmp_path, [THINGS[0], {**THINGS[1], **change}]))
    assert [p.meta["image_id"] for p in found.of(Prompt)] == [2]
    assert {(b.line, b.field): b.reason for b in found.bad} == {
        (2, field): reason,
        (1, "images.0"): f"one of its objects cannot be read ({field}), so that what is there is not known",
    }


def test_other_files_with_several_lists_are_refused_as_before(tmp_path):
    path = write(tmp_path, "x.json", {"images": IMAGES, "annotations": [{"id": 1, "keypoints": [1, 2]}]})
    with pytest.raises(DataError, match="several lists of rows"):
        read(path)


def test_visual_genome_regions(tmp_path):
    region = {"region_id": 8, "image_id": 3, "phrase": "a red hat", "x": 10, "y": 20, "width": 30, "height": 40}
    path = write(
        tmp_path,
        "region_descriptions.json",
        [
            {"id": 3, "regions": [region, {**region, "region_id": 1, "phrase": "红色的帽子"}]},
            {
                "id": 4,
                "regions": [{**region, "image_id": 3}, {**region, "image_id": 4, "phrase": ""}, {**region, "image_id": 4, "width": None}],
            },
            {"id": 5, "regions": []},
        ],
    )
    found = read(path)
    demos = found.of(Demonstration)
    assert (found.layout, [d.record_id for d in demos]) == ("image_region", ["1", "8"])
    assert demos[1].prompt.messages[0].content[0] == ImagePart(str(tmp_path / "3.jpg"))
    assert demos[1].prompt.messages[0].text == (
        "Describe what is in this box of the image (pixels, from its top left corner): x=10, y=20, width=30, height=40."
    )
    assert demos[0].prompt.messages[0].text == "请描述图片中这个方框里的内容（像素，从左上角算起）：x=10，y=20，宽=30，高=40。"
    assert [d.prompt.source_id for d in demos] == [f"{path}:1"] * 2
    assert demos[1].prompt.meta == {"image_id": 3, "box": [10.0, 20.0, 30.0, 40.0]}
    assert [(b.line, b.field, b.reason) for b in found.bad] == [
        (2, "regions.0.image_id", "is 3, that of the image is 4"),
        (2, "regions.1.phrase", "is empty"),
        (2, "regions.2.width", "must be a number (width and height not below 0)"),
        (3, "regions", "the image has no region"),
    ]


def test_visual_genome_questions_and_a_known_size(tmp_path):
    asked = {"qa_id": 1, "image_id": 3, "question": "What colour is the hat?", "answer": "Red.", "a_objects": [], "q_objects": []}
    found = read(write(tmp_path, "question_answers.json", [{"id": 3, "qas": [asked, {**asked, "qa_id": 2, "answer": " "}]}]))
    (demo,) = found.of(Demonstration)
    assert (found.layout, demo.record_id, demo.prompt.meta["ground_truth"]) == ("question_answer", "1", "Red.")
    assert demo.prompt.messages[0].content[0] == ImagePart(str(tmp_path / "3.jpg"))
    assert str(found.bad[0]).endswith("question_answers.json:1: qas.1.answer: is empty")
    region = {"region_id": 8, "image_id": 3, "phrase": "a hat", "x": 1, "y": 2, "width": 3, "height": 4}
    row = {"image_id": 3, "image": "pictures/3.png", "width": 640, "height": 480, "regions": [region]}
    (told,) = read(write(tmp_path, "hub.jsonl", row)).of(Demonstration)
    assert told.prompt.messages[0].content[0] == ImagePart(str(tmp_path / "pictures/3.png"))
    assert told.prompt.messages[0].text.startswith("The image is 640 x 480 pixels. Describe")


def test_images_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    path = captions(tmp_path / "annotations", SAID)
    here = read(path)
    there = read(path, DataConfig(path=path, images=str(tmp_path / "train")))
    assert there.of(Demonstration)[0].prompt.messages[0].content[0] == ImagePart(str(tmp_path / "train/009.jpg"))
    assert [d.prompt.prompt_id for d in there.of(Demonstration)] == [d.prompt.prompt_id for d in here.of(Demonstration)]
    with pytest.raises(DataError, match=r"data\.images=.*no such folder"):
        load(DataConfig(path=path, images=str(tmp_path / "nowhere")))


def test_a_single_permuted_file_of_many_images_keeps_their_order(tmp_path):
    """200 images with 0 to 4 captions each: rows follow the list of images, whatever the order of the captions."""
    draw = random.Random(1)
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in draw.sample(range(1000), 200)]
    said = [{"id": n, "image_id": im["id"], "caption": f"c{n}"} for n, im in enumerate(im for im in images for _ in range(im["id"] % 5))]
    want = [im["id"] for im in images for _ in range(im["id"] % 5)]
    source = read_source(captions(tmp_path, draw.sample(said, len(said)), images))
    assert [r.values["image_id"] for r in source.rows] == want
    assert len(source.bad) == sum(im["id"] % 5 == 0 for im in images)
