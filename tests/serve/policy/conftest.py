"""Servers of policies over engines without models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

for name in ("httpx", "starlette", "prometheus_client"):
    pytest.importorskip(name, reason="the extra serve is not installed")
sys.path.insert(0, str(Path(__file__).parent))
