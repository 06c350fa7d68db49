"""What answers make up, on the page: rates by type before and after, pictures, and answers with their wrong words marked."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from keel.evaluate.compare import Answer
from keel.evaluate.report_plots import percent

log = logging.getLogger("keel")
_SIDE = 168  # pixels of a picture on the page, at most
Note = Callable[[str, str, str, str], None]


def pieces(answer: Answer, text: str) -> list[tuple[str, str]]:
    """``text`` in pieces with the type of error of each, "" = nothing wrong there. Where errors overlap, the first one is shown."""
    found: list[tuple[str, str]] = []
    at = 0
    for kind, first, end in sorted(answer.errors or (), key=lambda e: (e[1], e[2])):
        first, end = max(first, at), min(end, len(text))
        if first < end:
            found += [(text[at:first], ""), (text[first:end], kind)]
            at = end
    return [piece for piece in (*found, (text[at:], "")) if piece[0]]


def pictures(sources: Sequence[str]) -> list[str]:
    """Each picture as a small ``data:`` URL; one that is not there any more is left out, with a word in the log."""
    found: list[str] = []
    for source in sources:
        try:
            raw = base64.b64decode(source.partition(",")[2]) if source.startswith("data:") else Path(source).read_bytes()
            with Image.open(io.BytesIO(raw)) as image:
                small = image.convert("RGB")
        except (OSError, ValueError) as error:
            log.warning("a picture is not shown in the report: %s: %s", source[:80], error)
            continue
        small.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        small.save(out, "PNG", optimize=True)
        found.append("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())
    return found


def made_up_view(found: Any, note: Note) -> dict[str, Any] | None:
    """The table of rates and what stands beside them, from ``hallucination`` of a summary; None where nothing was looked for."""
    if not isinstance(found, Mapping):
        return None
    names = {
        "any": "any error",
        "weighted": "weighted (objects 0.5, attributes 0.3, relations 0.2)",
        "errors_per_answer": "errors an answer",
    }
    rows = []
    for name, rate in found["rates"].items():
        style = (lambda v: f"{v:.2f}") if name == "errors_per_answer" else percent
        rows.append(_row(names.get(name, name), name, f"hallucination.rates.{name}", rate, style, note))
    for name, label in (("coverage", "truth that was told (coverage)"), ("silent", "answers that say nothing")):
        if name in found:
            rows.append(_row(label, "", f"hallucination.{name}", found[name], percent, note))
    return {"rows": rows, "n": found["n_prompts"]}


def _row(label: str, kind: str, path: str, rate: Mapping[str, Any], style: Callable[[float], str], note: Note) -> dict[str, str]:
    shown = {side: _interval(rate[side], style) for side in ("before", "after")}
    change = rate.get("change") or rate["difference"]
    relative = rate.get("change") is not None
    text = "{} [{}, {}]".format(*(f"{100 * change[k]:+.0f}{'%' if relative else ' points'}" for k in ("mean", "low", "high")))
    if not relative and kind == "errors_per_answer":
        text = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(change[k] for k in ("mean", "low", "high")))
    for side in ("before", "after"):
        note(f"{label}, {side}", shown[side], "summary.json", f"{path}.{side}")
    note(f"{label}, change", text, "summary.json", f"{path}.{'change' if relative else 'difference'}")
    return {"label": label, "kind": kind, "change": text, **shown}


def _interval(value: Mapping[str, float], style: Callable[[float], str]) -> str:
    return f"{style(value['mean'])} [{style(value['low'])}, {style(value['high'])}]"
