"""mDPO's terms on hand-made numbers: a unit with a contrast, one of several pairs, one without."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.learner.packing import pack, plan_microbatches, with_contrasts
from keel.methods.objectives.contrast import AnchorObjective, ConditionalObjective, contrasts
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.types import Branch, Edge, Encoded, LossOutput, Objective, Outputs, PairTarget, Unit

PROMPT = Encoded(torch.tensor([1, 2]))


def branch(*policy: float, reference: float = 0.0) -> Branch:
    """Log-probabilities of its tokens under the policy; under the reference each is ``reference``."""
    n = len(policy)
    signals = {"policy": torch.tensor(policy), "ref_logprobs": torch.full((n,), reference)}
    return Branch(torch.arange(n) + 5, torch.ones(n, dtype=torch.bool), signals)


def unit(name: str, branches: tuple[Branch, ...], edges: tuple[Edge, ...], behind: tuple[Branch, ...] = ()) -> Unit:
    other = Unit(f"{name}~contrast", PROMPT, behind, PairTarget(())) if behind else None
    return Unit(name, PROMPT, branches, PairTarget(edges), contrast=other)


# log-ratios: chosen -1 + 3 = 2, rejected -4 + 1 = -3, chosen behind the contrast -3.5 + 3 = -0.5
ONE = unit("one", (branch(-0.5, -0.5, reference=-1.5), branch(-4.0, reference=-1.0)), (Edge(0, 1),), (branch(-1.5, -2.0, reference=-1.5),))
# three answers, 2 over 0 and 1 over 0: log-ratios 0, 1, 4; behind the contrast 3 (branch 1) and 2 (branch 2)
THREE = unit(
    "three",
    (branch(-1.0, reference=-1.0), branch(-1.0, reference=-2.0), branch(-1.0, reference=-5.0)),
    (Edge(2, 0, weight=2.0), Edge(1, 0)),
    (branch(-2.0, reference=-5.0), branch(-3.0, reference=-5.0)),
)
TEXT = unit("text", (branch(-1.0, reference=-2.0), branch(-3.0, reference=-2.0)), (Edge(0, 1),))
UNITS = [ONE, TEXT, THREE]
BETA = 0.5


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def run(objective: Objective, units: list[Unit], tokens: int = 1000) -> tuple[float, dict[str, float]]:
    """Loss and metrics over micro-batches of at most so many tokens."""
    counts, loss, sums = objective.counts(units), 0.0, dict[str, list[float]]()
    for part in plan_microbatches(units, tokens, objective.couples_branches):
        batch = pack(with_contrasts(part))
        output: LossOutput = objective.loss(batch, Outputs(batch.signals["policy"]), counts)
        loss += float(output.loss)
        for name, (total, n) in output.metrics.items():
            before = sums.setdefault(name, [0.0, 0.0])
            before[0], before[1] = before[0] + total, before[1] + n
    return loss, {name: total / n for name, (total, n) in sums.items() if n}


# -log sigma(x) is softplus(-x)
CONDITIONAL = (softplus(-BETA * (2 + 0.5)) + 2 * softplus(-BETA * (4 - 2)) + softplus(-BETA * (1 - 3))) / 4
ANCHOR = (softplus(-BETA * 2) + softplus(-BETA * 1) + 2 * softplus(-BETA * 4) + softplus(-BETA * 1)) / 5
PAIRS = (softplus(-BETA * (2 + 3)) + softplus(-BETA * (1 + 1)) + 2 * softplus(-BETA * 4) + softplus(-BETA * 1)) / 5


@pytest.mark.parametrize("tokens", [1, 12, 1000])
def test_values_by_hand(tokens: int) -> None:
    loss, metrics = run(ConditionalObjective(BETA), UNITS, tokens)
    assert loss == pytest.approx(CONDITIONAL, rel=1e-6)
    assert metrics["contrast/rewards"] == pytest.approx(BETA * (-0.5 + 2 + 3) / 3)
    assert metrics["contrast/margins"] == pytest.approx(BETA * (2.5 + 2 - 2) / 3)
    assert metrics["contrast/accuracies"] == pytest.approx(2 / 3)
    assert metrics["rewards/margins"] == pytest.approx(BETA * (5 + 2 + 4 + 1) / 4)
    assert run(AnchorObjective(BETA), UNITS, tokens)[0] == pytest.approx(ANCHOR, rel=1e-6)
    with_delta = AnchorObjective(BETA, gamma=0.25)
    assert run(with_delta, [ONE], tokens)[0] == pytest.approx(softplus(-(BETA * 2 - 0.25)), rel=1e-6)
    whole = preference_objective(ObjectiveConfig(name="mdpo", beta=BETA))
    loss, metrics = run(whole, UNITS, tokens)
    assert loss == pytest.approx(PAIRS + CONDITIONAL + ANCHOR, rel=1e-6)
    assert [metrics[f"loss/{name}"] for name in ("dpo", "conditional", "anchor")] == pytest.approx([PAIRS, CONDITIONAL, ANCHOR])


def test_weights_of_a_mixture() -> None:
    mixed = preference_objective(ObjectiveConfig(name="mdpo", beta=BETA, mixture={"dpo": 1.0, "conditional": 0.5, "bco": 0.0}))
    assert run(mixed, UNITS)[0] == pytest.approx(PAIRS + 0.5 * CONDITIONAL, rel=1e-6)


@pytest.mark.parametrize("name", ["dpo", "ipo", "bco", "aot", "exo"])
def test_other_losses_do_not_see_a_contrast(name: str) -> None:
    objective = preference_objective(ObjectiveConfig(name=name, beta=BETA))
    plain = [replace(u, contrast=None) for u in UNITS]
    assert run(objective, UNITS)[0] == pytest.approx(run(objective, plain)[0], rel=1e-6)


def test_the_gradient_is_the_derivative_by_hand() -> None:
    """d/dr of -log sigma(beta (r - r')) is -beta sigma(-beta (r - r')), and the other sign for r'; tokens of an answer share it."""
    batch = pack(with_contrasts([ONE]))
    leaf = batch.signals["policy"].clone().requires_grad_()
    ConditionalObjective(BETA).loss(batch, Outputs(leaf), {"contrasts": 1.0}).loss.backward()
    assert isinstance(leaf.grad, Tensor)
    g = BETA / (1 + math.exp(BETA * 2.5))
    torch.testing.assert_close(leaf.grad, torch.tensor([-g, -g, 0.0, g, g]))


