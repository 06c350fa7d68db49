"""A reward model that scores texts: `keel score --reward model:DIR`, and judges of type reward_model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keel.core.errors import DataError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rewards.offline import answered_group
from keel.rewards.score import Score, as_score, failure
from keel.rewards.segments import SegmentedModel
from keel.rewards.sources.ensemble import EnsembleSource
from keel.rewards.sources.model import ModelReward, ModelSource
from keel.rewards.text import Item
from keel.verbs.shared.rewards import model_source, same_tokens
from keel.verbs.shared.session import renderer_of


@dataclass(frozen=True, slots=True)
class ModelScorer:
    """Texts are rendered with the reward model's own template, each answer closed as a finished one."""

    source: ModelSource | EnsembleSource | SegmentedModel
    renderer: Renderer

    @classmethod
    def load(cls, config: ModelReward) -> ModelScorer:
        """Raises ModelError when there is no reward model at ``config.path``."""
        options = ModelOptions(quantise=config.quantise)
        first = load_model(config.path, options, heads=frozenset({"score"}))
        renderer = renderer_of(first, RenderConfig())

        def load_one(path: str) -> LocalInference:
            loaded = first if path == config.path else load_model(path, options, heads=frozenset({"score"}))
            same_tokens(loaded.tokenizer, first.tokenizer, path, config)
            loaded.model.use_media(first.model.media)  # the images are read once
            return LocalInference(loaded.model.freeze(), BatchConfig())

        return cls(model_source(config, load_one, renderer), renderer)

    @property
    def name(self) -> str:
        return self.source.name

    def judge(self, items: Sequence[Item]) -> list[Score]:
        """One score for each (prompt, answer), standardised as in RL; a failure for one that the model cannot read (too long)."""
        scores: list[Score] = [failure("not scored")] * len(items)
        groups, places = [], []
        for i, (prompt, text) in enumerate(items):
            try:
                encoded = self.renderer.prompt(prompt)
                groups.append(answered_group(prompt, encoded, self.renderer.answers(prompt, encoded, [text]), [text]))
                places.append(i)
            except DataError as error:
                scores[i] = failure(f"refused: {error.message}")
        found = self.source.score(groups)
        apart = self.source.details["epistemic"] if isinstance(self.source, EnsembleSource) else None
        for k, (i, scores_G) in enumerate(zip(places, found, strict=True)):
            score = float(scores_G[0])
            scores[i] = as_score(score) if apart is None else self._of_members(score, float(apart[k][0]))
        return scores

    def _of_members(self, score: float, std: float) -> Score:
        """An ensemble's score with the deviation between its members; none where they differ by more than the settings allow."""
        assert isinstance(self.source, EnsembleSource), "one model has no members"
        limit = self.source.config.refuse_above
        refused = limit is not None and std > limit
        error = f"members differ: by {std:.4g}, more than {limit:g}" if refused else "" if math.isfinite(score) else f"the score is {score}"
        return Score(score, f"members differ by {std:.4g}", error)
