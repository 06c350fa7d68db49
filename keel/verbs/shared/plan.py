"""What a training is about to do: checked against the data that was found, then said in one line."""

from __future__ import annotations

from collections.abc import Sequence

from keel.core.errors import ConfigError
from keel.loops.offline import OfflineTrainer
from keel.loops.online import OnlineTrainer
from keel.types import Prompt, Unit


def check_plan(trainer: OfflineTrainer | OnlineTrainer) -> None:
    """Raise ConfigError for a plan that this data cannot follow: nothing to balance by, more minibatches than prompts."""
    key = trainer.config.balance_by
    items = _items(trainer)
    columns = sorted({name for item in items for name in item.meta})
    if key is not None and key not in columns:
        there = f"the extra columns are: {', '.join(columns)}" if columns else "the rows have no extra columns"
        raise ConfigError(f"loop.balance_by: no row has the column {key!r}; {there}", "name one of them, or leave balance_by out")
    if isinstance(trainer, OnlineTrainer) and trainer.algorithm.minibatches > len(items):
        raise ConfigError(
            f"algorithm.minibatches is {trainer.algorithm.minibatches}, there are {len(items)} prompts: some updates would never happen",
            "lower algorithm.minibatches",
        )


def plan_line(trainer: OfflineTrainer | OnlineTrainer) -> str:
    """The effective batch, the passes it is cut into, and how many updates there will be."""
    learner = trainer.actors.policy if isinstance(trainer, OnlineTrainer) else trainer.learner
    n = len(_items(trainer))
    batch = min(trainer.config.batch_size, n)
    if isinstance(trainer, OnlineTrainer):
        each = f"{batch} of {n} prompts x {trainer.gatherer.drawn.samples} samples"
    else:
        each = f"{batch} of {n} units"
    plan = learner.plan
    updates = f"{plan.updates} updates in {trainer.total_steps} steps, {plan.warmup} of them warm-up"
    return f"{each} a step, micro-batches of up to {plan.microbatch_tokens} tokens; {updates}"


def _items(trainer: OfflineTrainer | OnlineTrainer) -> Sequence[Unit | Prompt]:
    return list(trainer.gatherer.prompts.values()) if isinstance(trainer, OnlineTrainer) else trainer.units.train
