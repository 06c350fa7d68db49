"""What users say of served answers, as judgements in the store: a thumb rates, an edit is better than what was served."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from keel.core.errors import UserError
from keel.core.hashing import stable_hash
from keel.feedback.campaigns import Campaign
from keel.feedback.candidates import make_candidate
from keel.feedback.db import Store
from keel.feedback.rows import named, utc
from keel.serve.policy.frames import Row
from keel.serve.policy.memory import Said, Served
from keel.serve.policy.prompts import prompt_of
from keel.types import Annotator, Answer, Candidate, Choice, Judgement, Prompt, Scores, Task

THUMB, EDIT, VOTE = "thumb", "edit", "vote"
_KINDS: Mapping[str, Any] = {THUMB: ("rating", "thumbs-v1"), EDIT: ("pairwise", "edit-v1"), VOTE: ("pairwise", "chat-v1")}
NOT_FOR_TRAINING = "-look-only"


class StoredVotes:
    """``serve.policy.memory.Votes`` over a store. Campaigns are NAME-thumbs, NAME-edits, NAME-votes; what may be kept but not learnt from
    (``consent.train`` is not true) goes to campaigns of its own, which end in ``-look-only``."""

    def __init__(self, store: Store, campaign: str) -> None:
        self._store, self._campaign = store, campaign
        self._known: set[str] = set()

    def keep(self, served: Served, said: Said, event: str) -> str:
        """Store a thumb or an edit, once however often it comes. Raises ConflictError where the id stands for another one."""
        prompt = prompt_named(served.row)
        origin = {"model": served.model, "arm": served.arm, "answer_id": served.answer_id, "temperature": served.row.temperature}
        answer = _candidate(prompt, served.texts[said.choice], origin | {"finish": served.finishes[said.choice]})
        if said.kind == EDIT:
            better = _candidate(prompt, said.edit, {"edited": served.answer_id})
            if better.candidate_id == answer.candidate_id:
                raise UserError("the edit is the answer as it was", "send a thumb in its place")
            return self._store_one(prompt, (better, answer), Choice("first"), EDIT, event, said.by, said.reason, said.consent)
        return self._store_one(prompt, (answer,), Scores(0, {"thumb": float(said.up)}), THUMB, event, said.by, said.reason, said.consent)

    def vote_on(self, row: Row, models: tuple[str, str], texts: tuple[str, str], chosen: str, order: tuple[int, int]) -> str:
        """``serve.policy.duel.PairVotes``: whoever votes in `keel chat` does it for the store."""
        prompt = prompt_named(row)
        how = {"temperature": row.temperature}
        sides = [_candidate(prompt, text, {"model": model, **how}) for text, model in zip(texts, models, strict=True)]
        if sides[0].candidate_id == sides[1].candidate_id:  # the same answer twice: two candidates all the same
            sides[1] = replace(sides[1], candidate_id=f"{sides[1].candidate_id}-2")
        consent = {"store": True, "train": True}
        return self._store_one(prompt, tuple(sides), Choice(cast("Any", chosen)), VOTE, str(uuid.uuid4()), "", "", consent, order)

    def _store_one(
        self,
        prompt: Prompt,
        candidates: tuple[Candidate, ...],
        answer: Answer,
        kind: str,
        event: str,
        by: str,
        reason: str,
        consent: Mapping[str, Any],
        order: tuple[int, ...] = (),
    ) -> str:
        task_kind, protocol = _KINDS[kind]
        campaign = f"{self._campaign}-{kind}s" + ("" if consent.get("train") is True else NOT_FOR_TRAINING)
        if campaign not in self._known:
            self._store.add_campaign(Campaign(campaign, 1, task_kind, protocol))
            self._known.add(campaign)
        who = f"user:{stable_hash('served', by):016x}" if by else "user:anonymous"
        self._store.add_annotator(Annotator(who, "person"))
        # every event is an item of its own: what two users say of one answer are two votes on two items
        task = named(Task("", prompt, candidates, task_kind, protocol, campaign=campaign, meta={"event": event}))
        self._store.add_tasks(campaign, [task])
        places = order or tuple(range(len(candidates)))
        meta = {"consent": dict(consent), "served": True}
        self._store.record(
            [Judgement(event, task.task_id, who, "work", answer, places, protocol, utc(time.time()), reason=reason, meta=meta)]
        )
        return event


def prompt_named(row: Row) -> Prompt:
    """The prompt of a row with an id that follows from its content: the same question has the same id."""
    prompt = prompt_of(row)
    said = str(prompt.text) if prompt.text is not None else repr([(m.role, m.content, dict(m.extra)) for m in prompt.messages])
    return Prompt(f"{stable_hash('served', said):016x}", prompt.messages, prompt.text, prompt.tools)


def _candidate(prompt: Prompt, text: str, origin: Mapping[str, Any]) -> Candidate:
    """The text as it was served, white space and all."""
    made = make_candidate(prompt.prompt_id, text, origin)
    return Candidate(made.candidate_id, text, made.origin)
