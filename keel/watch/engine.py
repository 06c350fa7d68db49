"""Rules over the metrics of steps and evaluations -> findings, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from keel.types import Verdict
from keel.watch.config import Act, Level, Rule, WatchConfig
from keel.watch.expressions.parser import Expression, Scope, parse, patterns
from keel.watch.expressions.tokens import tokens
from keel.watch.names import nearest
from keel.watch.rule_files import resolve
from keel.watch.settings import numbers, settled

HARDER: tuple[Literal["stop", "rollback", "pause"], ...] = ("stop", "rollback", "pause")  # of several verdicts the first is given
Change = Literal["lower_lr", "raise_kl"]
CHANGES: tuple[Change, ...] = ("lower_lr", "raise_kl")


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that has begun to speak, or whose condition is over."""

    rule: str
    level: Level
    metric: str
    value: float
    step: int
    text: str
    state: Literal["firing", "resolved"] = "firing"
    act: Act = ""  # what is done because of it
    would: Act = ""  # what would be done, were rules that are not the recipe's own allowed to act
    page: str = ""
    key: str = ""  # the rule, and the metric where the rule has a pattern: the same from beginning to end


@dataclass(slots=True)
class _Live:
    """A rule on one metric, with what it remembers."""

    rule: Rule
    expression: Expression
    key: str
    streak: int = 0
    counted: int = -1  # the step that the streak was last lengthened at
    held: int = -1  # the last step at which the condition held
    firing: bool = False

    def state(self) -> dict[str, Any]:
        return {
            "text": self.expression.text,
            "rule": [self.streak, self.counted, self.held, self.firing],
            "memories": self.expression.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state["text"] == self.expression.text:  # a rule that was changed meanwhile begins anew
            self.streak, self.counted, self.held, self.firing = state["rule"]
            self.expression.load_state(state["memories"])


class Watch:
    """A guard (``types.Guard``): checks the rules after each step and each evaluation; tells each finding when it begins and when it is
    over; the verdict is that of the rules that act, the harder one of several."""

    def __init__(
        self,
        config: WatchConfig,
        tell: Callable[[Finding], None],
        settings: Mapping[str, Any] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """``settings``: the recipe by key path, for ``$kl.target``; ``say``: hears what a user should know of the rules themselves."""
        self._rules = resolve(config)
        self._tell, self._say = tell, say or (lambda text: None)
        self._own = frozenset(rule.name for rule in config.rules)
        self._patterns = {rule.name: next(iter(patterns(rule.condition)), "") for rule in self._rules}
        self._read = {rule.name: parse(rule.condition) for rule in self._rules}
        self._live = self._fresh()
        asked = {name: expression.settings for name, expression in self._read.items()}
        values, self._missing = settled((s for names in asked.values() for s in names), numbers(settings or {}, config))
        self._scope = Scope(settings=values)
        self._unset = [(name, s) for name, names in asked.items() for s in sorted(names) if s in self._missing]
        self._told: set[str] = set()  # rules whose missing metric was told
        self._spoke: set[str] = set()  # rules that spoke, if only on a path that was given up

    def _fresh(self) -> dict[str, _Live]:
        plain = [rule for rule in self._rules if not self._patterns[rule.name]]
        return {rule.name: _Live(rule, parse(rule.condition), rule.name) for rule in plain}

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules in force, by name."""
        return {rule.name: rule for rule in self._rules}

    @property
    def alarmed(self) -> bool:
        """Does a rule above level info speak, since the newest step or for longer? One that acts counts from the first step on, before it
        speaks: what it is about to condemn must not pass for good."""
        return any(
            (x.firing and x.rule.level != "info") or (x.streak > 0 and x.rule.act != "" and x.rule.always) for x in self._live.values()
        )

    @property
    def critical(self) -> list[str]:
        """The rules of level critical that speak now."""
        return sorted({x.rule.name for x in self._live.values() if x.firing and x.rule.level == "critical"})

    def begin(self) -> None:
        """Say what can be said before the first step: settings that rules ask for and the recipe does not have."""
        for rule, setting in self._unset:
            if rule in self._own:
                self._say(f"rule {rule!r} is silent: {self._missing[setting]}")

    def check(self, step: int, metrics: Mapping[str, float]) -> Verdict:
        """Judge the metrics of one step or evaluation. A rule is judged when one of its metrics is there; otherwise its streak is neither
        broken nor lengthened."""
        self._scope.take(step, metrics)
        self._grow(metrics)
        reasons: dict[Act, list[str]] = {}
        for live in self._live.values():
            names = live.expression.names
            if live.expression.always or not names.isdisjoint(metrics):
                self._judge(live, step, reasons)
        self._tell_missing(metrics)
        changes: tuple[Change, ...] = tuple(change for change in CHANGES if change in reasons)
        why = "; ".join(reason for change in changes for reason in reasons[change])
        for act in HARDER:
            if act in reasons:  # a pause keeps the changes, which are asked for only once; going back makes its own
                return Verdict(act, "; ".join(reasons[act]), changes if act == "pause" else (), why if act == "pause" else "")
        return Verdict("adjust", why, changes, why) if changes else Verdict("continue")

    def _grow(self, metrics: Mapping[str, float]) -> None:
        """A rule with a pattern is one rule for each metric that matches."""
        for rule in self._rules:
            pattern = self._patterns[rule.name]
            for metric in sorted(m for m in metrics if pattern and fnmatchcase(m, pattern)):
                key = f"{rule.name}|{metric}"
                if key not in self._live:
                    self._live[key] = _Live(rule, parse(rule.condition, {pattern: metric}), key)

    def _judge(self, live: _Live, step: int, reasons: dict[Act, list[str]]) -> None:
        value, rule = live.expression.value(self._scope), live.rule  # absent: the condition does not hold
        if value:
            live.streak += live.counted != step or live.streak == 0
            live.counted = live.held = step
        else:
            live.streak = 0
        acts = rule.act if rule.always else ""
        if live.streak >= rule.for_steps:
            text = self._text(live)
            begins, live.firing = not live.firing, True
            if begins:
                self._spoke.add(rule.name)
                would = "" if acts else rule.act
                self._tell(self._finding(live, step, text, "firing", acts, would))
            if acts and (begins or acts in ("stop", "rollback")):
                reasons.setdefault(acts, []).append(text)
        elif live.firing and not value and (step - live.held > rule.keep_for or not rule.keep_for):
            live.firing = False
            began = f"{live.rule.name} is over: {self._values(live)}"
            self._tell(self._finding(live, step, began, "resolved", "", ""))

    def _finding(self, live: _Live, step: int, text: str, state: Literal["firing", "resolved"], act: Act, would: Act) -> Finding:
        metric = next(iter(self._names(live)), "")
        value = self._scope.values.get(metric, math.nan)
        return Finding(live.rule.name, live.rule.level, metric, value, step, text, state, act, would, live.rule.page, live.key)

    def _names(self, live: _Live) -> Sequence[str]:
        text, pattern = live.expression.text, self._patterns[live.rule.name]
        return sorted(live.expression.names, key=lambda name: (text.find(name if name in text else pattern), name))

    def _values(self, live: _Live) -> str:
        values = self._scope.values
        there = [f"{name} = {values[name]:.4g}" for name in self._names(live) if name in values]
        return ", ".join(there or [f"{name} is not there" for name in self._names(live)])

    def _text(self, live: _Live) -> str:
        rule, names = live.rule, self._names(live)
        condition = live.expression.text
        first = f"`{self._patterns[rule.name]}`" if self._patterns[rule.name] else names[0] if names else ""
        said = sum(token.kind in ("name", "pattern") and token.text == first.strip("`") for token in tokens(condition))
        if len(names) == 1 and said == 1:  # the name was said already
            condition = condition.removeprefix(f"{first} ")
        for name in sorted(live.expression.settings, key=len, reverse=True):
            value = self._scope.settings.get(name)
            condition = condition.replace(f"${name}", f"${name}" if value is None else f"{value:g}")
        steps = f" for {rule.for_steps} steps" if rule.for_steps > 1 else ""
        return f"{self._values(live)} ({condition}{steps})" + (f": {rule.message}" if rule.message else "")

    def _tell_missing(self, metrics: Mapping[str, float]) -> None:
        """After the first step, and for metrics of evaluations after the first of them: the recipe's rules with nothing to look at."""
        evaluation = any(name.startswith("eval/") for name in metrics)
        for rule in self._rules:
            if rule.name in self._own and rule.name not in self._told:
                absent = [n for n in self._absent(rule) if n.startswith("eval/") == evaluation and not n.startswith("test/")]
                if absent and not self._read[rule.name].always:
                    self._told.add(rule.name)
                    partly = len(self._absent(rule)) < len(self._read[rule.name].names)
                    lacks = "is without a part of its condition so far" if partly else "has nothing to look at so far"
                    self._say(f"rule {rule.name!r} {lacks}: {self._not_there(absent[0])}")

    def _absent(self, rule: Rule) -> list[str]:
        pattern = self._patterns[rule.name]
        names = sorted(self._read[rule.name].names)
        seen = self._scope.reported
        return [n for n in names if n not in seen and not (n == pattern and any(fnmatchcase(m, pattern) for m in seen))]

    def _not_there(self, name: str) -> str:
        near = nearest(name, self._scope.reported)
        return f"no step or evaluation reported a metric {name!r}" + (f"; did you mean {near}?" if near else "")

    def unheard(self) -> list[str]:
        """The user's rules that never spoke and one of whose metrics never came, in words."""
        silent = [rule for rule in self._rules if rule.name in self._own and rule.name not in self._spoke]
        own = [rule for rule in silent if not self._read[rule.name].always]
        return [f"rule {rule.name!r} never spoke: {self._not_there(absent[0])}" for rule in own if (absent := self._absent(rule))]

    def state(self) -> dict[str, Any]:
        """What the next verdict depends on, for a checkpoint (JSON, but for NaN and infinities)."""
        return {
            "live": {key: live.state() for key, live in self._live.items()},
            "values": dict(self._scope.values),
            "reported": dict(self._scope.reported),
            "spoke": sorted(self._spoke),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``. Rules that were not there then, or were others, begin anew."""
        self._scope.values = {name: float(value) for name, value in state.get("values", {}).items()}
        self._scope.reported = {name: int(step) for name, step in state.get("reported", {}).items()}
        kept: Mapping[str, Any] = state.get("live", {})
        self._live = self._fresh()
        self._grow(self._scope.values)
        for key, live in self._live.items():
            if key in kept:
                live.load_state(kept[key])
        self._spoke |= {*state.get("spoke", ()), *(live.rule.name for live in self._live.values() if live.firing)}
