"""ObjHal: rates by hand, objects by an extractor, and the script's numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.result import Result
from keel.evaluate.hallucination.table import measure

OBJECTS = "dog, puppy\ncat\nwine glass, goblet\ntoilet\nseat\nhot dog\n"


@pytest.fixture
def result(tmp_path: Path):
    """``result(rows, mode=..., extracted=[...])``."""

    def run(rows: list[dict[str, Any]], extracted: list[dict[str, Any]] | None = None, **more: Any) -> Result:
        (tmp_path / "objects.txt").write_text(OBJECTS)
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if extracted is not None:
            (tmp_path / "e.jsonl").write_text("".join(json.dumps(r) + "\n" for r in extracted))
            more["extracted"] = str(tmp_path / "e.jsonl")
        files = {"file": str(tmp_path / "a.jsonl"), "objects": str(tmp_path / "objects.txt")}
        return measure(HallucinationConfig(**files, measure="objhal", draws=100, **more))

    return run


def row(image: int, caption: str, *there: str, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "caption": caption, "objects": list(there), **more}


def means(found: Result) -> dict[str, float]:
    return {k: v.mean for k, v in {**found.rates, "coverage": found.coverage}.items() if v is not None}


ROWS = [
    row(1, "a dog, a puppy and a cat on a sofa", "dog", "toilet"),
    row(2, "two goblets stand there quietly", "wine glass"),
    row(3, "nothing that anybody could name", "cat"),
]


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_by_words_of_the_list(result, mode: str) -> None:
    found = result(ROWS, mode=mode)
    assert means(found) == pytest.approx({"response": 1 / 2, "object": 1 / 4, "chair_s": 1 / 3, "coverage": 2 / 4})


def test_what_an_extractor_listed_is_counted_once(result) -> None:
    listed = [{"image_id": i, "extract_objs": o} for i, o in ((1, ["dog", "puppies", "dogs", "red cat"]), (2, ["wine glass"]), (3, []))]
    fixed, original = (result(ROWS, listed, mode=mode) for mode in ("fixed", "original"))
    assert means(fixed) == pytest.approx({"response": 1 / 2, "object": 1 / 3, "chair_s": 1 / 3, "coverage": 2 / 4})  # dog, cat, glass
    assert means(original)["object"] == pytest.approx(1 / 4)  # dog and puppy are two
    assert original.printed["CHAIRs_refine"] == 1 / 2
    assert original.printed["obj_rec"] == 2 / 4
    assert (original.printed["coco_sentence_num"], original.printed["gt_word_count"]) == (2, 4)
    assert fixed.ways["objects"] == "listed by an extractor"


def test_lists_may_stand_in_the_rows_and_short_captions_have_none_for_the_script(result) -> None:
    rows = [row(1, "a dog", "dog", extract_objs=["cat"]), row(2, "there is a wine glass", "wine glass", extract_objs=["wine glass"])]
    assert means(result(rows))["object"] == pytest.approx(1 / 2)
    assert means(result(rows, mode="original"))["object"] == 0.0


def test_a_caption_that_nobody_extracted_is_named_and_no_clean_one(result) -> None:
    listed = [{"image_id": 1, "extract_objs": ["dog"]}, {"image_id": 2, "extract_objs": ["goblet"]}]
    found = result(ROWS, listed)
    assert found.named["not_extracted"] == ["3"]
    assert found.counts["captions"] == 2
    with pytest.raises(DataError, match="3: the extractor listed nothing"):
        result(ROWS, listed, mode="original")
    with pytest.raises(DataError, match=r"e\.jsonl:1: extract_objs: must be a list of texts"):
        result(ROWS, [{"image_id": 1, "extract_objs": "-1\n<no_response>"}])


def test_on_random_lists_the_script_is_counted_anew(result) -> None:
    """Unique words, those of the list, against what is there: counted here from the definition."""
    rng = random.Random(0)
    nodes = {"dog": "dog", "puppy": "dog", "cat": "cat", "wine glass": "wine glass", "hot dog": "hot dog", "toilet": "toilet", "car": None}
    for _ in range(10):
        rows = [row(i, "four words or more", *rng.sample(["dog", "cat", "toilet", "wine glass"], 2)) for i in range(8)]
        lists = [rng.choices(list(nodes), k=rng.randrange(5)) for _ in rows]
        found = result(rows, [{"image_id": i, "extract_objs": o} for i, o in enumerate(lists)], mode="original").printed
        said = [[nodes[w] for w in dict.fromkeys(o) if nodes[w]] for o in lists]
        wrong = [[n for n in s if n not in r["objects"]] for s, r in zip(said, rows, strict=True)]
        assert found["CHAIRs_refine"] == pytest.approx(sum(map(bool, wrong)) / sum(map(bool, said)))
        assert found["CHAIRi"] == pytest.approx(sum(map(len, wrong)) / sum(map(len, said)))
        assert found["obj_rec"] == pytest.approx(sum(len(set(s) & set(r["objects"])) for s, r in zip(said, rows, strict=True)) / 16)
