"""Losses of a user's own file: found, checked, refused by their own rows, and pinned with the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from keel.core.errors import UserError
from keel.methods import AlgorithmConfig, resolve
from keel.methods.math.policy import POLICY_LOSSES, PolicyTokens, ppo_clip
from keel.methods.math.preference import dpo
from keel.methods.preference import ObjectiveConfig, preference_objective

TOKENS = PolicyTokens(torch.tensor([-1.0, -0.5]), torch.tensor([-1.1, -1.0]), torch.tensor([1.0, -2.0]), torch.tensor([0, 1]), 2, 0.2, 0.3)
HEAD = "import torch\nfrom keel.methods.math.policy import PolicyLoss, PolicyTerms, ppo_clip\n\n"


@pytest.fixture
def write(tmp_path: Path):
    def make(body: str, name: str = "fn") -> str:
        path = tmp_path / "mine.py"
        path.write_text(HEAD + body)
        return f"{path}:{name}"

    return make


def row_of(spec: str):
    return resolve(AlgorithmConfig(name="grpo", objective=spec)).policy_loss


def test_a_function_and_a_row_give_what_the_table_gives(write):
    body = "def fn(tokens):\n    return ppo_clip(tokens)\n\nROW = PolicyLoss('x', ppo_clip, explodes=True, local=True)\n"
    for name in ("fn", "ROW"):
        found = row_of(write(body, name))
        assert all(map(torch.equal, found.terms(TOKENS), ppo_clip(TOKENS)))
        assert found.name == write(body, name)
    bare, row = row_of(write(body)), row_of(write(body, "ROW"))
    assert (bare.clips, bare.ratio, bare.explodes, bare.local, bare.by_sequence) == (True, True, False, False, False)
    assert (row.explodes, row.local) == (True, True)
    assert not resolve(AlgorithmConfig(objective=write(body))).policy_objective().token_local  # it might look at whole sequences
    assert resolve(AlgorithmConfig(objective=write(body, "ROW"))).policy_objective().token_local


def test_a_tensor_alone_holds_nothing_back(write):
    terms = row_of(write("def fn(tokens):\n    return -tokens.advantages_S * tokens.logprobs_S\n")).terms(TOKENS)
    assert terms.loss_S.tolist() == [1.0, -1.0]
    assert not (terms.low_S | terms.high_S).any()


def test_a_file_with_a_dataclass_can_be_run(write):
    body = "from dataclasses import dataclass\n\n@dataclass\nclass Own:\n    scale: float = 2.0\n\n    def __call__(self, tokens):\n"
    body = (
        "from __future__ import annotations\n"
        + HEAD
        + body
        + "        return -self.scale * tokens.advantages_S * tokens.logprobs_S\n\nfn = Own()\n"
    )
    spec = write("")
    Path(spec.rpartition(":")[0]).write_text(body)
    assert row_of(spec).terms(TOKENS).loss_S.tolist() == [2.0, -2.0]


def test_its_row_decides_what_is_refused(write):
    spec = write("ROW = PolicyLoss('x', ppo_clip, clips=False, ratio=False, by_sequence=True)\n", "ROW")
    for fields, reason in (
        ({"clip": {"low": 0.1}}, "does not clip"),
        ({"epochs": 2}, "moved on since it sampled"),
        ({"reduce": "per_token"}, "one loss a sequence"),
    ):
        with pytest.raises(ValidationError, match=reason):
            AlgorithmConfig(name="grpo", objective=spec, **fields)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def other(tokens):\n    return tokens\n", "has no function 'fn'"),
        ("fn = 3\n", "has no function 'fn'"),
        ("import no_such_module_at_all\n", "cannot be run: ModuleNotFoundError"),
        ("def fn(new, old, advantages):\n    return new\n", "cannot be called as it will be: missing a required argument: 'old'"),
        ("ROW = fn = PolicyLoss('x', lambda: 1)\n", "cannot be called as it will be: too many positional arguments"),
    ],
)
def test_a_file_that_does_not_have_it_is_told_when_the_recipe_is_read(write, body, message):
    with pytest.raises(ValidationError, match=message):
        AlgorithmConfig(objective=write(body))


def test_no_file_and_no_name(tmp_path):
    with pytest.raises(ValidationError, match="no such file"):
        AlgorithmConfig(objective=f"{tmp_path}/none.py:fn")
    with pytest.raises(ValidationError, match=r"'ppo' is none of: ppo_clip, .*; nor is it FILE\.py:NAME"):
        AlgorithmConfig(objective="ppo")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("1.0", "returned float"),
        ("None", "returned NoneType"),
        ("(tokens.logprobs_S, tokens.logprobs_S > 0)", "returned tuple"),
        ("tokens.logprobs_S.sum()", r"returned a tensor \(\) of torch.float32 for \(2,\) numbers"),
        ("tokens.logprobs_S[:1]", r"returned a tensor \(1,\) of torch.float32"),
        ("tokens.logprobs_S[None]", r"returned a tensor \(1, 2\)"),
        ("tokens.logprobs_S > 0", "of torch.bool"),
        ("PolicyTerms(tokens.logprobs_S, tokens.logprobs_S, tokens.logprobs_S > 0)", r"low_S is a tensor \(2,\) of torch.float32"),
        ("PolicyTerms(tokens.logprobs_S, tokens.logprobs_S > 0, None)", "high_S is NoneType"),
        ("tokens.logprobs_S.detach()", "without a gradient"),
        ("tokens.no_such_thing", "failed: AttributeError"),
    ],
)
def test_a_result_that_is_no_loss_is_told(write, result, message):
    row = row_of(write(f"def fn(tokens):\n    return {result}\n"))
    with pytest.raises(UserError, match=message):
        row.terms(PolicyTokens(TOKENS.logprobs_S.clone().requires_grad_(), *(getattr(TOKENS, n) for n in TOKENS.__slots__[1:])))


def test_without_gradients_a_constant_will_do(write):
    row = row_of(write("def fn(tokens):\n    return tokens.logprobs_S.detach()\n"))
    with torch.no_grad():
        assert row.terms(PolicyTokens(TOKENS.logprobs_S, *(getattr(TOKENS, n) for n in TOKENS.__slots__[1:]))).loss_S.tolist() == [
            -1.0,
            -0.5,
        ]


PAIR = "def fn(winner_E, loser_E, label_E, margin_E, beta):\n    return "
NUMBERS = torch.tensor([1.0, -0.5]), torch.tensor([0.2, 0.4]), torch.tensor([1.0, 0.7]), torch.tensor([0.0, 0.1]), 0.3


def test_a_preference_loss_of_ones_own_is_called_as_dpo_is(write):
    body = "from keel.methods.math.preference import dpo\n" + PAIR + "dpo(winner_E, loser_E, label_E, margin_E, beta)\n"
    objective = preference_objective(ObjectiveConfig(name=write(body), beta=0.3, label_smoothing=0.1))
    assert (objective.beta, objective.needs_reference) == (0.3, True)
    assert torch.equal(objective.pair_loss(*NUMBERS), dpo(*NUMBERS))
    assert preference_objective(ObjectiveConfig(name=write(body), sft_coef=0.5)).needs_reference


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def other(a):\n    return a\n", "preference loss .* has no function 'fn'"),
        ("def fn(winner_E, loser_E):\n    return winner_E\n", "cannot be called as it will be: too many positional arguments"),
    ],
)
def test_a_preference_loss_that_is_not_there(write, body, message):
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig(name=write(body))
    with pytest.raises(ValidationError, match=r"'dop' is none of: dpo, .*; nor is it FILE\.py:NAME"):
        ObjectiveConfig(name="dop")
    with pytest.raises(ValidationError, match="gamma would have no effect"):
        ObjectiveConfig(name=write(PAIR + "winner_E\n"), gamma=0.5)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("1.0", "returned float"),
        ("winner_E.mean()", r"returned a tensor \(\)"),
        ("winner_E.detach()", "without a gradient"),
        ("x", "NameError"),
    ],
)
def test_a_preference_loss_whose_result_is_none_is_told(write, result, message):
    objective = preference_objective(ObjectiveConfig(name=write(PAIR + result + "\n")))
    with pytest.raises(UserError, match=message):
        objective.pair_loss(NUMBERS[0].clone().requires_grad_(), *NUMBERS[1:])


def test_the_table_stays_as_it_was(write):
    before = dict(POLICY_LOSSES)
    row_of(write("def fn(tokens):\n    return ppo_clip(tokens)\n"))
    assert before == POLICY_LOSSES
