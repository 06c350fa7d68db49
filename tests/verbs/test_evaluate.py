"""Evaluation of two models: KL of whole distributions, nothing compared by ids of two tokenizers, failures without a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.methods.credit.units import rollout_units
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.types import Group, Message, Prompt
from keel.verbs.evaluate.answering import Side, answer, drawn_in_full, sequence_kl
from keel.verbs.evaluate.scoring import judges_of, score
from keel.verbs.run import RECIPES, run_verb
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.session import renderer_of

Row = Callable[[Path], list[dict[str, Any]]]


def recipe_of(prompts: Path | str = "x.jsonl", *overrides: str) -> Any:
    small = f"evaluate={{prompts: [{prompts}], samples: 2, max_tokens: 8, gold: true}}"
    common = ("model=tiny:llama?seed=1&std=0.15", "baseline=tiny:llama?seed=1&std=0.15", small, "model_options.precision=fp32")
    return load(RECIPES["eval"], None, [*common, *overrides])


def side_of(recipe: Any, spec: str, temperature: float) -> tuple[Side, Any]:
    loaded = load_model(spec, ModelOptions(precision="fp32"))
    renderer = renderer_of(loaded, RenderConfig())
    prompts = [Prompt(f"p{i}", (Message("user", f"Number {i}?"),)) for i in range(3)]
    encoded = {p.prompt_id: (p, renderer.prompt(p)) for p in prompts}
    groups = answer(loaded.model, renderer, encoded, recipe)
    return Side(LocalInference(loaded.model, BatchConfig(), temperature), groups, None, 0), renderer


@pytest.mark.parametrize(("sampling", "temperature"), [("top_p=0.5", 0.7), ("temperature=0", 1.0), ("top_p=1.0", 0.7)])
def test_kl_is_of_whole_distributions(proofs: None, sampling: str, temperature: float) -> None:
    """The very numbers of the trainer's passes are those of the distribution that the answers come from; a model is at 0 from itself."""
    recipe = recipe_of("x.jsonl", f"evaluate.{sampling}", "evaluate.kl_prompts=2")
    side, renderer = side_of(recipe, recipe.model, temperature)
    groups = drawn_in_full(recipe, side, renderer)
    assert len(groups) == 2
    assert (groups[0] is side.groups[0]) == (sampling == "top_p=1.0")
    units = rollout_units(groups)
    for row, unit in zip(side.inference.logprobs(units), units, strict=True):
        for got, branch in zip(row, unit.branches, strict=True):
            torch.testing.assert_close(got, branch.signals["sampler_logprobs"], atol=1e-4, rtol=0)
    assert sequence_kl(side, side, groups) == {"mean": 0.0, "per_token": 0.0, "n": 4}


def test_a_rollout_that_failed_has_no_gold_score(proofs: None) -> None:
    recipe = recipe_of()
    side, renderer = side_of(recipe, recipe.model, 0.7)

    def failed(group: Group) -> Group:
        broken = replace(group.rollouts[1], finish_reason="error", text="I can help you with this tent, it is 200 g.")
        return replace(group, rollouts=(group.rollouts[0], broken), valid_G=torch.tensor([True, False]))

    rows = score(recipe, side.groups, [failed(g) for g in side.groups], rewards_of(recipe.rewards, recipe, side.inference.model, renderer))
    for row in rows:
        assert all(a.gold is not None and math.isfinite(a.gold) for a in row.before)
        assert row.after[0].gold is not None
        assert row.after[1].gold is None
        assert not any(math.isfinite(v) for v in row.after[1].rules.values())


def test_two_tokenizers_are_compared_by_their_texts(proofs: None, tmp_path: Path, rows: Row) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Which tent?"}\n{"prompt": "Which rope?"}\n')
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "A plain text about rivers."}\n')
    base = load_model("tiny:llama?seed=1", ModelOptions(precision="fp32"))
    base.tokenizer.add_tokens(["<new>"])
    base.model.save(tmp_path / "other", base.tokenizer)
    small = f"{{prompts: [{prompts}], samples: 1, max_tokens: 4, gold: true, draws: 100, languages: [], retention_text: {text}}}"
    recipe = tmp_path / "eval.yaml"
    recipe.write_text(f"model: {tmp_path / 'other'}\nbaseline: tiny:llama?seed=1\nevaluate: {small}\nmodel_options: {{precision: fp32}}\n")
    summary = run_verb("eval", recipe, [f"run_dir={tmp_path / 'run'}", "settings.threads=1"])
    assert not {"kl", "retention"} & set(summary)
    assert len(rows(tmp_path / "run" / "samples" / "evaluation.jsonl")) == 2
    judge = f"rewards=[{{type: model, name: judge, path: {tmp_path / 'other'}}}]"
    with pytest.raises(UserError, match="different tokenizers"):
        run_verb("eval", recipe, [f"run_dir={tmp_path / 'again'}", "settings.threads=1", judge])


def test_what_answers_make_up_is_found_by_a_detector_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "objects.txt").write_text("cat\ndog, puppy\n")
    recipe = recipe_of("x.jsonl", f"evaluate.detector={{detector: truth, words: {{objects: {tmp_path}/objects.txt}}}}")
    assert ("evaluate.detector.words.objects", f"{tmp_path}/objects.txt") in [(f.key, f.name) for f in recipe.files()]
    detect = judges_of(recipe.evaluate).detect
    assert detect is not None
    found = detect(Prompt("p", text="?", meta={"objects": ["dog"]}), "a puppy and a cat")
    assert [(kind, "a puppy and a cat"[a:b]) for kind, a, b in found.errors] == [("existence", "cat")]
    assert found.coverage == 1.0
    (tmp_path / "mine.py").write_text("def nothing(prompt, text):\n    return 7\n")
    recipe = recipe_of("x.jsonl", f"evaluate.detector={tmp_path}/mine.py:nothing")
    assert [f.name for f in recipe.files() if f.key == "evaluate.detector"] == [f"{tmp_path}/mine.py"]
    assert judges_of(recipe.evaluate).detect(Prompt("p", text="?"), "") == 7  # type: ignore[misc]


def test_a_detector_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"detector is FILE\.py:NAME or a section"):
        recipe_of("x.jsonl", "evaluate.detector=truth")
    with pytest.raises(ConfigError, match=r"words\.objects is needed"):
        recipe_of("x.jsonl", "evaluate.detector={detector: truth}")
    recipe = recipe_of("x.jsonl", f"evaluate.detector={{detector: truth, words: {{objects: {tmp_path}/gone.txt}}}}")
    with pytest.raises(UserError, match=r"evaluate\.detector: .*gone\.txt"):
        judges_of(recipe.evaluate)
