"""The preference store: written, read back equal, and clear about what is wrong in which line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keel.core.errors import DataError
from keel.data.dataset import read as read_dataset
from keel.feedback import store
from keel.types import Candidate, Comparison, ImagePart, Message, Pair, Prompt, TextPart

SAID = (Message("system", "Be kind."), Message("user", '退货要多久？\n\u2028 "quoted"'))
PLAIN = Comparison(
    record_id="p1:a:b:ann",
    prompt=Prompt("p1", SAID, source_id="x.jsonl:3", meta={"category": "returns"}),
    candidates=(Candidate("a", "六十天。", {"temperature": 0.7}), Candidate("b", "Sixty days.")),
    outcome="second",
    strength=0.123456789,
    annotator_id="ann",
    protocol="pairwise-v1",
    display_order=(1, 0),
    source_id="simulated",
)
RICH = replace(
    PLAIN,
    record_id="p2:a:b:ann",
    prompt=Prompt(
        "p2",
        (
            Message("user", (ImagePart("cat.png"), TextPart("What?"))),
            Message("assistant", "", {"tool_calls": [{"name": "f"}]}),
            Message("user", (TextPart("a"), TextPart("b"))),
        ),
        tools=({"type": "function", "function": {"name": "f"}},),
    ),
    outcome="tie",
    strength=0.0,
)
RAW = replace(PLAIN, record_id="p3", prompt=Prompt("p3", text="2 + 2 ="), outcome="first", strength=1)


def test_exact_round_trip_over_several_appends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store.jsonl"
    store.append(path, [PLAIN, RICH])
    store.append(path, [])
    store.append(path, [RAW])
    assert store.read(path) == (PLAIN, RICH, RAW)
    assert len(path.read_bytes().splitlines()) == 3


def asked(tmp_path: Path) -> dict[str, Prompt]:
    """Prompts as they are read from files, one of every kind."""
    image = str(tmp_path / "images" / "cat.png")
    called = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]})
    return {
        "chat": Prompt("p1", SAID, source_id="x.jsonl:3", meta={"category": "returns", "ground_truth": [1, None]}),
        "raw": Prompt("p2", text="2 + 2 =\n", source_id="x.jsonl:4"),
        "image": Prompt("p3", (Message("user", (ImagePart(image), TextPart("What, <image>?"))),), source_id="x.jsonl:5"),
        "data url": Prompt("p4", (Message("user", (TextPart("What?"), ImagePart("data:image/png;base64,AAAA"))),), source_id="x.jsonl:6"),
        "tools": Prompt(
            "p5",
            (*SAID, called, Message("tool", "3", {"name": "f"})),
            tools=({"type": "function", "function": {"name": "f"}},),
            source_id="x.jsonl:7",
        ),
    }


@pytest.mark.parametrize("kind", ["chat", "raw", "image", "data url", "tools"])
def test_rows_of_keel_are_read_back_equal_by_their_layouts(kind: str, tmp_path: Path) -> None:
    prompt = asked(tmp_path)[kind]
    comparison = replace(PLAIN, record_id="c", prompt=prompt)
    called = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]})
    answers = ((Message("assistant", "Sixty days."),), (called, Message("tool", "3"), Message("assistant", "六十天。")))
    pair = Pair("p:b>a", prompt, *answers, margin=0.25, label=0.75, weight=2.0)
    store.append(tmp_path / "a" / "comparisons.jsonl", [comparison])
    pairs = tmp_path / "b" / "pairs.jsonl"
    pairs.parent.mkdir()
    pairs.write_text(json.dumps(store.pair_row(pair)) + "\n", encoding="utf-8")
    for path, record, layout in ((tmp_path / "a" / "comparisons.jsonl", comparison, "comparison"), (pairs, pair, "preference")):
        dataset = read_dataset(str(path))
        assert dataset.layout == layout
        assert dataset.records == (record,)


def test_images_of_a_relative_file_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/rows.jsonl").write_text(json.dumps({"prompt": "What?", "image": "cat.png", "chosen": "a", "rejected": "b"}) + "\n")
    (pair,) = read_dataset("data/rows.jsonl").of(Pair)
    assert pair.prompt.messages[0].content == (ImagePart(str(tmp_path / "data" / "cat.png")), TextPart("What?"))
    Path("pairs.jsonl").write_text(json.dumps(store.pair_row(pair)) + "\n")
    assert read_dataset("pairs.jsonl").records == (pair,)


def test_a_record_written_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    store.append(path, [PLAIN])
    store.append(path, [PLAIN, RICH])
    assert store.read(path) == (PLAIN, RICH)
    store.append(path, [replace(PLAIN, outcome="first")])
    with pytest.raises(DataError, match=r"store\.jsonl:4: record_id 'p1:a:b:ann' stands twice"):
        store.read(path)


def test_the_data_room_reads_it_as_comparisons(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    store.append(path, [PLAIN])
    dataset = read_dataset(str(path))
    assert dataset.layout == "comparison"
    (record,) = dataset.of(Comparison)
    assert (record.candidates, record.outcome, record.display_order) == (PLAIN.candidates, "second", (1, 0))
    assert record.prompt.messages == PLAIN.prompt.messages


def broken(**changes: object) -> str:
    row = {k: v for k, v in (store.to_row(PLAIN) | changes).items() if v is not ...}
    return json.dumps(row)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "broken JSON"),
        ("[1]", "row must be a JSON object"),
        (broken(schema=2), "schema is 2"),
        (broken(outcome="left"), "outcome must be one of first, second, tie, is 'left'"),
        (broken(strength=1.5), "strength must be between 0 and 1"),
        (broken(strength=True), "strength must be between 0 and 1"),
        (broken(display_order=[0, 0]), "display_order must be"),
        (broken(annotator_id=...), "annotator_id is missing"),
        (broken(candidates=[{"candidate_id": "a", "text": "x", "origin": {}}]), "candidates must be two"),
        (broken(candidates=[{"candidate_id": "a", "text": "x", "origin": {}}] * 2), "both candidates have the id 'a'"),
        (broken(prompt=[{"role": "user"}]), "content is missing"),
        (broken(prompt=[{"role": "user", "content": [{"type": "sound"}]}]), "unknown content block"),
        (broken(prompt=3), "prompt must be str or list, is int"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "store.jsonl"
    store.append(path, [RICH])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"store\.jsonl:2: ") as error:
        store.read(path)
    assert message in str(error.value)
    assert error.value.hint


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such preference store"):
        store.read(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(DataError, match="cannot be read"):
        store.read(tmp_path / "latin.jsonl")


def test_nothing_is_appended_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    store.append(path, [PLAIN])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="interrupted write"):
        store.append(path, [RICH])


def test_a_record_that_is_not_json_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        store.append(path, [PLAIN, replace(RICH, strength=float("nan"))])
    assert not path.exists()


def test_file_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, str]] = []
    monkeypatch.setattr(type(store.DISK), "sync_file", lambda _, path: synced.append(("file", path.name)))
    monkeypatch.setattr(type(store.DISK), "sync_dir", lambda _, path: synced.append(("folder", path.name)))
    store.append(tmp_path / "new" / "store.jsonl", [PLAIN])
    assert synced == [("file", "store.jsonl"), ("folder", "new")]


def test_turns_of_an_answer_are_kept(tmp_path: Path) -> None:
    called = (Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}),)
    turned = replace(PLAIN, candidates=(Candidate("a", "", turns=called), PLAIN.candidates[1]))
    store.append(tmp_path / "store.jsonl", [turned])
    assert store.read(tmp_path / "store.jsonl") == (turned,)
    assert read_dataset(str(tmp_path / "store.jsonl")).records[0] == turned


def test_a_repeat_is_a_record_of_its_own(tmp_path: Path) -> None:
    from keel.feedback.config import AnnotatorsConfig
    from keel.simulate.annotators import compare, make_annotators

    (one,) = make_annotators(AnnotatorsConfig(count=1, per_item=1), 0)
    item = (PLAIN.prompt, *PLAIN.candidates)
    said = [compare(one, item, 0, repeat) for repeat in range(3)]
    assert len({c.record_id for c in said}) == 3
    assert said[0].display_order == said[1].display_order[::-1] == said[2].display_order
    store.append(tmp_path / "store.jsonl", said)
    assert store.read(tmp_path / "store.jsonl") == tuple(said)
    rows = [{k: v for k, v in store.to_row(c).items() if k != "record_id"} for c in said[:2]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len({r.record_id for r in read_dataset(str(tmp_path / "rows.jsonl")).of(Comparison)}) == 2


def test_reading_a_store_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, keel.feedback.store; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
