"""Settings of `keel offline`."""

from __future__ import annotations

from pydantic import Field, model_validator

from keel.methods.offline import LoggedConfig, logged_objective
from keel.verbs.shared.recipes import TrainRecipe


class OfflineRecipe(TrainRecipe):
    """`keel offline`: reinforcement learning on answers whose rewards were logged; nothing is sampled."""

    objective: LoggedConfig = Field(default=LoggedConfig(), description="Which loss, and its numbers.")
    reference_cache: str = Field(
        default="",
        description="Folder of the starting weights' log-probabilities, by content, for runs to share; empty = the run's own.",
    )

    @model_validator(mode="after")
    def _no_dropout(self) -> OfflineRecipe:
        if logged_objective(self.objective).needs_reference:
            self._refuse_dropout()
        return self
