"""The price of gaming as a reward."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from keel.rewards.score import Score
from keel.rewards.table import scorers, text_reward
from keel.rewards.verifiers.gaming import GamingReward
from keel.types import Prompt

ASK = Prompt("p", text="Is it open?")


def score(text: str, **settings: object) -> Score:
    found = text_reward(GamingReward.model_validate({"name": "gaming", "type": "gaming", **settings}))(ASK, text)
    assert isinstance(found, Score)
    return found


def test_a_plain_answer_costs_nothing_and_the_worst_share_is_the_price() -> None:
    assert float(score("Yes, until six.")) == 0.0
    found = score("Great question! You are absolutely right! We open at nine.")
    assert float(found) == pytest.approx(-2 / 3)
    assert "flattery 0.67" in found.reason


def test_the_floor_holds_for_either_sign_of_the_reward() -> None:
    """It is added, so an answer loses at most the weight, whether its reward is above 0 or below; a factor would pay for negative ones."""
    price = float(score("Great question! " * 40))
    assert price == -1.0
    for reward in (-3.0, 0.0, 3.0):
        assert reward + 0.5 * price == reward - 0.5


def test_a_detector_can_be_left_out() -> None:
    text = "Great question! You are absolutely right! We open at nine."
    assert float(score(text, limits={"flattery": 0.0, "template": 0.5})) == 0.0
    assert "gaming" in scorers()
    with pytest.raises(ValidationError, match="no detector 'charm'"):
        score(text, limits={"charm": 0.5})
    with pytest.raises(ValidationError, match="choose 0 to 1"):
        score(text, limits={"detail": 2.0})
