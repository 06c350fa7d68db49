"""The order of rows, seen from outside: which units each step takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from keel.core.errors import ConfigError
from keel.data.batching import units_for_step
from keel.loops.config import AgainConfig, CurriculumConfig, LoopConfig, OrderConfig
from keel.loops.ordering import Judges, Order
from keel.types import Branch, Encoded, Unit

N, STEPS, BATCH = 64, 48, 8
LOOP = LoopConfig(batch_size=BATCH, steps=STEPS)


def unit(i: int) -> Unit:
    tokens = torch.zeros(3 + i % 5, dtype=torch.int64)
    return Unit(str(i), Encoded(tokens[:1]), (Branch(tokens[1:], tokens[1:] == 0),), None, {"topic": i % 2})


UNITS = tuple(unit(i) for i in range(N))
FLIPPED = frozenset(range(0, N, 10))  # rows whose labels are wrong: 7 of 64
HARD = frozenset(range(1, N, 4)) - FLIPPED  # rows that the model still gets wrong: 16


class Reader:
    """Measures in place of a model: flipped rows are wrong by far, hard ones a little; counts what was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, units: Sequence[Unit]) -> list[tuple[float, bool]]:
        self.asked.append([int(u.unit_id) for u in units])
        return [(3.0, True) if int(u.unit_id) in FLIPPED else (0.9, True) if int(u.unit_id) in HARD else (0.2, False) for u in units]


def ids(units: Sequence[Unit]) -> list[int]:
    return [int(u.unit_id) for u in units]


def plain(step: int, loop: LoopConfig = LOOP) -> list[int]:
    of = {"by_length": loop.group_by_length, "balance_by": loop.balance_by}
    return ids(units_for_step(UNITS, step, loop.batch_size, 3, **of))


@pytest.mark.parametrize("loop", [LOOP, LOOP.model_copy(update={"group_by_length": True}), LOOP.model_copy(update={"balance_by": "topic"})])
def test_off_is_the_plain_order(loop: LoopConfig) -> None:
    order = Order(UNITS, loop, OrderConfig(), 3, STEPS)
    assert [ids(order.units(s)) for s in range(STEPS)] == [plain(s, loop) for s in range(STEPS)]
    assert (order.metrics(5), order.state()) == ({}, ({}, {}))


def curriculum(**settings: float) -> Order:
    config = OrderConfig(curriculum=CurriculumConfig(**settings))
    return Order(UNITS, LOOP, config, 3, STEPS, Judges([float(i) for i in range(N)]))


def test_a_curriculum_takes_easy_rows_first_and_every_row_at_last() -> None:
    order = curriculum(start=0.25, until=0.5, stages=3)
    hardest = [max(ids(order.units(s))) for s in range(STEPS)]
    assert max(hardest[:8]) < 16 <= max(hardest[8:16]) < 32 <= max(hardest[16:24]) < 48
    late = [i for s in range(24, 32) for i in ids(order.units(s))]
    assert sorted(late) == list(range(N)), "once all rows are in, each comes before any repeats"
    first = [i for s in range(2) for i in ids(order.units(s))]
    assert sorted(first) == list(range(16)), "so do the easy ones before"
    assert order.metrics(0)["order/released"] == 0.25
    assert order.metrics(0)["order/difficulty"] < 0.25 < order.metrics(47)["order/difficulty"]


def test_a_curriculum_of_everything_is_the_plain_order() -> None:
    order = curriculum(start=1.0, stages=1, until=0.01)
    assert [ids(order.units(s)) for s in range(STEPS)] == [plain(s) for s in range(STEPS)]


def again(reader: Reader, loop: LoopConfig = LOOP, **settings: float | str) -> Order:
    config = OrderConfig(again=AgainConfig(**{"every": 8, "pool": N, "cap": 4.0, "share": 0.5, "noise": 0.0, **settings}))
    return Order(UNITS, loop, config, 3, STEPS, Judges(measure=reader))


