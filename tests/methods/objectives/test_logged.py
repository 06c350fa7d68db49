"""Offline objectives on logged rewards, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from keel.core.errors import ConfigError, DataError
from keel.learner.inference import MetricSums
from keel.learner.packing import narrow, pack
from keel.methods.credit.logged import logged_advantages
from keel.methods.math.imitation import awr_weights
from keel.methods.objectives.logged import LoggedObjective
from keel.methods.offline import LoggedConfig, logged_objective
from keel.types import Branch, Encoded, Outputs, RatingTarget, Unit

REWARDS_A = torch.tensor([1.0, 3.0, 5.0, 2.0], dtype=torch.float64)
UNIT_A = torch.tensor([0, 0, 0, 1])


def test_baselines() -> None:
    def of(baseline: str, **more: object) -> list[float]:
        return logged_advantages(REWARDS_A, UNIT_A, baseline, scale=False, **more).tolist()  # type: ignore[arg-type]

    assert of("group") == [-2.0, 0.0, 2.0, 0.0]
    assert of("batch") == [-1.75, 0.25, 2.25, -0.75]
    assert of("value", values_A=torch.tensor([2.0, 2.0, 2.0, 0.5], dtype=torch.float64)) == [-1.0, 1.0, 3.0, 1.5]
    assert of("none") == REWARDS_A.tolist()


def test_scale_makes_the_mean_square_one() -> None:
    scaled_A = logged_advantages(REWARDS_A, UNIT_A, "group")
    assert scaled_A.tolist() == pytest.approx([-math.sqrt(2), 0.0, math.sqrt(2), 0.0])
    small_A = logged_advantages(torch.tensor([0.1, 0.3], dtype=torch.float64), torch.tensor([0, 0]), "group")
    assert small_A.tolist() == pytest.approx([-1.0, 1.0])
    assert logged_advantages(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64), "group").tolist() == [0.0] * 3


def test_awr_weights() -> None:
    weights_A, capped_A = awr_weights(torch.tensor([-1.0, 0.0, 1.0, 500.0], dtype=torch.float64), beta=0.5, most=20.0)
    assert weights_A.tolist() == pytest.approx([math.exp(-2), 1.0, math.exp(2), 20.0])
    assert capped_A.tolist() == [False, False, False, True]


def units() -> list[Unit]:
    """Two prompts with answers of 2, 1 and 3 tokens; one token is not trained. Rewards 1, 3 and 2."""

    def branch(trained: list[bool], ref: list[float]) -> Branch:
        return Branch(torch.arange(len(trained)), torch.tensor(trained), {"ref_logprobs": torch.tensor(ref)})

    prompt = Encoded(torch.tensor([1, 2]))
    first = (branch([True, True], [-1.0, -1.0]), branch([True], [-2.0]))
    second = (branch([True, False, True], [-0.5, 0.0, -1.5]),)
    targets = RatingTarget(({"reward": 1.0}, {"reward": 3.0})), RatingTarget(({"reward": 2.0},))
    return [Unit("a", prompt, first, targets[0]), Unit("b", prompt, second, targets[1])]


LOGPROBS_S = torch.tensor([-1.0, -2.0, -1.0, -0.5, -1.0])  # log-ratios to the reference: 0, -1, 1, 0, 0.5


def value(objective: LoggedObjective) -> tuple[float, dict[str, float]]:
    batch = pack(objective.credited(units()))
    output = objective.loss(batch, Outputs(LOGPROBS_S, ref_kl_S=torch.full((5,), 0.2)), objective.counts(units()))
    sums = MetricSums()
    sums.add(output.metrics)
    return float(output.loss), dict(sums.report().metrics)


def test_awr_by_hand() -> None:
    """Advantages -1, 1, and one answer alone: weights e^-2, e^2, 0 at beta 0.5. Sums of -log p: 3, 1, 1.5."""
    loss, metrics = value(LoggedObjective("awr", scale=False, beta=0.5))
    assert loss == pytest.approx((math.exp(-2) * 3 + math.exp(2) * 1) / 3)
    weights = [math.exp(-2), math.exp(2), 0.0]
    assert metrics["weights/ess"] == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert metrics["weights/mean"] == pytest.approx(sum(weights) / 3)
    assert metrics["weights/max"] == pytest.approx(math.exp(2))
    assert metrics["logged_reward"] == pytest.approx(2.0)
    assert metrics["advantages/above"] == pytest.approx(1 / 3)
    assert metrics["answers/alone"] == pytest.approx(1 / 3)
    assert (metrics["logps/above"], metrics["logps/below"]) == pytest.approx((-1.0, -4.5 / 4))


def test_awr_capped_per_token_with_a_price_of_the_kl() -> None:
    loss, metrics = value(LoggedObjective("awr", scale=False, beta=0.5, max_weight=2.0, per_token=True, kl_coef=0.5))
    assert loss == pytest.approx((math.exp(-2) * 1.5 + 2.0 * 1) / 3 + 0.5 * 0.2)
    assert metrics["weights/capped"] == pytest.approx(1 / 3)
    assert metrics["kl"] == pytest.approx(0.2)


def test_reinforce_by_hand() -> None:
    """Without weights -A log p; with them each token times min(ratio, 1): e^0, e^-1 for the answer below, 1 for the one above."""
    loss, metrics = value(LoggedObjective("reinforce", scale=False))
    assert loss == pytest.approx((-1 * 3 + 1 * 1) / 3)
    assert metrics["weights/ess"] == pytest.approx(3.0)
    loss, metrics = value(LoggedObjective("reinforce", scale=False, importance="token", max_weight=1.0))
    assert loss == pytest.approx((-1 * (1 + 2 * math.exp(-1)) + 1 * 1) / 3)
    assert metrics["weights/capped"] == pytest.approx((1 + 0.5) / 3), "the answer above, and one of two tokens of the last"


def test_topr_weighs_only_what_is_below_its_baseline() -> None:
    loss, metrics = value(LoggedObjective("topr", scale=False, importance="sequence", max_weight=1.0))
    assert loss == pytest.approx((-math.exp(-1) * 3 + 1 * 1) / 3)
    assert metrics["weights/capped"] == 0.0
    whole, _ = value(LoggedObjective("reinforce", scale=False, importance="sequence", max_weight=3.0))
    assert whole == pytest.approx((-math.exp(-1) * 3 + math.e * 1) / 3)


@pytest.mark.parametrize("objective", [LoggedObjective("awr"), LoggedObjective("reinforce", importance="token", max_weight=1.0)])
def test_tiles_and_single_answers_add_up(objective: LoggedObjective) -> None:
    ready, counts = objective.credited(units()), objective.counts(units())
    whole = pack(ready)
    expected = objective.loss(whole, Outputs(LOGPROBS_S), counts)
    tiles = [(narrow(whole, slice(i, i + 2)), LOGPROBS_S[i : i + 2]) for i in range(0, 5, 2)]
    singles = [pack([replace(u, branches=(b,))]) for u in ready for b in u.branches]
    cuts = [tiles, list(zip(singles, LOGPROBS_S.split([b.n_scored for b in singles]), strict=True))]
    for cut in cuts:
        sums, total = MetricSums(), 0.0
        for batch, logprobs_S in cut:
            output = objective.loss(batch, Outputs(logprobs_S), counts)
            sums.add(output.metrics)
            total += float(output.loss)
        assert total == pytest.approx(float(expected.loss), rel=1e-5)
        whole_sums = MetricSums()
        whole_sums.add(expected.metrics)
        assert sums.report().metrics == pytest.approx(whole_sums.report().metrics, rel=1e-5)


def test_the_importance_weight_has_no_gradient_of_its_own() -> None:
    objective = LoggedObjective("reinforce", scale=False, importance="token", max_weight=10.0)
    logprobs_S = LOGPROBS_S.clone().requires_grad_()
    objective.loss(pack(objective.credited(units())), Outputs(logprobs_S), objective.counts(units())).loss.backward()
    ratios = [1.0, math.exp(-1), math.e, 1.0, math.exp(0.5)]
    assert logprobs_S.grad is not None
    assert logprobs_S.grad.tolist() == pytest.approx([-a * r / 3 for a, r in zip([-1, -1, 1, 0, 0], ratios, strict=True)], rel=1e-5)


def test_rewards_and_values_that_are_not_there_are_named() -> None:
    bare = [replace(u, target=None) for u in units()]
    with pytest.raises(DataError, match="unit 'a' has no logged reward 'reward'"):
        LoggedObjective().credited(bare)
    with pytest.raises(DataError, match="no number in the column 'value'"):
        LoggedObjective(baseline="value").credited(units())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"name": "awr", "importance": "token"}, "importance would have no effect"),
        ({"name": "reinforce", "beta": 1.0}, "beta would have no effect"),
        ({"name": "topr", "importance": "none"}, "name=reinforce"),
        ({"name": "reinforce", "importance": "none", "max_weight": 2.0}, "max_weight would have no effect"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        logged_objective(LoggedConfig.model_construct(**{**LoggedConfig().model_dump(), **settings}))


@pytest.mark.parametrize("name", ["awr", "reinforce", "topr"])
def test_an_answer_alone_is_neither_imitated_nor_pushed_away(name: str) -> None:
    """Beside a prompt with two answers stand prompts with one, rewards low and high: those count in the mean and weigh nothing."""
    objective, (pair, single) = LoggedObjective(name), units()  # type: ignore[arg-type]
    lone = [replace(single, unit_id=f"lone{r}", target=RatingTarget(({"reward": r},))) for r in (-5.0, 50.0, 1.0)]
    batch = pack(objective.credited([pair, *lone]))
    logprobs_S = torch.full_like(batch.signals["advantages"], -1.0).requires_grad_()
    output = objective.loss(batch, Outputs(logprobs_S), objective.counts(batch.units))
    output.loss.backward()
    assert logprobs_S.grad is not None
    assert (logprobs_S.grad != 0).tolist() == [True] * 3 + [False] * 6
    total, n = output.metrics["answers/alone"]
    assert total / n == pytest.approx(3 / 5)
    for other in ("batch", "none"):
        assert (pack(LoggedObjective(baseline=other).credited([pair, *lone])).signals["compared"] == 1).all()  # type: ignore[arg-type]
