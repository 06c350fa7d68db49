"""Rules over a step's metrics -> a verdict."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from keel.types import Verdict
from keel.watch.config import Level, Rule, WatchConfig
from keel.watch.names import nearest

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}

_FAILED = "no sample got a reward, so nothing is trained"
_KL = "the policy runs away from its reference: raise the KL coefficient or lower the learning rate"
_COLLAPSE = "the reward has collapsed: lower the learning rate, or look at what the reward calls good"
_CLIP = "most updates are cut off by the clip: lower the learning rate or the number of updates per batch"
_ENTROPY = "the policy is nearly deterministic: add an entropy bonus, raise the temperature or stop earlier"
_IMBALANCE = (
    "one part of the model learns next to nothing beside another: look whether images are read (keel eval reward, keel doctor), train the "
    "part by itself first (model_options.train), or at a rate of its own"
)
_NO_SIGNAL = "no group has different rewards, so nothing is learned: sample hotter, more per prompt, or use a finer reward"


def default_rules(config: WatchConfig) -> tuple[Rule, ...]:
    """The rules that every run starts with. They warn: a threshold that is right for one run is wrong for another, and a run that learns
    must not be changed by a guess. One acts: a run whose samples all fail is stopped. Each limit is compared with metrics of its own unit
    (``names.UNITS``): ``kl`` is a mean over tokens, ``objective/kl`` and ``kl_point`` are means over answers of their sums."""
    columns = ("name", "metric", "compare", "threshold", "for_steps", "level", "message")
    rows = (
        ("kl", "kl", ">", config.max_kl_per_token, 3, "warning", _KL),
        ("kl-ppo", "objective/kl", ">", config.max_kl_per_sequence, 3, "warning", _KL),
        ("kl-point", "kl_point", ">", config.max_kl_per_sequence, 3, "warning", _KL),
        ("collapse", "trend/reward/fall", ">", config.max_reward_fall, 3, "warning", _COLLAPSE),
        ("reward-failed", "completions/failed_ratio", ">=", 1.0, 3, "stop", _FAILED),
        ("gradient", "grad_norm", ">", 100.0, 1, "warning", "a very large gradient before clipping"),
        ("imbalance", "trend/grad_norm/imbalance", ">", config.max_imbalance, 5, "warning", _IMBALANCE),
        ("length", "completions/mean_length", "<", 2.0, 1, "warning", "answers are nearly empty"),
        ("entropy", "entropy", "<", 0.1, 3, "warning", _ENTROPY),
        ("no-signal", "frac_reward_zero_std", ">=", 1.0, 5, "warning", _NO_SIGNAL),
        ("clip", "clip_ratio/region_mean", ">", 0.3, 3, "warning", _CLIP),
        ("clip-ppo", "policy/clipfrac_avg", ">", 0.3, 3, "warning", _CLIP),
        ("loss-non-finite", "loss", "non-finite", 0.0, 1, "warning", "the loss is not finite, such a step changes nothing"),
        ("reward-non-finite", "reward", "non-finite", 0.0, 1, "warning", "the mean reward is not finite"),
    )
    return tuple(Rule.model_validate(dict(zip(columns, row))) for row in rows)


def resolve(config: WatchConfig) -> tuple[Rule, ...]:
    """The rules in force: the defaults, replaced by name, then the user's others."""
    own = {rule.name: rule for rule in config.rules}
    defaults = default_rules(config) if config.defaults else ()
    kept = tuple(own.pop(rule.name, rule) for rule in defaults)
    return kept + tuple(own.values())


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that has just begun to speak."""

    rule: str
    level: Level
    metric: str
    value: float
    step: int
    text: str


class Watch:
    """A guard (``types.Guard``): checks the rules after each step; tells each finding once, when it begins; the verdict is that of its
    rules of level ``rollback`` and ``stop``, the harder one if both hold."""

    def __init__(self, config: WatchConfig, tell: Callable[[Finding], None]) -> None:
        self._rules = resolve(config)
        self._tell = tell
        self._streaks: dict[str, int] = {}  # "rule|metric" -> steps in a row
        self._alarmed = False
        self._own = tuple(config.rules)
        self._seen: set[str] = set()  # names of metrics

    @property
    def alarmed(self) -> bool:
        """Does a rule above level info hold since the newest step, whether it has just begun to speak or spoke before? One of level
        rollback or stop counts from the first step on, before it speaks: what it is about to condemn must not pass for good."""
        return self._alarmed

    def check(self, step: int, metrics: Mapping[str, float]) -> Verdict:
        """Judge the metrics of one step or evaluation; metrics that are not there neither break nor lengthen a streak."""
        self._seen.update(metrics)
        reasons: dict[Level, list[str]] = {"stop": [], "rollback": []}
        self._alarmed = False
        for rule in self._rules:
            for metric in sorted(name for name in metrics if fnmatchcase(name, rule.metric)):
                value = float(metrics[metric])
                key = f"{rule.name}|{metric}"
                self._streaks[key] = self._streaks.get(key, 0) + 1 if _holds(rule, value) else 0
                if self._streaks[key] == rule.for_steps:
                    self._tell(Finding(rule.name, rule.level, metric, value, step, _text(rule, metric, value)))
                speaks, grave = self._streaks[key] >= rule.for_steps, rule.level in reasons
                self._alarmed = self._alarmed or (speaks and rule.level != "info") or (grave and self._streaks[key] > 0)
                if speaks and grave:
                    reasons[rule.level].append(_text(rule, metric, value))
        if reasons["stop"]:
            return Verdict("stop", "; ".join(reasons["stop"]))
        return Verdict("rollback", "; ".join(reasons["rollback"])) if reasons["rollback"] else Verdict("continue")

    def unheard(self) -> list[str]:
        """The user's rules whose metric never came, in words."""
        found: list[str] = []
        for rule in self._own:
            if not any(fnmatchcase(name, rule.metric) for name in self._seen):
                near = nearest(rule.metric, self._seen)
                more = f"; did you mean {near}?" if near else ""
                found.append(f"rule {rule.name!r} never spoke: no step or evaluation reported a metric {rule.metric!r}{more}")
        return found

    def state(self) -> dict[str, int]:
        """Streaks that are running, for a checkpoint (JSON)."""
        return {key: count for key, count in self._streaks.items() if count}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on from ``state()``."""
        self._streaks = dict(state)


def _holds(rule: Rule, value: float) -> bool:
    if rule.compare == "non-finite":
        return not math.isfinite(value)
    return _COMPARE[rule.compare](value, rule.threshold)


def _text(rule: Rule, metric: str, value: float) -> str:
    condition = "is not finite" if rule.compare == "non-finite" else f"{rule.compare} {rule.threshold:g}"
    steps = f" for {rule.for_steps} steps" if rule.for_steps > 1 else ""
    return f"{metric} = {value:.4g} ({condition}{steps})" + (f": {rule.message}" if rule.message else "")
