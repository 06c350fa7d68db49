"""Which rounds are good and when a run ends: pure functions of what was measured on held-out prompts.

A round is held against the last good one, prompt by prompt. It becomes the last good one only when its gain is clear of the interval, and
is refused when its loss is. In between it is neither: training goes on from it, and it is held against the same good round again, so that
small losses which no single round shows add up until they are seen, and so do small gains.
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
    waited: int = 0  # rounds in a row without a clear gain
    stopped: str = ""  # why there is no next round; "" = there is one

    @property
    def kept(self) -> str:
        return "the starting model" if self.good == 0 else f"round {self.good}"


def outcome(change: Interval) -> Outcome:
    """What the interval of (this round - last good round) says. An end that touches 0 is no evidence."""
    return "better" if change.low > 0 else "worse" if change.high < 0 else "no worse"


def after(state: State, change: Interval, *, rounds: int, gate: bool, patience: int) -> State:
    """The state after the next round, whose held-out measure moved by ``change`` against the last good one."""
    number, found = state.round + 1, outcome(change)
    if found == "worse" and gate:
        why = (
            f"round {number} is worse than {state.kept} on held-out prompts "
            f"({change.mean:+.3g} [{change.low:+.3g}, {change.high:+.3g}], n = {change.n}) and is refused"
        )
        return replace(state, round=number, at=state.good, stopped=why)
    better = found == "better"
    waited = 0 if better else state.waited + 1
    now = State(number, number if better else state.good, number, waited)
    if patience and waited >= patience:
        of = "1 round" if waited == 1 else f"{waited} rounds"
        return replace(now, stopped=f"converged: no gain over {now.kept} is clear of its interval after {of}")
    return replace(now, stopped=f"all {rounds} rounds are done") if number >= rounds else now


def result(state: State, gate: bool) -> int:
    """The round whose weights are the result: the last good one, or without a gate the last."""
    return state.good if gate else state.at
