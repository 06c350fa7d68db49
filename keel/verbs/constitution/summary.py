"""What a job came to: numbers for `summary.json`, and the lines that are printed."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.critique.revise import FAILED, Draft
from keel.critique.rlaif import Answer, Compared
from keel.rewards.constitution.config import Constitution
from keel.rewards.constitution.scoring import Scorer
from keel.verbs.shared.progress import money

log = logging.getLogger("keel")
PAGE = "constitution.html"


def kind(reason: str) -> str:
    """A reason without what varies from answer to answer."""
    return reason.partition(":")[0].rstrip("0123456789. ")


def by_principle(found: Constitution, answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """How well each principle is kept by all answers."""
    table: dict[str, dict[str, Any]] = {}
    for p in found.principles:
        values = [a.scored.p[p.name] for a in answers if p.name in a.scored.p]
        told = {"band": found.band_of(p), "aspect": p.aspect, "weight": p.weight, "answers": len(values), "mean": mean(values)}
        table[p.name] = told | {"broken": sum(v < p.least for v in values)}
    return table


def compared_in(found: Compared) -> dict[str, int]:
    """What became of all pairs."""
    told = {"kept": len(found.kept), "low confidence": len(found.unsure)}
    return told | {"too close": found.close, "beyond pairs.per_prompt": found.surplus, "the better one cut off": found.cut}


def commonest(found: Compared) -> list[tuple[tuple[str, str, str], int]]:
    return sorted(found.conflicts.items(), key=lambda x: (-x[1], x[0]))


def revision(drafts: Sequence[Draft], scorer: Scorer) -> dict[str, Any]:
    """How the answers ended, what came of the rounds, and what it did to the scores."""
    scored = [d for d in drafts if d.done != FAILED]
    if not scored:
        return {}
    steps = [s for d in drafts for s in d.steps]
    taken = [s for s in steps if s.outcome == "revised"]
    known = [s for s in steps if scorer.known(scorer.constitution.named(s.principle))]
    torn = Counter((c.won, c.lost, s.outcome == "revised") for s in steps for c in s.conflicts)
    return {
        "ended": dict(Counter(d.done for d in drafts)),
        "outcomes": dict(Counter(s.outcome for s in steps)),
        "by_principle": {
            name: dict(Counter(s.outcome for s in steps if s.principle == name)) for name in dict.fromkeys(s.principle for s in steps)
        },
        "failed_replies": dict(Counter(f.partition(":")[0] for s in steps for f in s.failed)),
        "score_before": mean([d.scored.score for d in scored]),
        "score_after": mean([d.now.score for d in scored]),
        "improved": sum(d.improved for d in scored),
        "worse": sum(d.now.score < d.scored.score for d in scored),
        "edit": mean([s.edit for s in taken if s.edit is not None]),
        "severity": mean([float(s.severity) for s in steps if s.severity]),
        "faults_not_seen": {"known": len(known), "not_seen": sum(s.outcome == "the critic sees no fault" for s in known)},
        "conflicts": [{"won": w, "lost": x, "taken": t, "count": n} for (w, x, t), n in torn.most_common()],
    }


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def tell(summary: Mapping[str, Any], path: Path) -> None:
    """The outcome in a few lines."""
    log.info(
        "%d answers, mean score %s; %d pairs, %d for people",
        summary["answers"],
        number(summary["score"]),
        summary["pairs"],
        summary["audit"],
    )
    if (cut := summary["cut_off"])["answers"]:
        log.info("%d answers were cut off at sampling.max_tokens: cut=%s", cut["answers"], cut["how"])
    for name, p in summary["principles"].items():
        log.info("  %-16s broken by %d of %d answers", name, p["broken"], p["answers"])
    for c in summary["conflicts"][:5]:
        log.info("  %s over %s %dx, by %s", c["won"] or "neither", c["lost"], c["count"], c["by"])
    if revised := summary["revised"]:
        ended = ", ".join(f"{n} {name}" for name, n in revised["ended"].items())
        text = "revised: %s; score %s -> %s, %d demonstrations, %d pairs"
        counts = (summary["demonstrations"], summary["revision_pairs"])
        log.info(text, ended, number(revised["score_before"]), number(revised["score_after"]), *counts)
    for name, found in summary["critics"].items():
        t = found["all"]
        wrong = (
            "no verdict at all"
            if t["wrong"] is None
            else "wrong in {:.0%} [{:.0%}, {:.0%}]".format(*(t["wrong"][k] for k in ("mean", "low", "high")))
        )
        beside = "" if t["always_the_same"] is None else f"; who always says the same is wrong in {t['always_the_same']:.0%}"
        log.info("critic %s: %s%s; %d of %d without a verdict", name, wrong, beside, t["without_verdict"], t["cases"])
    log.info("%d calls made, cost %s; report: %s", summary["calls"], money(summary["cost"]), path / PAGE)


def number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
