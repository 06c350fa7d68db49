"""A plan as tables, in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from keel.plan.words import WORDS

Lang = Literal["en", "zh"]
ROLES = ("process", "policy", "reference", "reward", "critic", "sampler")


def show(plan: Mapping[str, Any], lang: Lang, console: Console) -> None:
    """Print it: phases by role, what to change, time."""
    w = WORDS[lang]
    model, memory, fit = plan["model"], plan["memory"], plan["fit"]
    known = {
        **plan["work"],
        "parameters": _short(model["parameters"]),
        "trained": _short(model["trained"]),
        "model": model["spec"],
        "verb": plan["verb"],
    }
    _say(console, w["head"].format(**known))
    console.print(_phases(memory, w))
    _say(console, w["measured" if plan["factors"]["measured"] else "formula"])
    if plan["limit_given"]:
        _say(console, w["given"].format(available=_gb(plan["available"])))
    verdict = "fits" if fit["as_it_is"] else "fits_with" if fit["enough"] else "fits_not"
    settings = " ".join(fit["settings"])
    _say(console, w[verdict].format(peak=_gb(memory["peak"]), limit=_gb(fit["limit"]), after=_gb(fit["peak"]), settings=settings))
    if not fit["as_it_is"]:
        console.print(_changes(fit, w))
    time = plan["time"]
    if time is not None:
        low, high = (_duration(s, w) for s in time["seconds"])
        _say(console, w["time" if time["rates"]["measured"] else "time_formula"].format(low=low, high=high, steps=time["steps"]))
    _say(console, w["worst_first"])


def _phases(memory: Mapping[str, Any], w: Mapping[str, str]) -> Table:
    parts = memory["parts"]
    there = [r for r in ROLES if any(r in of_phase for of_phase in parts.values())]
    table = Table(w["phase"], *(w[r] for r in there), w["sum"], title=w["title"], title_justify="left")
    for phase, total in memory["phases"].items():
        cells = [_gb(sum(parts[phase][r].values())) if r in parts[phase] else "" for r in there]
        table.add_row(w[phase], *cells, _gb(total), style="bold" if phase == memory["worst"] else "")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _changes(fit: Mapping[str, Any], w: Mapping[str, str]) -> Table:
    table = Table(w["change"], w["saves"], w["peak"], w["enough"], title=w["changes"], title_justify="left")
    for c in fit["changes"]:
        taken = w["yes"] if fit["enough"] and c["name"] in fit["enough"] else ""
        table.add_row(f"{w[c['name']]}: {' '.join(c['settings'])}", _gb(c["saves"]), _gb(c["peak"]), taken)
    for column in table.columns[1:3]:
        column.justify = "right"
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _gb(n: float) -> str:
    return f"{n / 1e9:,.2f}" if n < 100e9 else f"{n / 1e9:,.0f}"


def _short(n: float) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{name}"
    return f"{n:g}"


def _duration(seconds: float, w: Mapping[str, str]) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {w[name]}"
    return f"{seconds:.1f} {w['seconds']}"
