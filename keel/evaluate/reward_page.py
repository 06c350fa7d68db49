"""The page of `keel eval reward`: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

from keel.evaluate import report_plots as plots
from keel.evaluate.report_plots import number, percent

_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)


def page(found: Mapping[str, Any]) -> str:
    """The measures of ``keel eval reward`` as HTML. Every text from outside is escaped."""
    css = (resources.files("keel.evaluate") / "templates" / "report.css").read_text(encoding="utf-8")
    title = f"Reward model {found['model']}"
    parts = [_HEAD, f"<title>{escape(title)}</title><style>{css}</style></head><body><header><div class='wrap'>"]
    parts.append(f"<p class='brand'>Keel <span class='dim'>reward model</span></p><h1>{escape(found['model'])}</h1>")
    parts.append(f"<p class='chips'>{_chips(found)}</p></div></header><main class='wrap'>")
    for name, measures in found["data"].items():
        parts.append(_side(name, measures))
    if found.get("stress"):
        parts.append(_stress(found["stress"]))
    if found.get("quantised"):
        parts.append(_quantised(found["quantised"]))
    if found.get("diagnosis"):
        parts.append(_findings(found["diagnosis"]))
    parts.append(_table("Cost", {**found["cost"], "head": found["head"]}))
    parts.append("</main></body></html>")
    return "".join(parts)


def _chips(found: Mapping[str, Any]) -> str:
    shown = {"prompts": sum(m["prompts"] for m in found["data"].values()), "pairs": sum(m["pairs"] for m in found["data"].values())}
    return "".join(f"<span class='chip'><span class='dim'>{k}</span> {v}</span>" for k, v in shown.items())


def _side(name: str, measures: Mapping[str, Any]) -> str:
    rows = [(measure, x["mean"], x["low"], x["high"]) for measure in ("accuracy", "best_of_k") if (x := measures.get(measure))]
    rows += [(f"{k} ({x['n']})", x["mean"], x["low"], x["high"]) for k, x in measures.get("by_category", {}).items()]
    cards = (
        [_card("Accuracy, 95% intervals over prompts", plots.intervals("Accuracy", rows, width=plots.WIDTH, headline=True))] if rows else []
    )
    if "calibration" in measures:
        cards.append(_card("Reliability", plots.reliability("Confidence and accuracy", measures["calibration"]["bins"])))
    if "temperature_scaling" in measures:
        scaled = measures["temperature_scaling"]
        after = plots.reliability("Confidence and accuracy at the fitted temperature", scaled["calibration"]["bins"])
        cards.append(_card(f"Reliability at temperature {number(scaled['temperature'])}, on the other half of the prompts", after))
    facts = {k: v for k, v in measures.items() if not isinstance(v, Mapping)}
    facts |= {k: _interval(measures[k]) for k in ("accuracy", "kendall", "spearman", "best_of_k") if k in measures}
    if "calibration" in measures:
        facts["calibration error"] = measures["calibration"]["ece"]
    if "temperature_scaling" in measures:
        scaled = measures["temperature_scaling"]
        facts["calibration error, after temperature scaling"] = f"{number(scaled['ece_before'])} → {number(scaled['ece_after'])}"
    return f"<section><h2>{escape(name)}</h2><div class='grid'>{''.join(cards)}</div>{_rows(facts)}</section>"


def _stress(stress: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{x['n']}</td><td>{_interval(x['accuracy'])}</td><td>{percent(x['flips'])}</td>"
        f"<td>{number(x['shift'])}</td></tr>"
        for name, x in stress.items()
    )
    head = "<tr><th>variant</th><td>pairs</td><td>accuracy</td><td>pairs that turn</td><td>score moves by (standard deviations)</td></tr>"
    told = "Longer, restyled and flattering variants are made of the worse answer alone; the others of both."
    return f"<section><h2>Under stress</h2><p class='dim'>{told}</p><table class='pairs'>{head}{rows}</table></section>"


def _quantised(ways: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(way)}</th><td>{_interval(x['loss'])}</td><td>{percent(x['turned'])}</td><td>{number(x['drift'])}</td>"
        f"<td>{number(x['mb'])} / {number(x['mb_before'])}</td></tr>"
        for way, x in ways.items()
    )
    head = "<tr><th>weights</th><td>accuracy lost</td><td>pairs that turn</td><td>score drift (standard deviations)</td><td>MB</td></tr>"
    return f"<section><h2>In fewer bits</h2><table class='pairs'>{head}{rows}</table></section>"


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{'● ' if f['present'] else ''}{escape(f['name'])}</th><td>{escape(f['evidence'])}</td>"
        f"<td>{escape(f['remedy']) if f['present'] else 'nothing to do'}</td></tr>"
        for f in findings
    )
    return f"<section><h2>Diagnosis</h2><table class='pairs'><tr><th>what</th><td>seen</td><td>what helps</td></tr>{rows}</table></section>"


def _table(title: str, facts: Mapping[str, Any]) -> str:
    return f"<section><h2>{escape(title)}</h2>{_rows(facts)}</section>"


def _rows(facts: Mapping[str, Any]) -> str:
    shown = "".join(f"<tr><th scope='row'>{escape(k)}</th><td>{escape(_plain(v))}</td></tr>" for k, v in facts.items())
    return f"<table class='pairs'>{shown}</table>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _interval(x: Mapping[str, float]) -> str:
    return f"{number(x['mean'])} ({number(x['low'])} – {number(x['high'])}), n = {x['n']}"


def _card(title: str, svg: Markup) -> str:
    return f"<figure class='card'><figcaption><b>{escape(title)}</b></figcaption>{svg}</figure>"
