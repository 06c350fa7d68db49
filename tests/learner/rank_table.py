"""The table of docs/scale.md: ``PYTHONPATH=. python tests/learner/rank_table.py RANKS full|1|bf16|offload [BEGINNING]``. Relative
differences between ranks and one process, the largest of two steps."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from rank_cases import CASES, Case, rounded
from rank_compare import CPU, gradient_error, refer
from rank_pictures import pictured_cases

from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.hosts import host_of
from keel.learner.local import LocalLearner
from keel.learner.remote import RankLearner


def row(case: Case, host: Host) -> str:
    """One line of the table."""
    alone, many = made(case, host)
    gradient = norm = weights = balance = 0.0
    for _ in range(2):
        alone.forward_backward(case.given, case.objective)
        balance = many.forward_backward(case.given, case.objective).metrics["balance"]
        gradient = max(gradient, gradient_error(alone, many))
        one, all_ = alone.step().metrics["grad_norm"], many.step().metrics["grad_norm"]
        norm = max(norm, abs(one - all_) / one)
    whole = many.whole().model
    weights = max(float((a.detach() - b.detach()).abs().max()) for (_, a), (_, b) in zip(alone.model.trainable(), whole.trainable()))
    equal = "yes" if whole.digest() == many.digest() else "no"
    return f"| {case.name} | {gradient:.1e} | {norm:.1e} | {weights:.1e} | {equal} | {balance:.2f} |"


CLUSTERS: dict[str, dict[str, Any]] = {
    "full": {},
    "1": {"shard": 1},
    "bf16": {"gather": "bf16"},
    "offload": {"offload": True},
}


def rounded_row(case: Case, host: Host) -> str:
    """One line of the table of ``cluster.gather=bf16``: how far the whole gradient of the first step is from float32's under autocast in
    one process, how far with rounded weights, and how far those two are apart."""
    exact, alone, many = replace(case, options={**case.options, "precision": "fp32"}).alone(), *made(rounded(case), host)
    refer(case, exact)
    for learner in (exact, alone, many):
        learner.forward_backward(case.given, case.objective)
    right, cast = ({name: p.grad for name, p in x.model.trainable() if p.grad is not None} for x in (exact, alone))
    ranks = {name: g for name, g in host.stream("send_gradients", case.name) if g is not None}
    norm = whole(right.values())
    far = [whole(a[name] - b[name] for name in right) / norm for a, b in ((cast, right), (ranks, right), (ranks, cast))]
    one, all_ = alone.gradients().norm, many.gradients().norm
    return f"| {case.name} | {far[0]:.1e} | {far[1]:.1e} | {far[2]:.1e} | {abs(one - all_) / one:.1e} |"


def made(case: Case, host: Host) -> tuple[LocalLearner, RankLearner]:
    """The case in one process and over ranks."""
    alone, many = case.alone(), case.over(host)
    refer(case, alone, many)
    return alone, many


def whole(gradients: Iterable[Tensor]) -> float:
    """The norm of all of them."""
    return float(torch.stack([g.float().norm() for g in gradients]).norm())


def main(ranks: int, shard: str, beginning: str = "") -> None:
    """Print the table, or the rows of it whose names begin so."""
    torch.set_num_threads(1)
    host = host_of(ClusterConfig(ranks=ranks, **CLUSTERS[shard]), CPU)
    if shard == "bf16":
        print("| case | autocast | gather=bf16 | between them | grad_norm |\n|---|---|---|---|---|")
    else:
        print("| case | gradient | grad_norm | weights after 2 steps | digest | balance |\n|---|---|---|---|---|---|")
    for case in (*CASES, *pictured_cases()):
        if case.name.startswith(beginning):
            print(rounded_row(case, host) if shard == "bf16" else row(case, host), flush=True)
    host.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
