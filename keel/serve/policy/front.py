"""The server's heart without its protocol: what every request shares, and what happens every second."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.core.errors import UserError
from keel.serve.policy.answer import Answer
from keel.serve.policy.canary import ArmName, outcome_line
from keel.serve.policy.config import ServePolicyConfig
from keel.serve.policy.drifting import DriftWatch
from keel.serve.policy.filters import RuleConfig, Score, hit_in, rules_of
from keel.serve.policy.memory import Memory, Said, Served, Votes
from keel.serve.policy.metrics import Metrics
from keel.serve.policy.requests import Asked
from keel.serve.policy.router import Router
from keel.serve.policy.texts import texts_of

log = logging.getLogger("keel")
_TICK_S = 0.5
_LONGEST_ID = 200


@dataclass(slots=True)
class Front:
    """``key``: what clients must send; empty where nobody else can come. ``stopping``: nothing new is accepted."""

    config: ServePolicyConfig
    router: Router
    metrics: Metrics
    rules: Sequence[RuleConfig] = ()
    score: Score | None = None
    votes: Votes | None = None
    key: str = ""
    stopping: bool = False
    memory: Memory = field(init=False)
    drifts: dict[str, DriftWatch] = field(init=False)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    def __post_init__(self) -> None:
        f = self.config.feedback
        self.memory = Memory(f.remember, f.remember_s)
        drift = self.config.drift
        self.drifts = {what: DriftWatch(what, drift, self.metrics) for what in ("prompts", "answers")}

    def refer_to(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compare prompts with these, as token ids."""
        self.drifts["prompts"] = DriftWatch("prompts", self.config.drift, self.metrics, prompts)

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.config.name or self.config.model

    def stopped_by(self, asked: Asked) -> RuleConfig | None:
        """The rule that a prompt hits."""
        rules = rules_of(self.rules, "input")
        found = next((hit for text in texts_of(asked.rows) if (hit := hit_in(rules, text)) is not None), None) if rules else None
        if found is not None:
            self.metrics.filtered.labels(found.name, "input").inc()
        return found

    def begin(self, asked: Asked, answer_id: str) -> Answer:
        """Take a request up. Raises FullError."""
        key = self._key(asked, answer_id)
        arm = self.router.arm_of(key)
        form = self.router.engines[arm].about.tool_form
        answer = Answer(asked, arm, self.router, rules_of(self.rules, "output"), self.score, form)
        if arm == "stable" and self.router.canary is not None:
            self.router.shadow(answer.rows[0], key)
        return answer

    def _key(self, asked: Asked, answer_id: str) -> str:
        """What the arm hangs on."""
        by_user = self.config.canary is not None and self.config.canary.key == "user"
        return asked.user if asked.user and by_user else answer_id

    def over(self, answer: Answer, answer_id: str, endpoint: str, status: int, left: bool = False) -> None:
        """Count a request that has ended, whichever way; remember it where it may be spoken of."""
        m, arm = self.metrics, answer.arm
        m.requests.labels(endpoint, arm, str(status)).inc()
        m.tokens.labels("prompt", arm).inc(answer.prompt_tokens)
        m.tokens.labels("completion", arm).inc(sum(c.ids for c in answer.choices))
        for choice in answer.choices:
            if choice.finish:
                m.finished.labels(choice.finish, arm).inc()
            if choice.note:
                m.filtered.labels(choice.note, "output").inc()
        given_up = left and not answer.first_token_s and answer.seconds > self.config.probe.ready_s  # no token, and nobody waits any more
        outcome = None if left and not given_up else answer.outcome(status < 500 and not given_up)
        self.router.ended(arm, [row.name for row in answer.rows], outcome)
        if left:
            m.left.inc()
        elif status < 400:
            m.seconds.labels(arm).observe(answer.seconds)
            if answer.first_token_s:
                m.first_token.labels(arm).observe(answer.first_token_s)
        if status == 200 and not left:
            self._remember(answer, answer_id, arm)

    def _remember(self, answer: Answer, answer_id: str, arm: ArmName) -> None:
        if self.votes is not None:
            texts = tuple(choice.written for choice in answer.choices)
            ends = tuple(choice.finish for choice in answer.choices)
            model, key = self.router.engines[arm].about.model, self._key(answer.asked, answer_id)
            self.memory.add(Served(answer_id, answer.rows[0], texts, ends, arm, model, self.memory.now(), key))
        for watch, bags in ((self.drifts["prompts"], [answer.words]), (self.drifts["answers"], answer.ids)):
            for ids in bags:
                task = watch.add(ids)
                if task is not None:
                    self.keep(task)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """A task that nobody waits for must be held by somebody."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def feedback(self, served: Served, said: Said) -> str:
        """Store what a user says of an answer; without consent only count it. Returns the event's id, empty where nothing is stored. The
        same again changes nothing and returns the same; raises RequestError (409) where an ``event_id`` stands for something else.
        Counted is what could be stored: a client that is told of a failure asks again."""
        heard = served.heard
        async with heard.lock:
            event = heard.event(served.answer_id, said.rater, said.content, said.event_id)
            before = heard.told(event, said.rater, said.content)
            if before is not None:
                return before
            stored = await self._hear(served, said, event)
            heard.add(event, said.rater, said.content, stored)
        return stored

    async def _hear(self, served: Served, said: Said, event: str) -> str:
        """What is said for the first time."""
        canary = self.router.canary
        arm: ArmName = "canary" if served.arm == "canary" else "stable"
        stored = ""
        if not why_not_kept(served, said) and self.votes is not None:
            stored = await asyncio.to_thread(self.votes.keep, served, said, event)
            if said.kind == "thumb" and canary is not None and canary.config.outcomes:
                line = outcome_line(canary.config, served.key, arm, said.up)
                await asyncio.to_thread(_append, canary.config.outcomes, line)
        if said.kind == "thumb" and canary is not None:
            canary.windows[arm].thumb(f"{served.answer_id}/{said.choice}", said.up)
        self.metrics.feedback.labels(said.kind, "yes" if stored else "no").inc()
        return stored

    def scrape(self) -> bytes:
        """Prometheus' text, the gauges as they stand."""
        m, router = self.metrics, self.router
        held, rows = router.held, router.limits.rows
        m.running.set(sum(min(n, rows) for n in held.values()))
        m.waiting.set(sum(max(0, n - rows) for n in held.values()))
        for name, engine in router.engines.items():
            m.up.labels(name).set(engine.alive)
            m.restarts.labels(name).set(engine.restarts)
        canary = router.canary
        m.share.set(canary.config.share if canary is not None and canary.active else 0)
        return m.text()

    def state(self) -> dict[str, Any]:
        """What `/health` tells."""
        router, canary = self.router, self.router.canary
        arms = {
            n: {"model": e.about.model, "up": e.alive, "restarts": e.restarts, "held": router.held[n]} for n, e in router.engines.items()
        }
        found: dict[str, Any] = {"status": "stopping" if self.stopping else "ok", "model": self.name, "arms": arms}
        if canary is not None:
            found["canary"] = {"active": canary.active, "share": canary.config.share if canary.active else 0.0, "reason": canary.reason}
        drifts = {n: w.last for n, w in self.drifts.items() if w.last is not None}
        return found | ({"drift": {n: {"distance": d.distance, "p": d.p} for n, d in drifts.items()}} if drifts else {})

    async def tick(self) -> None:
        """Judge the canary, over and over."""
        canary = self.router.canary
        while canary is not None and canary.active:
            await asyncio.sleep(_TICK_S)
            try:
                if canary.judge(self.router.engines["canary"].alive):
                    self.metrics.rollbacks.inc()
            except OSError as error:  # the state file cannot be written: the rollback stands all the same
                log.error("the rollback could not be written down: %s", error)


