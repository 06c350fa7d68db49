"""`keel eval refusals FILE`: the answers of a file by class; beside people's labels, how far the two agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section, load
from keel.core.errors import DataError
from keel.data.sources import read_source
from keel.evaluate.refusals import REFUSALS, Refusal, read
from keel.evaluate.refusals.rates import agreement
from keel.runs.durable import write_atomic

_PEOPLES: Mapping[str, Refusal] = {  # words of published sets
    **{r: r for r in REFUSALS},
    "full_refusal": "full",
    "refusal": "full",
    "partial_refusal": "partial",
    "full_compliance": "none",
    "compliance": "none",
    "no_refusal": "none",
}


class AnswersConfig(Section):
    """`keel eval refusals`."""

    files: list[str] = Field(min_length=1, description="Answers: JSONL, JSON, CSV or Parquet.")
    answer: str = Field(default="completion", description="Column of the answer.")
    label: str = Field(default="", description="Column of people's label: full, partial or none; empty = there is none.")
    cluster: str = Field(default="prompt", description="Column by whose values answers belong together, for the interval.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Level of the intervals.")
    wrong: str = Field(default="", description="Where the answers go on which the two differ, as JSONL; empty = nowhere.")


def run_eval_refusals(files: Sequence[str], json_file: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read, print, and write ``json_file`` where given. Raises DataError for a row without the columns asked for, or with a label that is
    none: no row is left out in silence."""
    config = load(AnswersConfig, None, [f"files={json.dumps(list(files))}", *overrides])
    rows = [(row.place, row.values) for file in config.files for row in _rows(file)]
    found = [(place, values, read(_text(place, values, config.answer))) for place, values in rows]
    empty = sum(not _text(place, values, config.answer).strip() for place, values, _ in found)
    counts = Counter(r.refusal for _, _, r in found)
    out: dict[str, Any] = {"files": config.files, "read": {r: counts[r] for r in REFUSALS}, "empty": empty}
    print(f"{len(found)} answers: " + ", ".join(f"{counts[r]} {r}" for r in REFUSALS) + (f"; {empty} empty" if empty else ""))
    if config.label:
        labelled: list[tuple[str, Refusal, Refusal]] = [
            (str(v.get(config.cluster) or p), label_of(p, v, config.label), r.refusal) for p, v, r in found
        ]
        out["agreement"] = agreement(labelled, level=config.level)
        _print(out["agreement"])
    if config.wrong and config.label:
        lines = [
            {"place": p, "said": said, "read": r.refusal, "sentence": r.sentence, "answer": v[config.answer]}
            for (p, v, r), (_, said, _) in zip(found, labelled, strict=True)
            if said != r.refusal
        ]
        write_atomic(Path(config.wrong), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    if json_file:
        write_atomic(Path(json_file), (json.dumps(out, ensure_ascii=False, indent=2) + "\n").encode())
    return out


def _rows(file: str) -> Sequence[Any]:
    source = read_source(file)
    if source.bad:
        raise DataError(f"{source.bad[0]}", "mend the row: an agreement is of all rows or of none")
    return source.rows


def _text(place: str, values: Mapping[str, Any], column: str) -> str:
    if not isinstance(value := values.get(column), str):
        raise DataError(f"{place}: no text in column {column!r}", f"columns are {', '.join(values)}: answer=NAME names the right one")
    return value


def label_of(place: str, values: Mapping[str, Any], column: str) -> Refusal:
    said = str(values.get(column) or "").strip().lower().lstrip("0123456789_ ")
    if said not in _PEOPLES:
        raise DataError(f"{place}: {values.get(column)!r} in column {column!r} is no label", f"labels are {', '.join(_PEOPLES)}")
    return _PEOPLES[said]


def _print(found: Mapping[str, Any]) -> None:
    for name, told in (("classes", "three classes"), ("full", "full or not"), ("refuses", "full or partial, or none")):
        i = found[name]
        print(f"agreement on {told}: {i['mean']:.1%} [{i['low']:.1%}, {i['high']:.1%}], {i['n']} prompts")
    print(f"{'people / read':>14}" + "".join(f"{r:>9}" for r in REFUSALS) + "    found")
    for said, row in found["table"].items():
        print(f"{said:>14}" + "".join(f"{row[r]:>9}" for r in REFUSALS) + f"{found['found_by_class'][said]:>9.1%}")
