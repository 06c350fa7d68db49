"""The result of an ablation as a page in English and one in Chinese: no script, nothing loaded from elsewhere. Every text from outside is
escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import escape

from keel.ablate.off import shown
from keel.evaluate.report_plots import number
from keel.evaluate.small_plots import Bar
from keel.evaluate.small_plots import rows as forest
from keel.runs import logs
from keel.runs.durable import write_atomic

_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
FILES = {"en": "ablate.html", "zh": "ablate.zh.html"}
TONES = {"better": "bad", "worse": "good", "cannot tell": "open", "changes nothing": "open"}  # good: the part earns its place


def write_pages(folder: Path, result: Mapping[str, Any]) -> None:
    """``ablate.html`` and ``ablate.zh.html``."""
    for lang, name in FILES.items():
        write_atomic(folder / name, page(result, lang).encode())


def page(result: Mapping[str, Any], lang: str) -> str:
    """The page in one language."""
    words: Mapping[str, str] = json.loads((resources.files("keel.ablate") / "lang" / f"{lang}.json").read_text(encoding="utf-8"))
    css = "".join(
        (resources.files("keel.evaluate") / "templates" / f"{name}.css").read_text(encoding="utf-8") for name in ("report", "page")
    )
    other = next(x for x in FILES if x != lang)
    chips = [
        (words["recipe"], result["recipe"]),
        (words["measure"], f"{result['measure']}, {words['higher' if result['higher'] else 'lower']}"),
        (words["own"], number(result["own"])),
        (words["seeds"], ", ".join(map(str, result["seeds"]))),
    ]
    told = "".join(f"<span class='chip'><span class='dim'>{escape(k)}</span> {escape(v)}</span>" for k, v in chips)
    parts = [f'<!doctype html><html lang="{lang}"><head>{_HEAD}<title>{escape(words["title"])}</title><style>{css}</style></head><body>']
    parts.append(f"<header><div class='wrap'><p class='brand'>Keel <span class='dim'>{escape(words['title'])}</span> ")
    parts.append(f"<a class='other' href='{FILES[other]}' lang='{other}'>{escape(words['other'])}</a></p>")
    parts.append(f"<h1>{escape(_headline(result, words))}</h1><p class='chips'>{told}</p></div></header><main class='wrap'>")
    parts += [f"<section><p class='verdict bad'>{escape(said)}</p></section>" for said in result["warnings"]]
    parts.append(_picture(result, words))
    parts.append(_changes(result, words))
    parts.append(_runs(result, words))
    return "".join([*parts, "</main></body></html>\n"])


def _headline(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    counts = {v: sum(c["verdict"] == v for c in result["changes"]) for v in TONES}
    return words["headline"].format(
        n=len(result["changes"]), worse=counts["worse"], better=counts["better"], open=counts["cannot tell"], none=counts["changes nothing"]
    )


def _picture(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    bars = [
        Bar(
            c["name"], d["mean"], d["low"], d["high"], f"{number(d['mean'])} [{number(d['low'])}, {number(d['high'])}]", words[c["verdict"]]
        )
        for c in result["changes"]
        if (d := c["change"])
    ]
    if not bars:
        return ""
    reach = max(max(abs(b.low), abs(b.high)) for b in bars) or 1.0
    marks = [(0.0, "0"), (-reach, number(-reach)), (reach, number(reach))]
    title = words["change"].format(measure=result["measure"])
    caption = f"<figcaption><b>{escape(title)}</b> <span class='dim'>{escape(words['change.note'])}</span></figcaption>"
    return f"<section><figure class='card'>{caption}{forest(bars, -reach, reach, marks)}</figure></section>"


def _changes(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    heads = [words[k] for k in ("setting", "was", "off", "means", "verdict", "why", "p", "about")]
    rows = [
        (
            c["key"],
            shown(c["was"]),
            shown(c["value"]),
            words[f"means.{c['meaning']}"],
            words[c["verdict"]],
            c["why"],
            "–" if c["p_holm"] is None else f"{c['p']:.2g} → {c['p_holm']:.2g}",
            c["about"],
        )
        for c in result["changes"]
    ]
    tones = [TONES[c["verdict"]] for c in result["changes"]]
    return _table(words["settings"], heads, rows, [f" class='verdict {tone}'" for tone in tones], 4)


def _runs(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    beside = sorted({name for row in result["trials"] for name in row["beside"]})
    heads = [words["switched"], words["seed"], result["measure"], *beside, words["alarms"], words["ended"], words["weights"]]
    rows = [
        (
            row["name"] or words["as.it.stands"],
            row["seed"],
            _text(row["value"]),
            *(_text(row["beside"].get(name)) for name in beside),
            ", ".join(row["alarms"]),
            row["ended"],
            row["weights"][:8],
        )
        for row in result["trials"]
    ]
    return _table(words["runs"], heads, rows)


def _table(title: str, heads: list[str], rows: list[tuple[Any, ...]], marks: list[str] | None = None, marked: int = -1) -> str:
    head = "".join(f"<th scope='col'>{escape(h)}</th>" for h in heads)
    body = ""
    for i, row in enumerate(rows):
        cells = (
            f"<td><span{marks[i]}>{escape(c)}</span></td>" if marks and k == marked else f"<td>{escape(c)}</td>" for k, c in enumerate(row)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    table = f"<div style='overflow-x:auto'><table class='pairs'><tr>{head}</tr>{body}</table></div>"
    return f"<section><h2>{escape(title)}</h2>{table}</section>"


def _text(value: Any) -> str:
    found = logs.number(value)
    return "" if value is None else str(value) if found is None else f"{found:.4g}"
