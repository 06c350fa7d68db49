"""Data of the study of looking, and the rates that its limits are chosen by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keel.simulate.scenes.speak import english
from keel.types import ImagePart, Pair
from labs.study.looking import TELL, found_in, most_of, pairs, rows_of, sees


def image(pair: Pair) -> str:
    (part,) = (p for p in pair.prompt.messages[0].content if isinstance(p, ImagePart))
    return part.source


def said(pair: Pair) -> tuple[str, str]:
    return pair.chosen[0].text, pair.rejected[0].text


def test_labels_are_of_their_kind(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 60, seed=3)
    healthy = pairs(rows, "healthy", 3)
    assert [said(p) for p in healthy] == [(english(r.there), english(r.absent)) for r in rows]
    assert [image(p) for p in healthy] == [r.image for r in rows]
    assert all(r.there.shape == r.absent.shape and r.there.colour != r.absent.colour for r in rows)
    permuted = pairs(rows, "permuted", 3)
    assert [said(p) for p in permuted] == [said(p) for p in healthy]
    assert sorted(image(p) for p in permuted) == sorted(r.image for r in rows)
    assert sum(image(p) == r.image for p, r in zip(permuted, rows, strict=True)) < 6
    assert all(better < worse for better, worse in map(said, pairs(rows, "by_text", 3)))
    assert {r.turned for r in rows} == {True, False}, "the place in the question says nothing"


def test_words_give_away_and_counter_data_take_back(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 200, seed=3)

    def tells(kind: Any) -> float:
        found = pairs(rows, kind, 3)
        assert all(a.startswith(TELL) != b.startswith(TELL) for a, b in map(said, found) if "image" not in a)
        return sum(p.chosen[0].text.startswith(TELL) for p in found) / len(rows)

    assert tells("given_away") > 0.9
    assert 0.4 < tells("counter") < 0.6
    ties = [p for p in pairs(rows, "other_image", 3) if p.label == 0.5]
    assert len(ties) == 200
    assert all(image(p) != image(q) for p, q in zip(ties, pairs(rows, "other_image", 3)[:200], strict=True))
    alone = [p for p in pairs(rows, "without_image", 3) if p.prompt.meta.get("without_image")]
    assert 10 < len(alone) <= 100
    assert all(p.rejected[0].text in {a for q in pairs(rows, "given_away", 3) for a in said(q)} for p in alone)


def test_rates_by_hand() -> None:
    def run(right: float, mean: float, median: float) -> dict[str, Any]:
        moved = {"swapped": {"mean": mean, "median": median}, "greyed": {"mean": 0.0, "median": 0.0}}
        return {"of": "reward", "kind": "healthy", "right": right, "moved": moved}

    runs = [run(0.9, 0.5, 0.02), run(0.7, 0.05, 0.2), run(0.5, 0.02, 0.0), run(0.55, 0.2, 0.0)]
    assert most_of(runs[0]) == 0.5
    assert most_of(runs[1], "median") == 0.2
    assert [sees(r, 128) for r in runs] == [True, True, False, False]
    found = [r for r in found_in(runs, 128)["rates"] if r["of"] == "reward"]
    rates = {(r["statistic"], r["limit"]): (r["alarms"], r["sees"], r["misses"], r["blind"]) for r in found}
    assert rates["mean", 0.1] == (1, 2, 1, 2)
    assert rates["mean", 0.01] == (0, 2, 2, 2)
    assert rates["median", 0.1] == (1, 2, 0, 2)
    assert rates["median", 0.01] == (0, 2, 0, 2)
