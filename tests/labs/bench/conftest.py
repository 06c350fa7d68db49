from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sides of a comparison run in this process: starting one takes longer than its work. Slow tests start them."""
    from labs.bench import compare, keel_side, padded_side

    def here(side: str, command: Sequence[str], extra: Mapping[str, str], folder: Path, threads: int) -> dict[str, Any]:
        module = next(m for m in (keel_side, padded_side) if m.__name__ in command)
        module.main([str(folder), str(folder / "result.json")])
        return json.loads((folder / "result.json").read_text())

    monkeypatch.setattr(compare, "run_side", here)
