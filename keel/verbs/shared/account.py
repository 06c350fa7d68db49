"""What a stage could not use of its data: named row by row in files, counted in the summary, told on the console."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.dataset import Dataset
from keel.data.findings import find, untrained_turns
from keel.data.left_out import LeftOut
from keel.data.unread import judged_columns, unread_columns
from keel.render.renderer import Refusal
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Unit

log = logging.getLogger("keel")
_VARIES = re.compile(r"'[^']*'|\d+")  # names and numbers in a reason
BAD_ROWS, REFUSED, LEFT_OUT = "bad_rows.jsonl", "refused.jsonl", "left_out.jsonl"


class Account:
    """The data of one stage by side (``train``, ``held_out`` ...). Writes ``bad_rows.jsonl`` and ``left_out.jsonl`` at once
    and ``refused.jsonl`` as refusals come in; what an earlier attempt left there is replaced."""

    def __init__(self, out: Path, max_refused: float = 1.0, **sides: Dataset | None) -> None:
        """``max_refused``: the largest share of a side's records that may be refused for one reason."""
        self.out, self.max_refused = out, max_refused
        self.sides = {side: data for side, data in sides.items() if data is not None}
        self.findings = {side: find(data.records) for side, data in self.sides.items()}
        self.refused: dict[str, list[Refusal]] = {}
        self.split_up: dict[str, int] = {}
        self.shortened: dict[str, Mapping[str, int]] = {}
        self.untrained = {side: n for side, data in self.sides.items() if (n := untrained_turns(data.records))}
        for side, n in self.untrained.items():
            log.info("%s data: %d assistant turns are read and not trained, as the file marks them", side, n)
        for name in (BAD_ROWS, REFUSED, LEFT_OUT):
            (out / name).unlink(missing_ok=True)
        rows = [
            {"side": side, "source": data.source, "file": b.file, "line": b.line, "field": b.field, "reason": b.reason, "row": b.values}
            for side, data in self.sides.items()
            for b in data.bad
        ]
        self._write(BAD_ROWS, rows)
        self.left: dict[str, list[LeftOut]] = {side: list(data.left_out) for side, data in self.sides.items() if data.left_out}
        self._write_left()
        for side, data in self.sides.items():
            if data.bad:
                log.warning("%s data: %d bad rows set aside, all of them in %s", side, len(data.bad), out / BAD_ROWS)

    def left_of(self, side: str) -> Sequence[LeftOut]:
        """What was left out of a side so far."""
        return self.left.get(side, ())

    def refuse(self, side: str, refused: Sequence[Refusal]) -> None:
        """Note records that cannot be rendered."""
        if not refused:
            return
        self.refused.setdefault(side, []).extend(refused)
        rows = [
            {"side": name, "record_id": r.record_id, "source_id": r.source_id, "reason": r.reason}
            | ({"answers": list(r.answers)} if r.answers else {})
            for name, found in self.refused.items()
            for r in found
        ]
        self._write(REFUSED, rows)
        answers = _refused(refused).get("refused_answers", 0)
        why = f" because of {answers} answers" if answers else ""
        text = "%s data: %d records refused%s (first: %s: %s), all of them in %s"
        log.warning(text, side, len(refused), why, refused[0].source_id, refused[0].reason, self.out / REFUSED)

    def check_refused(self, side: str, records: int) -> None:
        """Raise DataError where more than ``max_refused`` of a side's records were refused for one reason: what is left may not be what was
        meant (rows with images that the model does not take, say). One row alone stops nothing."""
        reasons = Counter(_VARIES.sub("#", r.reason) for r in self.refused.get(side, ()))
        reason, count = reasons.most_common(1)[0] if reasons else ("", 0)
        if count > max(1.0, self.max_refused * records):
            first = next(r for r in self.refused[side] if _VARIES.sub("#", r.reason) == reason)
            raise DataError(
                f"{side} data: {count} of {records} records refused for one reason: {first.reason} (first: {first.source_id}), all of"
                f" them in {self.out / REFUSED}",
                f"mend the rows or the model, or allow it with settings.max_refused (now {self.max_refused:g})",
            )

    def leave_out(self, side: str, left: Sequence[LeftOut]) -> None:
        """Note records of which nothing is trained or passed on, though they can be read and rendered."""
        if left:
            self.left.setdefault(side, []).extend(left)
            self._write_left()
            text = "%s: %d records left out (first: %s: %s), all of them in %s"
            log.warning(text, side, len(left), left[0].source_id, left[0].reason, self.out / LEFT_OUT)

    def _write_left(self) -> None:
        rows = [(side, r) for side, found in self.left.items() for r in found]
        self._write(LEFT_OUT, [{"side": s, "record_id": r.record_id, "source_id": r.source_id, "reason": r.reason} for s, r in rows])

    def shorten(self, side: str, counts: Mapping[str, int]) -> None:
        """Note how many prompts lost turns and how many answers were cut (``Renderer.shortened``)."""
        found = {name: n for name, n in counts.items() if n}
        if found:
            self.shortened[side] = found
            text = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in found.items())
            log.warning("%s data: %s, as render.over_long asks for", side, text)

    def split(self, side: str, units: Sequence[Unit]) -> None:
        """Note conversations that became several units, because the chat template shows earlier turns in another way later on."""
        several = [u for u in units if "turn" in u.meta and "record_id" in u.meta]
        if several:
            self.split_up[side] = len({u.meta["record_id"] for u in several})
            text = (
                "%s data: %d conversations became %d units: the chat template shows earlier turns in another way than the model writes them"
            )
            log.info(text, side, self.split_up[side], len(several))

    def summary(self) -> dict[str, dict[str, int]]:
        """Counts by side, for the summary: rows read, bad rows, records, exact duplicates and contradictions among them (told and kept),
        records refused, records that make no label or pair (``left_out``), records taken out because they are held out, columns that look
        as if the model should read them and are not shown to it (``unread_columns``), columns that look like judgements of answers that are
        imitated (``judged_columns``), conversations that became several units (``split``), turns that are not trained because the file says
        so (``untrained_turns``), answers that were cut and prompts that lost turns."""
        found: dict[str, dict[str, int]] = {}
        for side, data in self.sides.items():
            labels = self.findings[side]
            found[side] = {"rows": data.counts["rows"], "bad": len(data.bad), "records": len(data)}
            found[side] |= {"duplicates": labels.duplicates, "contradictions": labels.contradictions}
            if unread := unread_columns(data.records):
                found[side]["unread_columns"] = len(unread)
            if judged := judged_columns(data.records):
                found[side]["judged_columns"] = len(judged)
            found[side] |= {name: data.counts[name] for name in ("images", "without_image") if data.counts.get(name)}
            if data.in_held_out:
                found[side]["in_held_out"] = data.in_held_out
        for side, left in self.left.items():
            found.setdefault(side, {})["left_out"] = len(left)
        for name, counts in (("split", self.split_up), ("untrained_turns", self.untrained)):
            for side, n in counts.items():
                found[side][name] = n
        for side, counts in self.shortened.items():
            found.setdefault(side, {}).update(counts)
        for side, refused in self.refused.items():
            found.setdefault(side, {}).update(_refused(refused))
        return found

    def _write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            write_atomic(self.out / name, b"".join(json_line(row) for row in rows))


def _refused(refused: Sequence[Refusal]) -> dict[str, int]:
    answers = {key for r in refused for key in r.answers}
    return {"refused": len(refused), **({"refused_answers": len(answers)} if answers else {})}
