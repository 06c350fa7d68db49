"""Packed batches and micro-batches, with numbers counted by hand."""

from __future__ import annotations

import pytest
import torch

from keel.kernels.plain import padded_rows
from keel.learner.packing import narrow, pack, plan_microbatches, plan_pieces, to_device
from keel.types import Branch, Encoded, Layout, MediaRef, Unit


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
    assert batch.positions_PN.tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1]]
    assert batch.groups == (Layout(2, (3, 2)), Layout(1, (1,)))
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


def test_every_branch_begins_where_the_prompt_ends() -> None:
    """Prompt at 0 and 1, branches at 2, 3 and at 4, 5, 6: the first token of either is predicted from the prompt, not from the other."""
    batch = pack([sized(2, 2, 3)])
    assert batch.source_S.tolist() == [1, 2, 1, 4, 5]
    assert batch.unit_R.tolist() == [0, 0]


def test_pack_refuses() -> None:
    with pytest.raises(ValueError, match="no units"):
        pack([])
    with pytest.raises(ValueError, match="empty prompt"):
        pack([sized(0, 2)])
    with pytest.raises(ValueError, match="'u' has an empty branch"):
        pack([Unit("u", Encoded(torch.tensor([1])), (branch([1], [1]), branch([], [])))])
    with pytest.raises(ValueError, match="differ in length"):
        pack([Unit("u", Encoded(torch.tensor([1])), (branch([1, 2], [1]),))])


def test_on_the_device_that_it_is_on_a_batch_stays_as_it_is() -> None:
    batch = pack([sized(2, 2)])
    assert to_device(batch, torch.device("cpu")) is batch
    moved = to_device(batch, torch.device("meta"))
    tensors = (moved.source_S, moved.target_S, moved.branch_S, moved.unit_R, moved.last_R)
    assert {t.device.type for t in tensors} == {"meta"}


def test_microbatches_are_full_and_complete() -> None:
    units = [sized(10, 10, name="a"), sized(10, 30, name="b"), sized(5, 5, name="c"), sized(10, 20, name="d")]
    plan = plan_microbatches(units, 50, True)
    assert [[u.unit_id for u in part] for part in plan] == [["b", "c"], ["a", "d"]]  # 40 + 10, 30 + 20
    assert plan == plan_microbatches(units, 50, True)


def test_a_unit_of_two_branches_is_split_too() -> None:
    pieces = plan_pieces([sized(10, 20, 20)], 30, False)
    assert [[(p.index, p.first, len(p.unit.branches)) for p in part] for part in pieces] == [[(0, 0, 1)], [(0, 1, 1)]]
    whole = plan_pieces([sized(1, 1), sized(10, 20)], 5, False)
    assert [[(p.index, p.first) for p in part] for part in whole] == [[(1, 0)], [(0, 0)]]


def test_a_batch_without_a_trained_token_scores_nothing() -> None:
    batch = pack([Unit("u", Encoded(torch.tensor([1])), ())])
    assert (batch.n_scored, batch.target_S.dtype, batch.signals) == (0, torch.int64, {})


def test_large_units_are_split_between_branches_unless_kept_whole() -> None:
    unit = sized(10, 20, 20, 30, 5)
    assert [[len(b) for b in part[0].branches] for part in plan_microbatches([unit], 50, False)] == [[20, 20], [30, 5]]
    assert plan_microbatches([unit], 50, True) == [[unit]]
    lengths = [[[len(b) for b in u.branches] for u in part] for part in plan_microbatches([unit], 1, False)]
    assert lengths == [[[30]], [[20]], [[20]], [[5]]]


@pytest.mark.parametrize("limit", range(1, 40))
def test_no_microbatch_is_larger_than_asked_where_it_can_be_helped(limit: int) -> None:
    """And every branch is in one of them, in its place."""
    units = [sized(4, 5, 5, 5, 3, name="a"), sized(2, 1, name="b"), sized(6, 9, 1, 1, 1, name="c")]
    found: dict[str, list[tuple[int, list[int]]]] = {}
    for pieces in plan_pieces(units, limit, False):
        size = sum(p.unit.n_tokens for p in pieces)
        assert size <= limit or (len(pieces) == 1 and len(pieces[0].unit.branches) == 1)
        for piece in pieces:
            found.setdefault(piece.unit.unit_id, []).append((piece.first, [len(b) for b in piece.unit.branches]))
    for unit in units:
        parts = sorted(found[unit.unit_id])
        assert [n for _, part in parts for n in part] == [len(b) for b in unit.branches]
        assert [first for first, _ in parts] == [sum(len(p) for _, p in parts[:i]) for i in range(len(parts))]


def test_positions_of_three_rows() -> None:
    """A prompt that counts in three rows, and one that counts in one, in one row of tokens."""
    pictured = Encoded(torch.tensor([1, 2, 3]), (), torch.tensor([[0, 1, 1], [0, 1, 2], [0, 1, 1]]), ((1, 3),))
    branch = Branch(torch.tensor([4, 5]), torch.ones(2, dtype=torch.bool))
    batch = pack([Unit("a", pictured, (branch, branch)), Unit("b", Encoded(torch.tensor([6])), (branch,))])
    assert batch.positions_PN.tolist() == [
        [0, 1, 1, 3, 4, 3, 4, 0, 1, 2],
        [0, 1, 2, 3, 4, 3, 4, 0, 1, 2],
        [0, 1, 1, 3, 4, 3, 4, 0, 1, 2],
    ]
    assert batch.groups == (Layout(3, (2, 2), ((1, 3),)), Layout(1, (2,)))
    rows = padded_rows(batch)
    assert rows.positions_PRL.tolist() == [
        [[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 0, 0]],
        [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 0, 0]],
        [[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 0, 0]],
    ]
    assert rows.span_RL.int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert rows.column_N.tolist() == [0, 1, 2, 3, 4, 3, 4, 0, 1, 2], "a column is not a position"
