"""One id, one content; nothing of one question on both sides, whatever its ids."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load, prompt_of, read
from keel.data.identity import cluster_key, content_key
from keel.types import Comparison, ImagePart, Message, Prompt, TextPart


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def pair(prompt: Any, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def asked(text: str, name: str = "p") -> Prompt:
    return Prompt(name, (Message("user", text),))


def test_files_that_both_number_from_1_keep_their_questions_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = write(tmp_path / "a.jsonl", pair("Two and two?", "4", "5", prompt_id=1), pair("Sky?", "blue", "red", prompt_id="2"))
    b = write(tmp_path / "b.jsonl", pair("Capital of France?", "Paris", "Rome", prompt_id="1"), pair("Sky?", "grey", "red", prompt_id="2"))
    with caplog.at_level("WARNING", logger="keel"):
        dataset = load(DataConfig(path=[a, b]))
    prompts = dataset.prompts()
    assert [p.text for p in prompts] == ["Two and two?", "Sky?", "Capital of France?"]
    assert len({p.prompt_id for p in prompts}) == 3
    assert [prompt_of(r).prompt_id for r in dataset.records].count("2") == 2, "one prompt in both files stays one"
    for place in ("a.jsonl:1", "b.jsonl:1", "'1'"):
        assert place in caplog.text
    ids = {p.text: p.prompt_id for p in prompts}
    assert {p.text: p.prompt_id for p in load(DataConfig(path=[b, a])).prompts()} == ids, "the order of files plays no part"
    assert {p.text for p in read(str(tmp_path)).prompts()} == set(ids), "a folder of files"


def test_one_id_for_two_prompts_of_a_file_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pair("Two and two?", "4", "5", prompt_id="x"), pair("Sky?", "blue", "red", prompt_id="x"))
    with pytest.raises(DataError) as error:
        load(DataConfig(path=path))
    for part in ("'x'", "a.jsonl:1", "Two and two?", "a.jsonl:2", "Sky?"):
        assert part in error.value.message
    assert error.value.hint is not None
    assert "data.keys={their_id: prompt_id}" in error.value.hint
    mended = load(DataConfig(path=path, keys={"their_id": "prompt_id"})).prompts()
    assert len({p.prompt_id for p in mended}) == 2
    assert [p.meta["their_id"] for p in mended] == ["x", "x"]


def test_equal_names_of_different_images_are_different_prompts(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        files.append(write(tmp_path / name / "rows.jsonl", {"prompt": "What is this?", "completion": name, "image": "1.png"}))
        (tmp_path / name / "1.png").write_bytes(name.encode())
    assert len(load(DataConfig(path=files)).prompts()) == 2
    (tmp_path / "two" / "1.png").write_bytes(b"one")
    assert len(load(DataConfig(path=files)).prompts()) == 1


def test_votes_of_several_files_about_one_prompt_stay_together(tmp_path: Path) -> None:
    vote = {"prompt": "Sky?", "prompt_id": "1", "candidates": ["blue", "red"], "outcome": "first"}
    files = [write(tmp_path / f"{who}.jsonl", vote | {"annotator_id": who}) for who in ("ann", "bob")]
    records = load(DataConfig(path=files)).records
    assert [r.prompt.prompt_id for r in records if isinstance(r, Comparison)] == ["1", "1"]
    assert len(load(DataConfig(path=files, convert={"to": "pairs"})).records) == 1


def test_candidates_named_alike_in_two_files_are_told_apart(tmp_path: Path) -> None:
    def vote(one: str, two: str) -> dict[str, Any]:
        named = [{"candidate_id": "a", "text": one}, {"candidate_id": "b", "text": two}]
        return {"prompt": "Sky?", "candidates": named, "outcome": "first", "annotator_id": "ann"}

    files = [write(tmp_path / "1.jsonl", vote("blue", "red")), write(tmp_path / "2.jsonl", vote("grey", "green"))]
    pairs = load(DataConfig(path=files, convert={"to": "pairs"})).records
    assert [(p.chosen[0].text, p.rejected[0].text) for p in pairs] == [("blue", "red"), ("grey", "green")]


def test_equal_questions_under_other_ids_fall_on_one_side(tmp_path: Path) -> None:
    rows = [pair(f"Question {i}{'?' * j}", f"a{i}{j}", "b", prompt_id=f"{i}-{j}") for i in range(10) for j in range(3)]
    dataset = load(DataConfig(path=write(tmp_path / "a.jsonl", *rows)))
    held_sets = set()
    for seed in range(5):
        rest, held = dataset.split_by_prompt(0.2, seed)
        assert (len(rest), len(held)) == (8 * 3, 2 * 3)
        ours, theirs = ({cluster_key(p) for p in d.prompts()} for d in (rest, held))
        assert not ours & theirs
        held_sets.add(frozenset(theirs))
    assert len(held_sets) > 1
    assert (rest.counts["pair"], held.counts["pair"]) == (24, 6)


def test_held_out_questions_leave_training_whatever_their_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [pair("What is  2 + 2?", "4", "5", prompt_id="t1"), pair("What is 2 - 2?", "0", "5", prompt_id="1"), pair("Sky?", "x", "y")]
    held = [pair([{"role": "user", "content": "what is 2 + 2"}], "4", "6", prompt_id="1"), pair("SKY？", "x", "z")]
    ours, theirs = (load(DataConfig(path=write(tmp_path / f"{n}.jsonl", *rows))) for n, rows in (("train", train), ("held", held)))
    with caplog.at_level("WARNING", logger="keel"):
        kept = ours.without_prompts(theirs)
    assert [p.text for p in kept.prompts()] == ["What is 2 - 2?"]
    assert (kept.in_held_out, kept.counts["records"], kept.counts["pair"]) == (2, 1, 1)
    assert "2 of 3 records left out" in caplog.text
    with pytest.raises(DataError, match="nothing is left"):
        theirs.without_prompts(theirs)


def test_plain_texts_are_split_by_what_they_say(tmp_path: Path) -> None:
    texts = [{"text": f"The story of number {i // 2}"} for i in range(40)]
    dataset = load(DataConfig(path=write(tmp_path / "a.jsonl", *texts)))
    rest, held = dataset.split_by_prompt(0.25, seed=1)
    assert (len(rest), len(held)) == (30, 10)
    assert len(dataset.without_prompts(held)) == 30


def test_bad_rows_of_a_split_are_accounted_once(tmp_path: Path) -> None:
    rows = [*(pair(f"q{i}", "a", "b") for i in range(10)), pair("q", "", "b")]
    rest, held = load(DataConfig(path=write(tmp_path / "a.jsonl", *rows))).split_by_prompt(0.2)
    assert (len(rest.bad), rest.counts["bad"], len(held.bad), held.counts["bad"]) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("What is it?", "what  is it", True),
        ("退货要多久？", "退货要多久?", True),
        ("Ａ１", "a1", True),
        ("2 + 2?", "2 - 2?", False),
        ("2 * (3 + 4)", "2 * 3 + 4", False),
        ("3.5", "35", False),
        ("?", "!", False),
    ],
)
def test_clusters(tmp_path: Path, one: str, two: str, same: bool) -> None:
    rows = [pair(one, "a", "b", prompt_id="1"), pair(two, "a", "c", prompt_id="2")]
    ours, theirs = (load(DataConfig(path=write(tmp_path / f"{i}.jsonl", row, pair("other", "a", "b")))) for i, row in enumerate(rows))
    theirs_only = load(DataConfig(path=write(tmp_path / "x.jsonl", rows[1])))
    assert len(ours.without_prompts(theirs_only)) == (1 if same else 2)
    assert len(theirs) == 2


def test_images_count_by_their_bytes(tmp_path: Path) -> None:
    def shown(source: str) -> Prompt:
        return Prompt("p", (Message("user", (ImagePart(source), TextPart("What is this?"))),))

    for name, content in (("a.png", b"cat"), ("b.png", b"cat"), ("c.png", b"dog")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (shown(str(tmp_path / f"{n}.png")) for n in "abc")
    url = shown("data:image/png;base64," + base64.b64encode(b"cat").decode())
    for key in (cluster_key, content_key):
        assert key(a) == key(b) == key(url) != key(c)
        assert key(shown("gone.png")) != key(shown("lost.png"))


def test_content_is_exact() -> None:
    assert content_key(asked("Sky?")) == content_key(Prompt("q", text="Sky?")) != content_key(asked("Sky"))
    assert content_key(Prompt("p", text="x", tools=({"name": "f"},))) != content_key(Prompt("p", text="x"))
