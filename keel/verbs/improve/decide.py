"""Which rounds are good and when a run ends: pure functions of what was measured on held-out prompts.

A round is held against the last good one, prompt by prompt. It becomes the last good one only when its gain is clear of the interval, and
is refused when its loss is. In between it is neither: training goes on from it, and it is held against the same good round again, so that
small losses which no single round shows add up until they are seen, and so do small gains.

What is kept is the round with the highest held-out measure among the last good one and those after it that were not refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from keel.evaluate.statistics import Interval

Outcome = Literal["better", "no worse", "worse"]


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands after some rounds; 0 is the starting model."""

    round: int = 0  # finished
    good: int = 0  # the last good one
    at: int = 0  # whose weights the next round starts from
    best: int = 0  # what would be kept now: the last good one, or one after it that measured higher
    lead: float = 0.0  # of the best over the last good one
    waited: int = 0  # rounds in a row without a clear gain
    stopped: str = ""  # why there is no next round; "" = there is one

    @property
    def good_name(self) -> str:
        return name_of(self.good)


def name_of(number: int) -> str:
    """What a round is called in messages."""
    return "the starting model" if number == 0 else f"round {number}"


def outcome(change: Interval) -> Outcome:
    """What the interval of (this round - last good round) says. An end that touches 0 is no evidence."""
    return "better" if change.low > 0 else "worse" if change.high < 0 else "no worse"


def after(state: State, change: Interval, *, rounds: int, gate: bool, patience: int) -> State:
    """The state after the next round, whose held-out measure moved by ``change`` against the last good one."""
    number, found = state.round + 1, outcome(change)
    if found == "worse" and gate:
        why = (
            f"round {number} is worse than {state.good_name} on held-out prompts "
            f"({change.mean:+.3g} [{change.low:+.3g}, {change.high:+.3g}], n = {change.n}) and is refused"
        )
        return replace(state, round=number, stopped=why)
    if found == "better":
        now = State(number, good=number, at=number, best=number)
    else:
        higher = change.mean > state.lead
        best, lead = (number, change.mean) if higher else (state.best, state.lead)
        now = State(number, good=state.good, at=number, best=best, lead=lead, waited=state.waited + 1)
    waited = now.waited
    if patience and waited >= patience:
        of = "1 round" if waited == 1 else f"{waited} rounds"
        return replace(now, stopped=f"converged: no gain over {now.good_name} is clear of its interval after {of}")
    return replace(now, stopped=f"all {rounds} rounds are done") if number >= rounds else now


def result(state: State, gate: bool) -> int:
    """The round whose weights are the result: the best one, or without a gate the last."""
    return state.best if gate else state.at
