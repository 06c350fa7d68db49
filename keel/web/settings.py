"""How the server is reached and what it allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from keel.core.errors import ConfigError
from keel.site.listening import address_of


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates are (burst, a second): a bucket that holds ``burst`` and fills at that speed."""

    body_bytes: int = 1 << 20
    body_seconds: float = 30.0  # a body that takes longer is refused
    items: int = 20  # at most, a call
    batch: int = 100  # judgements at most, a call
    calls: tuple[float, float] = (120.0, 40.0)  # an account
    knocks: tuple[float, float] = (300.0, 10.0)  # calls without an account, an address: a class may sit behind one
    failures: tuple[float, float] = (5.0, 1 / 60)  # wrong passwords, an account from one address
    failures_account: tuple[float, float] = (50.0, 1 / 30)  # wrong passwords, an account from everywhere
    failures_address: tuple[float, float] = (50.0, 1 / 10)  # wrong passwords, an address for all accounts
    hashing: int = 2  # passwords hashed at a time: each takes 32 MiB and 0.1 s of a core
    streams: int = 16  # pages of managers that are kept up to date at a time


@dataclass(frozen=True, slots=True)
class WebSettings:
    """``public_url``: how people reach the server when something stands before it; cookies are then sent over https alone."""

    media: Path  # where pictures lie, by their hash
    host: str = "127.0.0.1"
    port: int = 8766
    public_url: str = ""
    runs: Path = Path("runs")  # where training runs lie, for the page of lineage
    session_seconds: float = 7 * 86400.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parts = urlsplit(self.public_url)
        if self.public_url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query):
            raise ConfigError(f"--public-url: {self.public_url!r} is no address of a server", "like https://annotate.example.org")

    @property
    def secure(self) -> bool:
        """Do people come by https?"""
        return urlsplit(self.public_url).scheme == "https"

    @property
    def cookie(self) -> str:
        """The session cookie's name. ``__Host-`` makes browsers refuse it from anywhere else; ports share cookies, hence the port."""
        return "__Host-keel" if self.secure else f"keel-{self.port}"

    @property
    def base(self) -> str:
        """What links begin with."""
        return self.public_url.rstrip("/") or address_of(self.host, self.port)