def counts(order: Order, steps: range) -> Counter[int]:
    return Counter(i for s in steps for i in ids(order.units(s))[BATCH // 2 :])


def mean(found: Counter[int], rows: frozenset[int]) -> float:
    return sum(found[i] for i in rows) / len(rows)


RIGHT = frozenset(range(N)) - FLIPPED - HARD


def test_rows_that_the_model_gets_wrong_come_cap_times_as_often() -> None:
    order = again(Reader())
    found = counts(order, range(8, STEPS))
    assert mean(found, HARD) / mean(found, RIGHT) == pytest.approx(4.0, rel=0.15)
    assert order.metrics(20)["order/wrong"] == pytest.approx(23 / 64)
    # 23 wrong rows weigh 4, 41 others 1
    assert sum(order.metrics(s)["order/again_wrong"] for s in range(16, 24)) / 8 == pytest.approx(23 * 4 / (23 * 4 + 41), abs=0.05)


def test_half_of_each_batch_takes_all_rows_in_turn() -> None:
    order = again(Reader())
    base = [i for s in range(16) for i in ids(order.units(s))[: BATCH // 2]]
    assert sorted(base) == list(range(N))


def test_before_the_first_measure_all_rows_come_alike() -> None:
    reader = Reader()
    order = again(reader)
    assert set(counts(order, range(8)).values()) <= {0, 1}
    assert reader.asked == []
    assert order.metrics(7) == {}
    order.units(8)
    assert [sorted(asked) for asked in reader.asked] == [list(range(N))]


def test_flipped_labels_are_amplified_without_the_cap_on_noise_and_not_with_it() -> None:
    trusting, careful = counts(again(Reader()), range(8, STEPS)), counts(again(Reader(), noise=0.11), range(8, STEPS))
    assert mean(trusting, FLIPPED) / mean(trusting, RIGHT) > 3.0
    assert mean(careful, FLIPPED) / mean(careful, RIGHT) < 1.3
    assert mean(careful, HARD) / mean(careful, RIGHT) > 3.0, "hard rows with true labels still come more often"


def test_by_loss_rows_come_by_their_loss() -> None:
    found = counts(again(Reader(), by="loss", cap=50.0), range(8, STEPS))
    assert mean(found, FLIPPED) > 2.5 * mean(found, HARD) > 2.5 * 2.5 * mean(found, RIGHT)


def test_the_pool_goes_round() -> None:
    reader = Reader()
    order = again(reader, pool=24)
    for step in range(STEPS):
        order.units(step)
    assert [len(asked) for asked in reader.asked] == [24] * 5
    assert set().union(*map(set, reader.asked[:3])) == set(range(N))


def test_a_resumed_order_is_the_undisturbed_one() -> None:
    whole = again(Reader(), pool=24, by="loss")
    expected = [ids(whole.units(s)) for s in range(STEPS)]
    for stop in (3, 8, 9, 20, 32):
        first = again(Reader(), pool=24, by="loss")
        for step in range(stop):
            first.units(step)
        tensors, state = first.state()
        resumed = again(Reader(), pool=24, by="loss")
        resumed.load_state({k: v.clone() for k, v in tensors.items()}, dict(state))
        assert [ids(resumed.units(s)) for s in range(stop, STEPS)] == expected[stop:]


def test_what_balances_batches_needs_a_place_in_them() -> None:
    with pytest.raises(ConfigError, match="balance_by would have no effect"):
        again(Reader(), LOOP.model_copy(update={"balance_by": "topic"}), share=1.0)
    assert len(again(Reader(), share=1.0).units(9)) == BATCH


def test_a_curriculum_and_hard_rows_go_together() -> None:
    both = OrderConfig(curriculum=CurriculumConfig(start=0.25, stages=1, until=1.0), again=AgainConfig(every=8, pool=N, noise=0.0))
    order = Order(UNITS, LOOP, both, 3, STEPS, Judges([float(i) for i in range(N)], Reader()))
    assert max(i for s in range(40) for i in ids(order.units(s))) < 16
