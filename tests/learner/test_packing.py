"""Packed batches and micro-batches, with numbers counted by hand."""

from __future__ import annotations

import pytest
import torch

from keel.learner.packing import narrow, pack, plan_microbatches
from keel.types import Branch, Encoded, MediaRef, Unit


def branch(tokens: list[int], trained: list[int], **signals: list[float]) -> Branch:
    mask = torch.tensor(trained, dtype=torch.bool)
    return Branch(torch.tensor(tokens), mask, {k: torch.tensor(v) for k, v in signals.items()})


def sized(prompt: int, *branches: int, name: str = "u") -> Unit:
    return Unit(name, Encoded(torch.arange(prompt)), tuple(branch([7] * n, [1] * n) for n in branches))


def test_pack_by_hand() -> None:
    first = branch([10, 11, 12], [1, 0, 1], a=[0.1, 0.2, 0.3], only_here=[1.0, 1.0, 1.0])
    second = branch([20, 21], [0, 1], a=[0.4, 0.5])
    third = branch([30], [1], a=[0.6])
    unit = Unit("a", Encoded(torch.tensor([1, 2]), (MediaRef("x", 1),)), (first, second))
    other = Unit("b", Encoded(torch.tensor([3]), (MediaRef("y", 1),)), (third,))
    batch = pack([unit, other])
    assert batch.tokens_N.tolist() == [1, 2, 10, 11, 12, 20, 21, 3, 30]
    assert batch.positions_N.tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1]
    assert batch.groups == ((2, (3, 2)), (1, (1,)))
    assert batch.target_S.tolist() == [10, 12, 21, 30]
    assert batch.source_S.tolist() == [1, 3, 5, 7]  # the first token of a branch is predicted from its prompt's end
    assert batch.branch_S.tolist() == [0, 0, 1, 2]
    assert batch.unit_R.tolist() == [0, 0, 1]
    assert batch.last_R.tolist() == [4, 6, 8]
    assert set(batch.signals) == {"a"}
    assert batch.signals["a"].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.6])
    assert [m.digest for m in batch.media] == ["x", "y"]
    part = narrow(batch, slice(1, 3))
    assert part.target_S.tolist() == [12, 21]
    assert part.branch_S.tolist() == [0, 1]
    assert part.signals["a"].tolist() == pytest.approx([0.3, 0.5])
    assert part.units is batch.units


def test_pack_refuses() -> None:
    with pytest.raises(ValueError, match="no units"):
        pack([])
    with pytest.raises(ValueError, match="empty prompt"):
        pack([sized(0, 2)])
    with pytest.raises(ValueError, match="'u' has an empty branch"):
        pack([Unit("u", Encoded(torch.tensor([1])), (branch([1], [1]), branch([], [])))])
    with pytest.raises(ValueError, match="differ in length"):
        pack([Unit("u", Encoded(torch.tensor([1])), (branch([1, 2], [1]),))])


def test_microbatches_are_full_and_complete() -> None:
    units = [sized(10, 10, name="a"), sized(10, 30, name="b"), sized(5, 5, name="c"), sized(10, 20, name="d")]
    plan = plan_microbatches(units, 50, True)
    assert [[u.unit_id for u in part] for part in plan] == [["b", "c"], ["a", "d"]]  # 40 + 10, 30 + 20
    assert plan == plan_microbatches(units, 50, True)


def test_large_units_are_split_between_branches_unless_kept_whole() -> None:
    unit = sized(10, 20, 20, 30, 5)
    assert [[len(b) for b in part[0].branches] for part in plan_microbatches([unit], 50, False)] == [[20, 20], [30, 5]]
    assert plan_microbatches([unit], 50, True) == [[unit]]
    lengths = [[[len(b) for b in u.branches] for u in part] for part in plan_microbatches([unit], 1, False)]
    assert lengths == [[[30]], [[20]], [[20]], [[5]]]
