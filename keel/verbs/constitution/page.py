"""The report of `keel constitution` as one page: no script, nothing loaded from elsewhere. Every text from outside is escaped."""

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
_HONEST = (
    "Critique by a small model is no truth. A published replication with a model of 8B parameters (arXiv 2504.04918) lowered harmful "
    "answers by 41% and usefulness by 10%, and collapsed when it was trained on pairs of its own making. Look at the numbers below "
    "before such a critic is trusted: a balanced share right of 50% knows nothing."
)


def page(summary: Mapping[str, Any], drafts: Sequence[Mapping[str, Any]]) -> str:
    """``summary`` is the stage's; ``drafts`` are a few rows of history."""
    css = (resources.files("keel.evaluate") / "templates" / "report.css").read_text(encoding="utf-8")
    parts = [_HEAD, f"<title>Constitution</title><style>{css}</style></head><body><header><div class='wrap'>"]
    parts.append("<p class='brand'>Keel <span class='dim'>constitution</span></p><h1>What the principles found</h1><p class='chips'>")
    for name in ("prompts", "answers", "demonstrations", "pairs", "revision_pairs", "audit"):
        parts.append(f"<span class='chip'><span class='dim'>{escape(name.replace('_', ' '))}</span> {summary[name]}</span>")
    parts.append("</p></div></header><main class='wrap'>")
    parts.append(_table("Principles, of all answers", summary["principles"], ("band", "aspect", "weight", "answers", "mean", "broken")))
    parts.append(_conflicts(summary["conflicts"], summary["overruled"]))
    parts.append(_counts("Pairs of answers", summary["compared"]))
    if revised := summary["revised"]:
        parts.append(_counts("Answers revised, by how they ended", revised["ended"]))
        parts.append(_counts("Rounds, by what came of them", revised["outcomes"]))
        parts.append(_facts("Revision", {k: revised[k] for k in ("score_before", "score_after", "edit", "severity", "improved", "worse")}))
    for name, found in summary["critics"].items():
        parts.append(_critic(name, found))
    cut = summary["cut_off"]
    parts.append(_facts("Answers cut off at sampling.max_tokens", {"answers": cut["answers"], "what was done with them (cut)": cut["how"]}))
    parts.append(_counts("Left out", summary["left_out"]))
    parts += [_draft(d) for d in drafts]
    return "".join([*parts, "</main></body></html>"])


def _critic(name: str, found: Mapping[str, Any]) -> str:
    head = ("", "cases", "broken", "said broken", "missed", "false alarms", "no verdict", "wrong", "always the same", "balanced right")
    rows = ["<tr>" + "".join(f"<th>{h}</th>" for h in head) + "</tr>"]
    for label, t in {"all": found["all"], **found["principles"]}.items():
        wrong = "–" if t["wrong"] is None else "{} [{}, {}]".format(*(percent(t["wrong"][k]) for k in ("mean", "low", "high")))
        numbers = (t["cases"], t["broken"], t["said_broken"], t["missed"], t["false_alarms"], t["without_verdict"], wrong)
        rest = tuple("–" if t[k] is None else percent(t[k]) for k in ("always_the_same", "balanced"))
        rows.append(f"<tr><th scope='row'>{escape(label)}</th>" + "".join(f"<td>{x}</td>" for x in (*numbers, *rest)) + "</tr>")
    inside = f"<p>{_HONEST}</p><div class='scroll'><table class='pairs'>{''.join(rows)}</table></div>"
    return f"<section><h2>How often the critic is wrong: {escape(name)}</h2>{inside}</section>"


def _conflicts(conflicts: Sequence[Mapping[str, Any]], overruled: int) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(c['won'] or 'neither')} over {escape(c['lost'])}</th><td>by {c['by']}</td><td>{c['count']}</td></tr>"
        for c in conflicts
    )
    told = f"<p class='dim'>Bands turned the order of {overruled} pairs that a plain product would have ordered the other way.</p>"
    return _section("Principles that pulled apart", rows, told)


def _table(title: str, rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    head = "<tr><th></th>" + "".join(f"<th>{c}</th>" for c in columns) + "</tr>"

    def cell(value: Any) -> str:
        return number(value) if isinstance(value, float) else str(escape(value))

    inside = [
        f"<tr><th scope='row'>{escape(n)}</th>" + "".join(f"<td>{cell(r[c])}</td>" for c in columns) + "</tr>" for n, r in rows.items()
    ]
    return _section(title, head + "".join(inside))


def _counts(title: str, counts: Mapping[str, int]) -> str:
    return _section(title, "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{n}</td></tr>" for name, n in counts.items()))


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        return "–" if value is None else number(value) if isinstance(value, float) else str(value)

    rows = "".join(f"<tr><th scope='row'>{escape(k.replace('_', ' '))}</th><td>{shown(v)}</td></tr>" for k, v in facts.items())
    return _section(title, rows)


def _section(title: str, rows: str, more: str = "") -> str:
    inside = f"<table class='pairs'>{rows}</table>" if rows else "<p class='dim'>None.</p>"
    return f"<section><h2>{escape(title)}</h2>{inside}{more}</section>"


def _draft(draft: Mapping[str, Any]) -> str:
    rows = [f"<tr><th scope='row'>first</th><td>{escape(draft['first'])}</td></tr>"]
    for s in draft["steps"]:
        told = f"round {s['round']}, {s['principle']}, severity {s['severity']}: {s['outcome']}"
        text = f"<p>{escape(s['text'])}</p>" if s["text"] else ""
        rows.append(f"<tr><th scope='row'>{escape(told)}</th><td><p class='dim'>{escape(s['critique'])}</p>{text}</td></tr>")
    return _section(str(draft["prompt"]), "".join(rows))
