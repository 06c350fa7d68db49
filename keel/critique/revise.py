"""Critique and revision (Bai et al. 2022, arXiv:2212.08073, section 3): round by round, one principle at a time.

A revision counts as better only where the constitution's scores say so; one that is not is dropped and counted. All answers go through a
round together, so that servers and samplers see many calls at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.critique.ask import Ask, Writer, Wrote, critique_of
from keel.critique.config import ReviseConfig
from keel.critique.edits import edit_share
from keel.judges.orders import AT_ONCE
from keel.judges.parse import after_thought
from keel.rewards.constitution.maths import Conflict, conflicts
from keel.rewards.constitution.scoring import Scored, Scorer
from keel.types import Prompt

SATISFIED, NO_BETTER, USED_UP, FAILED = "satisfied", "no better", "rounds used up", "not scored"
Told = Callable[[str, int], Callable[[Sequence[Any]], None]]  # (what, calls) -> who hears of each call as it ends


@dataclass(frozen=True, slots=True)
class Step:
    """One round of one answer. ``outcome`` is "revised", or why not."""

    round: int
    principle: str
    p: float
    severity: int  # 0 = none was given
    critique: str
    outcome: str
    before: float
    after: float | None = None  # score of the revision that was taken, or of the best that was dropped
    edit: float | None = None
    text: str = ""  # the revision that was taken
    failed: tuple[str, ...] = ()  # replies that were none
    conflicts: tuple[Conflict, ...] = ()  # what the revision would raise and lower at once


@dataclass(slots=True)
class Draft:
    """An answer on its way."""

    prompt: Prompt
    first: str
    scored: Scored  # of the first
    text: str
    now: Scored
    done: str = ""
    steps: list[Step] = field(default_factory=list[Step])
    tried: set[str] = field(default_factory=set[str])  # principles that this text was not mended for

    @property
    def improved(self) -> bool:
        return self.text != self.first

    def next_principle(self) -> str:
        """The broken principle of the highest band that was not tried with this text; "" and ``done`` where there is none."""
        for name in self.now.total.broken:
            if name not in self.tried:
                return name
        self.done = NO_BETTER if self.now.total.broken else SATISFIED
        return ""


def revise(
    items: Sequence[tuple[Prompt, str, Scored]],
    scorer: Scorer,
    critic: Writer,
    reviser: Writer,
    config: ReviseConfig,
    told: Told | None = None,
) -> list[Draft]:
    """One draft for each (prompt, answer, its scores)."""
    drafts = [Draft(prompt, text, scored, text, scored, FAILED if scored.error else "") for prompt, text, scored in items]
    for k in range(1, config.rounds + 1):
        asked = [(d, name) for d in drafts if not d.done and (name := d.next_principle())]
        if not asked:
            break
        _round(k, asked, scorer, critic, reviser, config, told or _silent)
    for draft in drafts:
        if not draft.done and not draft.next_principle():
            continue
        draft.done = draft.done or USED_UP
    return drafts


def _round(
    k: int, asked: Sequence[tuple[Draft, str]], scorer: Scorer, critic: Writer, reviser: Writer, config: ReviseConfig, told: Told
) -> None:
    asks = [Ask("critique", shown_to(critic, scorer, d.prompt), d.text, scorer.constitution.named(name)) for d, name in asked]
    wrote = written(critic, asks, told(f"round {k}: critiques", len(asks)))
    open_: list[tuple[Draft, Step, Ask]] = []
    for (draft, name), ask, reply in zip(asked, asks, wrote, strict=True):
        step = Step(k, name, draft.now.p[name], 0, "", "", draft.now.score)
        if reply.error:
            _stay(draft, replace(step, outcome="the critic failed", failed=(reply.error,)))
            continue
        said = critique_of(reply.text)
        step = replace(step, severity=said.severity, critique=said.text)
        if not said.violates:
            _stay(draft, replace(step, outcome="the critic sees no fault"))
        elif said.severity < config.least_severity:
            _stay(draft, replace(step, outcome="too slight"))
        else:
            open_.append((draft, step, replace(ask, kind="revision", critique=said.text)))
    revisions = [
        replace(ask, prompt=shown_to(reviser, scorer, draft.prompt), sample=n) for draft, _, ask in open_ for n in range(config.revisions)
    ]
    replies = iter(written(reviser, revisions, told(f"round {k}: revisions", len(revisions))) if revisions else [])
    each = [[next(replies) for _ in range(config.revisions)] for _ in open_]
    texts = [_texts(draft, of_one) for (draft, _, _), of_one in zip(open_, each, strict=True)]
    flat = [(draft.prompt, text) for (draft, _, _), found in zip(open_, texts, strict=True) for text in found]
    calls = sum(scorer.calls(prompt) for prompt, _ in flat)
    scored = iter(scorer.score(flat, told(f"round {k}: scores", calls) if calls else None) if flat else [])
    for (draft, step, _), of_one, found in zip(open_, each, texts, strict=True):
        failed = tuple(r.error for r in of_one if r.error)
        _choose(draft, replace(step, failed=failed), [(text, next(scored)) for text in found], scorer, config)


def written(writer: Writer, asks: Sequence[Ask], told: Callable[[Sequence[Any]], None]) -> list[Wrote]:
    """What the writer makes of all of them, a part at a time, so that somebody hears of it."""
    found: list[Wrote] = []
    for start in range(0, len(asks), AT_ONCE):
        part = writer.write(asks[start : start + AT_ONCE])
        told(part)
        found += part
    return found


def _choose(draft: Draft, step: Step, found: Sequence[tuple[str, Scored]], scorer: Scorer, config: ReviseConfig) -> None:
    """Take the least edited revision among the best, or none."""
    scored_ones = [(text, s, edit_share(draft.text, text)) for text, s in found if not s.error]
    known = [x for x in scored_ones if x[2] <= config.most_edit]
    if not known:
        why = "no revision was scored" if found else "the reviser failed" if step.failed else "the reviser changed nothing"
        why = "it is a new answer" if scored_ones else why
        _stay(draft, replace(step, outcome=why))
        return
    best = max(s.score for _, s, _ in known)
    better = [x for x in known if x[1].score > draft.now.score + config.gain]
    near = [x for x in better if x[1].score >= best - config.slack]
    text, scored, edit = min(near, key=lambda x: x[2]) if near else max(known, key=lambda x: x[1].score)
    how, floor = scorer.constitution.how, scorer.constitution.floor
    torn = tuple(conflicts(scored.p, draft.now.p, scored.rules, how, floor))
    step = replace(step, after=scored.score, edit=edit, conflicts=torn)
    if not near:
        _stay(draft, replace(step, outcome="it breaks a higher one" if _worse_above(scored, draft.now) else "no better"))
        return
    draft.steps.append(replace(step, outcome="revised", text=text))
    draft.text, draft.now = text, scored
    draft.tried.clear()


def _worse_above(new: Scored, old: Scored) -> bool:
    """Did the revision break what was kept before?"""
    return bool(set(new.total.broken) - set(old.total.broken)) and new.total.level < old.total.level


def _stay(draft: Draft, step: Step) -> None:
    draft.steps.append(step)
    draft.tried.add(step.principle)


def _texts(draft: Draft, replies: Sequence[Wrote]) -> list[str]:
    """Different texts that are not the answer itself."""
    found = dict.fromkeys(after_thought(r.text).strip() for r in replies if not r.error)
    return [text for text in found if text != draft.text.strip()]


def shown_to(writer: Writer, scorer: Scorer, prompt: Prompt) -> Prompt:
    """What a writer is shown: images themselves where it sees them, else their description, or a word that says that there is one."""
    return scorer.constitution.shown(prompt, writer.sees_images) or prompt


def _silent(what: str, calls: int) -> Callable[[Sequence[Any]], None]:
    return lambda done: None
