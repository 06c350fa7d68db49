"""What the stages share that train a policy on a file: its learner, what it is compared with, the run to its end."""

from __future__ import annotations

from pathlib import Path

from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.harness import TrainResult
from keel.loops.offline import OfflineTrainer, total_steps
from keel.models.loading import Loaded
from keel.render.renderer import Renderer
from keel.types import Objective
from keel.verbs.shared.probes import SampleProbe
from keel.verbs.shared.recipes import TrainRecipe
from keel.verbs.shared.reference_cache import ReferenceCache
from keel.verbs.shared.session import Session, save_final, train
from keel.verbs.shared.units import Splits
from keel.watch.config import EarlyStopConfig


def learner_of(recipe: TrainRecipe, loaded: Loaded, n: int, objective: Objective) -> LocalLearner:
    """The learner of ``n`` units. Where the loss compares whole distributions with the starting weights it holds a copy of them; with
    adapters they are the model itself, adapters off."""
    learner = LocalLearner(loaded.model, recipe.optim, recipe.batch, total_steps(recipe.loop, n), recipe.seed)
    if "ref_kl" in objective.needs and recipe.lora is None:
        learner.reference = loaded.model.frozen_copy()
    return learner


def reference_of(session: Session, folder: str, learner: LocalInference, digest: str = "") -> ReferenceCache:
    """Log-probabilities of the starting weights, or of another model with this ``digest``: taken before the first step and kept on disk, so
    that no second model is held while training: in ``folder``, or the run's own when it is empty."""
    return ReferenceCache(Path(folder or session.run.path / "reference"), learner, digest or session.run.manifest["model"]["digest"])


def probe_of(session: Session, recipe: TrainRecipe, loaded: Loaded, renderer: Renderer, splits: Splits) -> SampleProbe:
    """A few held-out prompts (training prompts, where none are held out), answered at every evaluation."""
    return SampleProbe(loaded.model, renderer, splits.held_out or splits.train, recipe.loop.probes, session.run)


def fit(
    session: Session, recipe: TrainRecipe, loaded: Loaded, learner: LocalInference, trainer: OfflineTrainer, best: EarlyStopConfig
) -> TrainResult:
    """Train ``learner``; leaves ``final/``, unless the run was interrupted."""
    result = train(session, trainer, recipe, best)
    if not result.interrupted:
        save_final(session, loaded, learner, trainer.units.held_out or trainer.units.train)
    return result
