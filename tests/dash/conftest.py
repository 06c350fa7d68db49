"""The dashboard over folders of made-up runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read to their ends however slow the machine is; previews have tests of their own."""
    monkeypatch.setattr("keel.dash.folder.AT_ONCE", 600.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def client(root: Path) -> Callable[..., Any]:
    """``client(**settings)``: somebody who asks the dashboard over ``root``."""
    from starlette.testclient import TestClient

    from keel.dash.app import make_app
    from keel.dash.settings import DashSettings

    return lambda **settings: TestClient(make_app(DashSettings(root, **settings)), base_url="http://127.0.0.1", follow_redirects=False)
