"""What earlier races found, one line each in ``learned.jsonl``: the next advice reads and mentions it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.advise.measure import Measures
from keel.advise.rank import Ranked, Reason
from keel.runs.logs import append, read

FILE = "learned.jsonl"
SAME, ALIKE = 3.0, 0.75  # points of a winner: on these very data, on others with labels of the same kinds


def remember(folder: Path, m: Measures, model: str, race: dict[str, Any]) -> None:
    """Add the result of a race."""
    row = {"data": m.source, "fingerprint": m.fingerprint, "kinds": sorted(m.kinds), "model": model}
    append(folder / FILE, [{**row, **{k: race[k] for k in ("at", "winner", "clear", "measure", "ways")}}])


def recall(folder: Path, m: Measures) -> list[dict[str, Any]]:
    """Earlier races on these data, or else on data with labels of the same kinds; the latest first."""
    rows = [r for r in read(folder / FILE) if r.get("winner")] if (folder / FILE).is_file() else []
    same = [r for r in rows if r.get("fingerprint") == m.fingerprint]
    alike = [r for r in rows if r.get("kinds") == sorted(m.kinds)]
    return list(reversed(same or alike))


def with_experience(ranking: Sequence[Ranked], races: Sequence[dict[str, Any]], m: Measures) -> list[Ranked]:
    """The ranking with points for the winner of the latest of ``races``; half of them where its lead was within the intervals."""
    if not races:
        return list(ranking)
    last = races[0]
    same = last.get("fingerprint") == m.fingerprint
    points = (SAME if same else ALIKE) * (1.0 if last.get("clear") else 0.5)
    where = "on these data" if same else f"on {last['data']}, whose labels are of the same kinds,"
    lead = "clearly" if last.get("clear") else "within the intervals"
    score = next((w for w in last["ways"] if w["name"] == last["winner"]), None)
    number = f": {last['measure']} {score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" if score else ""
    why = Reason(points, f"it won a race {where} {lead} ({last['model']}, {last['at']}){number}", f"a race of ours: {FILE}")
    return [replace(r, reasons=(*r.reasons, why)) if r.way.name == last["winner"] else r for r in ranking]
