"""Elastic weight consolidation: by hand, by finite differences, by the model's own gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.learner.anchor import Anchor, anchored, fisher_diagonal
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.methods.objectives.supervised import SupervisedObjective
from keel.types import Branch, Encoded, Unit


def unit(name: str, prompt: list[int], answer: list[int]) -> Unit:
    return Unit(name, Encoded(torch.tensor(prompt)), (Branch(torch.tensor(answer), torch.ones(len(answer), dtype=torch.bool)),))


class Logistic:
    """p(1 | x) = 1 / (1 + exp(-w x)): the linear model whose Fisher information is known. x is the unit's prompt, y its answer."""

    temperature = 1.0
    batch = SimpleNamespace(microbatch_tokens=64)

    def __init__(self, w: float) -> None:
        self.w = torch.nn.Parameter(torch.tensor([w]))
        self.trained = [("w", self.w)]

    @contextlib.contextmanager
    def plain_passes(self, tokens: int) -> Iterator[None]:
        yield

    def forward_backward(self, units: Any, objective: Any) -> None:
        (u,) = units
        x, y = float(u.prompt.tokens_T[0]), float(u.branches[0].tokens_T[0])
        torch.nn.functional.binary_cross_entropy_with_logits(self.w * x, torch.tensor([y])).backward()

    def discard_gradients(self) -> None:
        self.w.grad = None


def test_the_fisher_information_of_a_linear_model_by_hand() -> None:
    """At w = 0 every p is 1/2: d log p / dw = (y - 1/2) x = +- x / 2, so F = (1 + 4 + 9) / 4 / 3 tokens."""
    learner: Any = Logistic(0.0)
    units = [unit("a", [1], [1]), unit("b", [2], [0]), unit("c", [3], [1])]
    assert fisher_diagonal(learner, units)["w"].tolist() == pytest.approx([14 / 12])
    assert learner.w.grad is None
    with pytest.raises(ValueError, match="no units"):
        fisher_diagonal(learner, [])


def test_the_optimum_of_a_quadratic_by_hand() -> None:
    """New loss (w - 3)^2 / 2 and the term 2 / 2 * 0.5 * (w - 1)^2: the gradient vanishes at w = (3 + 1) / 2 = 2."""
    w = torch.nn.Parameter(torch.tensor([2.0]))
    anchor = Anchor(2.0, {"w": torch.tensor([1.0])}, {"w": torch.tensor([0.5])})
    ((w - 3.0) ** 2 / 2).sum().backward()
    anchor.add_gradient([("w", w)])
    assert w.grad is not None
    assert w.grad.tolist() == [0.0]
    assert anchor.penalty([("w", w)]) == 0.5


def test_value_and_gradient_by_hand() -> None:
    theta = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    free = torch.nn.Parameter(torch.tensor([7.0]))
    anchor = Anchor(3.0, {"t": torch.zeros(2)}, {"t": torch.tensor([2.0, 0.5])})
    named = [("t", theta), ("free", free)]
    assert anchor.penalty(named) == 6.0  # 3 / 2 * (2 * 1 + 0.5 * 4)
    anchor.add_gradient(named)
    assert theta.grad is not None
    assert theta.grad.tolist() == [6.0, 3.0]
    assert free.grad is None


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_by_finite_differences(seed: int) -> None:
    torch.manual_seed(seed)
    theta = torch.nn.Parameter(torch.randn(3, 4))
    anchor = Anchor(0.7, {"t": torch.randn(3, 4)}, {"t": torch.rand(3, 4)})
    anchor.add_gradient([("t", theta)])
    assert theta.grad is not None
    for i, j in ((0, 0), (1, 3), (2, 2)):
        up, down = theta.detach().clone(), theta.detach().clone()
        up[i, j] += 0.01
        down[i, j] -= 0.01
        slope = (anchor.penalty([("t", up)]) - anchor.penalty([("t", down)])) / 0.02
        assert float(theta.grad[i, j]) == pytest.approx(slope, rel=1e-2, abs=1e-4)


def made(load: Callable[..., Any], **config: Any) -> LocalLearner:
    return LocalLearner(load("llama").model, OptimConfig(lr=1e-3, schedule="constant", warmup_ratio=0.0, **config), BatchConfig(), 10, 0)


def test_the_fisher_information_of_a_model_is_of_its_own_gradients(load: Callable[..., Any]) -> None:
    learner = made(load)
    units = [unit("a", [5, 6], [7, 8, 9]), unit("b", [3], [4, 4])]
    found = fisher_diagonal(learner, units)
    names, parameters = zip(*learner.trained, strict=True)
    expected = [torch.zeros_like(p) for p in parameters]
    for u in units:
        row = torch.cat([u.prompt.tokens_T, u.branches[0].tokens_T])[None]
        logps = learner.model.logits(learner.model.run_plain(row, torch.ones_like(row))[0]).log_softmax(-1)
        start = len(u.prompt.tokens_T) - 1
        logp = sum(logps[start + k, t] for k, t in enumerate(u.branches[0].tokens_T.tolist()))
        for total, g in zip(expected, torch.autograd.grad(logp, parameters, allow_unused=True), strict=True):  # type: ignore[call-overload]
            total += 0.0 if g is None else g**2
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], value / 5, rtol=1e-3, atol=1e-6)


def test_a_step_is_pulled_back_and_tells_by_how_much(load: Callable[..., Any]) -> None:
    learner, new = made(load), [unit("n", [1, 2], [3, 4])]
    learner.anchor = anchored(learner, [unit("old", [5, 6], [7, 8, 9])], 1e4)
    learner.forward_backward(new, SupervisedObjective())
    assert learner.step().metrics["ewc"] == 0.0  # nothing has moved yet
    free = made(load)
    for _ in range(3):
        learner.forward_backward(new, SupervisedObjective())
        told = learner.step().metrics
        free.forward_backward(new, SupervisedObjective())
        assert "ewc" not in free.step().metrics
    assert told["ewc"] > 0
    moved = [anchor_distance(x, learner.anchor) for x in (learner, free)]
    assert moved[0] < moved[1]


def anchor_distance(learner: LocalLearner, anchor: Anchor) -> float:
    return anchor.penalty(learner.trained)
