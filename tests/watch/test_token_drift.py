"""Drift by tokens: silent where nothing changed, as often as it says; awake where something did, in any language."""

from __future__ import annotations

import math
import random

import pytest

from keel.models import tiny
from keel.render.codec import Codec
from keel.watch.token_drift import token_drift

ZH = ("您好", "订单", "请", "送达", "谢谢", "问题", "红色", "包裹", "天", "内")
NEWS = ("股票", "市场", "今天", "上涨", "公司", "报告", "利率", "银行")


def texts(draw: random.Random, n: int, words: tuple[str, ...]) -> list[str]:
    """Texts of different lengths that have each a topic: their tokens hang together."""
    found = []
    for _ in range(n):
        topic = draw.sample(words, 3)
        found.append("，".join(draw.choice(topic) if draw.random() < 0.7 else draw.choice(words) for _ in range(draw.randint(2, 20))))
    return found


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(tiny.build(tiny.parse("tiny:llama", 0))[1])


def test_false_alarms_come_as_often_as_they_may(codec: Codec) -> None:
    alpha, runs, alarms = 0.1, 80, 0
    for seed in range(runs):
        draw = random.Random(seed)
        before, now = ([codec.encode(t) for t in texts(draw, 30, ZH)] for _ in range(2))
        alarms += token_drift(before, now, deals=39, seed=seed).p <= alpha
    high = alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert 0 < alarms / runs < high


def test_other_words_are_found_and_named(codec: Codec) -> None:
    draw = random.Random(0)
    before = [codec.encode(t) for t in texts(draw, 40, ZH)]
    now = [codec.encode(t) for t in texts(draw, 30, ZH) + texts(draw, 10, NEWS)]
    found = token_drift(before, now)
    assert found.p == 0.001
    assert found.distance > 0.02
    token, was, new = max(found.moved, key=lambda m: m[2] - m[1])
    assert new > was
    assert token in {i for ids in now[30:] for i in ids}


def test_one_long_text_decides_nothing() -> None:
    draw = random.Random(1)
    before = [[draw.randrange(50) for _ in range(10)] for _ in range(60)]
    now = [[draw.randrange(50) for _ in range(10)] for _ in range(59)] + [[99] * 5000]
    assert token_drift(before, now).p > 0.01


def test_the_same_texts_are_no_distance_apart_and_too_few_are_refused() -> None:
    bags = [[i, i + 1] for i in range(30)]
    found = token_drift(bags, bags)
    assert (found.distance, found.p) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least 20"):
        token_drift(bags, [*bags[:19], []])