def test_a_batch_without_contrasts_adds_nothing() -> None:
    objective = ConditionalObjective(BETA)
    assert objective.counts([TEXT]) == {"contrasts": 0.0}
    assert run(objective, [TEXT])[0] == 0.0
    whole = preference_objective(ObjectiveConfig(name="mdpo", beta=BETA))
    assert run(whole, [TEXT])[0] == pytest.approx(softplus(-BETA * 2) + softplus(-BETA * 1), rel=1e-6)


def test_ties_have_no_preferred_answer() -> None:
    tie = unit("tie", ONE.branches, (Edge(0, 1, label=0.5),))
    for name in ("mdpo", "anchor"):
        with pytest.raises(DataError, match="neither answer is the preferred one"):
            preference_objective(ObjectiveConfig(name=name)).counts([tie])


def test_where_contrasts_stand_and_what_they_cost() -> None:
    found = contrasts(pack(with_contrasts(UNITS)).units, torch.device("cpu"))
    # branches: one 0 1, its contrast 2, text 3 4, three 5 6 7, its contrast 8 (answer 1) 9 (answer 2)
    assert (found.own_C.tolist(), found.other_C.tolist(), found.weight_C.tolist()) == ([0, 7, 6], [2, 9, 8], [1.0, 2.0, 1.0])
    assert [u.n_tokens for u in UNITS] == [2 + 3 + 2 + 2, 4, 2 + 3 + 2 + 2]
    assert THREE.target is not None
    assert isinstance(THREE.target, PairTarget)
    assert THREE.target.winners == (1, 2)
