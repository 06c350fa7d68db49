"""Prolific: its export of submissions (who took part), and tables of answers that carry its link parameters.

Read for this: Prolific's API pages (``PROLIFIC_PID``, ``STUDY_ID``, ``SESSION_ID`` are appended to a study's link) and programs that read
its demographic export, whose columns are ``Submission id, Participant id, Status, ..., Started at, Completed at, Reviewed at, Archived at,
Time taken, Completion code, Total approvals`` and then what participants say of themselves. Prolific holds no answers: those are a table
of yours, one row a vote, as in ``crowd_csv``, with ``PROLIFIC_PID`` as the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.left_out import LeftOut
from keel.data.sources import read_plain
from keel.feedback.exchange import crowd_csv
from keel.feedback.exchange.gather import Gather
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.said import number_of

NAME = "prolific"
_KEPT = {
    "Submission id": "submission",
    "Status": "status",
    "Started at": "started_at",
    "Completed at": "completed_at",
    "Time taken": "seconds",
    "Total approvals": "approvals",
}
_GONE = ("RETURNED", "TIMED-OUT", "TIMED_OUT", "REJECTED")


def fits(values: Mapping[str, Any]) -> bool:
    return {"Submission id", "Participant id"} <= set(values) or "PROLIFIC_PID" in values


def read(path: Path, content: bytes | None = None) -> Imported:
    """Of an export of submissions the annotators, with how long they took; what they say of themselves (age, sex ...) is not taken over,
    and told so. Returned, timed out and rejected submissions are left out by name. Of a table of answers the votes."""
    source = read_plain(path, content)
    gather = Gather(NAME, str(path))
    if source.rows and "PROLIFIC_PID" in source.rows[0].values:
        return crowd_csv.votes(source, gather, "PROLIFIC_PID")
    gather.bad_rows(source.bad)
    personal: dict[str, None] = {}
    for row in source.rows:
        personal |= dict.fromkeys(k for k in row.values if k not in (*_KEPT, "Participant id"))
        with gather.reading(row.values.get("Submission id"), row.place):
            status = str(row.values.get("Status") or "")
            if status.upper() in _GONE:
                raise FieldError("Status", f"the submission was {status.lower()}")
            meta = {new: row.values[old] for old, new in _KEPT.items() if row.values.get(old) is not None}
            if (seconds := number_of(meta.get("seconds"))) is not None:
                meta["seconds"] = seconds
            gather.annotator(row.values.get("Participant id"), meta=meta)
    if personal:
        gather.leave_out("", str(path), "columns", f"not taken over (they may be personal): {', '.join(personal)}")
    return gather.done()


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """A table of answers with ``PROLIFIC_PID``, as ``crowd_csv`` writes it."""
    return crowd_csv.write_votes(imported, path, "PROLIFIC_PID")
