"""How often is too often."""

from __future__ import annotations

import pytest

from keel.web.buckets import _KEYS, Buckets


def test_a_bucket_by_hand() -> None:
    now = [0.0]
    bucket = Buckets(2.0, 0.5, lambda: now[0])
    assert [bucket.take("a") for _ in range(3)] == [0.0, 0.0, 2.0]
    now[0] = 1.0
    assert bucket.wait("a") == 1.0
    now[0] = 2.0
    assert (bucket.take("a"), bucket.take("a")) == (0.0, 2.0)
    assert bucket.take("b") == 0.0
    now[0] = 1e6
    assert [bucket.take("a") for _ in range(3)] == [0.0, 0.0, 2.0]  # never more than the burst


def test_a_clock_that_goes_back_gives_nothing() -> None:
    now = [10.0]
    bucket = Buckets(1.0, 1.0, lambda: now[0])
    assert bucket.take("a") == 0.0
    now[0] = 0.0
    assert bucket.take("a") == pytest.approx(1.0)


def test_memory_is_bounded() -> None:
    bucket = Buckets(1.0, 1.0, lambda: 0.0)
    for i in range(_KEYS + 10):
        bucket.take(str(i))
    assert len(bucket._of) == _KEYS
    assert bucket.take(str(_KEYS + 5)) > 0
