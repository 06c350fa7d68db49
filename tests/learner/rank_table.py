"""The table of docs/scale.md: ``PYTHONPATH=. python tests/learner/rank_table.py RANKS full|1``. Relative differences between ranks and one
process, the largest of two steps."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from rank_cases import CASES, Case

from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.hosts import host_of


def row(case: Case, host: Host) -> str:
    """One line of the table."""
    alone, many = case.alone(), case.over(host)
    if "ref_kl" in case.objective.needs:
        many.refer(None, None, whole=True)
        alone.reference = alone.model.frozen_copy() if case.lora is None else None
    gradient = norm = weights = balance = 0.0
    for _ in range(2):
        alone.forward_backward(case.given, case.objective)
        balance = many.forward_backward(case.given, case.objective).metrics["balance"]
        own = {name: p.grad for name, p in alone.model.trainable()}
        for name, theirs in host.stream("send_gradients", case.name):
            mine = own[name]
            assert (mine is None) == (theirs is None), name
            if mine is not None:
                gradient = max(gradient, float((theirs - mine).norm() / mine.norm().clamp(min=1e-9)))
        one, all_ = alone.step().metrics["grad_norm"], many.step().metrics["grad_norm"]
        norm = max(norm, abs(one - all_) / one)
    whole = many.whole().model
    weights = max(float((a.detach() - b.detach()).abs().max()) for (_, a), (_, b) in zip(alone.model.trainable(), whole.trainable()))
    equal = "yes" if whole.digest() == many.digest() else "no"
    return f"| {case.name} | {gradient:.1e} | {norm:.1e} | {weights:.1e} | {equal} | {balance:.2f} |"


def main(ranks: int, shard: str) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    host = host_of(ClusterConfig(ranks=ranks, shard=1 if shard == "1" else "full"), torch.device("cpu"))
    print("| case | gradient | grad_norm | weights after 2 steps | digest | balance |\n|---|---|---|---|---|---|")
    for case in CASES:
        print(row(case, host), flush=True)
    host.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
