"""`keel reward` on every kind of label: what it chooses from the data, what it leaves behind, that it learns, that others load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from keel.core.config import load
from keel.core.errors import ConfigError, DivergedError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.renderer import Renderer
from keel.types import Message, Prompt, Rating
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.run import run_verb
from keel.verbs.shared.rewards import SCALE_FILE, head_offsets

Rows = list[dict[str, Any]]
Reward = Callable[..., dict[str, Any]]
WORDS = ("bad", "fair", "great")


def prompts(n: int = 16) -> list[str]:
    return [f"Question number {i}?" for i in range(n)]


def pairs(**extra: Any) -> Rows:
    return [{"prompt": p, "chosen": "great", "rejected": "bad", **extra} for p in prompts()]


def rankings() -> Rows:
    return [{"prompt": p, "answers": ["bad", "great", "fair"], "ranks": [3, 1, 2]} for p in prompts()]


def ratings(step: float = 1.0) -> Rows:
    return [{"prompt": p, "answer": word, "scores": {"help": i * step, "safe": 5 - i}} for p in prompts() for i, word in enumerate(WORDS)]


def votes() -> Rows:
    rows = []
    for i, p in enumerate(prompts()):
        for annotator, outcome in enumerate(("first", "first", "tie" if i % 2 else "second")):
            rows.append({"prompt": p, "candidates": ["great", "bad"], "outcome": outcome, "annotator_id": f"a{annotator}"})
    return rows


def steps() -> Rows:
    right, wrong = "one and one is two", "one and one is six"
    chains = ([right, right], [right, wrong], [wrong, right], [wrong, wrong])
    return [{"prompt": p, "completions": list(c), "labels": [s == right for s in c]} for p in prompts() for c in chains]


@pytest.fixture
def reward(tmp_path: Path, proofs: None) -> Reward:
    """``reward(rows, "key=value")``: a short run on these rows; a second list of rows is a second file."""

    def run(rows: Rows, *overrides: str, more: Rows | None = None, steps: int = 12) -> dict[str, Any]:
        files = []
        for i, part in enumerate(filter(None, (rows, more))):
            file = tmp_path / f"data{i}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
            files.append(str(file))
        recipe = tmp_path / "reward.yaml"
        recipe.write_text(
            f"model: tiny:llama?seed=1&layers=1\ndata: {{path: {json.dumps(files)}}}\nheld_out: 0.25\n"
            f"optim: {{lr: 3e-3}}\nloop: {{steps: {steps}, batch_size: 8, eval_at_start: false}}\nsettings: {{threads: 1}}\n"
            "model_options: {precision: fp32}\n"
        )
        return run_verb("reward", recipe, [*overrides, f"run_dir={tmp_path / 'run'}"])

    return run


def loaded(tmp_path: Path):
    return load_model(str(tmp_path / "run" / "final"), ModelOptions(precision="fp32"), heads=frozenset({"score"}))


def test_ties_become_davidsons_and_the_weight_of_a_tie_is_learnt(reward: Reward, tmp_path: Path) -> None:
    rows = pairs() + [{"prompt": p, "chosen": "good", "rejected": "fair", "tie": True} for p in prompts()]
    summary = reward(rows)
    assert summary["loss"] == "davidson"
    assert summary["labels"] == {"pairs": 24, "ties": 12, "even": 12}
    assert summary["reward_model"]["accuracy"] == 1.0
    tie = loaded(tmp_path).model.score_head.tie
    assert float(tie.detach()) != 0.0
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "final")


def test_strengths_become_margins_and_none_when_told(reward: Reward, tmp_path: Path) -> None:
    strong = reward(pairs(strength=4.0), steps=2)
    assert strong["loss"] == "bradley_terry"
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    plain_dir = f"run_dir={tmp_path / 'plain'}"
    run_verb("reward", tmp_path / "reward.yaml", ["margin=0", "loop.steps=2", plain_dir])
    without = json.loads((tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    # the largest margin, 4, asks for a lead of 1: at a lead of about 0 the loss is ln(1 + e) in place of ln 2
    assert first > without + 0.4


def test_several_annotators_become_soft_labels_with_their_ties(reward: Reward) -> None:
    summary = reward(votes(), steps=4)
    assert summary["labels"] == {"pairs": 12, "ties": 6, "soft": 12, "votes": 36}
    assert summary["loss"] == "davidson"


def test_rankings(reward: Reward) -> None:
    summary = reward(rankings())
    assert summary["labels"] == {"rankings": 12}
    assert summary["reward_model"]["accuracy"] == 1.0


def test_whole_ratings_are_ordinal_and_every_dimension_is_learnt(reward: Reward, tmp_path: Path) -> None:
    summary = reward(ratings(), "head.weights={help: 1.0, safe: 0.0}", steps=30)
    assert (summary["head"]["output"], summary["head"]["dimensions"]) == ("ordinal", ["help", "safe"])
    assert summary["reward_model"]["accuracy"] > 0.9
    found = loaded(tmp_path)
    renderer = Renderer(found.tokenizer)
    asked = Prompt("p", text="Question number 3?")
    units = [renderer.unit(Rating("r", asked, (Message("assistant", word),), {"help": 0.0})) for word in ("bad", "great")]
    bad, best = LocalInference(found.model, BatchConfig()).dimensions(units)
    assert best[0, 0] > bad[0, 0]
    assert best[0, 1] < bad[0, 1]


@pytest.mark.parametrize("output", ["point", "gaussian", "distribution"])
def test_ratings_by_every_output(output: str, reward: Reward) -> None:
    summary = reward(ratings(), f"head.output={output}", "head.dimensions=[help]", steps=30)
    assert summary["head"]["output"] == output
    assert summary["reward_model"]["accuracy"] > 0.85


def test_broken_ratings_are_a_regression(reward: Reward) -> None:
    assert reward(ratings(0.37), "head.dimensions=[help]", steps=2)["head"]["output"] == "point"


def test_right_and_wrong_steps(reward: Reward) -> None:
    summary = reward(steps(), steps=40)
    assert summary["stepwise"]["accuracy"] > 0.9
    assert summary["stepwise"]["n"] == 2 * 4 * 4
    assert summary["stepwise"]["first_error_found"] > 0.8


def test_labels_of_several_kinds_are_learnt_together(reward: Reward) -> None:
    summary = reward(pairs(), more=rankings())
    assert summary["labels"] == {"pairs": 12, "rankings": 12}
    assert {"loss/pairs", "loss/rankings"} <= summary["last"].keys()
    assert summary["reward_model"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    "head",
    [
        "{trunk: mlp, width: 16}",
        "{pooling: mean, norm: layer}",
        "{pooling: attention}",
        "{pooling: last_mean, bound: tanh}",
        "{members: 3}",
    ],
)
def test_a_head_comes_back_as_it_was_trained(head: str, reward: Reward, tmp_path: Path) -> None:
    summary = reward(pairs(), f"head={head}")
    assert summary["reward_model"]["accuracy"] == 1.0
    config = json.loads((tmp_path / "run" / "final" / "config.json").read_text())
    assert config["keel_reward_head"] == summary["head"]
    again = loaded(tmp_path)
    checkpoint = sorted((tmp_path / "run" / "checkpoints").glob("*/*.safetensors"))
    assert checkpoint
    renderer = Renderer(again.tokenizer)
    unit = renderer.unit(Rating("r", Prompt("p", text="Question number 3?"), (Message("assistant", "great"),), {"x": 0.0}))
    members, _ = LocalInference(again.model, BatchConfig()).judgements([unit])[0]
    assert members.shape == (1, 3 if "members" in head else 1)
    assert torch.isfinite(members).all()
    if "members" in head:
        assert float(members.std()) > 0, "members that saw other prompts differ"
        assert summary["last"]["std/members"] > 0
    if "tanh" in head:
        assert float(members.abs().max()) <= 1


@pytest.mark.parametrize(
    ("rows", "override", "match"),
    [
        (pairs(), "head.output=ordinal", "levels of ratings, and the data have 0"),
        (pairs(), "loss.pairs=davidson", "the data have none"),
        (pairs(), "loss.least_margin=2", "least_margin would have no effect"),
        (pairs(), "head.dimensions=[help]", "the data have no ratings"),
        (ratings(), "head.weights={helpful: 1.0}", "the ratings are of: help, safe"),
        (pairs(tie=True), "margin=1.0", "davidson knows no margin"),
    ],
)
def test_settings_that_the_labels_cannot_follow(rows: Rows, override: str, match: str, reward: Reward) -> None:
    with pytest.raises(ConfigError, match=match):
        reward(rows, override)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("head={width: 8}", "trunk is linear"),
        ("head={bound: tanh, output: ordinal}", "use output=point"),
        ("head={dimensions: [a], weights: {b: 1}}", "head.weights names b, head.dimensions a"),
        ("head={weights: {a: 0}}", "are all 0"),
    ],
)
def test_settings_that_cannot_go_together(override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load(RewardRecipe, None, ["model=tiny:llama", "data={path: x}", override])


def test_an_ensemble_rewards_in_rl_and_refuses_where_it_is_unsure(reward: Reward, tmp_path: Path) -> None:
    reward(pairs(), "head={members: 3}")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts()))
    final = tmp_path / "run" / "final"
    recipe = tmp_path / "rl.yaml"
    recipe.write_text(
        f"model: tiny:llama?seed=1&layers=1\ndata: {{path: {tmp_path / 'prompts.jsonl'}}}\nheld_out: 0\nsamples: 4\n"
        f"rewards: [{{type: model, name: judge, path: {final}, ensemble: {{aggregate: lower_bound, refuse_above: 1.0e-4}}}}]\n"
        "sampling: {max_tokens: 4}\nloop: {steps: 1, batch_size: 4, eval_at_start: false}\nmodel_options: {precision: fp32}\n"
    )
    with pytest.raises(DivergedError, match=r"members differ by more than 0\.0001"):
        run_verb("rl", recipe, [f"run_dir={tmp_path / 'refused'}"])
    careful = "rewards.0.ensemble={aggregate: lower_bound, refuse_above: 1.0e+4}"
    summary = run_verb("rl", recipe, [careful, f"run_dir={tmp_path / 'rl'}"])
    assert summary["not_rewarded"]["judge"]["refused"] == 0
    assert summary["not_rewarded"]["judge"]["scored"] >= 16
    assert summary["last"]["rewards/judge/epistemic/mean"] > 0


def test_each_head_s_own_zero_is_kept_with_the_scale_and_is_no_doubt(reward: Reward, tmp_path: Path) -> None:
    reward(pairs(), "head={members: 3}")
    final = tmp_path / "run" / "final"
    kept = json.loads((final / SCALE_FILE).read_text())
    assert sum(kept["members"]) / 3 == pytest.approx(kept["mean"], abs=1e-6)
    inference = LocalInference(loaded(tmp_path).model, BatchConfig())
    (offsets,) = head_offsets(str(final), inference, None)
    assert offsets == pytest.approx([m - kept["mean"] for m in kept["members"]], abs=1e-6)
    assert max(map(abs, offsets)) > 0
    (final / SCALE_FILE).write_text(json.dumps({"schema": 1, "mean": kept["mean"], "std": kept["std"]}))
    assert head_offsets(str(final), inference, None) == [()], "a model that was trained before"
    three = [torch.tensor([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]]), torch.tensor([[5.0, 6.0, 10.0]])]
    (measured,) = head_offsets(str(final), inference, lambda scorer: three)
    assert measured == pytest.approx([-2.0, -1.0, 3.0])


def test_a_teacher_s_preferences_are_learnt_in_place_of_the_labels(reward: Reward, tmp_path: Path) -> None:
    reward(pairs())
    teacher = tmp_path / "teacher"
    (tmp_path / "run").rename(teacher)
    turned = [{"prompt": p, "chosen": "bad", "rejected": "great", "tie": i % 2 == 0} for i, p in enumerate(prompts())]
    summary = reward(turned, f"teacher.paths=[{teacher / 'final'}]", "held_out=0")
    assert summary["loss"] == "bradley_terry"
    assert summary["last"]["accuracy"] == 1.0, "by the teacher's labels"
    final = load_model(str(tmp_path / "run" / "final"), ModelOptions(precision="fp32"), heads=frozenset({"score"}))
    renderer = Renderer(final.tokenizer)
    asked = Prompt("p", text="Question number 3?")
    units = [renderer.unit(Rating("r", asked, (Message("assistant", word),), {"x": 0.0})) for word in ("bad", "great")]
    bad, great = LocalInference(final.model, BatchConfig()).scores(units)
    assert great > bad


def test_a_refresh_replays_and_tells_what_was_forgotten(reward: Reward, tmp_path: Path) -> None:
    reward(pairs())
    first, earlier = tmp_path / "first", tmp_path / "earlier.jsonl"
    (tmp_path / "run").rename(first)
    (tmp_path / "data0.jsonl").rename(earlier)
    turned = [{"prompt": f"Another one, {i}?", "chosen": "bad", "rejected": "great"} for i in range(16)]
    start = (f"model={first / 'final'}", f"earlier={{data: {{path: {earlier}}}, replay: 0.0}}", "optim.lr=1e-2")
    found = reward(turned, *start)["forgetting"]
    assert found["replayed"] == 0
    assert (found["before"]["accuracy"], found["before"]["pairs"]) == (1.0, 3.0)
    assert found["lost"] == 1.0, "what it learns now is the contrary"
    (tmp_path / "run").rename(tmp_path / "second")
    kept = reward(turned, *start, "earlier.replay=0.5")
    assert kept["forgetting"]["replayed"] == 6
    assert kept["labels"]["pairs"] == 18
    assert kept["forgetting"]["after"]["loss"] < found["after"]["loss"]
