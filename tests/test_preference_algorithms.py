"""The table of direct preference losses and its settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from keel.losses.preference import dpo
from keel.preference_algorithms import PREFERENCE_OBJECTIVES, ObjectiveConfig, preference_objective


def test_preference_objectives_by_name():
    objective = preference_objective(ObjectiveConfig(beta=0.3, label_smoothing=0.1))
    assert (objective.pair_loss, objective.beta, objective.label_smoothing) == (dpo, 0.3, 0.1)
    assert all(ObjectiveConfig(name=name).name == name for name in PREFERENCE_OBJECTIVES)
    for wrong in ({"name": "dpoo"}, {"beta": 0.0}, {"label_smoothing": 0.5}):
        with pytest.raises(ValidationError):
            ObjectiveConfig(**wrong)
