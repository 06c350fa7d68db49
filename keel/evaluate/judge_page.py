"""The page of `keel judge report`: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

from keel.evaluate import report_plots as plots
from keel.evaluate.report_plots import number

_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
_PLOTS: Mapping[str, tuple[str, ...]] = {
    "Agreement with people": ("agreement", "agreement_decided", "judge_beside", "people", "judge_beside_decided", "people_decided"),
    "Beyond chance (kappa)": ("kappa", "judge_beside_kappa", "people_kappa"),
    "Order, repeats, failures": ("order_flip", "first_shown", "same_place", "repeat_flip", "failures", "pairs_without_verdict"),
    "Own family": ("own_family", "own_family_of_people"),
}
_MEANINGS: Mapping[str, str] = {
    "agreement": "same of three classes as all votes together",
    "agreement_decided": "the same, where both decide",
    "judge_beside": "the judge against all votes but one",
    "people": "that one vote against the others",
    "judge_beside_decided": "the judge against all votes but one, where both decide",
    "people_decided": "that one vote against the others, where both decide",
    "people_gap": "the judge less people, where both decide",
    "order_flip": "pairs whose verdict turns with the order",
    "first_shown": "decided calls that take the answer shown first",
    "same_place": "calls that name the commonest place",
    "repeat_flip": "calls that say another thing when asked again",
    "length_slope": "lead beyond people's for each doubling of length",
    "own_family_excess": "favour of its own family beyond people's",
    "failures": "calls without a verdict",
}


def page(report: Mapping[str, Any]) -> str:
    """The report as HTML. Every text from outside is escaped."""
    css = (resources.files("keel.evaluate") / "templates" / "report.css").read_text(encoding="utf-8")
    name, labels, passed = report["judge"]["name"], report["labels"], report["gate"]["passed"]
    parts = [_HEAD, f"<title>{escape(f'Judge {name}')}</title><style>{css}</style></head><body><header><div class='wrap'>"]
    parts.append(f"<p class='brand'>Keel <span class='dim'>judge</span></p><h1>{escape(name)}</h1>")
    chips = {"pairs": labels["pairs"], "prompts": labels["prompts"], "votes": labels["votes"], "gate": "passed" if passed else "not passed"}
    shown = "".join(f"<span class='chip'><span class='dim'>{escape(k)}</span> {escape(v)}</span>" for k, v in chips.items())
    parts.append(f"<p class='chips'>{shown}</p></div></header><main class='wrap'>{_gate(report)}")
    cards = "".join(_plot(title, names, report["measures"]) for title, names in _PLOTS.items())
    if report["calibration"]:
        cards += _card("Reliability", plots.reliability("Confidence and what people say", report["calibration"]["bins"]))
    parts.append(
        f"<section><h2>Beside people</h2><p class='dim'>{escape(report['tie_rule'])}.</p><div class='grid'>{cards}</div></section>"
    )
    rates = dict(report["measures"])
    if report["calibration"]:
        rates |= {"calibration error": report["calibration"]["ece"], "temperature": report["calibration"]["temperature"]}
    parts.append(_rates("All numbers", rates))
    for title, key in (("Injected verdicts", "injected"), ("Hollow answers", "hollow")):
        if (battery := report[key]) is not None:
            known = {k: battery[k] for k in ("all", "control", "excess") if k in battery}
            parts.append(_rates(title, known | battery.get("kinds", {})))
    facts = report["price"] | {f"failed: {kind}": n for kind, n in report["failures_by_kind"].items()}
    rows = "".join(f"<tr><th scope='row'>{escape(k)}</th><td>{escape(_plain(v))}</td></tr>" for k, v in facts.items())
    parts.append(f"<section><h2>Price</h2><table class='pairs'>{rows}</table></section></main></body></html>")
    return "".join(parts)


def _gate(report: Mapping[str, Any]) -> str:
    rows = "".join(_check(c) for c in report["gate"]["checks"])
    head = "<tr><th>check</th><td>result</td><td>value</td><td>limit</td><td>why</td></tr>"
    said = "The judge passes." if report["gate"]["passed"] else "The judge does not pass: it is refused as labeller, reward and scorer."
    return f"<section><h2>Gate</h2><p>{said}</p><table class='pairs'>{head}{rows}</table></section>"


def _check(c: Mapping[str, Any]) -> str:
    value = "not measured" if c["value"] is None else number(c["value"])
    name, said = f"{'' if c['passed'] else '● '}{c['name']}", "passed" if c["passed"] else "failed"
    cells = "".join(f"<td>{escape(x)}</td>" for x in (said, value, number(c["limit"]), c["reason"]))
    return f"<tr><th scope='row'>{escape(name)}</th>{cells}</tr>"


def _plot(title: str, names: tuple[str, ...], rates: Mapping[str, Any]) -> str:
    rows = [(f"{n.replace('_', ' ')} ({x['cases']})", x["mean"], x["low"], x["high"]) for n in names if (x := rates.get(n)) is not None]
    return _card(title, plots.intervals(title, rows, width=plots.WIDTH)) if rows else ""


def _rates(title: str, rates: Mapping[str, Any]) -> str:
    rows = "".join(_rate(name, x) for name, x in rates.items())
    return f"<section><h2>{escape(title)}</h2><table class='pairs'>{rows}</table></section>"


def _rate(name: str, x: Mapping[str, Any] | None) -> str:
    what = escape(name.replace("_", " "))
    return f"<tr><th scope='row'>{what}</th><td>{_interval(x)}</td><td class='dim'>{escape(_MEANINGS.get(name, ''))}</td></tr>"


def _interval(x: Mapping[str, Any] | None) -> str:
    if x is None:
        return "no case"
    return f"{number(x['mean'])} ({number(x['low'])} – {number(x['high'])}), n = {x['cases']}"


def _plain(value: Any) -> str:
    return "unknown" if value is None else number(value) if isinstance(value, int | float) else str(value)


def _card(title: str, svg: Markup) -> str:
    return f"<figure class='card'><figcaption><b>{escape(title)}</b></figcaption>{svg}</figure>"
