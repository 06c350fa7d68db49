"""The result of a search as a page in English and one in Chinese: no script, nothing loaded from elsewhere. Every text from outside is
escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from keel.evaluate import report_plots as plots
from keel.evaluate.report_plots import number
from keel.evaluate.report_series import Series
from keel.runs import logs
from keel.runs.durable import write_atomic
from keel.tune.scatter import Dot, scatter

_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
FILES = {"en": "tune.html", "zh": "tune.zh.html"}
TONES = {"better": "good", "worse": "bad", "cannot tell": "open", "own": "open"}
_CURVES = 6  # each with a colour of its own


def write_pages(folder: Path, result: Mapping[str, Any]) -> None:
    """``tune.html`` and ``tune.zh.html``."""
    for lang, name in FILES.items():
        write_atomic(folder / name, page(result, lang).encode())


def page(result: Mapping[str, Any], lang: str) -> str:
    """The page in one language."""
    words: Mapping[str, str] = json.loads((resources.files("keel.tune") / "lang" / f"{lang}.json").read_text(encoding="utf-8"))
    css = (resources.files("keel.evaluate") / "templates" / "report.css").read_text(encoding="utf-8")
    other = next(x for x in FILES if x != lang)
    direction = words["higher" if result["higher"] else "lower"]
    chips = [
        (words["recipe"], result["recipe"]),
        (words["measure"], f"{result['measure']}, {direction}"),
        (words["seeds"], result["seeds"]),
    ]
    chips += [(words["prompts"], result["prompts"])] if result["prompts"] else []
    shown = "".join(f"<span class='chip'><span class='dim'>{escape(k)}</span> {escape(v)}</span>" for k, v in chips)
    parts = [f'<!doctype html><html lang="{lang}"><head>{_HEAD}<title>{escape(words["title"])}</title><style>{css}</style></head><body>']
    parts.append(f"<header><div class='wrap'><p class='brand'>Keel <span class='dim'>{escape(words['title'])}</span> ")
    parts.append(f"<a class='small' href='{FILES[other]}' lang='{other}'>{escape(words['other'])}</a></p>")
    parts.append(f"<h1>{escape(words[result['verdict']])}</h1><p class='chips'>{shown}</p></div></header><main class='wrap'>")
    parts.append(_difference(result, words))
    if result["measure_is_trained_on"]:
        parts.append(f"<section><p class='verdict bad'>{escape(words['gamed'])}</p></section>")
    rows = "".join(f"<tr><th scope='row'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in result["best"]["settings"].items())
    start = f"<p class='small'>{escape(words['start'])}: <code>{escape(result['command'])}</code></p>"
    parts.append(f"<section><h2>{escape(words['settings'])}</h2><table class='pairs'>{rows}</table>{start}</section>")
    parts.append(f"<section><div class='grid'>{_halts(result, words)}{_by_key(result, words)}</div></section>")
    parts.append(_table(result, words))
    return "".join([*parts, "</main></body></html>\n"])


def _difference(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    d = result["difference"]
    if d is None:
        return f"<section><p class='dim'>{escape(result['why'])}</p></section>" if result["verdict"] != "own" else ""
    tone = TONES[result["verdict"]]
    value = f"{number(d['mean'])} <span class='dim'>[{number(d['low'])}, {number(d['high'])}]</span>"
    return (
        f"<section><div class='card'><p class='kicker'>{escape(words['difference'])}</p><p class='value'>{value}</p>"
        f"<p class='verdict {tone}'>{escape(words[result['verdict']])}</p><p class='small dim'>{escape(words['difference.note'])}</p>"
        "</div></section>"
    )


def _searched(result: Mapping[str, Any]) -> dict[int, list[Mapping[str, Any]]]:
    """By run of the search: its halts."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in result["trials"]:
        if row["seed"] == result["seed"]:
            found.setdefault(row["trial"], []).append(row)
    return found


def _finite(row: Mapping[str, Any]) -> float | None:
    value = logs.number(row["value"])
    return value if value is not None and math.isfinite(value) and not row["ended"] else None


def _halts(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    curves = {n: [(float(r["steps"]), v) for r in rows if (v := _finite(r)) is not None] for n, rows in _searched(result).items()}
    far = sorted((n for n, c in curves.items() if c), key=lambda n: (n != result["best"]["trial"], n != 0, -len(curves[n]), n))[:_CURVES]
    if not far:
        return ""
    names = {n: f"{n} ({words['own.mark']})" if n == 0 else str(n) for n in far}
    series = [Series(names[n], tuple(x for x, _ in curves[n]), tuple(y for _, y in curves[n]), dots=True) for n in far]
    legend = "".join(
        f"<span><i class='c{i % _CURVES + 1}'></i>{escape(words['trial'])} {escape(names[n])}</span>" for i, n in enumerate(far)
    )
    svg = plots.line_chart(words["halts"], series, words["step"])
    return _card(words["halts"], words["halts.note"], svg, legend)


def _by_key(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    furthest = max((row["steps"] for rows in _searched(result).values() for row in rows), default=0)
    cards: list[str] = []
    for key, where in result["search"].items():
        dots: list[Dot] = []
        for n, rows in _searched(result).items():
            last, x = rows[-1], rows[-1]["settings"].get(key)
            if isinstance(x, int | float) and not isinstance(x, bool):
                kind = "cross" if last["ended"] else "full" if last["steps"] == furthest else "ring"
                dots.append(Dot(float(x), _finite(last), kind, f"{words['trial']} {n}: {key}={x}, {last['steps']}: {_text(last['value'])}"))
        if any(dot.y is not None for dot in dots):
            title = words["by"].format(key=key)
            cards.append(_card(title, words["by.note"], scatter(title, dots, key, log=where["scale"] != "linear"), ""))
    return "".join(cards)


def _card(title: str, note: str, svg: Markup, legend: str) -> str:
    below = f"<div class='legend'>{legend}</div>" if legend else ""
    caption = f"<figcaption><b>{escape(title)}</b> <span class='dim'>{escape(note)}</span></figcaption>"
    return f"<figure class='card'>{caption}{svg}{below}</figure>"


def _table(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    beside = sorted({name for row in result["trials"] for name in row["beside"]})
    keys = list(result["own"])
    heads = [words["trial"], words["seed"], words["steps"], *keys, result["measure"], *beside, words["alarms"], words["ended"]]
    cells: Callable[[Mapping[str, Any]], Sequence[Any]] = lambda r: (  # noqa: E731
        r["trial"],
        r["seed"],
        r["steps"],
        *(_text(r["settings"].get(k)) for k in keys),
        _text(r["value"]),
        *(_text(r["beside"].get(name)) for name in beside),
        ", ".join(r["alarms"]),
        r["ended"],
    )
    head = "".join(f"<th scope='col'>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells(row)) + "</tr>" for row in result["trials"])
    table = f"<div style='overflow-x:auto'><table class='pairs'><tr>{head}</tr>{body}</table></div>"
    return f"<section><h2>{escape(words['trials'])}</h2>{table}</section>"


def _text(value: Any) -> str:
    found = logs.number(value)
    return "" if value is None else str(value) if found is None else f"{found:.4g}"
