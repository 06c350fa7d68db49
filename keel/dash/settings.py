"""How the dashboard is reached and what it allows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from keel.site.listening import LOOPBACK, address_of


@dataclass(frozen=True, slots=True)
class Limits:
    """Nothing is ever sent to the dashboard: a body may have a thousand bytes."""

    body_bytes: int = 1000
    body_seconds: float = 5.0
    streams: int = 64  # pages that are kept up to date at a time
    runs: int = 60  # in one view
    charts: int = 30  # in one call


@dataclass(frozen=True, slots=True)
class DashSettings:
    """``token``: what a visitor must have; empty on this machine's own address, where nobody else can come."""

    root: Path
    host: str = "127.0.0.1"
    port: int = 8767
    token: str = ""
    public_url: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def cookie(self) -> str:
        """The cookie's name; ports share cookies, hence the port."""
        return f"keel-dash-{self.port}"

    @property
    def mark(self) -> str:
        """What the cookie holds: not the token itself."""
        return hashlib.sha256(f"keel dash {self.token}".encode()).hexdigest()

    @property
    def link(self) -> str:
        """What opens the dashboard."""
        base = address_of(self.host, self.port)
        return f"{base}/?token={self.token}" if self.token else f"{base}/"

    @property
    def is_local(self) -> bool:
        return self.host in LOOPBACK
