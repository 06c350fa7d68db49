"""User functions, reward models and what recipes say of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from keel.core.errors import UserError
from keel.rewards.build import build_rewards
from keel.rewards.composition.rewards import apply_rewards
from keel.rewards.offline import answered_group
from keel.rewards.sources.model import ModelReward, ModelSource, Standardiser, fit_standardiser, units_of
from keel.rewards.sources.python import PythonReward, load_function, python_reward
from keel.rewards.table import RewardConfig
from keel.types import Branch, Encoded, FinishReason, Prompt, Unit


def source(path: Path, body: str) -> str:
    path.write_text(body, encoding="utf-8")
    return f"{path}:fn"


# --- functions ---------------------------------------------------------------------------------------------------------------------


def test_a_function_sees_prompt_and_completion(tmp_path: Path, prompt: Callable) -> None:
    spec = source(tmp_path / "mine.py", "def fn(prompt, completion):\n    return len(completion) + 10 * len(prompt.last_user_text)\n")
    assert python_reward(spec)(prompt("ab"), "xyz") == 23.0


def test_an_exception_is_a_failure_not_a_zero(tmp_path: Path, prompt: Callable) -> None:
    judge = python_reward(source(tmp_path / "mine.py", "def fn(prompt, completion):\n    return 1 / len(completion)\n"))
    failed = judge(prompt(), "")
    assert math.isnan(failed)
    assert failed.error == "ZeroDivisionError: division by zero"
    assert judge(prompt(), "ab") == 0.5


def test_a_function_may_say_why(tmp_path: Path, prompt: Callable) -> None:
    judge = python_reward(source(tmp_path / "mine.py", "def fn(prompt, completion):\n    return 0.5, 'half of it'\n"))
    assert (judge(prompt(), "x"), judge(prompt(), "x").reason) == (0.5, "half of it")


@pytest.mark.parametrize(("value", "kind"), [("None", "NoneType"), ("'1'", "str"), ("[1]", "list")])
def test_a_result_that_is_no_number_is_refused(tmp_path: Path, value: str, kind: str, prompt: Callable) -> None:
    judge = python_reward(source(tmp_path / "mine.py", f"def fn(prompt, completion):\n    return {value}\n"))
    with pytest.raises(UserError, match=rf"mine\.py:fn returned {kind} for prompt p"):
        judge(prompt(), "x")


def test_numbers_of_all_kinds_are_numbers(tmp_path: Path, prompt: Callable) -> None:
    body = "import numpy as np\ndef fn(prompt, completion):\n    return {'b': True, 'i': 2, 'n': np.float32(0.5)}[completion]\n"
    judge = python_reward(source(tmp_path / "mine.py", body))
    assert [judge(prompt(), c) for c in "bin"] == [1.0, 2.0, 0.5]


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_function(f"{tmp_path}/none.py:fn")
    with pytest.raises(UserError, match=r"has no function 'fn'[\s\S]*did you mean 'fun'"):
        load_function(source(tmp_path / "a.py", "def fun(prompt, completion):\n    return 0\n"))
    with pytest.raises(UserError, match="cannot be run: ModuleNotFoundError"):
        load_function(source(tmp_path / "b.py", "import no_such_module_at_all\n"))


# --- reward models -----------------------------------------------------------------------------------------------------------------


def tokens(*ids: int) -> Branch:
    return Branch(torch.tensor(ids), torch.ones(len(ids), dtype=torch.bool))


def sum_of_tokens(units: Sequence[Unit]) -> list[Tensor]:
    """A stand-in reward model: the sum of prompt and answer tokens."""
    return [torch.tensor([float(u.prompt.tokens_T.sum() + b.tokens_T.sum()) for b in u.branches]) for u in units]


def no_end(prompt: Prompt, tokens_T: Tensor) -> Tensor:
    return tokens_T


def answered(prompt_id: str, *branches: Branch) -> object:
    return answered_group(Prompt(prompt_id), Encoded(torch.tensor([100])), branches, ["x"] * len(branches))


def test_the_model_scores_sampled_tokens_after_the_prompt() -> None:
    groups = [answered("p", tokens(1, 2), tokens(3)), answered("q", tokens(4))]
    plain, scaled = ModelSource("rm", sum_of_tokens, no_end), ModelSource("rm", sum_of_tokens, no_end, Standardiser(mean=103.0, std=2.0))
    assert [s.tolist() for s in plain.score(groups)] == [[103.0, 103.0], [104.0]]
    assert [s.tolist() for s in scaled.score(groups)] == [[0.0, 0.0], [0.5]]


def test_an_answer_cut_off_at_the_limit_is_scored_where_a_finished_one_would_be() -> None:
    group = answered("p", tokens(1, 2), tokens(3, 4))
    cut = replace(group, rollouts=(group.rollouts[0], replace(group.rollouts[1], finish_reason="length")))
    unit, used = units_of(cut, lambda prompt, tokens_T: torch.tensor([*tokens_T.tolist(), 7, 8]) if tokens_T[-1] == 4 else tokens_T)
    assert unit is not None
    assert used == [0, 1]
    assert [b.tokens_T.tolist() for b in unit.branches] == [[1, 2], [3, 4, 7, 8]]
    assert unit.branches[1].trained_T.tolist() == [True, True, False, False]


def test_finished_tells_an_end_from_a_cut() -> None:
    group = answered("p", tokens(1), tokens(2), tokens(3))
    reasons: tuple[FinishReason, ...] = ("stop", "length", "error")
    group = replace(group, rollouts=tuple(replace(r, finish_reason=reason) for r, reason in zip(group.rollouts, reasons, strict=True)))
    (reward,) = build_rewards([TypeAdapter(RewardConfig).validate_python({"type": "finished", "name": "ended", "weight": 0.5})], no_model)
    (found_G,) = reward.source.score([group])
    assert found_G.tolist()[:2] == [1.0, 0.0]
    assert found_G[2].isnan()
    (summed,) = apply_rewards([group], [reward])
    assert summed.rewards_G.tolist() == [0.5, 0.0, 0.0]
    assert summed.valid_G.tolist() == [True, True, False]


def no_model(config: ModelReward) -> ModelSource:
    raise AssertionError(config)


def test_failed_rollouts_are_not_scored_and_keep_their_place() -> None:
    # an empty rollout has no last token to score
    groups = [answered("p", tokens(1), tokens(), tokens(3)), answered("q", tokens())]
    assert units_of(groups[1], no_end) == (None, [])
    first, second = ModelSource("rm", sum_of_tokens, no_end).score(groups)
    assert first.tolist()[::2] == [101.0, 103.0]
    assert first[1].isnan()
    assert second.isnan().all()


def test_scores_that_are_not_finite_failed() -> None:
    (found,) = ModelSource("rm", lambda units: [torch.tensor([float("inf"), 1.0])], no_end).score([answered("p", tokens(1), tokens(2))])
    assert found.isnan().tolist() == [True, False]


def test_constants_are_fitted_once_by_hand() -> None:
    fitted = fit_standardiser([torch.tensor([1.0, 3.0]), torch.tensor([float("nan"), 5.0, 7.0])])
    assert fitted.mean == pytest.approx(4.0)
    assert fitted.std == pytest.approx(math.sqrt(5.0))
    assert fitted(torch.tensor([4.0, 4.0 + math.sqrt(5.0)])).tolist() == pytest.approx([0.0, 1.0])
    assert fit_standardiser([torch.tensor([1.0, 3.0])], mean=0.5) == Standardiser(0.5, 1.0)
    assert fit_standardiser([], mean=1.0, std=2.0) == Standardiser(1.0, 2.0)


@pytest.mark.parametrize("scores", [[2.0, 2.0], [float("nan")], []])
def test_a_model_that_cannot_tell_answers_apart_is_refused(scores: list[float]) -> None:
    with pytest.raises(UserError, match="do not differ"):
        fit_standardiser([torch.tensor(scores)])


# --- recipes -----------------------------------------------------------------------------------------------------------------------

CONFIGS = TypeAdapter(list[RewardConfig])


def test_a_list_of_sources_is_built_and_scores(tmp_path: Path, group: Callable) -> None:
    spec = source(tmp_path / "mine.py", "def fn(prompt, completion):\n    return 3\n")
    configs = CONFIGS.validate_python(
        [
            {"type": "model", "name": "rm", "path": "runs/rm/final", "weight": 2.0},
            {"type": "rules", "name": "shape", "rules": {"format": {"checks": {"finished": 1}}}},
            {"type": "python", "name": "mine", "function": spec, "weight": 0.5},
            {"type": "contains", "name": "words", "words": ["yes"]},
            {"type": "regex", "name": "upper", "pattern": "[A-Z]"},
            {"type": "exact", "name": "right"},
            {"type": "numeric", "name": "number"},
        ]
    )
    seen: list[ModelReward] = []

    def load_model(config: ModelReward) -> ModelSource:
        seen.append(config)
        return ModelSource(config.name, sum_of_tokens, no_end)

    rewards = build_rewards(configs, load_model)
    assert [(r.name, r.weight) for r in rewards] == [
        ("rm", 2.0), ("shape", 1.0), ("mine", 0.5), ("words", 1.0), ("upper", 1.0), ("right", 1.0), ("number", 1.0),
    ]  # fmt: skip
    assert [c.path for c in seen] == ["runs/rm/final"]
    scores = {r.name: r.source.score([group("Yes.", "no")])[0].tolist() for r in rewards[1:5]}
    assert scores == {"shape": [1.0, 0.0], "mine": [3.0, 3.0], "words": [1.0, 0.0], "upper": [1.0, 0.0]}
    assert all(r.source.score([group("x")])[0].isnan().all() for r in rewards[5:])  # no right answer to check against


def test_names_in_a_recipe_stand_once(tmp_path: Path) -> None:
    configs = CONFIGS.validate_python([{"type": "contains", "name": "a", "words": ["x"]}] * 2)
    with pytest.raises(UserError, match="several rewards are named 'a'"):
        build_rewards(configs, lambda _: pytest.fail("no model here"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"type": "rules", "name": "a"}, "not neither"),
        ({"type": "rules", "name": "a", "path": "x.yaml", "rules": {"format": {"checks": {"list": 1}}}}, "not both"),
        ({"type": "python", "name": "a", "function": "mine.fn"}, "function"),
        ({"type": "rulez", "name": "a"}, "rulez"),
        ({"type": "contains", "name": "a b", "words": ["x"]}, "name"),
        ({"type": "model", "name": "a", "path": "x", "std": 0.0}, "std"),
    ],
)
def test_impossible_settings_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CONFIGS.validate_python([bad])


def test_a_function_is_named_as_file_and_function() -> None:
    assert PythonReward(name="a", function="folder/mine.py:fn").function.endswith("fn")
