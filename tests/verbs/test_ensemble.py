"""Ensembles of policies in `keel eval`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError, DataError, UserError
from keel.rollout.config import PolicyEnsembleConfig
from keel.verbs.evaluate.ensemble import Ensemble
from keel.verbs.run import RECIPES, run_verb

Rows = Callable[[Path], list[dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]
LETTERS = "abcdefgh"


@pytest.fixture
def run(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``run("key=value", ...)``: an evaluation of two tiny models on three prompts; its summary."""
    monkeypatch.chdir(ROOT)
    for name, letters in {"prompts": LETTERS[:3], "validation": LETTERS[2:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": f"Say {c}."}) + "\n" for c in letters))

    def evaluate(*overrides: str) -> dict[str, Any]:
        small = f"evaluate={{prompts: [{tmp_path / 'prompts.jsonl'}], samples: 2, max_tokens: 8, kl_prompts: 2}}"
        recipe = tmp_path / "eval.yaml"
        recipe.write_text("model: tiny:llama?seed=1\nbaseline: tiny:llama?seed=1\nmodel_options: {precision: fp32}\n")
        rewards = 'rewards=[{type: python, name: e, function: "recipes/tiny/rewards.py:share_of_e"}]'
        return run_verb("eval", recipe, [small, rewards, f"run_dir={tmp_path / 'run'}", *overrides])

    return evaluate


@pytest.mark.parametrize("of", ["weights", "logits", "probabilities", "sequences"])
def test_every_kind_answers(of: str, run: Any, rows: Rows, tmp_path: Path) -> None:
    summary = run(f"ensemble={{models: ['tiny:llama?seed=2'], of: {of}}}")
    assert summary["ensemble"]["of"] == of
    assert [m["weight"] for m in summary["ensemble"]["members"]] == [0.5, 0.5]
    assert ("kl" in summary) == (of == "weights"), "only there one model has the log-probabilities"
    rows_found = rows(tmp_path / "run" / "samples" / "evaluation.jsonl")
    assert any(row["before"] != row["after"] for row in rows_found)


def test_the_weight_is_fitted_on_validation_prompts(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: Rows) -> None:
    """Each weight of the grid is tried, on none of the evaluation's prompts, and the evaluation answers with the best."""
    from keel.verbs.evaluate import ensemble

    asked: list[set[str]] = []
    used: list[tuple[float, ...]] = []
    real, sampler = ensemble.mean_reward, ensemble.Ensemble.sampler
    monkeypatch.setattr(ensemble.Ensemble, "sampler", lambda self, weights: used.append(weights) or sampler(self, weights))

    def spied(groups: Any, rewards: Any) -> float:
        asked.append({g.prompt.last_user_text for g in groups})
        return real(groups, rewards)

    monkeypatch.setattr(ensemble, "mean_reward", spied)
    settings = f"fit: [{tmp_path / 'validation.jsonl'}], grid: [0.0, 0.25, 1.0]"
    summary = run(f"ensemble={{models: ['tiny:llama?seed=2'], of: sequences, {settings}}}")
    tried = summary["ensemble"]["tried"]
    assert [t["weight"] for t in tried] == [0.0, 0.25, 1.0]
    best = max(tried, key=lambda t: (t["reward"], -t["weight"]))
    assert [m["weight"] for m in summary["ensemble"]["members"]] == [1.0 - best["weight"], best["weight"]]
    assert used == [(1.0, 0.0), (0.75, 0.25), (0.0, 1.0), (1.0 - best["weight"], best["weight"])]
    assert len({t["reward"] for t in tried}) > 1
    assert asked == [{f"Say {c}." for c in LETTERS[3:]}] * 3, "c is evaluated, so nothing is fitted on it"
    assert summary["data"]["validation"]["records"] == 5


@pytest.mark.parametrize(
    ("by_share", "chosen"),
    [((0.1, 0.2, 0.3), 1.0), ((0.3, 0.2, 0.1), 0.0), ((0.1, 0.3, 0.3), 0.5), ((math.nan, 0.1, math.nan), 0.5)],
)
def test_the_best_weight_of_the_grid(by_share: tuple[float, ...], chosen: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal ones the least of the other member; where every reward failed, none."""
    fitting = Ensemble(PolicyEnsembleConfig(models=("b",), fit=("f",), grid=(0.0, 0.5, 1.0)), *(None,) * 2, (), ())  # type: ignore[arg-type]
    monkeypatch.setattr(Ensemble, "sampler", lambda self, weights: weights)
    reward_of = dict(zip(((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)), by_share, strict=True))

    class Told:
        def score(self, groups: Any) -> list[torch.Tensor]:
            return [torch.tensor([g.told, g.told - 0.05, math.nan]) for g in groups]

    def answer(weights: Any) -> Any:
        return (SimpleNamespace(rollouts="abc", told=reward_of[weights]),)

    rewards: Any = [SimpleNamespace(source=Told(), weight=3.0), SimpleNamespace(source=Told(), weight=1.0)]
    weights, found = fitting.fitted(answer, rewards)
    assert weights == (1.0 - chosen, chosen)
    expected = [4.0 * (r - 0.025) for r in by_share]  # the mean of two answers, the third failed; weights 3 and 1
    assert [t["reward"] for t in found["tried"]] == pytest.approx(expected, nan_ok=True)
    reward_of.update(dict.fromkeys(reward_of, math.nan))
    with pytest.raises(DataError, match="every reward failed"):
        fitting.fitted(answer, rewards)


def test_averaged_weights_are_those_of_a_merge(run: Any, proofs: None) -> None:
    from keel.models.config import ModelOptions
    from keel.models.loading import load_model
    from keel.verbs.shared.session import renderer_of

    overrides = ["model=tiny:llama?seed=1", "baseline=x", "evaluate={}", "ensemble={models: ['tiny:llama?seed=2'], of: weights}"]
    recipe: Any = load(RECIPES["eval"], None, [*overrides, "model_options.precision=fp32"])
    first = load_model("tiny:llama?seed=1", ModelOptions(precision="fp32"))
    other = load_model("tiny:llama?seed=2", ModelOptions(precision="fp32")).model.weights()
    start = {name: p.clone() for name, p in first.model.weights().items()}
    ensemble = Ensemble.of(recipe, first.model, renderer_of(first, recipe.render))
    for share in (0.25, 1.0, 0.0):  # in any order: each from the members' own weights
        ensemble.sampler((1.0 - share, share))
        for name, p in first.model.weights().items():
            torch.testing.assert_close(p, (1.0 - share) * start[name] + share * other[name])


def test_members_of_another_tokenizer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenizer_of(*words: str) -> Any:
        return SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {w: i for i, w in enumerate(words)}))

    monkeypatch.setattr("keel.verbs.evaluate.ensemble.load", lambda recipe, spec: (None, tokenizer_of("a", "c")))
    recipe: Any = SimpleNamespace(ensemble=PolicyEnsembleConfig(models=("other",)), model="first")
    with pytest.raises(UserError, match="other has another tokenizer than first"):
        Ensemble.of(recipe, None, tokenizer_of("a", "b"))  # type: ignore[arg-type]


def test_members_that_do_not_fit_are_refused(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="averages models of one architecture"):
        run("ensemble={models: ['tiny:qwen2?seed=2'], of: weights}")
    more = "ensemble={models: ['tiny:llama?seed=2'], fit: [recipes/tiny/prompts.jsonl]}"
    with pytest.raises(ConfigError, match="there are none"):
        run("rewards=[]", more, f"run_dir={tmp_path / 'second'}")
