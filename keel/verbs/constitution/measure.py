"""How often a critic is wrong, on principles whose truth rules know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.hashing import stable_hash
from keel.critique.ask import Ask, Writer, critique_of
from keel.critique.revise import shown_to, written
from keel.critique.rlaif import Answer
from keel.evaluate.statistics import cluster_bootstrap
from keel.judges.ask import Judge, Question
from keel.judges.orders import verdicts
from keel.rewards.constitution.config import Principle
from keel.rewards.constitution.scoring import Scorer, unit
from keel.verbs.shared.progress import Heard

Case = tuple[Answer, Principle]
Said = bool | None  # broken? None: no verdict


def cases_of(answers: Sequence[Answer], scorer: Scorer, n: int, seed: int) -> list[Case]:
    """Every principle that is known of ``n`` answers, drawn by hash."""
    good = [a for a in answers if not a.scored.error]
    drawn = sorted(good, key=lambda a: stable_hash("measure", seed, a.candidate.candidate_id))[:n]
    return [(a, p) for a in drawn for p in scorer.constitution.of(a.prompt) if scorer.known(p)]


def by_critic(cases: Sequence[Case], critic: Writer, scorer: Scorer, heard: Heard) -> list[Said]:
    """What the critic's field `violates` says; None where there is no such field."""
    asks = [Ask("critique", shown_to(critic, scorer, a.prompt), a.candidate.text, p) for a, p in cases]
    return [None if w.error else critique_of(w.text).violates for w in written(critic, asks, heard)]


def by_labels(cases: Sequence[Case], judge: Judge, scale: tuple[float, float], scorer: Scorer, heard: Heard) -> list[Said]:
    """The same from the probabilities of one label on the scale of a rubric: below the principle's ``least`` is broken."""
    prompts = [scorer.constitution.shown(a.prompt, judge.sees_images) for a, _ in cases]
    asked = [Question(shown, (a.candidate,), "rubric", p.text) for shown, (a, p) in zip(prompts, cases, strict=True) if shown is not None]
    found = iter(verdicts(judge, asked, 1, heard))
    said = [None if shown is None else next(found).mean for shown in prompts]  # of a prompt whose images it does not see there is none
    return [
        None if s is None or s.error else unit((s.scores or {})[p.text], *scale) < p.least for s, (_, p) in zip(said, cases, strict=True)
    ]


def errors(cases: Sequence[Case], said: Sequence[Said]) -> dict[str, Any]:
    """Wrong verdicts over all principles and by principle, beside those of whoever always says the same.

    ``wrong``: share of the verdicts that there are, with its 95% interval over prompts. ``balanced``: mean of the shares right among
    broken and among kept ones; 0.5 is what knows nothing. ``without_verdict`` is counted apart: no verdict is neither right nor wrong.
    """
    rows = [Row(a.prompt.prompt_id, p.name, a.scored.p[p.name] < p.least, s) for (a, p), s in zip(cases, said, strict=True)]
    names = list(dict.fromkeys(p.name for _, p in cases))
    return {"all": _table(rows), "principles": {name: _table([r for r in rows if r.principle == name]) for name in names}}


@dataclass(frozen=True, slots=True)
class Row:
    """One verdict beside the truth."""

    prompt: str
    principle: str
    truth: bool
    said: Said


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    known = [r for r in rows if r.said is not None]
    wrong = [r for r in known if r.truth != r.said]
    missed, broken = sum(r.truth for r in wrong), sum(r.truth for r in known)
    table: dict[str, Any] = {"cases": len(rows), "without_verdict": len(rows) - len(known), "broken": sum(r.truth for r in rows)}
    table |= {"said_broken": sum(bool(r.said) for r in known), "missed": missed, "false_alarms": len(wrong) - missed}
    prompts = sorted({r.prompt for r in known})
    sums = [float(sum(r.prompt == i for r in wrong)) for i in prompts]
    counts = [float(sum(r.prompt == i for r in known)) for i in prompts]
    table["wrong"] = cluster_bootstrap(sums, counts).to_json() if known else None
    kept = len(known) - broken
    table["always_the_same"] = min(broken, kept) / len(known) if known else None
    table["balanced"] = (1 - missed / broken + 1 - (len(wrong) - missed) / kept) / 2 if broken and kept else None
    return table
