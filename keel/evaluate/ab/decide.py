"""The verdict: better, not better, or cannot tell yet and how many more. Pure functions of units and settings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from keel.evaluate.ab import betting, mixture
from keel.evaluate.ab.assign import Balance, balance
from keel.evaluate.ab.config import AbConfig, GuardConfig
from keel.evaluate.ab.design import Design, design
from keel.evaluate.ab.effect import Stream
from keel.evaluate.ab.units import Units
from keel.evaluate.statistics.distributions import NORMAL, t_quantile

Answer = Literal["better", "not_better", "cannot_tell"]
Held = Literal["held", "broken", "open"]
UNEVEN_ONCE, UNEVEN_EVER = 0.001, 100.0  # p of a planned look, evidence at any time: from there the arms are not as they were planned
_NEVER = 10.0  # bounds that far out are never crossed


@dataclass(frozen=True, slots=True)
class Look:
    """The effect after ``n`` units with the interval that is valid there, however many looks there are."""

    n: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard metric: ``change`` above 0 is better; held when the interval lies above ``-margin``, broken when it lies below."""

    name: str
    state: Held
    change: float
    low: float
    high: float
    margin: float
    more: int | None  # units until it could be told; None = settled, or nobody knows


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict with its reason (a key of the pages' texts) and everything that it rests on. ``more``: about how many more units."""

    answer: Answer
    reason: str
    method: str
    effect: Look | None
    n: int
    more: int | None
    decided_at: int | None
    looks: tuple[Look, ...]
    guards: tuple[Guard, ...]
    balance: Balance | None
    design: Design | None
    counts: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite is null."""
        return _finite(asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def streams(units: Units, config: AbConfig) -> tuple[Stream, list[tuple[GuardConfig, Stream]]]:
    """The outcome's stream and the guards', of units in their order. Offline the outcome is the win share less one half."""
    treated = np.array([bool(u.treated) for u in units.units]) if units.online else None
    values = np.array([u.value for u in units.units], dtype=np.float64)
    width = config.range[1] - config.range[0] if units.online else 1.0
    main = (
        Stream(values * width, treated, config.share, 0.0, width) if units.online else Stream(values - 0.5, None, config.share, -0.5, 0.5)
    )
    guards: list[tuple[GuardConfig, Stream]] = []
    for guard in config.guards:
        found = np.array([u.guard(guard.name) for u in units.units], dtype=np.float64)
        low = high = None
        if guard.range is not None:
            span = guard.range[1] - guard.range[0]
            if treated is None:
                low, high = -span, span
            else:
                low, high = guard.range if guard.better == "higher" else (-guard.range[1], -guard.range[0])
        guards.append((guard, Stream(found, treated, config.share, low, high)))
    return main, guards


def unit_deviation(config: AbConfig, online: bool, pilot: Stream | None = None) -> float:
    """Standard deviation of a unit's contribution to the effect, as it is planned with."""
    if pilot is not None:
        found = pilot.spread(len(pilot))
        if math.isfinite(found) and found > 0:
            return found
    plan = config.plan
    assert plan is not None
    width = config.range[1] - config.range[0] if online else 1.0
    one = plan.deviation or width / 2
    return one * math.sqrt(1 / config.share + 1 / (1 - config.share)) if online else one


def check(units: Units, config: AbConfig, pilot: Stream | None = None) -> Result:
    """The verdict on the units so far."""
    main, guards = streams(units, config)
    even = balance([bool(u.treated) for u in units.units], config.share) if units.online else None
    if config.plan is not None:
        result = _planned(main, guards, config, even, design(config.plan, config.alpha, unit_deviation(config, units.online, pilot)))
    else:
        result = _always(main, guards, config, even)
    counts = {"rows": units.rows, "units": len(units.units), "later_outcomes": units.later, "waiting": units.waiting}
    result.counts.update(counts | {"in_both_arms": len(units.both_arms)})
    return result


# --------------------------------------------------------------------------------------------------------------------------------
# With a plan
# --------------------------------------------------------------------------------------------------------------------------------


def _repeated(stream: Stream, n: int, bound: float) -> tuple[float, float, float]:
    """Effect with its repeated confidence interval (Jennison & Turnbull 1989) at a bound for z, by Student's quantile of the same level."""
    effect, error, df = stream.at(n)
    if not math.isfinite(error) or df < 1 or bound > _NEVER:
        return effect, -math.inf, math.inf
    if (
        error == 0 and stream.low is not None and stream.high is not None
    ):  # not one unit differs: as wide as one more of another kind makes it
        error = (stream.high - stream.low) / n
    half = t_quantile(NORMAL.cdf(bound), df) * error if NORMAL.cdf(bound) < 1 - 1e-13 else math.inf
    return effect, effect - half, effect + half


def _planned(main: Stream, guards: list[tuple[GuardConfig, Stream]], config: AbConfig, even: Balance | None, plan: Design) -> Result:
    assert config.plan is not None
    looks: list[Look] = []
    held: list[Guard] = []
    shown = False

    def result(answer: Answer, reason: str, more: int | None = None) -> Result:
        decided = looks[-1].n if answer != "cannot_tell" else None
        effect = looks[-1] if looks else None
        return Result(answer, reason, "group_sequential", effect, len(main), more, decided, tuple(looks), tuple(held), even, plan)

    if even is not None and even.p_value < UNEVEN_ONCE:
        return result("cannot_tell", "uneven")
    for k, (n, bound) in enumerate(zip(plan.looks, plan.bounds, strict=True)):
        if n > len(main):
            wait = n - len(main)
            return result("cannot_tell", "before_first_look" if k == 0 else "guards_open" if shown else "between_looks", wait)
        looks.append(Look(n, *_repeated(main, n, bound)))
        held[:] = [_guard_at(g, s, n, _repeated(s, n, bound)) for g, s in guards]
        if any(g.state == "broken" for g in held):
            return result("not_better", "guard_broken")
        shown = shown or looks[-1].low > 0
        if shown and all(g.state == "held" for g in held):
            return result("better", "shown")
        if not shown and looks[-1].high < 0:
            return result("not_better", "worse")
        if not shown and looks[-1].high < config.plan.min_effect:
            return result("not_better", "too_small")
    if shown:
        return result("cannot_tell", "guards_open_at_end", max((g.more for g in held if g.more), default=None))
    return result("not_better", "not_shown")


def _guard_at(guard: GuardConfig, stream: Stream, n: int, found: tuple[float, float, float], more: int | None = None) -> Guard:
    change, low, high = found
    state: Held = "held" if low > -guard.margin else "broken" if high < -guard.margin else "open"
    if state == "open" and more is None and math.isfinite(low) and change != -guard.margin:
        half = (high - low) / 2  # falls with the square root of the units
        more = max(1, math.ceil(n * ((half / abs(change + guard.margin)) ** 2 - 1)))
    return Guard(guard.name, state, change, low, high, guard.margin, more if state == "open" else None)


# --------------------------------------------------------------------------------------------------------------------------------
# Without one
# --------------------------------------------------------------------------------------------------------------------------------


def _interval(stream: Stream, config: AbConfig, n: int) -> tuple[float, float]:
    first = Stream(stream.values_n[:n], None if stream.treated_n is None else stream.treated_n[:n], stream.share, stream.low, stream.high)
    valid = config.always_valid
    if valid.method == "betting" and stream.low is not None:
        return first.betting_interval(config.alpha)
    return first.mixture_interval(config.alpha, valid.horizon, valid.burn_in)


def _always(main: Stream, guards: list[tuple[GuardConfig, Stream]], config: AbConfig, even: Balance | None) -> Result:
    n, valid = len(main), config.always_valid
    looks = tuple(Look(k, main.at(k)[0], *_interval(main, config, k)) for k in _milestones(n))
    held = tuple(_guard_at(g, s, n, (s.at(n)[0], *_interval(s, config, n))) for g, s in guards)

    def result(answer: Answer, reason: str, more: int | None = None, at: int | None = None) -> Result:
        effect = looks[-1] if looks else None
        return Result(answer, reason, valid.method, effect, n, more, at, looks, held, even, None)

    if even is not None and even.evidence > UNEVEN_EVER:
        return result("cannot_tell", "uneven")
    if not looks:
        return result("cannot_tell", "before_burn_in", None)
    low, high = looks[-1].low, looks[-1].high
    at = next((look.n for look in looks if look.low > 0 or look.high < valid.min_effect), None)
    if valid.method == "betting" and (low > 0 or high < 0):
        at = betting.first_crossing(main.bets()[0], 0.5, config.alpha) or at
    if any(g.state == "broken" for g in held):
        return result("not_better", "guard_broken", at=n)
    if low > 0:
        if all(g.state == "held" for g in held):
            return result("better", "shown", at=at)
        return result("cannot_tell", "guards_open", max((g.more for g in held if g.more), default=None))
    if high < 0:
        return result("not_better", "worse", at=at)
    if high < valid.min_effect:
        return result("not_better", "too_small", at=at)
    if valid.method == "mixture" and n < valid.burn_in:
        return result("cannot_tell", "before_burn_in", valid.burn_in - n)
    return result("cannot_tell", "interval_open", _more(main, config))


def _milestones(n: int) -> list[int]:
    """Up to 16 numbers of units at which the page shows the interval; the last is ``n``."""
    return sorted({max(1, round(n ** (k / 16))) for k in range(1, 17)} | {n}) if n else []


def _more(main: Stream, config: AbConfig) -> int | None:
    """Units until the interval would leave 0, or fall below the smallest effect, if all goes on as it did; the sooner of the two."""
    n, valid = len(main), config.always_valid
    effect = main.at(n)[0]
    goals = [0.0, *([valid.min_effect] if valid.min_effect > effect else [])]
    if valid.method == "betting":
        x, scale = main.bets()
        found = [betting.more_until(x, 0.5 + scale * goal, config.alpha) for goal in goals]
    else:
        spread = main.spread(n)
        found = [mixture.more_until(effect - goal, n, spread, valid.horizon, config.alpha) for goal in goals] if spread > 0 else []
    known = [more for more in found if more]
    return min(known) if known else None
