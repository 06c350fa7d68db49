"""People's work and mined failures on the report's page."""

from __future__ import annotations

from typing import Any

from keel.evaluate.report import ReportData, render
from keel.evaluate.report_data import StageData
from keel.evaluate.report_feedback import feedback_view

MINED: dict[str, Any] = {
    "mined": {
        "hack": {
            "of": "answers",
            "found": 3,
            "tasks": 2,
            "kinds": {"echo": 2, "refrain": 1},
            "examples": [{"prompt": "Why?", "text": "<b>x</b>"}],
        },
        "close": {"of": "pairs", "found": 7, "tasks": 5, "kinds": {}, "examples": []},
    },
    "tasks": 6,
    "arms": {"chosen": 4, "random": 2},
    "hack_pairs": 1,
}
PEOPLE: dict[str, Any] = {
    "snapshot": "abc",
    "retracted": {"c.sim-6": "always left"},
    "items": 10,
    "done": 9,
    "votes": 27,
    "both_bad": 2,
    "gold": {"items": 5, "asked": 8, "right": 6},
    "agreement": {"raw": 0.7, "alpha_ordinal": None},
    "left_out": {"gold": 8, "retracted": 3},
}


def test_tables_of_both_stages_and_where_each_number_came_from() -> None:
    noted: list[tuple[str, ...]] = []
    found = feedback_view(StageData("mine", "stages/mine", summary=MINED), lambda *x: noted.append(x))
    assert found is not None
    assert [r[0] for r in found["rows"]] == ["hack", "close"]
    assert found["rows"][0][2:] == ("3 answers", "echo 2, refrain 1", "2")
    assert "4 chosen, 2 random" in found["under"]
    assert ("stages/mine/summary.json", "mined.close") in [x[2:] for x in noted]
    people = feedback_view(StageData("labels", "stages/labels", summary=PEOPLE), lambda *x: noted.append(x))
    assert people is not None
    rows = dict(people["rows"])
    assert rows["items done"] == "9 of 10"
    assert rows["known items right"].startswith("75")
    assert rows["agreement: Krippendorff's alpha, ordinal"] == "not known"
    assert rows["taken back: c.sim-6"] == "always left"
    assert "8 gold, 3 retracted" in people["under"]
    assert feedback_view(StageData("rl", "", summary={"steps": 3}), lambda *_: None) is None


def test_the_page_shows_them_and_escapes_what_models_wrote() -> None:
    people = StageData("labels", "stages/labels", summary=PEOPLE, manifest={"verb": "annotate"})
    stages = (StageData("mine", "stages/mine", summary=MINED), people)
    page = render(ReportData("run", {}, {}, stages))
    assert "Failures by reason" in page
    assert "People: labels" in page
    assert "taken back: c.sim-6" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page
