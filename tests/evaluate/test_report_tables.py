"""The tables of a report as a browser shows them: words stay whole at any width, and what has no room is scrolled in its own box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keel.evaluate.report import write_report
from keel.evaluate.report_data import ReportData, StageData
from keel.runs.columns import Columns

pytestmark = pytest.mark.stages  # browsers run with the stages

BROKEN = """() => {
  const found = [];
  for (const table of document.querySelectorAll("table")) {
    if (![...table.rows].some((row) => row.cells.length > 2)) continue;
    for (const cell of table.querySelectorAll("th, td")) {
      const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode())
        for (const word of node.data.matchAll(/\\S+/g)) {
          const range = document.createRange();
          range.setStart(node, word.index);
          range.setEnd(node, word.index + word[0].length);
          const lines = new Set([...range.getClientRects()].filter((r) => r.width).map((r) => Math.round(r.top)));
          if (lines.size > 1 && !/[-–/]/.test(word[0])) found.push(word[0]);
        }
    }
  }
  return found;
}"""


def improved() -> ReportData:
    """A run of self-improvement with long verdicts, and a pipeline's longest table of origins."""
    of = {"mean": 0.6481, "low": 0.5123, "high": 0.7812, "n": 48}
    rows: list[dict[str, Any]] = [{"round": 0, "verdict": "start", "score": of, "judge": None, "tokens": of}]
    for i, verdict in enumerate(("better", "no worse", "worse"), start=1):
        told = {"round": i, "against": 0, "verdict": verdict, "lessons": 128, "replayed": 32, "success": 0.625}
        rows.append(told | dict.fromkeys(("score", "change", "judge", "tokens"), of))
    summary = {
        "improvement": rows,
        "kept": 0,
        "kept_name": "the starting model",
        "refused": [3],
        "gate": True,
        "unguarded": False,
        "measured_by": "gold",
        "judge": "lengthy",
        "stopped": "round 3 is worse than the starting model",
        "score_start": of,
        "score_kept": of,
        "settings": {"a_setting_with_a_very_long_name_that_has_no_room": "x" * 200},
    }
    steps = [{"step": i, "improve/score": 0.6, "improve/score_low": 0.5, "improve/score_high": 0.7} for i in range(4)]
    stage = StageData("improve", "", Columns.of_rows(steps), summary=summary)
    return ReportData("a run", summary, {"config": summary["settings"]}, (stage,))


@pytest.mark.parametrize("width", [360, 1200])
def test_words_in_tables_stay_whole_and_the_page_does_not_scroll_sideways(browser: Any, tmp_path: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    try:
        page.goto(write_report(tmp_path / "report.html", improved()).as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.locator("table.rates tbody tr").count() == 4
        assert page.evaluate(BROKEN) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.close()
