"""One or two models that a person talks to. Two answer the same question side by side, and nobody says which is which until the end."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from keel.core.errors import UserError
from keel.serve.policy.engine import Engine, GoneError, RefusedError
from keel.serve.policy.frames import Row
from keel.serve.policy.requests import SEEDS

Vote = Literal["left", "right", "tie", "both_bad"]
VOTES: tuple[Vote, ...] = ("left", "right", "tie", "both_bad")
_TURNS = 200  # that can still be voted on


class PairVotes(Protocol):
    """Where votes are kept."""

    def vote_on(self, row: Row, models: tuple[str, str], texts: tuple[str, str], chosen: str, order: tuple[int, int]) -> str:
        """Store which of two answers was better: ``texts`` in the models' order, ``order``: the model at each place from the left,
        ``chosen``: first, second, tie, both_bad. Returns the event's id. Called on a thread."""
        ...


@dataclass(slots=True)
class Turn:
    """A question with its answers. ``order[side]``: the model at this side."""

    turn_id: str
    row: Row
    order: tuple[int, ...]
    texts: list[str] = field(default_factory=list[str])
    ends: list[str] = field(default_factory=list[str])
    vote: Vote | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """New text at a side; ``end``: stop, length, or error, when it is over."""

    side: int
    text: str = ""
    end: str = ""
    error: str = ""


class Duel:
    """The models of a chat. ``votes`` may be None: votes are then counted for the end, and not stored."""

    def __init__(self, engines: Sequence[Engine], sampling: Mapping[str, Any], votes: PairVotes | None) -> None:
        assert 1 <= len(engines) <= 2, "a chat has one model or two"
        self.engines, self._sampling, self._votes = engines, dict(sampling), votes
        self._turns: OrderedDict[str, Turn] = OrderedDict()
        self.tally: Counter[str] = Counter()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(engine.about.model for engine in self.engines)

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> Turn:
        """A new turn; which model stands at which side is drawn anew each time."""
        order = tuple(range(len(self.engines)))
        if secrets.randbelow(2):
            order = order[::-1]
        row = Row("", messages=tuple(messages), seed=secrets.randbelow(SEEDS), **self._sampling)
        turn = Turn(secrets.token_hex(8), row, order, [""] * len(order), [""] * len(order))
        self._turns[turn.turn_id] = turn
        while len(self._turns) > _TURNS:
            self._turns.popitem(last=False)
        return turn

    async def tell(self, turn: Turn) -> AsyncIterator[Told]:
        """Both answers as they grow. Left early, both end."""
        queue: asyncio.Queue[Told] = asyncio.Queue()
        tasks = [asyncio.create_task(self._side(turn, side, queue)) for side in range(len(turn.order))]
        try:
            over = 0
            while over < len(tasks):
                told = await queue.get()
                over += bool(told.end)
                yield told
        finally:
            for task in tasks:
                task.cancel()

    async def _side(self, turn: Turn, side: int, queue: asyncio.Queue[Told]) -> None:
        engine = self.engines[turn.order[side]]
        row = replace(turn.row, name=secrets.token_hex(8), sample=side)
        end, error = "error", "the model is not there"
        try:
            async with aclosing(engine.ask(row)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    turn.texts[side] += piece.text
                    end, error = piece.end, piece.error
                    if piece.text:
                        await queue.put(Told(side, piece.text))
        except RefusedError as refused:
            end, error = "error", str(refused)
        except GoneError:
            end, error = "error", "the model ended"
        turn.ends[side] = end or "error"
        await queue.put(Told(side, end=end or "error", error=error))

    def turn(self, turn_id: str) -> Turn:
        """Raises UserError for one that is not remembered."""
        found = self._turns.get(turn_id)
        if found is None:
            raise UserError("this turn is not remembered (any more)", "ask again")
        return found

    async def vote(self, turn_id: str, vote: str) -> bool:
        """Take a vote; is it stored? Raises UserError for one that cannot be given."""
        turn = self.turn(turn_id)
        if vote not in VOTES:
            raise UserError(f"a vote is one of {', '.join(VOTES)}, not {vote!r}")
        if len(turn.order) < 2:
            raise UserError("there is one model: nothing to compare")
        if "error" in turn.ends or "" in turn.ends:
            raise UserError("an answer is missing or not complete", "wait for both, or ask again")
        if turn.vote is not None:
            raise UserError("this turn has its vote")
        turn.vote = vote  # before it is stored: a second one that comes meanwhile is refused
        winner = {"left": turn.order[0], "right": turn.order[1]}.get(vote)
        if self._votes is not None:
            try:
                await self._store(self._votes, turn, vote, winner)
            except BaseException:
                turn.vote = None  # it was not acknowledged, and can be given again
                raise
        self.tally[vote if winner is None else f"model {winner}"] += 1
        return self._votes is not None

    async def _store(self, votes: PairVotes, turn: Turn, vote: str, winner: int | None) -> None:
        at = [turn.order.index(model) for model in (0, 1)]
        texts, models = (turn.texts[at[0]], turn.texts[at[1]]), (self.models[0], self.models[1])
        chosen = vote if winner is None else ("first", "second")[winner]
        await asyncio.to_thread(votes.vote_on, turn.row, models, texts, chosen, (turn.order[0], turn.order[1]))

    def revealed(self) -> dict[str, Any]:
        """Which model is which, and how often each was better."""
        wins = [self.tally[f"model {i}"] for i in range(len(self.engines))]
        return {"models": list(self.models), "wins": wins, "tie": self.tally["tie"], "both_bad": self.tally["both_bad"]}
