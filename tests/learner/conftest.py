from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from keel.learner.host import Host

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def own_cache(own_proofs: None) -> None:
    """Each test here proves its models itself."""


@pytest.fixture(scope="session")
def pair() -> Iterator[Host]:
    """Two ranks for all tests that leave them alive."""
    import torch

    from keel.learner.config import ClusterConfig
    from keel.learner.hosts import host_of

    host = host_of(ClusterConfig(ranks=2), torch.device("cpu"))
    yield host
    host.close()
