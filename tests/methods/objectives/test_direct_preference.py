"""Every direct preference loss on packed batches against formulas written out for each pair in float64: values, gradients, and the same
however the batch is cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.core.errors import DataError
from keel.learner.packing import pack
from keel.methods.objectives.common import measured
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.types import Branch, Edge, Encoded, Outputs, PairTarget, Unit, UnpairedTarget

EDGES = ((Edge(0, 1, 0.75, 0.25, 2.0), Edge(1, 0, 1.0, 0.5, 0.5)), (Edge(2, 0, 0.875),), (Edge(0, 1, weight=1.5),))  # exact in float32
SHAPES = (((1, 1, 1), (1,)), ((1, 1), (1, 1, 0, 1), (0, 1, 1)), ((1, 0, 1, 1), (1, 1)))


def draw(n: int, seed: int) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def branch(trained: tuple[int, ...], seed: int) -> Branch:
    mask_T = torch.tensor(trained, dtype=torch.bool)
    reference_T, policy_T, divergence_T = (-draw(len(trained), 10 * seed + k).abs() - 0.05 for k in range(3))
    return Branch(torch.arange(len(trained)), mask_T, {"ref_logprobs": reference_T, "policy": policy_T, "kl": -divergence_T})


def units(labels: str = "pairs") -> list[Unit]:
    """Three units of ragged answers with soft labels, margins, weights and untrained tokens; or six labelled answers."""
    made = []
    for u, (shapes, edges) in enumerate(zip(SHAPES, EDGES, strict=True)):
        branches = tuple(branch(shape, 10 * u + k) for k, shape in enumerate(shapes))
        stranger = Unit(f"s{u}", Encoded(torch.tensor([1])), (branch((1, 1), 100 + u), branch((1, 0, 1), 200 + u)))
        flags = UnpairedTarget(tuple((u + k) % 2 == 0 for k in range(len(shapes))), tuple(0.5 + u + k for k in range(len(shapes))))
        target = PairTarget(edges) if labels == "pairs" else flags
        made.append(Unit(f"u{u}", Encoded(torch.tensor([1, 2])), branches, target, {"stranger": stranger}))
    return made


def policy_logprobs(of: list[Unit]) -> list[tuple[Tensor, ...]]:
    return [tuple(b.signals["policy"] for b in u.branches) for u in of]


# ------------------------------------------------------------------------------------------------------- what is expected, pair by pair


def sums(of: list[Unit], name: str) -> list[list[Tensor]]:
    return [[b.signals[name][b.trained_T].sum() for b in u.branches] for u in of]


class Pairs:
    """Numbers of every preference in plain lists, for formulas written out."""

    def __init__(self, of: list[Unit]) -> None:
        logp, ref, kl = (sums(of, name) for name in ("policy", "ref_logprobs", "kl"))
        size = [[int(b.trained_T.sum()) for b in u.branches] for u in of]
        self.rows = [
            {"w": (logp[u][e.winner], ref[u][e.winner], kl[u][e.winner], size[u][e.winner]), "e": e}
            | {"l": (logp[u][e.loser], ref[u][e.loser], kl[u][e.loser], size[u][e.loser])}
            for u, unit in enumerate(of)
            for e in unit.target.edges
        ]

    def mean(self, cost: Callable, smoothing: float = 0.0) -> Tensor:
        """Weighted mean over pairs of the expected cost(first, second, edge) over which answer is the better one."""
        total, weight = torch.zeros((), dtype=torch.float64), 0.0
        for row in self.rows:
            p = row["e"].label * (1 - smoothing) + (1 - row["e"].label) * smoothing
            total = total + row["e"].weight * (p * cost(row["w"], row["l"], row["e"]) + (1 - p) * cost(row["l"], row["w"], row["e"]))
            weight += row["e"].weight
        return total / weight


def ratio(side) -> Tensor:
    return side[0] - side[1]


def mean_ratio(side) -> Tensor:
    return (side[0] - side[1]) / side[3]


def mean_logp(side) -> Tensor:
    return side[0] / side[3]


def nll(of: list[Unit]) -> Tensor:
    return Pairs(of).mean(lambda a, b, e: -mean_logp(a))


def log_odds(side) -> Tensor:
    p = torch.exp(mean_logp(side))
    return torch.log(p / (1 - p))


def exo_by_hand(of: list[Unit], smoothing: float) -> Tensor:
    pairs, total, weight = Pairs(of), torch.zeros((), dtype=torch.float64), 0.0
    for row in pairs.rows:
        q = torch.sigmoid(0.1 * (ratio(row["w"]) - ratio(row["l"])))
        y = row["e"].label * (1 - smoothing) + (1 - row["e"].label) * smoothing
        total, weight = total + row["e"].weight * (q * torch.log(q / y) + (1 - q) * torch.log((1 - q) / (1 - y))), weight + row["e"].weight
    return total / weight


def answers_by_hand(of: list[Unit], cost: Callable[[Tensor, bool], Tensor], halves: float) -> Tensor:
    return halves * Pairs(of).mean(lambda a, b, e: cost(ratio(a), True) + cost(ratio(b), False))


def point_of(of: list[Unit]) -> float:
    policy, reference = (sums([u.meta["stranger"] for u in of], name) for name in ("policy", "ref_logprobs"))
    gaps = [p - r for x, y in zip(policy, reference, strict=True) for p, r in zip(x, y, strict=True)]
    return max(0.0, float(sum(gaps) / len(gaps)))


def shift_of(of: list[Unit]) -> float:
    up = down = many = few = 0.0
    for row in Pairs(of).rows:
        y = row["e"].label
        up, many = up + y * float(ratio(row["w"])) + (1 - y) * float(ratio(row["l"])), many + 1
        down, few = down + (1 - y) * float(ratio(row["w"])) + y * float(ratio(row["l"])), few + 1
    return (up / many + down / few) / 2


def aot_by_hand(of: list[Unit]) -> Tensor:
    rows = Pairs(of).rows
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["w"][0] - rows[i]["l"][0]).item())
    references = sorted(float(row["w"][1] - row["l"][1]) for row in rows)
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for rank, i in enumerate(order):
        e, z = rows[i]["e"], 0.1 * (rows[i]["w"][0] - rows[i]["l"][0] - references[rank])
        total, weight = total - e.weight * (e.label * logsigmoid(z) + (1 - e.label) * logsigmoid(-z)), weight + e.weight
    return total / weight


def sigmoid_loss(score, beta: float = 0.1, margin: Callable = lambda e: 0.0) -> Callable:
    return lambda a, b, e: -logsigmoid(beta * (score(a) - score(b)) - margin(e))


def penalised(a, b, e) -> Tensor:
    return -logsigmoid(0.3 * (ratio(a) - ratio(b) - 50.0 * torch.clamp(-ratio(a), min=0.0)))


def token_level(a, b, e) -> Tensor:
    return -logsigmoid(0.1 * (ratio(a) - ratio(b)) - 0.5 * 0.1 * (b[2] - a[2].detach()))


def robust(of: list[Unit]) -> Tensor:
    plain = lambda a, b, e: -logsigmoid(0.1 * (ratio(a) - ratio(b)))  # noqa: E731
    return Pairs(of).mean(lambda a, b, e: (0.9 * plain(a, b, e) - 0.1 * plain(b, a, e)) / 0.8)


EXPECTED = {
    "dpo": ({}, lambda of: Pairs(of).mean(sigmoid_loss(ratio))),
    "cDPO": ({"name": "dpo", "label_smoothing": 0.2}, lambda of: Pairs(of).mean(sigmoid_loss(ratio), 0.2)),
    "offset": ({"name": "dpo", "margin_coef": 2.0}, lambda of: Pairs(of).mean(sigmoid_loss(ratio, 0.1, lambda e: 2.0 * e.margin))),
    "normalised": ({"name": "dpo", "length_normalised": True}, lambda of: Pairs(of).mean(sigmoid_loss(mean_ratio))),
    "forward KL": ({"name": "dpo", "divergence": "forward_kl"}, lambda of: Pairs(of).mean(sigmoid_loss(lambda s: -torch.exp(-ratio(s))))),
    "JS": (
        {"name": "dpo", "divergence": "js"},
        lambda of: Pairs(of).mean(sigmoid_loss(lambda s: ratio(s) - torch.log1p(torch.exp(ratio(s))))),
    ),
    "alpha": (
        {"name": "dpo", "divergence": "alpha", "alpha": 0.3},
        lambda of: Pairs(of).mean(sigmoid_loss(lambda s: -torch.exp(-0.3 * ratio(s)) / 0.3)),
    ),
    "dpo + sft": ({"name": "dpo", "sft_coef": 0.5}, lambda of: Pairs(of).mean(sigmoid_loss(ratio)) + 0.5 * nll(of)),
    "ipo": ({}, lambda of: Pairs(of).mean(lambda a, b, e: (mean_ratio(a) - mean_ratio(b) - 5.0) ** 2)),
    "ipo of sums": (
        {"name": "ipo", "length_normalised": False, "beta": 0.5},
        lambda of: Pairs(of).mean(lambda a, b, e: (ratio(a) - ratio(b) - 1.0) ** 2),
    ),
    "orpo": ({}, lambda of: nll(of) + Pairs(of).mean(lambda a, b, e: -0.1 * logsigmoid(log_odds(a) - log_odds(b)))),
    "simpo": ({}, lambda of: Pairs(of).mean(sigmoid_loss(mean_logp, 2.0, lambda e: 0.5))),
    "cpo": ({}, lambda of: nll(of) + Pairs(of).mean(sigmoid_loss(lambda s: s[0]))),
    "slic": ({}, lambda of: Pairs(of).mean(lambda a, b, e: torch.clamp(1 - 0.1 * (ratio(a) - ratio(b)), min=0.0))),
    "exo": ({}, lambda of: exo_by_hand(of, 1e-3)),
    "aot": ({}, aot_by_hand),
    "dpop": ({}, lambda of: Pairs(of).mean(penalised)),
    "robust_dpo": ({}, robust),
    "tdpo": ({}, lambda of: Pairs(of).mean(token_level)),
    "kto": ({}, lambda of: answers_by_hand(of, lambda r, up: 1 - torch.sigmoid((1 if up else -1) * 0.1 * (r - point_of(of))), 0.5)),
    "bco": ({}, lambda of: answers_by_hand(of, lambda r, up: -logsigmoid((1 if up else -1) * 0.1 * (r - shift_of(of))), 1.0)),
    "mpo": (
        {},
        lambda of: (
            0.8 * Pairs(of).mean(sigmoid_loss(ratio))
            + 0.2 * answers_by_hand(of, lambda r, up: -logsigmoid((1 if up else -1) * 0.1 * (r - shift_of(of))), 1.0)
            + nll(of)
        ),
    ),
}


def with_leaves(of: list[Unit]) -> tuple[list[Unit], list[Tensor]]:
    """Units whose policy log-probabilities and KLs are leaves."""
    leaves: list[Tensor] = []

    def fresh(b: Branch) -> Branch:
        own = {name: b.signals[name].clone().requires_grad_() for name in ("policy", "kl")}
        leaves.extend(own.values())
        return replace(b, signals={**b.signals, **own})

    return [replace(u, branches=tuple(fresh(b) for b in u.branches)) for u in of], leaves


def run(objective, of: list[Unit], cuts: list[list[int]]) -> Tensor:
    """The loss of all units, in micro-batches as cut."""
    ready = measured(objective, of, lambda some: [tuple(t.detach() for t in row) for row in policy_logprobs(some)])
    counts = ready.counts(of)
    total = torch.zeros((), dtype=torch.float64)
    for cut in cuts:
        batch = pack([of[i] for i in cut])
        total = total + ready.loss(batch, Outputs(batch.signals["policy"], ref_kl_S=batch.signals["kl"]), counts).loss
    return total


CUTS = ([[0, 1, 2]], [[0], [1], [2]], [[2, 0], [1]])


@pytest.mark.parametrize("case", EXPECTED)
def test_values_and_gradients_are_those_of_the_formula(case):
    fields, formula = EXPECTED[case]
    objective = preference_objective(ObjectiveConfig(**({"name": case} | fields)))
    of, leaves = with_leaves(units())
    expected = formula(of)
    gradients = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
    for cuts in CUTS:
        loss = run(objective, of, cuts)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
        for got, want in zip(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True), gradients, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_labelled_answers_by_hand(name):
    of, leaves = with_leaves(units("answers"))
    objective = preference_objective(ObjectiveConfig(name=name, answers={"desirable_weight": 2.0}))
    flags = [f for u in of for f in u.target.desirable]
    weights = [w for u in of for w in u.target.weights]
    ratios = [p - r for x, y in zip(sums(of, "policy"), sums(of, "ref_logprobs"), strict=True) for p, r in zip(x, y, strict=True)]
    sides = [[float(r) for r, f in zip(ratios, flags, strict=True) if f == side] for side in (True, False)]
    point = point_of(of) if name == "kto" else sum(sum(s) / len(s) for s in sides) / 2
    total = torch.zeros((), dtype=torch.float64)
    for r, up, weight in zip(ratios, flags, weights, strict=True):
        z = (1 if up else -1) * 0.1 * (r - point)
        total = total + weight * (2.0 if up else 1.0) * (1 - torch.sigmoid(z) if name == "kto" else -logsigmoid(z))
    expected = total / sum(weights)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
    for cuts in CUTS:
        loss = run(objective, of, cuts)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
        for got, want in zip(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_metrics_of_answers():
    of = units("answers")
    objective = replace(preference_objective(ObjectiveConfig(name="kto")), point=0.25)
    batch = pack(of)
    metrics = objective.loss(batch, Outputs(batch.signals["policy"]), objective.counts(of)).metrics
    assert metrics.keys() == {"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "kl_point"}
    assert metrics["kl_point"][0] / metrics["kl_point"][1] == 0.25
    assert (metrics["rewards/chosen"][1], metrics["rewards/rejected"][1]) == (3.0, 4.0)


def test_parts_of_a_mixture_are_told_by_name_and_add_up():
    of = units()
    objective = preference_objective(ObjectiveConfig(name="mpo"))
    whole: dict[str, list[float]] = {}
    loss = 0.0
    for cut in ([0], [1, 2]):
        batch = pack([of[i] for i in cut])
        output = objective.loss(batch, Outputs(batch.signals["policy"]), objective.counts(of))
        loss += float(output.loss)
        for name, (total, count) in output.metrics.items():
            whole[name] = [whole.get(name, [0.0, 0.0])[0] + total, whole.get(name, [0.0, 0.0])[1] + count]
    parts = {name: total / count for name, (total, count) in whole.items()}
    assert math.isclose(0.8 * parts["loss/dpo"] + 0.2 * parts["loss/bco"] + parts["loss/sft"], loss, rel_tol=1e-6)
    assert math.isclose(parts["loss/sft"], parts["nll"], rel_tol=1e-6)


def test_what_a_loss_cannot_learn_from_is_refused():
    tied = replace(units()[0], target=PairTarget((Edge(0, 1, label=0.5),)))
    with pytest.raises(DataError, match="'u0' holds a tie"):
        preference_objective(ObjectiveConfig(name="aot")).counts([tied])
    for name in ("dpo", "mpo", "tdpo"):
        with pytest.raises(DataError, match="'u0' has no preference"):
            preference_objective(ObjectiveConfig(name=name)).counts(units("answers"))
    with pytest.raises(DataError, match="no label that says whether its answer is wanted"):
        preference_objective(ObjectiveConfig(name="kto")).counts([*units("answers"), *units()])


def test_rounding_in_the_forward_pass_moves_no_pair_to_another_rank():
    """Leads that lie closer together than bfloat16 can tell: ranks come from before the step, so no reference lead is taken twice."""
    prompt, one = Encoded(torch.tensor([1])), torch.ones(1, dtype=torch.bool)

    def unit(k: int) -> Unit:
        pair = tuple(Branch(torch.tensor([k]), one, {"ref_logprobs": torch.tensor([r])}) for r in (-1.0 - k, -1.0))
        return Unit(f"u{k}", prompt, pair, PairTarget((Edge(0, 1),)))

    of = [unit(k) for k in range(4)]  # the reference's leads: 0, -1, -2, -3
    exact = [[(torch.tensor([-1.0 + 0.001 * k]),), (torch.tensor([-1.0]),)] for k in range(4)]
    objective = preference_objective(ObjectiveConfig(name="aot", beta=1.0)).measured(of, lambda units: [(a[0], b[0]) for a, b in exact])
    batch = pack(of)
    rounded_S = torch.full((8,), -1.0).requires_grad_()  # all leads are 0 to the forward pass
    objective.loss(batch, Outputs(rounded_S), objective.counts(of)).loss.backward()
    # the k-th pair has the k-th smallest lead, so it meets the reference's -3 + k: gradient -sigma(-(0 - (-3 + k))) / 4
    expected = [-torch.sigmoid(torch.tensor(-3.0 + k)).item() / 4 for k in range(4)]
    assert rounded_S.grad is not None
    assert rounded_S.grad[::2].tolist() == pytest.approx(expected)
