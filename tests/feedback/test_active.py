"""Plans of tasks and checks: by hand, by identities, and on curves whose saving is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keel.core.errors import ConfigError
from keel.feedback.active import dispute, doubt, labels_saved, plan, to_verify

TASKS = [f"t{i}" for i in range(200)]


def test_doubt_and_dispute_by_hand() -> None:
    one = math.log(4)  # p = 0.8
    found = doubt(np.array([[0.0, one, one], [0.0, one, -one]]))
    assert found == pytest.approx([0.5, 0.5 * 4 * 0.16, 0.5 * (1.0 + 2 * 0.3)])
    milder = doubt(np.array([[one]]), np.array([[2.0]]))
    p = 1 / (1 + math.exp(-one / math.sqrt(1 + math.pi / 2)))
    assert milder == pytest.approx([2 * p * (1 - p)])
    share = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert dispute(share, np.array([4, 4, 1])) == pytest.approx([math.log(2) / math.log(3), 0.0, 0.0])


def test_a_plan_has_both_arms_each_task_once_and_is_a_function_of_its_seed() -> None:
    rng = np.random.default_rng(0)
    priority, features = rng.random(200), rng.normal(size=(200, 3))
    found = plan(TASKS, priority, features, 50, control=0.2)
    assert len({p.task for p in found}) == 50
    assert sum(p.arm == "random" for p in found) == 10
    assert {p.arm for p in found[:6]} == {"chosen", "random"}  # not all of one arm first
    assert found == plan(TASKS, priority, features, 50, control=0.2)
    assert found != plan(TASKS, priority, features, 50, control=0.2, seed=1)
    few = plan(TASKS, priority, features, 10, control=0.2)  # 8 of the 40 with the highest priority
    assert min(p.priority for p in few if p.arm == "chosen") > np.quantile(priority, 0.75)
    drawn = [p.priority for s in range(40) for p in plan(TASKS, priority, features, 50, seed=s) if p.arm == "random"]
    assert np.mean(drawn) == pytest.approx(priority.mean(), abs=0.05)  # 400 draws: the standard error is 0.014
    assert any(p.arm == "random" for p in plan(TASKS, priority, features, 2, control=0.01))
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match="random share"):
            plan(TASKS, priority, features, 50, control=share)


def test_disputed_tasks_come_though_the_models_are_sure() -> None:
    quiet, votes = np.zeros(200), np.zeros(200)
    votes[[5, 17, 60]] = 1.0
    rng = np.random.default_rng(1)
    found = plan(TASKS, quiet, rng.normal(size=(200, 2)), 20, dispute_T=votes)
    assert {"t5", "t17", "t60"} <= {p.task for p in found}


def test_what_is_chosen_lies_apart() -> None:
    features = np.repeat([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]], 50, axis=0)
    priority = np.where(np.arange(200) < 50, 0.9, 0.8)  # one corner is a little more doubtful than the others
    found = plan(TASKS, priority, features, 5, control=0.2, pool=50)
    corners = {int(p.task[1:]) // 50 for p in found if p.arm == "chosen"}
    assert corners == {0, 1, 2, 3}


LABELS = np.array([10, 20, 30, 40])


def test_labels_saved_by_hand() -> None:
    random = np.tile([0.5, 0.6, 0.7, 0.8], (4, 1))
    chosen = np.tile([0.5, 0.7, 0.9, 0.9], (4, 1))
    found = labels_saved(LABELS, chosen, random)  # 0.8 is reached at 25 labels, half way from 20 to 30
    assert (found.share, found.low, found.high, found.better, found.accuracy) == pytest.approx((1 - 25 / 40,) * 3 + (True, 0.8))
    assert labels_saved(LABELS, random, chosen).share == pytest.approx(-(1 - 25 / 40))
    assert labels_saved(LABELS, random, random).share == 0.0


def test_no_gain_is_not_called_a_gain() -> None:
    said = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        curves = np.array([0.5, 0.6, 0.7, 0.75]) + 0.05 * rng.normal(size=(2, 15, 4))
        said += labels_saved(LABELS, curves[0], curves[1], draws=300).better
    assert said <= 5  # 2.5% each time: more than 5 of 40 come by chance once in a thousand
    with pytest.raises(ValueError, match="at least three"):
        labels_saved(LABELS, curves[0][:2], curves[1][:2])


def test_people_see_the_least_sure_and_some_of_the_sure() -> None:
    confidence = np.linspace(0.5, 1.0, 200)
    found = to_verify(TASKS, confidence, 100, audit=0.2, least=0.8)
    audits = [c for c in found.people if c.why == "audit"]
    unsure = [c for c in found.people if c.why == "unsure"]
    assert len(found.people) == 100
    assert all(c.confidence >= 0.8 for c in audits)
    assert [c.task for c in unsure] == TASKS[: len(unsure)]  # the least sure, in order
    assert set(found.accepted).isdisjoint(c.task for c in found.people)
    assert min(confidence[TASKS.index(t)] for t in found.accepted) >= 0.8
    assert 8 <= len(audits) <= 26  # 80 sure ones at 0.2
    assert found == to_verify(TASKS, confidence, 100, audit=0.2, least=0.8)
    assert found.audit_rate == pytest.approx(len(audits) / 80)
    short = to_verify(TASKS, confidence, 5, audit=0.2, least=0.8)
    assert short.audit_rate == pytest.approx(5 / 80)
    assert (len(short.people), len(short.accepted)) == (5, 75)  # 120 unsure ones wait
    with pytest.raises(ConfigError, match="audit share"):
        to_verify(TASKS, confidence, 5, audit=0.0)
