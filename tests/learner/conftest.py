from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(own_proofs: None) -> None:
    """Each test here proves its models itself."""
