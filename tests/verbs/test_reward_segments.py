"""Reward models read at the parts of an answer, and what recipes may ask of parts."""

from __future__ import annotations

import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.renderer import Renderer
from keel.rewards.offline import answered_group
from keel.rewards.segments import SegmentedModel
from keel.rewards.sources.model import ModelReward
from keel.types import Prompt
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.rewards import model_source


def test_the_last_part_is_scored_as_the_whole_and_the_others_where_they_end(proofs: None) -> None:
    loaded = load_model("tiny:llama?seed=1&layers=1", ModelOptions(precision="fp32"), heads=frozenset({"score"}), new_heads=True)
    renderer, inference = Renderer(loaded.tokenizer), LocalInference(loaded.model, BatchConfig())
    config = ModelReward(name="m", path="x", segments={"by": "sentence", "aggregate": "sum"})
    source = model_source(config, lambda path: inference, renderer)
    assert isinstance(source, SegmentedModel)
    prompt, text = Prompt("p", text="What?"), "It is four. 我知道。"
    encoded = renderer.prompt(prompt)
    branches = renderer.answers(prompt, encoded, [text])
    group = answered_group(prompt, encoded, branches, [text])
    (scores,) = source.score([group])
    due = source.placed[id(group.rollouts[0])]
    where = due.nonzero()[:, 0].tolist()
    assert len(where) == 2
    assert renderer.decode(branches[0].tokens_T[: where[0] + 1]).strip() == "It is four."
    whole = model_source(ModelReward(name="m", path="x"), lambda path: inference, renderer).score([group])[0]
    assert float(due[where[1]]) == pytest.approx(float(whole[0]), abs=1e-5)
    assert float(scores[0]) == pytest.approx(float(due.sum()), abs=1e-5)
    assert torch.isfinite(due).all()


def test_parts_are_shares_of_a_plain_sum() -> None:
    start = ["model=tiny:llama", "data={path: x}", "rewards=[{type: steps, name: steps}]", "composition={how: min}"]
    with pytest.raises(ConfigError, match="makes no plain sum"):
        load(RLRecipe, None, [*start, "algorithm.name=reinforce_pp"])
    load(RLRecipe, None, [*start, "algorithm.name=grpo"])


def test_parts_are_read_by_one_head() -> None:
    loaded = load_model("tiny:llama?seed=1&layers=1", ModelOptions(precision="fp32"), heads=frozenset({"score"}), new_heads=True)
    inference = LocalInference(loaded.model, BatchConfig())
    config = ModelReward(name="m", path="x", segments={"by": "line"}, ensemble={"members": ["y"]})
    with pytest.raises(ConfigError, match="one model with one head"):
        model_source(config, lambda path: inference, Renderer(loaded.tokenizer))
