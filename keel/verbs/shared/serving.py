"""What servers of models need."""

from __future__ import annotations

from keel.core.errors import ConfigError


def needs() -> None:
    """Raises ConfigError where the extra is not installed."""
    for name in ("uvicorn", "starlette", "httpx", "prometheus_client", "sqlalchemy"):
        try:
            __import__(name)
        except ImportError:
            raise ConfigError(f"serving needs {name}, which is not installed", "pip install 'keel-align[serve]'") from None
