"""One engine as the trainer sees it. What goes wrong on the way is an ``EngineError``; what the engine refuses is a ``RefusedError``."""

from __future__ import annotations

import http.client
import urllib.parse
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from keel.core.errors import ConfigError
from keel.rollout.records import unpacked
from keel.rollout.server import wire
from keel.types import Rollout, SampleRequest

_ASKING_S = 5.0  # for what needs no computing


class EngineError(Exception):
    """The engine is gone, silent, or failed."""


class RefusedError(Exception):
    """The engine is there and says no: asking again changes nothing."""


class EngineClient:
    """An engine at ``url``."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"sampler.server.urls: {url} is no http://HOST:PORT", "give the address that the engine printed")
        self.url, self._host, self._port, self._timeout_s = url, parts.hostname, parts.port or 80, timeout_s

    def health(self) -> dict[str, Any]:
        """Which weights it has, and how much it drew."""
        return self._ask("GET", "/health", b"", _ASKING_S)[0]

    def load(self, folder: str) -> str:
        """Take over the weights in a folder that both see; returns the digest of what arrived."""
        return str(self._ask("POST", "/load", wire.write({"folder": folder}))[0]["digest"])

    def draw(self, requests: Sequence[SampleRequest], digest: str, version: int) -> tuple[Rollout, ...]:
        """All rollouts of the requests, drawn by the weights of this digest."""
        plain, tensors = self._ask("POST", "/draw", wire.write_requests(requests, digest=digest, version=version))
        try:
            return unpacked(tensors, plain["rollouts"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.url}: {error}") from None

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Of a fixed sequence, but its first token."""
        return list(self._ask("POST", "/logprobs", wire.write({"tokens": list(tokens)}))[0]["logprobs"])

    def _ask(self, method: str, path: str, body: bytes, timeout_s: float | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s or self._timeout_s)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            raw, status = reply.read(), reply.status
            plain, tensors = wire.read(raw)
        except (OSError, http.client.HTTPException, wire.WireError) as error:
            raise EngineError(f"{self.url}: {type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if status == 400:
            raise RefusedError(f"{self.url}: {plain.get('error')}")
        if status != 200:
            raise EngineError(f"{self.url}: {plain.get('error', status)}")
        return plain, tensors
