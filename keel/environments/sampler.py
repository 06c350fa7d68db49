"""A sampler of conversations over any sampler of answers: turn k of all that are open is drawn at once, then their worlds are asked.

Every turn is a request whose prompt is all tokens so far, as they were drawn; nothing is tokenised twice. Its random numbers hang on the
seed and the turn, the first turn's are those of a plain answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from keel.core.hashing import stable_hash
from keel.environments.holding import Holding
from keel.environments.host import Failure
from keel.environments.opening import Opener, chance_of, world_seed
from keel.environments.parse import Parsed, Parser
from keel.environments.play import Start, Step, added
from keel.environments.stream import Stream
from keel.render.conversation import Said, State
from keel.render.template import RefusedError
from keel.types import Conversation, Ending, Message, Prompt, Rollout, Sampler, SampleRequest

Key = tuple[str, int, int]  # prompt, attempt, sample


@dataclass(slots=True)
class _Talk:
    """A conversation on its way."""

    number: int
    request: SampleRequest
    sample: int
    prompt: Prompt
    state: State
    stream: Stream
    raw: str = ""  # the newest answer with its special tokens, the end left out
    end: int | None = None  # the end token that was drawn
    messages: list[Message] = field(default_factory=list[Message])
    rewards: list[float | None] = field(default_factory=list["float | None"])
    parts: list[Mapping[str, float]] = field(default_factory=list["Mapping[str, float]"])
    calls: int = 0
    bad_calls: int = 0
    ended: Ending | None = None
    error: str = ""

    @property
    def key(self) -> Key:
        return (self.request.prompt_id, self.request.attempt, self.sample)

    @property
    def open(self) -> bool:
        return self.ended is None and not self.error

    def take(self, step: Step) -> None:
        """What came of the newest answer."""
        self.messages += step.messages
        self.rewards[-1] = step.reward
        self.parts.append(step.parts)
        self.calls += step.calls
        self.bad_calls += step.bad_calls
        if step.done:
            self.ended = "done"


class ConversationSampler(Holding):
    """A ``types.Sampler``: a request is answered by a conversation. ``request.params.max_tokens`` is the limit of one answer.

    Requests for prompts that ``opener`` has not opened are passed on as they are: they have no world.

    ``trial`` > 0 is for trying out all turns with a policy that cannot end an answer yet: answers are cut to so many tokens, and what is
    cut is given to the world all the same.
    """

    def __init__(self, inner: Sampler, opener: Opener, parser: Parser, trial: int = 0) -> None:
        super().__init__(inner, opener.prompts, opener.config.at_once)
        self.opener, self.parser, self.trial = opener, parser, trial
        self.config, self.turns, self.host = opener.config, opener.turns, opener.host

    def _hold(self, batch: Sequence[tuple[SampleRequest, int]]) -> list[Rollout]:
        try:
            talks = self._begin(batch)
            for turn in range(self.config.max_turns):
                live = [talk for talk in talks if talk.open]
                if not live:
                    break
                self._turn(live, turn)
            for talk in talks:
                if talk.open:
                    talk.ended = "turns"
            return self._end(talks)
        finally:
            self.host.drop(range(len(batch)))

    def _begin(self, batch: Sequence[tuple[SampleRequest, int]]) -> list[_Talk]:
        talks: list[_Talk] = []
        starts: list[tuple[int, Start]] = []
        states: dict[str, State] = {}
        for number, (request, sample) in enumerate(batch):
            prompt, shown = self.opener.prompts[request.prompt_id]
            if request.prompt_id not in states:
                states[request.prompt_id] = self.turns.begin(shown)
            talks.append(_Talk(number, request, sample, shown, states[request.prompt_id], Stream(request.prompt, self.config.max_tokens)))
            starts.append((number, Start(prompt, world_seed(self.opener.seed, prompt), chance_of(request, sample))))
        for talk, opening in zip(talks, self.host.open(starts), strict=True):
            if isinstance(opening, Failure):
                talk.error = opening.error
            elif opening != self.opener.opened[talk.request.prompt_id]:
                talk.error = "the episode began otherwise than the prompt's first one: its beginning may hang on prompt and seed alone"
        return talks

    def _turn(self, live: Sequence[_Talk], turn: int) -> None:
        """Draw turn ``turn`` of all, ask their worlds, and put what they say behind."""
        asking: list[_Talk] = []
        requests: list[SampleRequest] = []
        goes_on = turn + 1 < self.config.max_turns
        for talk in live:
            room = min(self.trial or talk.request.params.max_tokens, talk.request.params.max_tokens, talk.stream.room)
            if room < 1:
                talk.ended = "tokens"
                continue
            params = replace(talk.request.params, max_tokens=room, min_tokens=min(talk.request.params.min_tokens, room))
            seed = talk.request.seed if turn == 0 else stable_hash(talk.request.seed, "turn", turn) >> 1
            asked = replace(talk.request, n=1, first_sample=talk.sample, params=params, seed=seed, goes_on=goes_on)
            requests.append(replace(asked, prompt=talk.stream.context))
            asking.append(talk)
        if not asking:
            return
        self.inner.submit(requests)
        drawn = {(r.prompt_id, r.attempt, r.sample): r for r in self.inner.collect()}
        said = [(talk, self._said(talk, drawn[talk.key], turn)) for talk in asking]
        answered = [(talk, parsed) for talk, parsed in said if parsed is not None]
        steps = self.host.answer([(talk.number, (parsed.message, parsed.calls)) for talk, parsed in answered])
        for (talk, _), step in zip(answered, steps, strict=True):
            if isinstance(step, Failure):
                talk.error = step.error
                continue
            talk.take(step)
            if talk.open and turn + 1 < self.config.max_turns:
                self._go_on(talk, step)

    def _said(self, talk: _Talk, drawn: Rollout, turn: int) -> Parsed | None:
        """Take an answer. None where the world is not asked: it failed, or was cut and is no whole answer."""
        if drawn.finish_reason == "error" or not len(drawn):
            talk.error = drawn.error or "the answer has no tokens"
            return None
        talk.stream.answer(drawn, turn)
        tools = self.opener.opened[talk.request.prompt_id].tools
        talk.raw, talk.end = self.turns.written(drawn.tokens_T)
        parsed = self.parser(talk.raw, drawn.text, talk.state.head, tools)
        talk.messages.append(parsed.message)
        talk.rewards.append(None)
        if drawn.finish_reason == "length" and not self.trial:
            talk.ended = "answer" if len(drawn) >= talk.request.params.max_tokens else "tokens"
            return None
        return replace(parsed, message=replace(parsed.message, extra={**parsed.message.extra, "raw": drawn.text}))

    def _go_on(self, talk: _Talk, step: Step) -> None:
        """What stands before the next answer."""
        try:
            found = self.turns.next(talk.prompt, talk.state, Said.of(talk.raw), step.messages, talk.end)
        except RefusedError as error:
            talk.error = error.reason
            return
        talk.state = found.state
        if found.prompt is not None:
            talk.stream.fork(found.prompt)
        else:
            talk.stream.world(found.ids)

    def _end(self, talks: Sequence[_Talk]) -> list[Rollout]:
        over = [talk for talk in talks if not talk.error]
        wholes = self.host.end([talk.number for talk in over])
        found: dict[int, tuple[float | None, Mapping[str, float]]] = {}
        for talk, whole in zip(over, wholes, strict=True):
            if isinstance(whole, Failure):
                talk.error = whole.error
            else:
                found[talk.number] = whole
        return [self._rollout(talk, *found.get(talk.number, (None, {}))) for talk in talks]

    def _rollout(self, talk: _Talk, reward: float | None, parts: Mapping[str, float]) -> Rollout:
        request, ended = talk.request, talk.ended or "done"
        conversation = Conversation(
            tuple(talk.messages), tuple(talk.rewards), reward, added([*talk.parts, parts]), ended, talk.calls, talk.bad_calls
        )
        texts = [m.text for m in talk.messages if m.role == "assistant"]
        return replace(
            talk.stream.rollout(request.prompt_id, request.attempt, talk.sample),
            finish_reason="error" if talk.error else "stop" if ended == "done" else "length",
            text=texts[-1] if texts else "",
            error=f"environment: {talk.error}" if talk.error else "",
            conversation=conversation,
        )
