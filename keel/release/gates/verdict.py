"""What a gate says, and the rule by which an interval decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from keel.evaluate.statistics import Interval

State = Literal["pass", "fail", "cannot_tell"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``value`` is what was measured, with its interval; ``more``: how many more samples (of ``unit``) would decide, by the width that the
    interval has now. ``why``: keys of sentences (`keel/release/lang`) that ``facts`` fill in."""

    state: State
    value: Interval | None = None
    at_least: float | None = None
    at_most: float | None = None
    more: int | None = None
    unit: str = ""
    why: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"value": None if self.value is None else self.value.to_json(), "why": list(self.why)}


def cannot_tell(why: str, **facts: Any) -> Verdict:
    """There is nothing to decide by."""
    return Verdict("cannot_tell", why=(why,), facts=facts)


def decide(
    value: Interval | None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    fewest: int = 1,
    unit: str = "",
    why: tuple[str, ...] = (),
    facts: Mapping[str, Any] | None = None,
) -> Verdict:
    """A value passes where its whole interval keeps the limits, and fails where its whole interval is beyond one of them. Between the two
    nobody can tell, and so it is with fewer than ``fewest`` samples, whose interval is not to be trusted."""
    told: dict[str, Any] = {"at_least": at_least, "at_most": at_most, "unit": unit, "facts": dict(facts or {})}
    if value is None or not all(map(math.isfinite, (value.mean, value.low, value.high))):
        return Verdict("cannot_tell", why=("nothing_measured", *why), **told)
    if value.n < fewest:
        told["facts"] |= {"n": value.n, "fewest": fewest}
        return Verdict("cannot_tell", value, more=fewest - value.n, why=("too_few", *why), **told)
    if (at_most is not None and value.low > at_most) or (at_least is not None and value.high < at_least):
        return Verdict("fail", value, why=why, **told)
    if (at_most is None or value.high <= at_most) and (at_least is None or value.low >= at_least):
        return Verdict("pass", value, why=why, **told)
    return Verdict("cannot_tell", value, more=_more(value, at_least, at_most), why=why, **told)


def _more(value: Interval, at_least: float | None, at_most: float | None) -> int | None:
    """How many more samples until the interval lies on one side of each limit, if the mean stays where it is and the width falls with the
    root of the number. None where the mean stands on a limit: no number would do."""
    needed = value.n
    for limit in (at_least, at_most):
        if limit is None or not value.low <= limit <= value.high:
            continue
        if limit == value.mean:
            return None
        half = value.high - value.mean if value.mean < limit else value.mean - value.low
        needed = max(needed, math.ceil(value.n * (half / (limit - value.mean)) ** 2))
    return max(1, needed - value.n)


def whole(states: Sequence[State]) -> State:
    """Of all gates together: one that fails decides, then one that cannot tell. No gate at all tells nothing."""
    if "fail" in states:
        return "fail"
    return "pass" if states and "cannot_tell" not in states else "cannot_tell"


def median_of(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median of repeated measurements, with the interval between two of them that holds it for any distribution (order statistics,
    Conover 1999, chapter 3.2). With fewer than 6 no two of them do at 95%: the interval is then unbounded."""
    ordered = sorted(values)
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    below = 0.0
    low, high = -math.inf, math.inf
    for k in range(n // 2):  # leaving k values out on each side, P(the median is left out) = 2 P(X <= k), X ~ Binomial(n, 1/2)
        below += math.comb(n, k) / 2**n
        if 2 * below > 1 - level:
            break
        low, high = ordered[k], ordered[n - 1 - k]
    return Interval(middle, low, high, n)
