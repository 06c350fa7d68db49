"""A sampler that draws nothing twice: what the journal holds is taken from there, what is new is kept there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keel.rollout.journal import Journal, key_of
from keel.rollout.server.protocol import missing
from keel.types import PolicyVersion, Rollout, Sampler, SampleRequest, Weights
from keel.types.seams import Arrived, BesideSampler, Drawing, draws_beside

_Key = tuple[str, int, int]


class Journaled:
    """A ``types.Sampler`` around another."""

    def __init__(self, sampler: Sampler, journal: Journal) -> None:
        self._inner, self._journal, self._digest = sampler, journal, ""
        self._asked: list[SampleRequest] = []

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        self._inner.load(version, weights)
        self._digest = version.digest

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        self._asked += requests

    def collect(self) -> Iterator[Rollout]:
        requests, self._asked = self._asked, []
        known, left, keep = self._split(requests)
        yield from known
        self._inner.submit(left)
        for rollout in self._inner.collect():
            keep([rollout])
            yield rollout

    def _split(self, requests: Sequence[SampleRequest]) -> tuple[list[Rollout], list[SampleRequest], Callable[[Sequence[Rollout]], None]]:
        """What is known of these, what is left to draw, and who keeps what is drawn."""
        keys = {
            (r.prompt_id, r.attempt, sample): key_of(self._digest, r, sample)
            for r in requests
            for sample in range(r.first_sample, r.first_sample + r.n)
        }
        known = [rollout for key in keys.values() if (rollout := self._journal.take(key)) is not None]
        left = missing(requests, {_key(r) for r in known})

        def keep(rollouts: Sequence[Rollout]) -> None:
            self._journal.append([keys[_key(r)] for r in rollouts], rollouts)

        return known, left, keep


class JournaledBeside(Journaled):
    """A ``types.BesideSampler`` around another."""

    def __init__(self, sampler: BesideSampler, journal: Journal) -> None:
        super().__init__(sampler, journal)
        self._beside, self.in_flight = sampler, sampler.in_flight

    def begin(self, requests: Sequence[SampleRequest], arrived: Arrived | None = None) -> Drawing:
        """Ask for what is not known; ``arrived`` is called with what is drawn."""
        known, left, keep = self._split(requests)

        def kept(rollouts: Sequence[Rollout]) -> None:
            keep(rollouts)
            if arrived is not None:
                arrived(rollouts)

        return _Joined(tuple(known), self._beside.begin(left, kept) if left else None)


@dataclass(frozen=True, slots=True)
class _Joined:
    known: tuple[Rollout, ...]
    drawing: Drawing | None

    def rollouts(self) -> Sequence[Rollout]:
        return (*self.known, *(self.drawing.rollouts() if self.drawing is not None else ()))


def journaled(sampler: Sampler, journal: Journal) -> Sampler:
    """``sampler`` with a journal."""
    return JournaledBeside(sampler, journal) if draws_beside(sampler) else Journaled(sampler, journal)


def _key(rollout: Rollout) -> _Key:
    return rollout.prompt_id, rollout.attempt, rollout.sample
