"""One conversation with an agent: which earlier request each of its requests goes on from, and the tokens of all.

The requests of an agent are a tree. One whose messages begin with an earlier request's and the answer that it was given goes on behind the
tokens of that answer: only what is new is rendered and put behind. All others begin a branch, a stream of tokens of its own: those that
begin with other messages, and the second one that goes on from the same answer, which stands behind the same tokens and trains none of them
again. What is drawn hangs on the branch, by the tokens that it begins with, and on the place in it; not on when a request arrived. Requests
that are the same in every word are told apart by their order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from keel.agents.asked import history
from keel.agents.endpoint import Ask
from keel.core.hashing import stable_hash
from keel.environments.stream import Stream, joined
from keel.render.conversation import Said, State, Turns, extended
from keel.render.template import RefusedError
from keel.serve.policy.frames import TokenText
from keel.serve.policy.prompts import message_of
from keel.serve.policy.replies import Choice
from keel.serve.policy.requests import RequestError
from keel.serve.policy.tool_calls import CallSplitter, Form
from keel.types import Asking, Conversation, Encoded, Ending, Message, Prompt, Rollout, SampleRequest, SamplingParams


@dataclass(slots=True)
class _Branch:
    """A stream of answers behind ``root``. ``name``: empty, and ``root`` None, for the one that begins with the prompt of the data."""

    name: str
    root: Encoded | None
    stream: Stream
    answers: int = 0


@dataclass(slots=True)
class _Answered:
    """A request that has its answer. ``context``: all tokens up to the end of it."""

    branch: _Branch
    prompt: Prompt
    state: State
    said: Said
    end: int | None
    context: Encoded
    continued: bool = False


@dataclass(slots=True)
class Waiting:
    """A request on its way: where it stands, and what is put behind its branch's tokens before its answer."""

    ask: Ask
    branch: _Branch
    after: _Answered | None  # the answer that it goes on from
    prompt: Prompt
    state: State
    context: Encoded
    ids: tuple[int, ...] = ()
    fork: Encoded | None = None
    new: tuple[Message, ...] = ()  # what it says that was not said before
    digest: bytes = b""  # of its messages
    most: int = 0  # tokens of its answer
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What all conversations have in common. ``tool_form``: how the model writes calls; ``trial`` > 0: answers are cut to so many tokens,
    and told as whole ones."""

    turns: Turns
    max_turns: int
    max_tokens: int
    tool_form: Form | None
    trial: int = 0


class Talk:
    """A conversation on its way."""

    def __init__(self, number: int, request: SampleRequest, sample: int, shown: Prompt, rules: Rules) -> None:
        self.number, self.request, self.sample, self.rules = number, request, sample, rules
        self.shown = shown
        self.waiting: list[Waiting] = []
        self.since = 0.0  # when it was begun, or last given an answer
        self.error = ""
        self.over = False
        self.refused, self.parallel, self.timed = 0, False, False
        self._own = history(shown.tools, [{"role": m.role, "content": m.text, **m.extra} for m in shown.messages])[-1]
        self._limit = len(request.prompt) + rules.max_tokens
        self._answered: dict[bytes, list[_Answered]] = {}  # by the digest of what was said up to the answer
        self._branches: list[_Branch] = []
        self._same: Counter[str] = Counter()  # branches that began with the same tokens
        self._asked, self._turns = 0, 0  # answers drawn or on their way; those that were given up, too
        self._said: dict[int, tuple[Message, ...]] = {}  # by turn
        self._cut: Ending | None = None
        self._calls, self._bad_calls = 0, 0
        self._reward: float | None = None
        self._parts: Mapping[str, float] = {}

    @property
    def open(self) -> bool:
        return not self.over

    # --- a request ------------------------------------------------------------------------------------------------------------

    def arrive(self, ask: Ask) -> None:
        """Take a request up, to wait for its answer. Raises RequestError for one that gets none."""
        if self._asked >= self.rules.max_turns:
            self._cut = self._cut or "turns"
            raise RequestError(f"the conversation has had its {self._asked} answers (environment.max_turns)", "messages", code="max_turns")
        try:
            found = self._placed(ask)
        except RefusedError as error:
            raise RequestError(error.reason, "messages") from None
        room = self._limit - len(found.context)
        if room < 1:
            self._cut = self._cut or "tokens"
            said = f"they take {len(found.context)} tokens, there is room for {self._limit} with the answer (environment.max_tokens)"
            raise RequestError(said, "messages", code="context_length_exceeded")
        found.most = min(self.rules.trial or room, room, self.request.params.max_tokens, ask.asked.rows[0].max_tokens)
        found.turn, self._turns = self._turns, self._turns + 1
        if found.after is not None and found.after.branch is found.branch:
            found.after.continued = True
        self.parallel = self.parallel or bool(self.waiting) or ask.beside
        self._asked += 1
        self.waiting.append(found)

    def give_up(self, waiting: Waiting) -> None:
        """Its client has left before anything was drawn."""
        self.waiting.remove(waiting)
        self._asked -= 1
        if waiting.after is not None and waiting.after.branch is waiting.branch:
            waiting.after.continued = False

    def _placed(self, ask: Ask) -> Waiting:
        """Where a request stands."""
        row, turns = ask.asked.rows[0], self.rules.turns
        digests = history(row.tools, row.messages)
        for k in range(len(row.messages), 0, -1):
            if row.messages[k - 1]["role"] == "assistant" and (known := self._answered.get(digests[k])):
                after = next((one for one in known if not one.continued), known[0])
                new = tuple(map(message_of, row.messages[k:]))
                found = turns.next(after.prompt, after.state, after.said, new, after.end)
                context = found.prompt or extended(after.context, torch.tensor(found.ids, dtype=torch.int64))
                where = {"prompt": after.prompt, "state": found.state, "context": context, "new": new, "digest": digests[-1]}
                if after.continued:
                    return Waiting(ask, self._branch(context), after, **where)
                return Waiting(ask, after.branch, after, **where, ids=found.ids, fork=found.prompt)
        messages = tuple(map(message_of, row.messages))
        prompt = Prompt(self.request.prompt_id, messages, tools=row.tools)
        if digests[-1] == self._own and all(branch.name for branch in self._branches):
            branch = _Branch("", None, Stream(self.request.prompt, self.rules.max_tokens))
            self._branches.append(branch)
            return Waiting(ask, branch, None, self.shown, turns.begin(self.shown), self.request.prompt, digest=digests[-1])
        state = turns.begin(prompt)
        context, kept = turns.renderer.prompts.encode(prompt, state.messages)
        if kept is not state.messages:
            raise RefusedError("they are longer than the model can read")
        return Waiting(ask, self._branch(context), None, prompt, state, context, new=messages, digest=digests[-1])

    def _branch(self, root: Encoded) -> _Branch:
        """A new one, that stands behind ``root``."""
        digest = hashlib.sha256(root.tokens_T.numpy().tobytes()).hexdigest()[:16]
        branch = _Branch(f"{digest}.{self._same[digest]}", root, Stream(root, max(0, self._limit - len(root))))
        self._same[digest] += 1
        self._branches.append(branch)
        return branch

    def asks(self, waiting: Waiting) -> SampleRequest:
        """What is to be drawn. The first branch draws as a conversation that the trainer drives."""
        request, branch = self.request, waiting.branch
        params = replace(request.params, max_tokens=waiting.most, min_tokens=min(request.params.min_tokens, waiting.most))
        seed = request.seed if not branch.answers else stable_hash(request.seed, "turn", branch.answers) >> 1
        name = f"{request.prompt_id}\n{branch.name}" if branch.name else request.prompt_id
        own = {"prompt_id": name, "prompt": waiting.context, "params": params, "seed": seed}
        return replace(request, n=1, first_sample=self.sample, goes_on=True, **own)

    # --- its answer -----------------------------------------------------------------------------------------------------------

    def answer(self, waiting: Waiting, drawn: Rollout) -> Choice | None:
        """Keep what was drawn. What the agent is told; None where that failed, and the conversation with it."""
        self.waiting.remove(waiting)
        if drawn.finish_reason == "error" or not len(drawn):
            self.error = drawn.error or "the answer has no tokens"
            return None
        branch, turns = waiting.branch, self.rules.turns
        if waiting.fork is not None:
            branch.stream.fork(waiting.fork)
        elif waiting.ids:
            branch.stream.world(waiting.ids)
        branch.stream.answer(drawn, waiting.turn)
        branch.answers += 1
        raw, end = turns.written(drawn.tokens_T)
        choice = self._choice(waiting, drawn)
        told = {"role": "assistant", "content": choice.text, **({"tool_calls": choice.calls} if choice.calls else {})}
        said = Said.of(choice.text)
        extra = {**({"reasoning_content": said.thought} if said.thought else {}), **({"tool_calls": choice.calls} if choice.calls else {})}
        turn = (*waiting.new, Message("assistant", said.content, extra))
        apart = {"branch": branch.name} if branch.name else {}  # not behind the group's prompt
        self._said[waiting.turn] = tuple(replace(m, extra={**m.extra, **apart}) for m in turn) if apart else turn
        context = extended(waiting.context, drawn.tokens_T)
        one = _Answered(branch, waiting.prompt, waiting.state, Said.of(raw), end, context)
        self._answered.setdefault(history((), [told], waiting.digest)[-1], []).append(one)
        return choice

    def _choice(self, waiting: Waiting, drawn: Rollout) -> Choice:
        row, names = waiting.ask.asked.rows[0], waiting.ask.asked.tool_names
        text = _before(drawn.text, self.request.params)
        cut = drawn.finish_reason == "length" and not self.rules.trial
        calls: list[dict[str, Any]] = []
        if names and self.rules.tool_form is not None:
            splitter = CallSplitter(self.rules.tool_form)
            shown = splitter.add(text)
            rest, calls = splitter.finish(names)
            meant = "<tool_call>" in text or (self.rules.tool_form == "json" and text.lstrip().startswith(("{", "[")))
            self._bad_calls += not calls and meant
            text = shown + rest
        for i, call in enumerate(calls):  # the same in every run, and short enough for every template
            call["id"] = f"{stable_hash('call', waiting.branch.name, waiting.branch.answers, i):09x}"[-9:]
        self._calls += len(calls)
        if cut and len(drawn) >= self.request.params.max_tokens:
            self._cut = self._cut or "answer"
        elif cut and len(drawn) >= self._limit - len(waiting.context):
            self._cut = self._cut or "tokens"
        choice = Choice(text, calls=calls, finish="tool_calls" if calls else "length" if cut else "stop", ids=len(drawn))
        if row.top is not None:
            word = self.rules.turns.renderer.tokenizer.decode
            choice.tokens = [TokenText(word([t]), p) for t, p in zip(drawn.tokens_T.tolist(), drawn.logprobs_T.tolist(), strict=True)]
        return choice

    # --- its end --------------------------------------------------------------------------------------------------------------

    def end(self, reward: float | None, parts: Mapping[str, float]) -> None:
        """The agent is done."""
        self.over, self._reward, self._parts = True, reward, parts
        if not self._said:
            self.error = "the agent ended and had asked for no answer"

    def fail(self, error: str) -> None:
        """It is over, without a reward."""
        self.over, self.error = True, self.error or error

    def rollout(self) -> Rollout:
        """All of it. The branch behind the group's prompt comes first, the others in the order of their first answers."""
        request, ended = self.request, self._cut or "done"
        branches = sorted(self._branches, key=lambda branch: branch.root is not None)
        streams = [(b.root, b.stream.rollout(request.prompt_id, request.attempt, self.sample)) for b in branches]
        streams = streams or [(None, Stream(request.prompt, 0).rollout(request.prompt_id, request.attempt, self.sample))]
        said = [message for turn in sorted(self._said) for message in self._said[turn]]
        used = sum(bool(branch.answers) for branch in self._branches)
        asking = Asking(used, self.refused, self.timed)
        none = (None,) * len(self._said)
        counts = {"calls": self._calls, "bad_calls": self._bad_calls, "asking": asking}
        return replace(
            joined(streams),
            finish_reason="error" if self.error else "stop" if ended == "done" else "length",
            text=next((m.text for m in reversed(said) if m.role == "assistant"), ""),
            error=f"environment: {self.error}" if self.error else "",
            conversation=Conversation(tuple(said), none, self._reward, self._parts, ended, **counts),
        )


def _before(text: str, params: SamplingParams) -> str:
    """``text`` up to the first of the stop strings: as OpenAI tells it."""
    places = [at for at in (text.find(stop) for stop in params.stop) if at >= 0]
    return text[: min(places)] if places else text
