"""Keel's own engine (`keel serve rollouts`) as the trainer sees it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from keel.rollout.records import unpacked
from keel.rollout.server import wire
from keel.rollout.server.asking import place_of
from keel.rollout.server.protocol import EngineError, Handed, RefusedError
from keel.types import Rollout, SampleRequest

_ASKING_S = 5.0  # for what needs no computing


class EngineClient:
    """A ``RolloutEngine`` of Keel's at ``url``."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, (self._host, self._port), self._timeout_s = url, place_of(url), timeout_s

    def health(self) -> dict[str, Any]:
        """Which weights it has, and how much it drew."""
        return self._ask("GET", "/health", b"", _ASKING_S)[0]

    def load(self, handed: Handed) -> str:
        """Take over the weights in a folder that both see; returns the digest of what is in memory then."""
        return str(self._ask("POST", "/load", wire.write({"folder": handed.folder, "version": handed.version}))[0]["digest"])

    def draw(self, requests: Sequence[SampleRequest], handed: Handed, in_flight: bool) -> Iterator[Sequence[Rollout]]:
        """All rollouts of the requests, at once."""
        asked = wire.write_requests(requests, digest=handed.digest, version=handed.version, in_flight=in_flight)
        plain, tensors = self._ask("POST", "/draw", asked)
        try:
            yield unpacked(tensors, plain["rollouts"])
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
