"""The token view: what is known of each token of an answer that the run kept."""

from __future__ import annotations

from typing import Any

from keel.dash.folder import Run


def view(run: Run, name: str) -> dict[str, Any]:
    """The rollouts that were kept, and the one called ``name`` token by token."""
    return {"run": run.name, "rollouts": [], "one": None, "name": name}
