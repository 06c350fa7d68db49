"""The page of a release, which a manager reads: the verdict first. One file a language, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from keel.core.version import VERSION
from keel.release.gates.verdict import State, Verdict, whole
from keel.release.lineage import Lineage
from keel.release.say import LANGUAGES, say, sentences

_PERCENT = ("quantisation", "retention", "refusal", "reward_quantisation")
PAGES = {"en": "release.html", "zh": "release.zh.html"}
_TONES = {"pass": "good", "fail": "bad", "cannot_tell": "open"}


def page(
    language: str, name: str, record: Mapping[str, Any], lineage: Lineage, gates: Mapping[str, tuple[str, Verdict]], made: Mapping[str, str]
) -> str:
    """The page as HTML; every text from outside is escaped. ``made``: machine and date."""
    environment = Environment(
        loader=PackageLoader("keel.release", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    states: list[State] = [v.state for _, v in gates.values()]
    counts = {"gates": len(states), "failed": states.count("fail"), "open": states.count("cannot_tell")}
    state = whole(states)
    other = next(x for x in LANGUAGES if x != language)
    return environment.get_template("release.html.j2").render(
        language=language,
        t=sentences(language),
        title=say(language, "title", {"name": name}),
        name=name,
        other={"href": PAGES[other], "text": say(language, "other_language"), "language": other},
        css=(resources.files("keel.evaluate") / "templates" / "report.css").read_text(encoding="utf-8"),
        state=say(language, f"state.{state}"),
        tone=_TONES[state],
        sentence=say(language, f"sentence.{state}", counts),
        rows=[_row(language, title, kind, v) for title, (kind, v) in gates.items()],
        identity=_identity(language, record),
        lineage=_lineage(language, lineage),
        made=say(language, "made", {**made, "version": VERSION}),
    )


def _row(language: str, title: str, kind: str, v: Verdict) -> dict[str, str]:
    about = say(language, f"kind.{kind}", v.facts)
    return {
        "name": about if title == kind else title,
        "about": "" if title == kind else about,
        "state": say(language, f"gate.{v.state}"),
        "tone": _TONES[v.state],
        "value": value_text(language, kind, v) or "—",
        "limit": limit_text(language, kind, v) or "—",
        "why": why_text(language, v),
    }


def value_text(language: str, kind: str, v: Verdict) -> str:
    """What was measured, with its interval; empty where nothing was."""
    if v.value is None:
        return ""
    shown = {key: _shown(kind, getattr(v.value, key)) for key in ("mean", "low", "high")}
    key = "once_measured" if v.value.low == v.value.high and v.value.n == 1 else "interval"
    return say(language, key, {**shown, "n": v.value.n, "unit": say(language, f"unit.{v.unit}")})


def limit_text(language: str, kind: str, v: Verdict) -> str:
    """Its limits; empty where there are none."""
    told = [(key, limit) for key, limit in (("at_least", v.at_least), ("at_most", v.at_most)) if limit is not None]
    return ", ".join(say(language, key, {"limit": _shown(kind, limit)}) for key, limit in told)


def why_text(language: str, v: Verdict) -> str:
    """What there is to know beside the numbers, and how many more would decide."""
    facts = {**v.facts, "unit": say(language, f"unit.{v.unit}")}
    told = [say(language, key, facts) for key in v.why]
    if v.state == "cannot_tell" and v.value is not None:
        told.append(say(language, "no_more") if v.more is None else say(language, "more", {"more": v.more, "unit": facts["unit"]}))
    return ("；" if language == "zh" else "; ").join(filter(None, told))


def _shown(kind: str, value: float) -> str:
    if kind in _PERCENT:
        return f"{100 * value:.4f}".rstrip("0").rstrip(".").replace("-0", "0", 1) + "%" if abs(value) < 1e-4 else f"{100 * value:.3g}%"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _identity(language: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (say(language, "form"), say(language, f"form.{record['to']}")),
        (say(language, "precision"), str(record["precision"])),
        (say(language, "fingerprint"), str(record["fingerprint"])),
        (say(language, "source_fingerprint"), str(record["source_fingerprint"])),
    ]
    if "kl" in record:
        near = {"kl": f"{record['kl']:.3g}", "difference": f"{record['logprob_difference']:.3g}", "tokens": record["tokens"]}
        rows.append((say(language, "read_again"), say(language, "kl", near)))
    elif "score_difference" in record:
        far = {"difference": f"{record['score_difference']:.3g}", "answers": f"{record['answers']:.0f}"}
        rows.append((say(language, "read_again"), say(language, "score_difference", far)))
    if record["to"] == "adapter":
        rows.append((str(record["base"]), say(language, "adapter_measured")))
    if record["to"] == "gguf":
        asked = record.get("llama_cpp")
        facts = {"difference": f"{asked['logprob_difference']:.3g}", "compared": asked["compared"]} if asked else {}
        rows.append(("llama.cpp", say(language, "llama_cpp_ok" if asked else "llama_cpp_absent", facts)))
    return rows


def _lineage(language: str, lineage: Lineage) -> list[tuple[str, str]]:
    unknown = say(language, "unknown")

    def known(text: str) -> str:
        return unknown if text in ("", "unknown") else text

    stages = " → ".join(f"{s.verb} ({s.run}{'' if s.step is None else f', {s.step}'})" for s in lineage.stages)
    clicks = [
        say(
            language,
            "clicks_of",
            {
                k: unknown if x is None else x
                for k, x in (("snapshot", c.snapshot), ("judgements", c.judgements), ("annotators", c.annotators))
            },
        )
        for c in lineage.clicks
    ]
    return [
        (say(language, "base"), known(lineage.base)),
        (say(language, "licence"), known(lineage.licence)),
        (say(language, "stages"), known(stages)),
        (say(language, "clicks"), known("; ".join(clicks))),
    ]
