"""Moving averages, trends, the fall of the reward; drift of data."""

from __future__ import annotations

import json
import math

import pytest
import torch

from keel.watch.config import WatchConfig
from keel.watch.drift import PromptMeasures, drift, in_words
from keel.watch.engine import Watch
from keel.watch.trends import Trends


def feed(trends: Trends, values: list[float], std: float = 1.0) -> dict[str, float]:
    return [trends.update({"reward": v, "reward_std": std}) for v in values][-1]


def test_means_and_change_by_hand():
    trends = Trends()
    first = trends.update({"loss": 4.0, "grad_norm": 9.0})
    assert first == {"trend/loss/mean_10": 4.0, "trend/loss/mean_100": 4.0}
    found = {}
    for step in range(1, 100):
        found = trends.update({"loss": 4.0 if step < 50 else 1.0})
        assert ("trend/loss/change" in found) == (step == 99)
    assert found == {"trend/loss/mean_10": 1.0, "trend/loss/mean_100": 2.5, "trend/loss/change": -0.75}
    assert trends.update({"loss": 1.0})["trend/loss/mean_100"] == pytest.approx(2.47)
    assert trends.update({"loss": math.nan}) == trends.update({"loss": math.inf}), "not finite: left out"
    assert "trend/loss/mean_10" not in trends.update({"entropy": 1.0})


def test_the_change_is_between_the_two_halves():
    """Of 0 to 99: means 24.5 and 74.5."""
    trends = Trends()
    found = [trends.update({"loss": float(step)}) for step in range(100)][-1]
    assert found["trend/loss/change"] == pytest.approx(50 / 24.5)
    assert (found["trend/loss/mean_10"], found["trend/loss/mean_100"]) == (94.5, 49.5)


def test_a_change_from_zero_is_finite():
    trends = Trends()
    found = {}
    for step in range(100):
        found = trends.update({"kl": 0.0 if step < 50 else 1e-3})
    assert found["trend/kl/change"] == pytest.approx(1e5)


def test_the_fall_of_the_reward_is_in_units_of_its_spread():
    trends = Trends()
    assert "trend/reward/fall" not in feed(trends, [0.0] * 9, 0.2)
    assert feed(trends, [0.0], 0.2)["trend/reward/fall"] == 0.0
    assert feed(trends, [0.5] * 10, 0.5)["trend/reward/fall"] == 0.0
    # down to 0.1 for five steps of ten: a mean of 0.3, 0.2 below the best; the spread was 0.5 at its largest
    assert feed(trends, [0.1] * 5, 0.0)["trend/reward/fall"] == pytest.approx(0.4)


def test_a_fall_needs_ten_steps_of_both_rewards_and_their_spread():
    trends = Trends()
    for step in range(12):
        found = trends.update({"reward": 1.0, **({"reward_std": 0.5} if step < 3 else {})})
    assert "trend/reward/fall" not in found


def test_trends_go_on_from_their_state():
    values = [0.3, 0.9, 0.1] * 40
    undisturbed, first, second = Trends(), Trends(), Trends()
    feed(undisturbed, values)
    feed(first, values[:57])
    second.load_state(json.loads(json.dumps(first.state())))
    feed(second, values[57:])
    assert second.state() == undisturbed.state()
    assert feed(second, [0.5]) == feed(undisturbed, [0.5])


def test_a_collapsed_reward_is_told():
    def verdicts(values: list[float]) -> set[str]:
        told: list[str] = []
        watch, trends = Watch(WatchConfig(), lambda finding: told.append(finding.rule)), Trends()
        rows = [{"reward": v, "reward_std": 0.3} for v in values]
        return {watch.check(i, row | trends.update(row)).action for i, row in enumerate(rows)} | set(told)

    assert verdicts([0.1] * 10 + [0.9] * 20 + [0.65] * 20) == {"continue"}, "by less than its spread"
    assert verdicts([0.1] * 10 + [0.9] * 20 + [0.0] * 20) == {"continue", "collapse", "reward-plunge"}


def test_drift_by_hand():
    """Lengths 1, 1, 3, 3: mean 2, spread 1; two texts of 3 are 1 / (1 / sqrt 2) off."""
    whole = [torch.tensor(t) for t in ([0], [0], [0, 0, 0], [0, 0, 0])]
    assert drift(whole[2:], whole) == {"texts": 2.0, "length_z": pytest.approx(math.sqrt(2)), "surprise_z": 0.0}
    assert drift(whole, whole) == {"texts": 4.0, "length_z": 0.0, "surprise_z": 0.0}
    assert drift([], whole) == {}
    # tokens: a share of 3/4 and of 1/4; the rare text is ln 4 against a mean of (3 ln 4/3 + ln 4) / 4
    mixed = [torch.tensor([t]) for t in (0, 0, 0, 1)]
    z = drift(mixed[3:], mixed)["surprise_z"]
    common, rare = math.log(4 / 3), math.log(4)
    mean = (3 * common + rare) / 4
    spread = math.sqrt((3 * (common - mean) ** 2 + (rare - mean) ** 2) / 4)
    assert z == pytest.approx((rare - mean) / spread)


