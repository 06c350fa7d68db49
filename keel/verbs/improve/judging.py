"""A judge's verdicts on answers: who is compared with whom, the shares that follow, and the judgements that are kept."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.feedback.campaign import Campaign
from keel.feedback.rows import annotator_row, judgement_row, named, task_row, utc
from keel.judges.ask import Judge, Question
from keel.judges.orders import Verdict, verdicts
from keel.judges.record import annotator_of, failures, judgements
from keel.rewards.reading.thoughts import answer_of
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Candidate, Judgement, Prompt, Task
from keel.verbs.improve.choose import Judged

PROTOCOL = "pairwise-v1"
MOST_LOST = 0.5  # of a round's comparisons


@dataclass(frozen=True, slots=True)
class Match:
    """Two answers to one prompt."""

    prompt: Prompt
    first: Candidate
    second: Candidate

    @property
    def same(self) -> bool:
        """Do both say the same? Then nobody is asked, and each has half."""
        return _shown(self.first).text == _shown(self.second).text


@dataclass(frozen=True, slots=True)
class Asked:
    """What a judge said of matches. ``shares``: of the first answer's win, ties half; None without a verdict."""

    matches: tuple[Match, ...]
    verdicts: tuple[Verdict | None, ...]  # None: nobody was asked
    judge: Judge

    @property
    def shares(self) -> list[float | None]:
        return [0.5 if v is None else None if v.mean.error else (1.0 + v.mean.lead) / 2.0 for v in self.verdicts]

    def check(self, what: str) -> None:
        """Raises RunError where most comparisons have no verdict: a judge that is gone, or has no budget left, is no judge without a
        preference, and what the few others say is no fair sample."""
        lost = [v.mean.error for v in self.verdicts if v is not None and v.mean.error]
        asked = sum(v is not None for v in self.verdicts)
        if len(lost) > MOST_LOST * asked:
            raise RunError(
                f"{what}: {len(lost)} of {asked} comparisons have no verdict of judge {self.judge.name} (first: {lost[0][:200]})",
                "mend the judge (its server, its budget) and start the same command again",
            )

    def counts(self) -> dict[str, Any]:
        """Calls, their cost (None: unknown) and failures, for the summary."""
        said = [s for v in self.verdicts if v is not None for _, s in v.calls]
        costs = [s.cost for s in said]
        cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
        asked = [v for v in self.verdicts if v is not None]
        return {
            "calls": len(said),
            "made": sum(s.made for s in said),
            "cost": cost,
            "without_verdict": sum(bool(v.mean.error) for v in asked),
            "failures": failures(asked),
        }


def together(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several ``Asked.counts``; {} of none."""
    if not each:
        return {}
    costs = [c["cost"] for c in each]
    kinds: Counter[str] = Counter()
    for c in each:
        kinds.update(c["failures"])
    return {
        **{name: sum(c[name] for c in each) for name in ("calls", "made", "without_verdict")},
        "cost": None if any(c is None for c in costs) else math.fsum(costs),
        "failures": dict(kinds),
    }


def questions(matches: Sequence[Match]) -> list[Question]:
    """What the judge is asked; each in both orders."""
    return [Question(m.prompt, (_shown(m.first), _shown(m.second))) for m in matches if not m.same]


def ask(judge: Judge, matches: Sequence[Match]) -> Asked:
    """Every match in both orders."""
    said = iter(verdicts(judge, questions(matches)))
    return Asked(tuple(matches), tuple(None if m.same else next(said) for m in matches), judge)


def _shown(answer: Candidate) -> Candidate:
    """What the judge reads: the answer behind the thought, nothing where the thought has no end."""
    return replace(answer, text=answer_of(answer.text) or "", turns=())


def round_robin(prompt: Prompt, answers: Sequence[Candidate], start: Candidate | None) -> list[Match]:
    """Every two answers to a prompt, and each against the starting model's."""
    with_start = [Match(prompt, a, start) for a in answers] if start is not None else []
    return [*with_start, *(Match(prompt, a, b) for a, b in itertools.combinations(answers, 2))]


def scored(
    prompt: Prompt, answers: Sequence[Candidate], start: Candidate | None, asked: Mapping[tuple[str, str], float | None]
) -> list[Judged]:
    """The answers with their scores; ``asked`` has the share of the first for (first, second) of ``round_robin``. A score needs verdicts
    in half of an answer's matches: of fewer it would be that of a chance choice of opponents."""
    wins: dict[str, list[float | None]] = {a.candidate_id: [] for a in answers}
    beats: dict[str, float | None] = {}
    for match in round_robin(prompt, answers, start):
        first, second = match.first.candidate_id, match.second.candidate_id
        share = asked[first, second]
        wins[first].append(share)
        if match.second is start:
            beats[first] = share
        else:
            wins[second].append(None if share is None else 1.0 - share)

    def score(name: str) -> float | None:
        known = [w for w in wins[name] if w is not None]
        return math.fsum(known) / len(known) if known and 2 * len(known) >= len(wins[name]) else None

    return [Judged(a, score(a.candidate_id), beats.get(a.candidate_id)) for a in answers]


def keep(path: Path, store: str, campaign: str, asked: Sequence[Asked]) -> int:
    """Write every call and every verdict as judgements that `keel feedback import` reads, and into the store where there is one. Returns
    how many judgements there are."""
    at = utc(time.time())
    kept = Campaign(campaign, 1, "pairwise", PROTOCOL)
    tasks: dict[str, Task] = {}
    said: dict[str, Judgement] = {}
    for found in asked:
        for match, verdict in zip(found.matches, found.verdicts, strict=True):
            if verdict is None:
                continue
            pair = (match.first, match.second)
            task = named(Task("", match.prompt, pair, "pairwise", PROTOCOL, campaign=campaign, source_id=match.prompt.source_id))
            tasks[task.task_id] = task
            said |= {j.event_id: j for j in judgements(task, found.judge, verdict, at)}
    judges = {annotator_of(a.judge).annotator_id: annotator_of(a.judge) for a in asked}
    head = [{"campaign": asdict(kept)}, *({"annotator": annotator_row(a)} for a in judges.values())]
    rows = [*head, *({"task": task_row(t)} for t in tasks.values()), *({"judgement": judgement_row(j)} for j in said.values())]
    write_atomic(path, b"".join(map(json_line, rows)))
    if store:
        from keel.feedback.db import Store  # the database is an extra

        with Store(store) as opened:
            if all(c.name != campaign for c in opened.campaigns()):
                opened.add_campaign(kept)
            for annotator in judges.values():
                opened.add_annotator(annotator)
            opened.add_tasks(campaign, list(tasks.values()))
            before = {j.event_id for j in opened.judgements(campaign)}
            opened.record([j for name, j in said.items() if name not in before])
    return len(said)
