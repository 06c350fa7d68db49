"""A sampler of conversations that agents drive, over any sampler of answers.

What waits for answers is drawn together, in waves. A wave begins when every open conversation waits for an answer: where agents only react,
that is the same in every run. One that works by itself is waited for until ``wait_s`` after its last answer, then the others are drawn
without it; one that asks several things at once gets an instant to bring them. Which requests share a wave hangs on time then (``timed``).
It is nothing that a draw hangs on but for rounding, where a row's numbers hang on the rows beside it (``rollout.prove.row_dependence``).
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from collections.abc import Sequence
from typing import Any

from keel.agents.endpoint import OVER
from keel.agents.opening import AgentOpener
from keel.agents.talk import Rules, Talk, Waiting
from keel.environments.holding import Holding
from keel.environments.host import Failure
from keel.environments.opening import chance_of, world_seed
from keel.environments.play import Start
from keel.serve.policy.requests import RequestError
from keel.types import Rollout, Sampler, SampleRequest, SamplingParams

log = logging.getLogger("keel")
_SETTLE_S = 0.02  # of quiet, until what an agent asks at once has come
_WAKE = -1


class AgentSampler(Holding):
    """A ``types.Sampler``: a request is answered by a conversation. ``request.params.max_tokens`` is the limit of one answer.

    Requests for prompts that ``opener`` has not opened are passed on as they are. ``usual``: how the training draws, where that is another
    way than some requests' (an evaluation's); ``trial`` > 0: answers are cut to so many tokens and given to agents as whole ones.
    """

    def __init__(self, inner: Sampler, opener: AgentOpener, usual: SamplingParams | None = None, trial: int = 0) -> None:
        super().__init__(inner, opener.prompts, opener.config.at_once)
        self.opener, self.usual = opener, usual
        self.config, self.turns, self.host = opener.config, opener.turns, opener.host
        self._rules = Rules(self.turns, self.config.max_turns, self.config.max_tokens, self.host.tool_form, trial)
        self._warned = False

    def _hold(self, batch: Sequence[tuple[SampleRequest, int]]) -> list[Rollout]:
        with selectors.DefaultSelector() as selector:
            wave = _Waves(self, [self._begun(number, *one) for number, one in enumerate(batch)], selector)
            try:
                wave.begin()
                while any(talk.open for talk in wave.talks):
                    wave.listen()
                    wave.draw(self.inner)
            finally:
                wave.close()
        if not self._warned and any(talk.timed for talk in wave.talks):
            self._warned = True
            log.warning(
                "agents were answered in waves that hang on time (environment/agent/timed): where a row's numbers hang on the rows beside "
                "it, a run that is resumed may differ in the last bits"
            )
        return [talk.rollout() for talk in wave.talks]

    def _begun(self, number: int, request: SampleRequest, sample: int) -> Talk:
        return Talk(number, request, sample, self.opener.prompts[request.prompt_id][1], self._rules)


class _Waves:
    """Conversations that are open together."""

    def __init__(self, sampler: AgentSampler, talks: Sequence[Talk], selector: selectors.BaseSelector) -> None:
        self.talks, self._sampler, self._selector = talks, sampler, selector
        self.processes, self.endpoints, self.config = sampler.host.processes, sampler.host.endpoints, sampler.config
        self._heard_at = 0.0  # when the newest request came
        self._timed = False  # did time decide on a wave? It has changed the ones behind it, too

    def begin(self) -> None:
        """Start all agents."""
        opener = self._sampler.opener
        self._selector.register(self.endpoints.wake, selectors.EVENT_READ, _WAKE)
        for talk in self.talks:
            prompt = talk.shown  # a text is a user's message there
            start = Start(prompt, world_seed(opener.seed, prompt), chance_of(talk.request, talk.sample))
            self.processes.begin(talk.number, start, self.endpoints.open(talk.number, talk.request.params, self._sampler.usual))
            self._selector.register(self.processes.lines[talk.number], selectors.EVENT_READ, talk.number)
            talk.since = time.monotonic()

    def listen(self) -> None:
        """Until a wave is to be drawn, or all conversations are over."""
        while True:
            self._wait(0.0)  # who has ended while a wave was drawn has not hung
            self._take()
            now = time.monotonic()
            open_ = [talk for talk in self.talks if talk.open]
            busy = [talk for talk in open_ if not talk.waiting]
            for talk in [talk for talk in busy if now >= talk.since + self.config.timeout_s]:
                self._over(talk, Failure(f"the agent hung: neither a request to answer nor an end for {self.config.timeout_s:g} s"))
                busy.remove(talk)
            waiting = [talk for talk in open_ if talk.open and talk.waiting]
            if not busy and not waiting:
                return
            until = [talk.since + self.config.timeout_s for talk in busy]
            if waiting:
                expected = [at for talk in busy if (at := talk.since + self.config.wait_s) > now]
                settled = self._heard_at + _SETTLE_S if any(talk.parallel for talk in waiting) else now
                if not expected and settled <= now:
                    self._timed = self._timed or bool(busy) or any(talk.parallel for talk in waiting)
                    for talk in waiting:
                        talk.timed = self._timed
                    return
                until += [*expected, *([settled] if settled > now else [])]
            self._wait(min(until) - now)

    def _wait(self, seconds: float) -> None:
        """For a request, or the end of an agent."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.data == _WAKE:
                continue
            said = self.processes.heard(key.data)
            if said is not None:
                self._take()  # what it asked before it ended
                self._over(self.talks[key.data], said)

    def _take(self) -> None:
        """Requests that have come."""
        for ask in self.endpoints.arrived():
            talk = self.talks[ask.number]
            if not talk.open:
                ask.refuse(OVER)
                continue
            try:
                talk.arrive(ask)
                self._heard_at = time.monotonic()
            except RequestError as error:
                talk.refused += 1
                ask.refuse(error)

    def _over(self, talk: Talk, said: Any) -> None:
        if isinstance(said, Failure):
            talk.fail(said.error)
        else:
            talk.end(*said)
        talk.refused += self.endpoints.refused(talk.number)
        self._end(talk)

    def _end(self, talk: Talk) -> None:
        self.endpoints.shut(talk.number)
        for waiting in talk.waiting:
            waiting.ask.refuse(OVER)
        talk.waiting.clear()
        if (line := self.processes.lines.get(talk.number)) is not None:
            with contextlib.suppress(KeyError):  # it was never begun
                self._selector.unregister(line)
        self.processes.drop([talk.number])

    def draw(self, inner: Sampler) -> None:
        """A wave: all that waits. Each is told its answer as soon as it is there."""
        asked: dict[tuple[str, int, int], tuple[Talk, Waiting]] = {}
        requests: list[SampleRequest] = []
        for talk in self.talks:
            for waiting in [*talk.waiting]:
                if waiting.ask.gone:
                    talk.give_up(waiting)
                    waiting.ask.refuse(OVER)  # nobody listens; its thread ends
                    talk.since = time.monotonic()
                    continue
                request = talk.asks(waiting)
                requests.append(request)
                asked[request.prompt_id, request.attempt, talk.sample] = (talk, waiting)
        if not requests:
            return
        inner.submit(requests)
        for drawn in inner.collect():
            self._tell(*asked.pop((drawn.prompt_id, drawn.attempt, drawn.sample)), drawn)

    def _tell(self, talk: Talk, waiting: Waiting, drawn: Rollout) -> None:
        if not talk.open:  # another answer of the same wave failed
            return
        choice = talk.answer(waiting, drawn)
        if choice is None:
            waiting.ask.refuse(RequestError(talk.error, None, 400))
            self._over(talk, Failure(talk.error))
            return
        name = f"{talk.request.prompt_id} {talk.request.attempt} {talk.sample} {waiting.turn}"
        waiting.ask.give(name, self.endpoints.model, choice, len(waiting.context))
        talk.since = time.monotonic()

    def close(self) -> None:
        """End what is open."""
        for talk in self.talks:
            self._end(talk)
        for ask in self.endpoints.arrived():  # what came while doors were being shut
            ask.refuse(OVER)
