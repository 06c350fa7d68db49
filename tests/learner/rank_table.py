"""The table of docs/scale.md: ``PYTHONPATH=. python tests/learner/rank_table.py RANKS full|1|bf16|offload [BEGINNING]``. Relative
differences between ranks and one process, the largest of two steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from rank_cases import CASES, Case, rounded
from rank_compare import CPU, gradient_error, refer
from rank_pictures import pictured_cases

from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.hosts import host_of


def row(case: Case, host: Host) -> str:
    """One line of the table."""
    alone, many = case.alone(), case.over(host)
    refer(case, alone, many)
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
    "bf16": {"gather": "bf16"},  # cases are computed in bfloat16 then, on both sides
    "offload": {"offload": True},
}


def main(ranks: int, shard: str, beginning: str = "") -> None:
    """Print the table, or the rows of it whose names begin so."""
    torch.set_num_threads(1)
    host = host_of(ClusterConfig(ranks=ranks, **CLUSTERS[shard]), CPU)
    print("| case | gradient | grad_norm | weights after 2 steps | digest | balance |\n|---|---|---|---|---|---|")
    for case in (*CASES, *pictured_cases()):
        if case.name.startswith(beginning):
            print(row(rounded(case) if shard == "bf16" else case, host), flush=True)
    host.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
