"""The load-balancing loss of mixtures of experts: by hand, against transformers, and through the learner."""

from __future__ import annotations

import pytest
import torch

from keel.core.errors import ModelError
from keel.kernels.routing import balance_loss
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.learner.packing import pack
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.types import Branch, Encoded, Unit

MOE = "tiny:qwen3_moe?seed=1"


def options(**more: object) -> ModelOptions:
    return ModelOptions.model_validate({"precision": "fp32", "device": "cpu", **more})


def unit(name: str, prompt: int, *answers: int) -> Unit:
    tokens_T = torch.randint(5, 200, (prompt + sum(answers),), generator=torch.Generator().manual_seed(prompt))
    parts = tokens_T[prompt:].split(list(answers))
    return Unit(name, Encoded(tokens_T[:prompt]), tuple(Branch(part_T, torch.ones_like(part_T, dtype=torch.bool)) for part_T in parts))


UNITS = [unit("a", 5, 7), unit("b", 3, 4, 6), unit("c", 8, 2)]


def test_balance_by_hand() -> None:
    """Two tokens, two experts, one choice. Token 0 gives 3/4 to expert 0, token 1 gives 2/3: both choose it, so its share is 1 and its mean
    probability 17/24: the loss is 2 * 17/24. Where the second layer's tokens choose expert 1 alike, shares are even and the loss is 1."""
    one_NE = torch.tensor([[3.0, 1.0], [2.0, 1.0]]).log()
    assert balance_loss([one_NE], 1).item() == pytest.approx(17 / 12)
    assert balance_loss([one_NE, one_NE.flip(1)], 1).item() == pytest.approx(1.0)
    assert balance_loss([one_NE], 2).item() == pytest.approx(2.0), "all experts see every token"


@pytest.mark.parametrize("fast", ["auto", "off"])
def test_balance_is_that_of_transformers(fast: str) -> None:
    model = load_model(MOE, options(fast_path=fast)).model
    assert model.packed == (fast == "auto")
    whole = torch.cat([UNITS[0].prompt.tokens_T, UNITS[0].branches[0].tokens_T])[None]
    with torch.no_grad(), model.own_attention() as module:
        theirs = module(input_ids=whole, output_router_logits=True, use_cache=False).aux_loss
    hidden_NH, ours = model.hidden_and_balance(pack(UNITS[:1]))
    assert ours is not None
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(hidden_NH, model.hidden(pack(UNITS[:1])))


def learner(coefficient: float, tokens: int = 4096) -> LocalLearner:
    model = load_model(MOE, options(router_aux_loss=coefficient)).model
    return LocalLearner(model, OptimConfig(lr=3e-3), BatchConfig(microbatch_tokens=tokens), 20, 0)


def test_it_is_reported_and_only_counts_when_asked_for() -> None:
    plain, balanced = learner(0.0), learner(0.5)
    losses = [x.forward_backward(UNITS, SupervisedObjective()).metrics for x in (plain, balanced)]
    assert losses[0]["aux_loss"] == losses[1]["aux_loss"] > 0
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"] + 0.5 * losses[0]["aux_loss"])
    split = learner(0.0, tokens=1).forward_backward(UNITS, SupervisedObjective()).metrics
    assert split["loss"] == pytest.approx(losses[0]["loss"], rel=1e-5), "the objective's own loss is exact however it is cut"
    alone = [learner(0.0).forward_backward([u], SupervisedObjective()).metrics["aux_loss"] for u in (UNITS[0], UNITS[2])]
    two = learner(0.0, tokens=1).forward_backward([UNITS[0], UNITS[2]], SupervisedObjective()).metrics["aux_loss"]
    assert two == pytest.approx((7 * alone[0] + 2 * alone[1]) / 9, rel=1e-5), "weighted by the answers' tokens"


def test_balancing_balances() -> None:
    """Untrained routers are even (2.0 for two of four experts); training alone makes favourites, the loss keeps them away."""
    last = []
    for coefficient in (0.0, 10.0):
        run = learner(coefficient)
        for _ in range(12):
            seen = run.forward_backward(UNITS, SupervisedObjective()).metrics["aux_loss"]
            run.step()
        last.append(seen)
    assert last[0] > 2.04
    assert last[1] < 2.02


def test_a_dense_model_has_nothing_to_balance() -> None:
    model = load_model("tiny:llama?seed=1", options()).model
    assert model.hidden_and_balance(pack(UNITS))[1] is None
    assert "aux_loss" not in LocalLearner(model, OptimConfig(), BatchConfig(), 1, 0).forward_backward(UNITS, SupervisedObjective()).metrics
    with pytest.raises(ModelError, match="shows no routers"):
        load_model("tiny:llama?seed=1", options(router_aux_loss=0.1))
