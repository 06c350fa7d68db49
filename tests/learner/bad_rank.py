"""A rank with one of the field's bugs, for tests of the tests: ``bad_rank.py BUG PIPE LIFE``. The product has no switch for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from keel.learner import local, rank, sharded
from keel.learner.packing import plan_microbatches
from keel.types import Objective, Unit


def averages() -> None:
    """FSDP's default: gradients are divided by the number of ranks."""
    right = sharded.shard

    def shard(model: Any, mesh: Any, *more: Any) -> None:
        right(model, mesh, *more)
        for part in model.trunk.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(float(mesh.size()))

    sharded.shard = shard


def counts_its_own_part() -> None:
    """Each rank divides by the counts of its own micro-batches, and the ranks' means are averaged."""

    def counts(self: local.LocalLearner, units: Sequence[Unit], objective: Objective) -> dict[str, float]:
        parts = plan_microbatches(units, self.batch.microbatch_tokens, objective.couples_branches)
        mine = self.team.deal(parts, [sum(u.n_tokens for u in part) for part in parts])
        own = objective.counts([u for part in mine if part is not None for u in part])
        return {name: value * dist.get_world_size() for name, value in own.items()}

    local.LocalLearner.counts = counts


def makes_no_dummy() -> None:
    """A rank with fewer micro-batches stops earlier."""
    right = sharded.Ranks.deal

    def deal(self: Any, parts: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
        return [part for part in right(self, parts, sizes) if part is not None]

    sharded.Ranks.deal = deal


def looks_only_where_an_image_is() -> None:
    """A rank whose micro-batch has no image makes no pass through the tower."""

    def to_look_at(self: local.LocalLearner, units: Sequence[Unit]) -> None:
        return None

    local.LocalLearner.to_look_at = to_look_at


BUGS = {
    "average": averages,
    "local": counts_its_own_part,
    "no dummy": makes_no_dummy,
    "no look": looks_only_where_an_image_is,
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    rank.main(int(sys.argv[2]), int(sys.argv[3]))
