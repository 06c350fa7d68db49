"""The verdict in words: lines for the terminal, and a page in two languages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keel.evaluate.ab.config import AbConfig
from keel.evaluate.ab.decide import Guard, Look, Result
from keel.evaluate.page_kit import Say, render, say, write_pages
from keel.evaluate.report_plots import number, percent
from keel.evaluate.small_plots import Curve, curves

_TONES = {"better": "good", "not_better": "bad", "cannot_tell": "open"}


def _shown(value: float, online: bool, config: AbConfig) -> str:
    """An effect for people: offline the win rate, online the difference, in points where the outcome is a share."""
    if not math.isfinite(value):
        return "–"
    if not online:
        return percent(min(max(value + 0.5, 0.0), 1.0))
    if config.range == (0.0, 1.0):
        return f"{100 * value:+.1f} pp".replace("-", "−")
    return ("+" if value > 0 else "") + number(value)


def _span(look: Look | Guard, online: bool, config: AbConfig) -> tuple[str, str]:
    return _shown(look.low, online, config), _shown(look.high, online, config)


def reason(result: Result, config: AbConfig, t: Say) -> str:
    """Why, in a sentence."""
    even = result.balance
    facts = {} if even is None else {"treated": even.treatment, "n": even.control + even.treatment, "expected": percent(even.expected)}
    return t(f"ab.reason.{result.reason}", treatment=config.treatment, control=config.control, **facts)


def more(result: Result, online: bool, t: Say) -> str:
    """How many more units, in words; empty where that is not the question."""
    if result.answer != "cannot_tell" or result.reason == "uneven":
        return ""
    if result.more is None:
        return t("ab.more_unknown")
    exact = result.reason in ("before_first_look", "between_looks", "guards_open") and result.design is not None
    units = t("ab.online.units" if online else "ab.offline.units")
    return t("ab.more_exact" if exact else "ab.more", more=f"{result.more:,}", units=units)


def lines(result: Result, config: AbConfig, online: bool) -> Iterable[str]:
    """The verdict on a terminal."""
    t = say("en")
    units = t("ab.online.units" if online else "ab.offline.units")
    yield f"{t('answers.' + result.answer).upper()}: {reason(result, config, t)}"
    if result.effect is not None and result.reason != "uneven":
        low, high = _span(result.effect, online, config)
        what = t("ab.effect.online" if online else "ab.effect.offline", treatment=config.treatment)
        yield f"  {what}: {_shown(result.effect.effect, online, config)} [{low}, {high}] after {result.effect.n:,} {units}"
    wait = more(result, online, t)
    yield f"  {result.n:,} {units} so far, {t('ab.method.' + result.method)}" + (f"; {wait}" if wait else "")
    for guard in result.guards:
        span = f"{number(guard.change)} [{number(guard.low)}, {number(guard.high)}], allowed {number(-guard.margin)}"
        wait = f"; {t('ab.guard_more', more=f'{guard.more:,}')}" if guard.more else ""
        yield f"  guard {guard.name}: {t('ab.state.' + guard.state)}, change {span}{wait}"
    for name in ("later_outcomes", "waiting", "in_both_arms"):
        if result.counts.get(name):
            yield f"  {result.counts[name]:,} {t('ab.count.' + name)}"


def write_verdict(path: Path, result: Result, config: AbConfig, online: bool) -> Path:
    """The page, in English at ``path`` and in Chinese beside it."""
    return write_pages(path, lambda language, other: render("ab.html.j2", language, _view(result, config, online, language, other)))


def _view(result: Result, config: AbConfig, online: bool, language: str, other: str) -> dict[str, Any]:
    t = say(language)
    units = t("ab.online.units" if online else "ab.offline.units")
    effect = None
    if result.effect is not None and result.reason != "uneven":
        low, high = _span(result.effect, online, config)
        effect = {
            "what": t("ab.effect.online" if online else "ab.effect.offline", treatment=config.treatment),
            "value": _shown(result.effect.effect, online, config),
            "interval": t("ab.interval", level=f"{1 - config.alpha:.0%}", low=low, high=high),
        }
    zero = 0.0 if online else 0.5
    finite = [look for look in result.looks if math.isfinite(look.low) and math.isfinite(look.high)]
    points = [(look.n, look.effect + zero, look.low + zero, look.high + zero) for look in finite]
    percents = not online or config.range == (0.0, 1.0)
    picture = None
    if len(points) > 1 and result.reason != "uneven":
        spread = result.design is None
        picture = curves(t("ab.path"), [Curve(config.treatment, points)], units, percents=percents, zero=zero, logarithmic=spread)
    return {
        "name": config.name,
        "other": other,
        "kicker": t("ab.kicker", treatment=config.treatment, control=config.control),
        "answer": t(f"answers.{result.answer}"),
        "tone": _TONES[result.answer],
        "reason": reason(result, config, t),
        "more": more(result, online, t),
        "effect": effect,
        "chips": [t("ab.n", n=f"{result.n:,}", units=units), t(f"ab.method.{result.method}")]
        + ([t("ab.decided", n=f"{result.decided_at:,}")] if result.decided_at else []),
        "picture": picture,
        "guards": [_guard(g, t) for g in result.guards],
        "looks": _looks(result, online, config),
        "plan_note": _plan_note(result, t),
        "counts": [(t(f"ab.count.{k}"), f"{v:,}") for k, v in result.counts.items() if v or k in ("rows", "units")],
        "balance": _balance(result, t),
    }


def _guard(guard: Guard, t: Say) -> dict[str, str]:
    tone = {"held": "good", "broken": "bad", "open": "open"}[guard.state]
    wait = t("ab.guard_more", more=f"{guard.more:,}") if guard.more else ""
    change = f"{number(guard.change)} ({number(guard.low)} – {number(guard.high)})"
    return {
        "name": guard.name,
        "state": t(f"ab.state.{guard.state}"),
        "tone": tone,
        "change": change,
        "margin": number(-guard.margin),
        "more": wait,
    }


def _looks(result: Result, online: bool, config: AbConfig) -> list[tuple[str, ...]]:
    if result.design is None:
        return []
    found = {look.n: look for look in result.looks}
    rows: list[tuple[str, ...]] = []
    for k, (n, bound) in enumerate(zip(result.design.looks, result.design.bounds, strict=True), 1):
        look = found.get(n)
        seen = "" if look is None else "{} ({} – {})".format(_shown(look.effect, online, config), *_span(look, online, config))
        rows.append((str(k), f"{n:,}", f"{bound:.3f}", seen))
    return rows


def _plan_note(result: Result, t: Say) -> str:
    plan = result.design
    if plan is None:
        return ""
    return t("ab.plan.note", n=f"{plan.n:,}", null=f"{plan.expected_null:,.0f}", effect=f"{plan.expected_effect:,.0f}")


def _balance(result: Result, t: Say) -> str:
    even = result.balance
    if even is None:
        return ""
    facts = {"control": f"{even.control:,}", "treatment": f"{even.treatment:,}", "share": percent(even.expected)}
    return t("ab.balance.text", **facts, p=number(even.p_value), evidence=number(even.evidence))
