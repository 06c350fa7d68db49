"""The report of a collection as one page: no script, nothing loaded from elsewhere. Every text from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import escape

from keel.evaluate.report_plots import number, percent

_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)


def page(found: Mapping[str, Any], left: Mapping[str, int], samples: Sequence[Mapping[str, Any]]) -> str:
    """``found`` is what ``diversity`` measured, ``left`` counts what was left out by reason, ``samples`` are a few prompts with answers."""
    css = (resources.files("keel.evaluate") / "templates" / "report.css").read_text(encoding="utf-8")
    parts = [_HEAD, f"<title>Collected answers</title><style>{css}</style></head><body><header><div class='wrap'>"]
    parts.append("<p class='brand'>Keel <span class='dim'>collected answers</span></p><h1>How varied they are</h1><p class='chips'>")
    parts += [f"<span class='chip'><span class='dim'>{k}</span> {found[k]}</span>" for k in ("prompts", "answers", "tasks")]
    parts.append("</p></div></header><main class='wrap'>")
    parts.append(_counts("Kinds of task", found["tasks_by_kind"]))
    parts.append(_counts("Languages of prompts", found["languages"]["prompts"]))
    parts.append(_counts("Languages of answers", found["languages"]["answers"]))
    parts += [_facts(f"Words of {side}", found["words"][side]) for side in ("prompts", "answers")]
    parts.append(_counts("Difficulty, as the data say", found["difficulty"]["by_data"]))
    thirds: dict[str, float] = dict(zip(("shortest", "middle", "longest"), found["difficulty"]["words_by_third"]))
    parts.append(_facts("Mean words of answers by third of the prompts' length", thirds))
    parts.append(_counts("Errors planted on purpose", found["errors"]["planted"]))
    parts.append(_counts("Errors that the data name", found["errors"]["by_data"]))
    parts.append(_counts("Sources", found["sources"]))
    parts.append(_counts("Answers a prompt", found["answers_a_prompt"]))
    spread = {k: found[k] for k in ("distinct_1", "distinct_2", "distance")}
    parts.append(_facts("Variety (distinct words and word pairs; mean distance of two answers to one prompt)", spread))
    parts.append(_counts("Left out", left))
    parts += [_sample(s) for s in samples]
    return "".join([*parts, "</main></body></html>"])


def _counts(title: str, counts: Mapping[str, int]) -> str:
    whole = sum(counts.values())
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{n}</td><td>{percent(n / whole)}</td></tr>" for name, n in counts.items() if whole
    )
    return _section(title, rows)


def _facts(title: str, facts: Mapping[str, float | None]) -> str:
    return _section(title, "".join(f"<tr><th scope='row'>{escape(k)}</th><td>{number(v)}</td></tr>" for k, v in facts.items()))


def _section(title: str, rows: str) -> str:
    inside = f"<table class='pairs'>{rows}</table>" if rows else "<p class='dim'>The data say nothing of it.</p>"
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _sample(sample: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th scope='row'>{escape(a['source'])}</th><td>{escape(a['text'])}</td></tr>" for a in sample["answers"])
    return _section(sample["prompt"], rows)
