"""The best evaluation, and how long a better one is waited for."""

from __future__ import annotations

import json
import math

import pytest

from keel.core.errors import ConfigError
from keel.watch.config import EarlyStopConfig
from keel.watch.early_stop import Best, EarlyStop, settled


@pytest.mark.parametrize(
    ("metric", "better"),
    [("eval/loss", "min"), ("eval/reward", "max"), ("eval/rewards/accuracies", "max"), ("eval/accuracy", "max"), ("eval/nll", "min"),
     ("eval/rewards/own/mean", "max"), ("eval/rewards/margins", "max"), ("eval/kl", "min"), ("eval/completions/mean_length", None)],
)  # fmt: skip
def test_the_best_is_on_the_side_that_the_name_says(metric: str, better: str | None):
    if better is None:
        with pytest.raises(ValueError, match=f"is a higher or a lower {metric} better"):
            EarlyStopConfig(metric=metric)
        return
    stop = EarlyStop(EarlyStopConfig(metric=metric))
    for step, value in enumerate([2.0, 1.0, 3.0], 1):
        stop.update(step, {metric: value})
    assert stop.best == (Best(2, 1.0) if better == "min" else Best(3, 3.0))
    against = EarlyStop(EarlyStopConfig(metric=metric, mode="max" if better == "min" else "min"))
    assert against.update(1, {metric: 1.0})
    assert against.update(2, {metric: 2.0}) == (better == "min"), "what is written down holds"


def test_patience_alone_leaves_the_stage_its_own_metric():
    own = EarlyStopConfig(metric="eval/reward", mode="max")
    found = settled(EarlyStopConfig(patience=3), own)
    assert (found.metric, found.mode, found.patience) == ("eval/reward", "max", 3)
    assert settled(None, own) == own
    assert settled(EarlyStopConfig(mode="min"), own).mode == "min", "what is written down holds"
    assert settled(EarlyStopConfig(), EarlyStopConfig()).metric == "eval/loss"
    assert settled(EarlyStopConfig(metric="eval/loss"), own).mode == "min"


def test_early_stop_waits_for_patience_and_keeps_the_best():
    stop = EarlyStop(EarlyStopConfig(metric="eval/loss", patience=2))
    improved = [stop.update(step, {"eval/loss": v}) for step, v in [(10, 2.0), (20, 1.5), (30, 1.6)]]
    assert improved == [True, True, False]
    assert not stop.should_stop
    stop.update(40, {"eval/loss": math.nan})
    assert stop.should_stop
    assert stop.best == Best(20, 1.5)


def test_early_stop_min_change_and_mode():
    stop = EarlyStop(EarlyStopConfig(metric="accuracy", mode="max", patience=1, min_change=0.05))
    assert stop.update(1, {"accuracy": 0.5})
    assert not stop.update(2, {"accuracy": 0.54})
    assert stop.should_stop
    assert stop.update(3, {"accuracy": 0.56})
    assert not stop.should_stop
    assert stop.best == Best(3, 0.56)


def test_early_stop_min_change_downward():
    stop = EarlyStop(EarlyStopConfig(metric="eval/loss", patience=2, min_change=0.05))
    assert [stop.update(step, {"eval/loss": v}) for step, v in enumerate([1.0, 0.96, 0.94, 0.9])] == [True, False, True, False]
    assert stop.best == Best(2, 0.94)


def test_waiting_begins_with_the_first_evaluation_that_is_no_improvement():
    stop = EarlyStop(EarlyStopConfig(metric="eval/loss", patience=2))
    assert not stop.update(1, {"eval/loss": math.nan})
    assert not stop.should_stop
    stop.update(2, {"eval/loss": math.inf})
    assert stop.should_stop
    assert stop.best is None


def test_an_equal_value_is_no_improvement():
    stop = EarlyStop(EarlyStopConfig(patience=1))
    assert stop.update(1, {"eval/loss": 1.0})
    assert not stop.update(2, {"eval/loss": 1.0})
    assert stop.best == Best(1, 1.0)


def test_no_patience_never_stops():
    stop = EarlyStop(EarlyStopConfig())
    for step in range(50):
        stop.update(step, {"eval/loss": float(step)})
    assert not stop.should_stop
    assert stop.best == Best(0, 0.0)


def test_early_stop_goes_on_from_its_state():
    values = [3.0, 2.0, 2.5, 2.4, 2.6]
    config = EarlyStopConfig(patience=3)
    whole = EarlyStop(config)
    for step, value in enumerate(values):
        whole.update(step, {"eval/loss": value})
    for cut in range(len(values) + 1):
        first, second = EarlyStop(config), EarlyStop(config)
        for step in range(cut):
            first.update(step, {"eval/loss": values[step]})
        second.load_state(json.loads(json.dumps(first.state())))
        for step in range(cut, len(values)):
            second.update(step, {"eval/loss": values[step]})
        assert (second.best, second.should_stop, second.state()) == (whole.best, whole.should_stop, whole.state())
    assert whole.should_stop


def test_a_metric_that_is_never_reported_is_an_error():
    with pytest.raises(ConfigError, match="early stop watches 'eval/los'"):
        EarlyStop(EarlyStopConfig(metric="eval/los")).update(1, {"eval/loss": 1.0})