def test_other_data_is_told():
    plain = [torch.arange(10) + i % 2 for i in range(400)]
    odd = [torch.arange(10) + 50 for _ in range(20)]
    found = drift(odd, plain + odd)
    assert found["surprise_z"] > 4
    assert in_words(found).startswith("data: the 20 texts of these steps are unlike the rest, in standard errors: tokens +")
    assert in_words(drift(plain[:20], plain + odd)) == "data: the 20 texts of these steps are like the rest"
    assert in_words({}) == "data: nothing to compare"


def test_how_far_is_far():
    for z, far in ((4.0, False), (4.01, True), (-4.01, True), (-4.0, False)):
        assert ("unlike" in in_words({"texts": 3.0, "length_z": z, "surprise_z": 0.0})) is far
        assert ("unlike" in in_words({"texts": 3.0, "length_z": 0.0, "surprise_z": z})) is far


def test_an_empty_text_has_nothing_surprising():
    """Texts of tokens with shares 3/4 and 1/4, and one without any: surprises ln 4/3, ln 4/3, ln 4/3, ln 4, 0."""
    whole = [torch.tensor(t, dtype=torch.int64) for t in ([0], [0], [0], [1], [])]
    seen = [math.log(4 / 3)] * 3 + [math.log(4), 0.0]
    mean = sum(seen) / 5
    spread = math.sqrt(sum((x - mean) ** 2 for x in seen) / 5)
    assert drift(whole[4:], whole)["surprise_z"] == pytest.approx(-mean / spread)


def test_the_imbalance_of_parts_by_hand():
    """Means over 10 steps of 2 and 0.5: 4. With one step of 12 the first is 3, and their ratio 6."""
    trends = Trends()
    parts = {"grad_norm/language": 2.0, "grad_norm/vision": 0.5, "grad_norm": 9.0}
    found = [trends.update(parts) for _ in range(10)]
    assert all("trend/grad_norm/imbalance" not in f for f in found[:9])
    assert found[-1]["trend/grad_norm/imbalance"] == pytest.approx(4.0)
    again = Trends()
    again.load_state(json.loads(json.dumps(trends.state())))
    for t in (trends, again):
        assert t.update({**parts, "grad_norm/language": 12.0})["trend/grad_norm/imbalance"] == pytest.approx(6.0)
    assert not any("imbalance" in name for name in trends.update({"loss": 1.0}))
    late = trends.update({**parts, "grad_norm/projector": 1.0})
    assert "trend/grad_norm/imbalance" not in late, "one of three has no ten steps yet"
    alone = Trends()
    assert not any("imbalance" in name for _ in range(12) for name in alone.update({"grad_norm/language": 1.0}))


def test_a_part_that_learns_nothing_is_told():
    told = []
    watch, trends = Watch(WatchConfig(max_imbalance=50.0), told.append), Trends()
    for step in range(20):
        watch.check(step, trends.update({"grad_norm/language": 1.0, "grad_norm/vision": 1.0 if step < 5 else 0.0}))
    assert [(f.rule, f.level) for f in told] == [("imbalance", "warning")]
    assert told[0].step == 18, "all ten are 0 from step 14 on, and five steps in a row speak"


def test_prompts_are_measured_against_all_of_the_run():
    """0 0 1 and 0 3: four counts with one more each, and one for what is new: 4 2 1 2 of 10."""
    measure = PromptMeasures([torch.tensor([0, 0, 1]), torch.tensor([0, 3])])
    found = measure([torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([0, 0, 7])])
    expected = -(3 * math.log(0.4) + math.log(0.2) + math.log(0.1) + math.log(0.1)) / 6
    assert found == {"prompts/mean_length": 2.0, "prompts/surprise": pytest.approx(expected)}
    assert measure([]) == {}
    assert PromptMeasures([])([torch.tensor([5])]) == {"prompts/mean_length": 1.0, "prompts/surprise": pytest.approx(0.0)}


def test_a_prompt_of_the_last_known_token_and_of_the_one_behind_it():
    measure = PromptMeasures([torch.tensor([0, 0, 1])])  # of 6 in all, with one more of each and of a new one: 3, 2, 1
    assert measure([torch.tensor([1])])["prompts/surprise"] == pytest.approx(math.log(3), abs=1e-15)
    assert measure([torch.tensor([2])])["prompts/surprise"] == pytest.approx(math.log(6), abs=1e-15)
    both = measure([torch.tensor([0, 2])])
    assert both == {"prompts/mean_length": 2.0, "prompts/surprise": pytest.approx((math.log(2) + math.log(6)) / 2, abs=1e-15)}
    assert measure([]) == {} == measure([torch.tensor([], dtype=torch.int64)])
