"""The reward objective on every kind of label: hand-computed losses, ensembles, and independence of how the batch is cut."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from keel.learner.packing import pack
from keel.methods.objectives.reward import BOOTSTRAP, RewardObjective, bootstrap, order_of
from keel.types import Branch, Edge, Encoded, HeadScores, Outputs, PairTarget, RankingTarget, RatingTarget, StepsTarget, Unit

LN2 = math.log(2.0)


def unit(n: int, target, name: str = "u") -> Unit:
    one = Branch(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool))
    return Unit(name, Encoded(torch.tensor([1])), (one,) * n, target)


def judged(*rows: list[float], **more) -> HeadScores:
    """Rows of scores by member, one dimension."""
    return HeadScores(torch.tensor(rows)[:, :, None], torch.ones(1), **more)


def loss(objective: RewardObjective, units: list[Unit], judgement: HeadScores, steps: HeadScores | None = None):
    outputs = Outputs(scores_R=judgement.scores_R, judgement=judgement, steps=steps)
    return objective.loss(pack(units), outputs, objective.counts(units))


def test_a_tie_and_a_win_by_davidson():
    units = [unit(2, PairTarget((Edge(0, 1, label=0.5, tie=1.0),))), unit(2, PairTarget((Edge(0, 1),)))]
    scores = judged([1.0], [1.0], [2.0], [0.0], tie_M=torch.tensor([LN2]))
    # a tie between equals, v = 2: 2 of 4 shares; a win with a lead of 2: e of e + 2 + 1/e
    win = math.log(math.e + 2 + 1 / math.e) - 1
    assert loss(RewardObjective(pairs="davidson"), units, scores).loss.item() == pytest.approx((LN2 + win) / 2)
    assert loss(RewardObjective(pairs="davidson"), units, scores).metrics["accuracy"] == (1.0, 1.0)


def test_the_hinge_asks_for_its_least_margin_and_for_the_data_s():
    units = [unit(2, PairTarget((Edge(0, 1, margin=6.0),))), unit(2, PairTarget((Edge(0, 1),)))]
    scores = judged([2.0], [0.0], [0.5], [0.0])
    objective = RewardObjective(pairs="hinge", least_margin=1.0, margin=0.5)
    assert loss(objective, units, scores).loss.item() == pytest.approx((1.0 + 0.5) / 2)


def test_how_far_members_are_apart_is_over_them_all():
    """1 and 3: 1 from their mean, without n - 1; 5 and 5: nothing; over two answers."""
    units = [unit(2, PairTarget((Edge(0, 1),)))]
    assert loss(RewardObjective(), units, judged([1.0, 3.0], [5.0, 5.0])).metrics["std/members"] == (1.0, 2.0)


def test_smoothing_and_self_trust_move_the_label():
    units, scores = [unit(2, PairTarget((Edge(0, 1),)))], judged([0.0], [2.0])
    right, wrong = math.log1p(math.exp(2.0)), math.log1p(math.exp(-2.0))
    assert loss(RewardObjective(smoothing=0.1), units, scores).loss.item() == pytest.approx(0.9 * right + 0.1 * wrong)
    assert loss(RewardObjective(self_trust=0.75), units, scores).loss.item() == pytest.approx(0.25 * right + 0.75 * wrong)


def test_variances_make_a_pair_less_sure():
    units = [unit(2, PairTarget((Edge(0, 1),)))]
    variance = torch.tensor([16 / math.pi, 8 / math.pi])[:, None, None]
    scores = judged([3.0], [0.0], variance_RMD=variance)  # sqrt(1 + 3) = 2
    assert loss(RewardObjective(), units, scores).loss.item() == pytest.approx(math.log1p(math.exp(-1.5)))


def test_a_ranking_by_plackett_luce():
    units, scores = [unit(3, RankingTarget((1, 2, 2)))], judged([math.log(4.0)], [math.log(2.0)], [0.0])
    result = loss(RewardObjective(), units, scores)
    assert result.loss.item() == pytest.approx(math.log(7 / 4))
    assert result.metrics["accuracy"] == (2.0, 2.0)  # the tie is not judged


def rated(*scores: dict[str, float]) -> Unit:
    return unit(len(scores), RatingTarget(scores))


def test_ratings_are_compared_in_their_units():
    units = [rated({"a": 5.0, "b": 1.0}, {"a": 3.0})]
    objective = RewardObjective(dimensions=("a", "b"), weights=(1.0, 0.0), units=((3.0, 2.0), (0.0, 1.0)))
    scores = HeadScores(torch.tensor([[[0.5, 1.0]], [[2.0, 9.0]]]), torch.tensor([1.0, 0.0]))
    # a: (0.5 - 1)^2 and (2 - 0)^2; b: right; three ratings in all
    result = loss(objective, units, scores)
    assert result.loss.item() == pytest.approx((0.25 + 4.0 + 0.0) / 3)
    assert result.metrics["accuracy"] == (0.0, 1.0)  # the first is better, the second is scored higher


def test_ratings_as_levels_and_with_a_variance():
    units = [rated({"score": 4.0})]
    objective = RewardObjective(dimensions=("score",), weights=(1.0,), units=((2.0, 1.0),), levels=(-1.0, 0.0, 2.0))
    chances = torch.tensor([0.5, 0.25, 0.25]).log()[None, None, None]
    assert loss(objective, units, judged([0.0], levels_RMDK=chances)).loss.item() == pytest.approx(math.log(4.0))
    wide = judged([0.0], variance_RMD=torch.full((1, 1, 1), 4.0))
    assert loss(replace(objective, levels=()), units, wide).loss.item() == pytest.approx((math.log(4.0) + 1.0) / 2)


def test_steps_are_right_or_wrong():
    units = [unit(1, StepsTarget(((0, 0),), ((True, False),)))]
    result = loss(RewardObjective(), units, judged([0.0]), steps=judged([2.0], [1.0]))
    assert result.loss.item() == pytest.approx((math.log1p(math.exp(-2.0)) + math.log1p(math.e)) / 2)
    assert result.metrics["accuracy/steps"] == (1.0, 2.0)


def test_kinds_are_means_of_their_own_and_add_up():
    units = [unit(2, PairTarget((Edge(0, 1),))), unit(2, PairTarget((Edge(0, 1),))), unit(2, RankingTarget((1, 2)))]
    scores = judged([0.0], [0.0], [0.0], [0.0], [0.0], [1.0])
    result = loss(RewardObjective(), units, scores)
    assert result.loss.item() == pytest.approx(LN2 + math.log1p(math.e))
    assert {k: s / c for k, (s, c) in result.metrics.items()}["loss/rankings"] == pytest.approx(math.log1p(math.e))


def test_members_learn_alone_by_the_units_they_saw():
    units = [unit(2, PairTarget((Edge(0, 1),))), unit(2, PairTarget((Edge(0, 1),)))]
    units = [replace(units[0], meta={BOOTSTRAP: (2.0, 0.0)}), replace(units[1], meta={BOOTSTRAP: (0.0, 1.0)})]
    scores = torch.zeros(4, 2, 1, requires_grad=True)
    result = loss(RewardObjective(), units, HeadScores(scores, torch.ones(1)))
    # member 0: 2 x ln 2, member 1: 1 x ln 2, over two pairs; the mean of the members
    assert result.loss.item() == pytest.approx((2 * LN2 + LN2) / 2 / 2)
    (gradient,) = torch.autograd.grad(result.loss, scores)
    assert gradient[2:, 0].abs().max() == 0
    assert gradient[:2, 1].abs().max() == 0
    assert result.metrics["std/members"] == (0.0, 4.0)


def test_the_bootstrap_is_poisson_and_goes_by_prompt():
    def draw(prompt: str, member: int) -> float:
        return (int(prompt) * 37 + member * 911) % 1000 / 1000

    units = [replace(unit(1, RankingTarget((1,)), str(i)), meta={"prompt_id": str(i // 2)}) for i in range(2000)]
    weights = torch.tensor([u.meta[BOOTSTRAP] for u in bootstrap(units, 2, draw)])
    assert torch.equal(weights[0::2], weights[1::2])
    for member in weights[::2].T:
        shares = [float((member == k).float().mean()) for k in range(4)]
        assert shares == pytest.approx([math.exp(-1) / math.factorial(k) for k in range(4)], abs=0.002)


def test_an_order_of_ratings_weighs_the_dimensions():
    both = rated({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0})
    assert order_of(both, {}) == [4.0, 3.0]
    assert order_of(both, {"a": (1.0, 0.0, 1.0), "b": (0.0, 0.0, 1.0)}) == [1.0, 2.0]
    assert order_of(both, {"a": (1.0, 1.0, 2.0)}) == [0.0, 0.5]


def test_a_mixed_batch_may_be_cut_anywhere():
    generator = torch.Generator().manual_seed(0)
    units = [
        unit(3, PairTarget((Edge(0, 1, 0.8, 0.3, 2.0, 0.1), Edge(1, 2)))),
        unit(3, RankingTarget((2, 1, 3))),
        rated({"s": 1.0}, {"s": 3.0}),
        unit(1, StepsTarget(((0, 0),), ((True, False),))),
        unit(2, PairTarget((Edge(1, 0),))),
    ]
    objective = RewardObjective(0.1, pairs="davidson", dimensions=("s",), weights=(1.0,), units=((2.0, 1.0),))
    scores, steps, tie = (torch.randn(n, 2, 1, generator=generator) for n in (11, 2, 2))
    counts = objective.counts(units)

    def part(us: list[Unit], rows: torch.Tensor, ends: torch.Tensor | None):
        j = HeadScores(rows, torch.ones(1), tie_M=tie[:, 0, 0])
        outputs = Outputs(scores_R=j.scores_R, judgement=j, steps=None if ends is None else HeadScores(ends, torch.ones(1)))
        return objective.loss(pack(us), outputs, counts)

    whole = part(units, scores, steps)
    firsts = [0, 3, 6, 8, 9, 11]
    parts = [part([u], scores[firsts[i] : firsts[i + 1]], steps if i == 3 else None) for i, u in enumerate(units)]
    assert sum(float(p.loss) for p in parts) == pytest.approx(float(whole.loss), abs=1e-5)
    for name, (total, count) in whole.metrics.items():
        found = [p.metrics.get(name, (0.0, 0.0)) for p in parts]
        assert sum(t for t, _ in found) == pytest.approx(total, abs=1e-5), name
        if not name.startswith("loss/"):
            assert sum(c for _, c in found) == pytest.approx(count), name
