"""The benchmark of the store gives the votes that it says, and measures each call."""

from __future__ import annotations

from pathlib import Path

from labs.bench.store import measure


def test_a_small_measurement_counts_its_votes(tmp_path: Path) -> None:
    found = measure(f"sqlite:///{tmp_path}/b.db", clients=3, votes=12, items=40)
    assert (found.votes, found.clients, found.database) == (12, 3, "sqlite")
    assert 0 < found.transactions <= 24
    assert 0.0 < found.vote_p50 <= found.vote_p99
