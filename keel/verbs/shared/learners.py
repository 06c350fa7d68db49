"""Who learns: a learner in this process, or ranks that the recipe's ``cluster`` asks for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

from keel.learner.config import ClusterConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.models.model import Model
from keel.runs.directory import RunDir
from keel.verbs.shared.recipes import Training

if TYPE_CHECKING:
    from keel.learner.remote import RankLearner  # loads what only several processes need

log = logging.getLogger("keel")
AnyLearner: TypeAlias = "LocalLearner | RankLearner"


def learner_of(
    role: str,
    model: Model,
    optim: OptimConfig,
    training: Training,
    updates: int,
    temperature: float = 1.0,
    beside: AnyLearner | None = None,
) -> AnyLearner:
    """The learner of ``model`` in ``role`` (policy, critic); on the same ranks as ``beside``, where there is one. Raises ConfigError for
    what several processes cannot do."""
    batch, seed = training.batch, training.seed
    if not training.cluster.several:
        return LocalLearner(model, optim, batch, updates, seed, temperature)
    from keel.learner.hosts import host_of
    from keel.learner.remote import RankLearner, check_remote

    check_remote(model, optim, training.cluster)
    host = beside.host if isinstance(beside, RankLearner) else host_of(training.cluster, model.device)
    return RankLearner(host, role, model, optim, batch, updates, seed, temperature)


def check_start(cluster: ClusterConfig) -> None:
    """Before anything is loaded: raise ConfigError for a command that a launcher started several times, and for want of ray."""
    from keel.learner.hosts import check_ray, refuse_launchers

    refuse_launchers()
    if cluster.ray:
        check_ray()


def meet(learner: AnyLearner, run: RunDir) -> None:
    """Ranks are to see the run directory as this process does: raise ConfigError where they do not. A run that goes on over another number
    of ranks says so."""
    if isinstance(learner, LocalLearner):
        return
    learner.host.check_shared(run.path)
    before = run.manifest.get("ranks", learner.ranks)
    if before != learner.ranks:
        log.warning("%s: resumed on %d ranks, not on %d; sums are taken in another order", run.path, learner.ranks, before)
    run.record(ranks=learner.ranks)


def close(learner: AnyLearner) -> None:
    """End the ranks of a learner, if it has any."""
    if not isinstance(learner, LocalLearner):
        learner.host.close()


def compare_whole(learner: AnyLearner, other: Model | None = None) -> None:
    """Its losses compare whole distributions with ``other``, or with the starting weights; adapters off where there are some."""
    if not isinstance(learner, LocalLearner):
        learner.refer(other, None, whole=True)
    elif other is not None or learner.model.peft_model is None:
        learner.reference = other or learner.model.frozen_copy()
