"""How work is shared out, and how what it leaves is put together: without processes."""

from __future__ import annotations

import itertools
import pickle
import random
from pathlib import Path

import pytest
import torch

from keel.core.errors import ConfigError
from keel.learner.team import balance_of, dealt
from keel.learner.wire import packed, unpacked
from keel.methods.preference import PREFERENCE_OBJECTIVES, ObjectiveConfig, preference_objective
from keel.models.checksum import added, checksum, checksum_part
from keel.runs.pieces import Piece, Pieces, file_name, stem_of, write_pieces


def test_the_largest_parts_go_first_to_whoever_has_the_least() -> None:
    assert dealt([3, 9, 4, 5], 2) == [[1, 0], [3, 2]]  # 9 | 5, 5 + 4, then 3 to the first of two equals
    assert balance_of([3, 9, 4, 5], [[1, 0], [3, 2]]) == pytest.approx(12 * 2 / 21)
    assert dealt([7], 3) == [[0], [], []]
    assert dealt([], 2) == [[], []]


def test_every_part_is_dealt_once() -> None:
    draw = random.Random(0)
    for _ in range(50):
        sizes = [draw.randint(1, 100) for _ in range(draw.randint(0, 20))]
        places = dealt(sizes, draw.randint(1, 5))
        assert sorted(i for of_rank in places for i in of_rank) == list(range(len(sizes)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_checksums_of_parts_add_up(dtype: torch.dtype) -> None:
    """Cut anywhere, also amid a word of 64 bits and amid a block."""
    draw = random.Random(1)
    for n in (1, 13, 1 << 18, 300_001):
        whole = (torch.rand(n, generator=torch.Generator().manual_seed(n)) * 200).to(dtype)
        wide = whole.element_size()
        cuts = [0, *sorted(draw.randint(0, n) for _ in range(4)), n]
        parts = [checksum_part(whole[a:b], a * wide, n * wide) for a, b in itertools.pairwise(cuts)]
        assert added(parts) == checksum(whole)


def test_pieces_are_put_together_row_by_row(tmp_path: Path) -> None:
    whole = torch.arange(21.0).view(7, 3)
    cuts = [(0, 3), (3, 6), (6, 7)]
    for rank, (a, b) in enumerate(cuts):
        own = {"w": Piece(whole[a:b], a, (7, 3))} | ({"step": Piece(torch.tensor(5.0), 0, ())} if rank == 0 else {})
        write_pieces(tmp_path / file_name("policy", rank, 3), own, {"schema": "1"})
    files = sorted(tmp_path.iterdir())
    assert {stem_of(p.name) for p in files} == {"policy"}
    assert stem_of("policy.safetensors") is None
    found = Pieces(files)
    assert set(found) == {"w", "step"}
    assert found.shapes == {"w": (7, 3), "step": ()}
    assert torch.equal(found["w"], whole)
    assert float(found["step"]) == 5.0
    for a in range(8):
        for b in range(a, 8):
            assert torch.equal(found.rows("w", a, b), whole[a:b])
    with pytest.raises(ValueError, match="rows 3 to 6 of w are missing"):
        Pieces([files[0], files[2]])
    with pytest.raises(ValueError, match="rows 6 to 7 of w are missing"):
        Pieces(files[:2])


def test_tensors_of_all_kinds_arrive() -> None:
    sent = {"a": torch.randn(2, 3), "b": torch.zeros(0, 4), "c": torch.tensor(3), "d": torch.randn(3).bfloat16(), "e": torch.ones(2) > 0}
    found = unpacked(packed(sent))
    for name, tensor in sent.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    found["a"] += 1  # its memory is its own


@pytest.mark.parametrize("name", sorted(set(PREFERENCE_OBJECTIVES) - {"mixture", "mpo"}))
def test_every_loss_can_be_sent(name: str) -> None:
    objective = preference_objective(ObjectiveConfig(name=name))
    assert unpacked(packed(objective)).needs == objective.needs


def test_a_users_function_is_sent_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loss(winner_E, loser_E, label_E, margin_E, beta):\n    return loser_E - winner_E\n", encoding="utf-8")
    objective = preference_objective(ObjectiveConfig(name=f"{file}:loss"))
    sent = packed(objective)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError, ConfigError)):
        packed(lambda: None)
    assert unpacked(sent).needs == objective.needs
