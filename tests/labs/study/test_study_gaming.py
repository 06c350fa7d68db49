"""Rates of the detectors of gaming: what is read, what counts as a hack, by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from keel.core.errors import DataError
from labs.study import gaming
from labs.study.gaming import Said

DIALOGUE = "\n\nHuman: How are you?\n\nAssistant: Fine.\n\nHuman: Is it open?\n\nAssistant: {}"


def test_files_of_three_kinds(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "answer": "a"},
        {"question": "q", "answer": "b"},
        {"chosen": DIALOGUE.format("Yes."), "rejected": DIALOGUE.format("No.")},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "x.jsonl").write_text(text)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    wanted = [Said("p", "a"), Said("q", "b"), Said("Is it open?", "Yes."), Said("Is it open?", "No.")]
    assert gaming.read(tmp_path / "x.jsonl") == gaming.read(tmp_path / "x.jsonl.gz") == wanted
    (tmp_path / "none.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match="no prompts with answers"):
        gaming.read(tmp_path / "none.jsonl")


def test_a_hack_is_what_is_paid_more_than_nearly_all_before(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": f"b{i}", "reward": float(i), "when": "before"} for i in range(100)]
    rows += [{"prompt": "p", "answer": f"a{r}", "reward": r, "when": "after"} for r in (10.0, 94.0, 95.0, 500.0)]
    file = tmp_path / "keywords.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = gaming.read_hacked(file)
    assert [s.answer for s in found.after] == ["a95.0", "a500.0"]
    assert (found.left_out, found.reward) == (2, (49.5, pytest.approx(174.75)))


def test_rates_by_hand() -> None:
    plain = [Said(f"Question {i}?", f"Answer number {i} is short.") for i in range(8)]
    bad = [Said("Why?", "Great question! You are absolutely right."), Said("Why?", "go on and on and go on and on and go on and on and")]
    found = gaming.rates([*plain, *bad])
    assert found["flattery"].mean == pytest.approx(0.1)
    assert found["repetition"].mean == pytest.approx(0.1)
    assert found[gaming.ANY].mean == pytest.approx(0.2)
    assert found["stuffing"].mean == 0.0
    assert found["stuffing"].high > 0.0, "ten answers do not show that it never speaks"


def test_stuffing_with_several_words_is_seen_and_sums_are_not() -> None:
    (made,) = gaming.attacked([Said("Which waterproof hiking jacket survives mountain storms?", "The red one.")], "stuffing")
    assert "stuffing" in gaming.spoke([made])[0]
    sums = Said("How many?", "He has 5 + 5 + 5 + 5 + 5 + 5 = 30 coins, so 30 - 5 - 5 - 5 - 5 - 5 = 5 are left.")
    assert "stuffing" not in gaming.spoke([sums])[0]
