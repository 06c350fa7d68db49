"""What `keel constitution` leaves behind, as rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from keel.critique.config import AuditConfig
from keel.critique.revise import Draft
from keel.critique.rlaif import Answer, ScoredPair
from keel.feedback.campaign import Campaign
from keel.feedback.candidates import make_candidate
from keel.feedback.rows import annotator_row, judgement_row, named, task_row
from keel.feedback.store import pair_row
from keel.feedback.texts import message_row, prompt_row
from keel.judges.ask import Judge, Said, failed
from keel.judges.orders import Verdict
from keel.judges.record import annotator_of, judgements
from keel.rewards.constitution.scoring import Scored, Scorer
from keel.types import Message, Pair, Task

LAYOUTS = {"demonstrations": "prompt_completion", "pairs": "preference", "revision_pairs": "preference"}


def scored_row(scored: Scored) -> dict[str, Any]:
    """What was said of an answer."""
    if scored.error:
        return {"score": None, "error": scored.error}
    told = {"score": scored.score, "flat": scored.total.flat, "level": scored.total.level, "broken": list(scored.total.broken)}
    return told | {"p": dict(scored.p), "reasons": {k: v for k, v in scored.reasons.items() if v}}


def answer_row(answer: Answer) -> dict[str, Any]:
    row = {**prompt_row(answer.prompt), "candidate_id": answer.candidate.candidate_id, "text": answer.candidate.text}
    return row | {"origin": dict(answer.candidate.origin), **scored_row(answer.scored)}


def scored_pair_row(pair: ScoredPair) -> dict[str, Any]:
    """Layout ``preference``: the margin is the gap."""
    made = Pair(pair.name, pair.chosen.prompt, pair.chosen.candidate.messages, pair.rejected.candidate.messages, margin=pair.gap)
    scores = {"chosen": scored_row(pair.chosen.scored), "rejected": scored_row(pair.rejected.scored)}
    told = {"by": "constitution", "confidence": pair.confidence, "overruled": pair.overruled, **scores}
    return {**pair_row(made), "origin": told | {"conflicts": [asdict(c) for c in pair.conflicts]}}


def history(draft: Draft) -> list[dict[str, Any]]:
    """Every round of an answer."""
    return [asdict(s) | {"conflicts": [asdict(c) for c in s.conflicts], "failed": list(s.failed)} for s in draft.steps]


def draft_row(draft: Draft) -> dict[str, Any]:
    row = {"prompt_id": draft.prompt.prompt_id, "prompt": draft.prompt.last_user_text or draft.prompt.text, "first": draft.first}
    row |= {"last": draft.text, "done": draft.done, "before": scored_row(draft.scored), "after": scored_row(draft.now)}
    return row | {"steps": history(draft)}


def demonstration_row(draft: Draft) -> dict[str, Any]:
    """Layout ``prompt_completion``."""
    row = {**prompt_row(draft.prompt), "completion": [message_row(Message("assistant", draft.text))]}
    told = {"by": "constitution", "done": draft.done, "first": draft.first, "revised": draft.improved}
    return row | {"origin": told | {"after": scored_row(draft.now), "steps": history(draft)}}


def revision_pair_row(draft: Draft) -> dict[str, Any]:
    """Layout ``preference``: the last text against the first."""
    chosen, rejected = ((Message("assistant", text),) for text in (draft.text, draft.first))
    made = Pair(f"{draft.prompt.prompt_id}:revision", draft.prompt, chosen, rejected, margin=draft.now.score - draft.scored.score)
    told = {"by": "revision", "chosen": scored_row(draft.now), "rejected": scored_row(draft.scored), "steps": history(draft)}
    return {**pair_row(made), "origin": told}


def audit_task(pair: ScoredPair, arm: str, config: AuditConfig) -> Task:
    """The pair as a task. The order tells nothing; what the constitution says stands in ``meta``, which people never see."""
    both = sorted((pair.chosen.candidate, pair.rejected.candidate), key=lambda c: c.candidate_id)
    prefers = "first" if both[0] is pair.chosen.candidate else "second"
    meta = {"constitution": {"arm": arm, "prefers": prefers, "gap": round(pair.gap, 6), "confidence": round(pair.confidence, 6)}}
    prompt = pair.chosen.prompt
    return named(Task("", prompt, tuple(both), "pairwise", config.protocol, source_id=prompt.source_id, meta=meta))


def judgement_rows(scorer: Scorer, judge: Judge, campaign: str, at: str) -> Iterator[dict[str, Any]]:
    """What the judge said of each answer, principle by principle, as `keel feedback import` reads it."""
    by_answer: dict[tuple[str, str], list[Verdict]] = {}
    for prompt, text, verdict in scorer.heard:
        by_answer.setdefault((prompt.prompt_id, text.strip()), []).append(verdict)
    names = {p.text: p.name for p in scorer.constitution.principles}
    tasks: list[Task] = []
    rows: list[dict[str, Any]] = []
    for (prompt_id, text), verdicts in by_answer.items():
        answer = make_candidate(prompt_id, text, {})  # under the id that it has among the answers
        task = named(Task("", verdicts[0].question.prompt, (answer,), "rating", "constitution-v1", campaign=campaign))
        tasks.append(task)
        rows += [{"judgement": judgement_row(j)} for j in judgements(task, judge, _together(verdicts, names), at)]
    yield {"campaign": asdict(Campaign(campaign, 1, "rating", "constitution-v1"))}
    yield {"annotator": annotator_row(annotator_of(judge))}
    yield from ({"task": task_row(t)} for t in tasks)
    yield from rows


def _together(each: Sequence[Verdict], names: dict[str, str]) -> Verdict:
    """One verdict of all principles, under their names; a principle that failed is a failure of the whole."""
    costs = [v.mean.cost for v in each]
    cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
    lost = next((v.mean.error for v in each if v.mean.error), "")
    scores = {names.get(k, k): s for v in each for k, s in (v.mean.scores or {}).items()}
    calls = tuple(call for v in each for call in v.calls)
    return Verdict(each[0].question, calls, failed(lost, cost=cost) if lost else Said(scores=scores, cost=cost))
