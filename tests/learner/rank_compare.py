"""Ranks against one process: how far they are apart, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_cases import Case

from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.local import LocalLearner
from keel.learner.processes import Processes
from keel.learner.remote import RankLearner

CPU = torch.device("cpu")
_NOTHING = 1e-8  # of the whole gradient's norm: what is left by rounding of a gradient that is 0, such as that of a key's bias


def gradient_error(alone: LocalLearner, many: RankLearner) -> float:
    """The largest relative error of a parameter's gradient; one that only one side has is an error without bound. A gradient that is 0 but
    for rounding counts as part of the whole one."""
    own, worst = {name: p.grad for name, p in alone.model.trainable()}, 0.0
    whole = float(torch.stack([g.norm() for g in own.values() if g is not None]).norm())
    for name, theirs in many.host.stream("send_gradients", many.role):
        mine = own[name]
        if mine is None or theirs is None:
            worst = max(worst, 0.0 if mine is theirs else float("inf"))
            continue
        norm = float(mine.norm())
        worst = max(worst, float((theirs - mine).norm()) / max(norm if norm > _NOTHING * whole else whole, 1e-9))
    return worst


def refer(case: Case, *learners: LocalLearner | RankLearner) -> None:
    """They have a reference where the objective compares with one."""
    for learner in learners if "ref_kl" in case.objective.needs else ():
        if isinstance(learner, RankLearner):
            learner.refer(None, None, whole=True)
        else:
            learner.reference = learner.model.frozen_copy() if case.lora is None else None


def compare(case: Case, host: Host, steps: int = 2) -> None:
    """Raise AssertionError where ranks and one process differ by more than the order of sums."""
    alone, many = case.alone(), case.over(host)
    refer(case, alone, many)
    gap = many.apart(case.given, case.objective)
    assert gap.apart <= case.allowed * gap.norm_alone
    assert gap.norm == pytest.approx(gap.norm_alone, rel=case.allowed)
    for _ in range(steps):
        one, all_ = (x.forward_backward(case.given, case.objective) for x in (alone, many))
        assert gradient_error(alone, many) <= case.allowed
        assert {k: v for k, v in all_.metrics.items() if k != "balance"} == pytest.approx(dict(one.metrics), rel=1e-4, abs=1e-5)
        assert all_.n_tokens == one.n_tokens
        assert many.step().metrics["grad_norm"] == pytest.approx(alone.step().metrics["grad_norm"], rel=case.allowed)
        assert many.whole().model.digest() == many.digest(), "the digest of shares is that of the whole"
    one, all_ = (x.evaluate(case.given, case.objective) for x in (alone, many))
    assert dict(all_.metrics) == pytest.approx(dict(one.metrics), rel=1e-3, abs=1e-4)


def go_on(learner: LocalLearner | RankLearner, case: Case, steps: int = 2) -> list[float]:
    """The norms of the gradients of more steps."""
    norms: list[float] = []
    for _ in range(steps):
        learner.forward_backward(case.given, case.objective)
        norms.append(learner.step().metrics["grad_norm"])
    return norms


def bad_host(bug: str) -> Host:
    """Two ranks with one of the field's bugs."""
    program = (str(Path(__file__).with_name("bad_rank.py")), bug)
    cluster = ClusterConfig(ranks=2, timeout_s=20.0)  # a rank that waits in vain gives up then
    return Host(cluster, Processes(cluster, CPU, program))