def why_not_kept(served: Served, said: Said) -> str:
    """Why nothing of a feedback is stored; empty where it is."""
    if said.consent.get("store") is not True:
        return "without consent.store nothing is kept"
    if served.finishes[said.choice] == "content_filter":
        return "a rule stopped this answer: what was read is not what the model wrote"
    return ""


def _append(path: str, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def read_said(body: Any, choices: int) -> Said:
    """What a body of `/v1/feedback` says. Raises UserError naming the field."""
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    known = {"id", "choice", "rating", "edit", "consent", "by", "reason", "event_id"}
    unknown = sorted(set(body) - known)
    if unknown:
        raise UserError(f"{unknown[0]} is not known; there are: {', '.join(sorted(known))}")
    choice, rating, edit, consent = body.get("choice", 0), body.get("rating"), body.get("edit"), body.get("consent") or {}
    if isinstance(choice, bool) or not isinstance(choice, int) or not 0 <= choice < choices:
        raise UserError(f"choice must be one of the {choices} answers, from 0, is {json.dumps(choice)[:40]}")
    if (rating is None) == (edit is None):
        raise UserError("needs one of rating (up or down) and edit (the answer as it should be)")
    if rating not in (None, "up", "down"):
        raise UserError(f"rating must be up or down, is {json.dumps(rating)[:40]}")
    if edit is not None and (not isinstance(edit, str) or not edit.strip()):
        raise UserError("edit must be a text that is not empty")
    if not isinstance(consent, dict) or any(not isinstance(consent.get(k, False), bool) for k in ("store", "train")):
        raise UserError("consent must be an object with store and train (true or false), and what else you want kept of it")
    by, reason, event_id = body.get("by", ""), body.get("reason", ""), body.get("event_id", "")
    if not isinstance(event_id, str) or ("event_id" in body and not 0 < len(event_id.strip()) <= _LONGEST_ID):
        raise UserError(f"event_id must be a text of 1 to {_LONGEST_ID} characters, is {json.dumps(event_id)[:40]}")
    if not isinstance(by, str) or not isinstance(reason, str):
        raise UserError("by and reason must be texts")
    return Said("thumb" if rating else "edit", choice, rating == "up", edit or "", by, reason, consent, event_id)
