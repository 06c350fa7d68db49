from __future__ import annotations

from collections import Counter

import pytest
import torch

from keel.data.batching import balanced_order, batch_at, length_batches, order, steps_per_epoch, units_for_step
from keel.types import Branch, Encoded, Prompt, Unit


def unit(i, n, topic="a"):
    tokens = torch.zeros(n, dtype=torch.int64)
    return Unit(str(i), Encoded(tokens[:1]), (Branch(tokens[1:], tokens[1:] == 0),), None, {"topic": topic})


def test_order_is_a_permutation_of_seed_and_epoch():
    assert sorted(order(50, 1, 0)) == list(range(50))
    assert order(50, 1, 0) == order(50, 1, 0)
    assert len({tuple(order(50, s, e)) for s in (1, 2) for e in (0, 1)}) == 4


def test_last_batch():
    assert (steps_per_epoch(10, 4), steps_per_epoch(10, 4, drop_last=True), steps_per_epoch(3, 4, drop_last=True)) == (3, 2, 1)
    kept = [batch_at(10, s, 4, 0) for s in range(6)]
    assert [len(b) for b in kept] == [4, 4, 2, 4, 4, 2]
    for epoch in (0, 1):
        assert sorted(i for batch in kept[3 * epoch : 3 * epoch + 3] for i in batch) == list(range(10))
    assert [len(batch_at(10, s, 4, 0, drop_last=True)) for s in range(3)] == [4, 4, 4]
    assert len(batch_at(3, 5, 4, 0, drop_last=True)) == 3


def test_a_step_does_not_depend_on_those_before():
    items = [unit(i, 5) for i in range(10)]
    late = units_for_step(items, 7, 4, 3)
    for step in range(7):
        units_for_step(items, step, 4, 3)
    assert late == units_for_step(items, 7, 4, 3)
    assert [int(u.unit_id) for u in late] == batch_at(10, 7, 4, 3)


def test_length_groups():
    items = [unit(i, 2 + (i * 37) % 90) for i in range(64)]
    epoch = [units_for_step(items, s, 8, 5, by_length=True) for s in range(8)]
    assert sorted(int(u.unit_id) for b in epoch for u in b) == list(range(64))
    spread = max(max(u.n_tokens for u in b) - min(u.n_tokens for u in b) for b in epoch)
    assert spread <= 15  # 90 lengths over 8 batches; unsorted batches span nearly all
    assert max(u.n_tokens for u in epoch[0]) == max(u.n_tokens for u in items)  # memory fails at once or never
    lengths = [max(u.n_tokens for u in b) for b in epoch[1:]]
    assert lengths != sorted(lengths, reverse=True)
    other = [units_for_step(items, s, 8, 5, by_length=True) for s in range(8, 16)]
    assert other[0] != epoch[0]


def test_length_groups_keep_a_small_last_batch_last():
    batches = length_batches(list(range(10)), [1] * 10, 4, 0, 1)
    assert [len(b) for b in batches] == [4, 4, 2]
    assert [len(b) for b in length_batches(list(range(10)), [1] * 10, 4, 0, 1, drop_last=True)] == [4, 4]


def test_prompts_have_lengths_too():
    prompts = [Prompt(str(i), text="x" * i) for i in range(1, 9)]
    first = units_for_step(prompts, 0, 2, 0, by_length=True)
    assert {p.prompt_id for p in first} == {"8", "7"}


def test_balanced_draws_every_value_equally_often():
    keys = ["common"] * 30 + ["rare"] * 3 + ["mid"] * 12
    drawn = balanced_order(keys, 2, 0)
    assert len(drawn) == 45
    assert Counter(keys[i] for i in drawn) == {"common": 15, "rare": 15, "mid": 15}
    rare = Counter(i for i in drawn if keys[i] == "rare")
    assert set(rare.values()) == {5}
    common = [i for e in (0, 1) for i in balanced_order(keys, 2, e) if keys[i] == "common"]
    assert sorted(common) == list(range(30))  # two epochs are exactly one pass over the common ones
    for start in range(0, 45, 3):  # every turn has each value once
        assert len({keys[i] for i in drawn[start : start + 3]}) == 3


def test_balance_by_a_meta_key():
    items = [unit(i, 4, "a" if i else "b") for i in range(8)]
    drawn = [u for s in range(2) for u in units_for_step(items, s, 4, 0, balance_by="topic")]
    assert Counter(u.meta["topic"] for u in drawn) == {"a": 4, "b": 4}


def test_nothing_to_draw_from_is_a_mistake_in_the_program():
    with pytest.raises(AssertionError):
        steps_per_epoch(0, 4)
