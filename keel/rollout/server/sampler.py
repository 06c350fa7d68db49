"""The sampler that asks engines: it deals requests to those that are there, and begins before it is waited for.

An engine that dies costs nothing but time: its requests go to the others, drawn by the same hash. One that comes back is given the newest
weights before it draws again. Nothing is drawn by weights that were not proven: each request names the digest it is for.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from keel.core.errors import SelfTestError, UserError
from keel.core.hashing import stable_hash
from keel.models.save import saved_names
from keel.rollout.server.engine import SETTINGS
from keel.rollout.server.handover import hand_over
from keel.rollout.server.protocol import EngineError, Handed, RefusedError, RolloutEngine, missing
from keel.rollout.weight_digest import digest_of
from keel.types import PolicyVersion, Rollout, SampleRequest, Weights
from keel.types.seams import Arrived

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("keel")
PROBE = 32  # tokens of the fixed sequence
_AGAIN_S = 1.0  # between looks for engines that are gone


class ServerSampler:
    """A ``types.BesideSampler`` over engines that see ``folder``, in which the starting weights lie as a saved model."""

    def __init__(
        self,
        engines: Sequence[RolloutEngine],
        folder: Path,
        settings: Mapping[str, Any],
        weights: Weights,
        vocabulary: int,
        tolerance: float,
        patience_s: float,
        revive: Callable[[], None] = lambda: None,
        in_flight: bool = False,
    ) -> None:
        """``settings`` is what an engine must know beside the model. ``tolerance``: nats that a log-probability may be apart.
        ``patience_s``: how long no engine at all may be there. ``revive``: start those again that are ours and have ended.
        ``in_flight``: new weights do not wait for what is under way."""
        self.engines, self._folder, self._tolerance, self._patience_s, self._revive = engines, folder, tolerance, patience_s, revive
        self._probe = [stable_hash("weight sync", i) % vocabulary for i in range(PROBE)]
        self._names = saved_names(folder)
        self._lock, self._open = threading.Lock(), list[Future[list[Rollout]]]()
        self._ready: dict[str, str] = {}  # url -> digest of the weights that were proven there
        self._queue: list[SampleRequest] = []
        self.in_flight = in_flight
        self.lost, self._why = 0, ""  # times that an engine was given up, and the last thing that went wrong
        (folder / SETTINGS).write_text(json.dumps({**settings, "training": secrets.token_hex(8)}), encoding="utf-8")
        self._version, self._digest, self._sent = 0, weights.digest(), digest_of(weights.merged(self._names).items())
        self._expected = weights.probe(torch.tensor(self._probe)).tolist()
        self._there()

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Queue requests. Raises ValueError for one that an engine is not asked for."""
        for request in requests:
            _check(request)
        self._queue += requests

    def collect(self) -> Iterator[Rollout]:
        requests, self._queue = self._queue, []
        yield from self.begin(requests).rollouts()

    def begin(self, requests: Sequence[SampleRequest], arrived: Arrived | None = None) -> Underway:
        """Ask for these now, by the newest weights, and do not wait. ``arrived`` is called in another thread with each that is there."""
        for request in requests:
            _check(request)
        drawing = beside(self._draw, list(requests), self._handed(), arrived)
        self._open = [f for f in self._open if not f.done()] + [drawing]
        return Underway(drawing)

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        """Take over new weights, once all that is under way is drawn, or where they come ``in_flight`` at once. Raises SelfTestError where
        they are not those announced, or did not arrive."""
        if not self.in_flight:
            wait(self._open)
        digest = weights.digest()
        if digest != version.digest:
            raise SelfTestError(
                f"weight sync: the trainer's weights are not those of policy version {version.version}",
                "the policy was changed after it was published",
            )
        self._version = version.version
        if digest == self._digest:
            return
        started = time.perf_counter()
        merged, expected = weights.merged(self._names), weights.probe(torch.tensor(self._probe)).tolist()
        with self._lock:  # who looks for engines in between finds the old weights or the new ones, whole
            self._sent, self._expected = digest_of(merged.items()), expected
            hand_over(merged, self._folder)
        self._digest = digest
        self._there()
        log.debug("weights of version %d are with the engines after %.3f s", version.version, time.perf_counter() - started)

    def _handed(self) -> Handed:
        return Handed(str(self._folder), self._sent, self._version)

    def _draw(self, requests: list[SampleRequest], handed: Handed, arrived: Arrived | None) -> list[Rollout]:
        """Deal the requests to the engines that are there, until all are drawn."""
        found: list[Rollout] = []
        left = requests
        while left:
            engines = self._there()
            parts = dealt(left, len(engines))
            asked = [(part, list[Rollout](), e) for part, e in zip(parts, engines, strict=True) if part]
            replies = [beside(self._take, engine, part, handed, got, arrived) for part, got, engine in asked]
            left = []
            for (part, got, engine), reply in zip(asked, replies, strict=True):
                try:
                    reply.result()
                except EngineError as error:
                    self._give_up(engine, error)
                    left += missing(part, {(r.prompt_id, r.attempt, r.sample) for r in got})
                except RefusedError as error:
                    raise UserError(
                        f"an engine refuses what it is asked for: {error}", "its version is another one, or see its log"
                    ) from None
                finally:
                    found += got
        return found

    def _take(
        self, engine: RolloutEngine, part: Sequence[SampleRequest], handed: Handed, got: list[Rollout], arrived: Arrived | None
    ) -> None:
        """Put into ``got`` what the engine draws, as it comes: what an engine that dies has drawn is kept."""
        for some in engine.draw(part, handed, self.in_flight):
            if arrived is not None:
                arrived(some)
            got += some

    def _there(self) -> list[RolloutEngine]:
        """The engines that have the newest weights, proven. Waits while there is none, for ``patience_s`` at most."""
        until = time.monotonic() + self._patience_s
        while True:
            with self._lock:
                for engine in self.engines:
                    self._bring_up(engine)
                ready = [e for e in self.engines if self._ready.get(e.url) == self._sent]
            if ready:
                return ready
            if time.monotonic() > until:
                names = ", ".join(e.url for e in self.engines)
                raise UserError(f"no engine draws rollouts: {names} ({self._why})", "start one again and go on with the same command")
            self._revive()
            time.sleep(_AGAIN_S)

    def _bring_up(self, engine: RolloutEngine) -> None:
        """Give an engine the newest weights, and prove that it has them; an engine that is gone stays out."""
        if self._ready.get(engine.url) == self._sent:
            return
        try:
            arrived, theirs = engine.load(self._handed()), engine.logprobs(self._probe)
        except EngineError as error:
            self._why = str(error)
            if engine.url in self._ready:
                self._give_up(engine, error)
            return
        except RefusedError as error:
            raise UserError(f"an engine cannot serve this training: {error}", "see its log, or set sampler.engine=local") from None
        if arrived != self._sent:
            raise SelfTestError(f"weight sync: what arrived at {engine.url} is not what was sent", "set sampler.engine=local")
        gap = max(abs(a - b) for a, b in zip(self._expected, theirs, strict=True))
        if not (math.isfinite(gap) and gap <= self._tolerance):
            raise SelfTestError(
                f"weight sync: {engine.url} and the trainer differ by {gap:.3g} nats on a token of a fixed sequence",
                "the engine computes another model; set sampler.engine=local",
            )
        self._ready[engine.url] = self._sent

    def _give_up(self, engine: RolloutEngine, error: Exception) -> None:
        if self._ready.pop(engine.url, None) is not None:
            self.lost += 1
            log.warning("an engine is lost: %s; what it was asked for goes to the others", error)
        self._revive()


def beside(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call it in a thread that does not keep the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Underway:
    """A ``types.Drawing``."""

    def __init__(self, drawing: Future[list[Rollout]]) -> None:
        self._drawing = drawing

    def rollouts(self) -> Sequence[Rollout]:
        return self._drawing.result()


def dealt(requests: Sequence[SampleRequest], n: int) -> list[list[SampleRequest]]:
    """``n`` parts of about as many tokens: the largest request first, each to whoever has least. The same requests give the same parts."""
    parts: list[list[SampleRequest]] = [[] for _ in range(n)]
    loads = [0] * n
    for request in sorted(requests, key=lambda r: (-r.n * (len(r.prompt) + r.params.max_tokens), r.prompt_id, r.first_sample)):
        k = loads.index(min(loads))
        parts[k].append(request)
        loads[k] += request.n * (len(request.prompt) + request.params.max_tokens)
    return parts


def _check(request: SampleRequest) -> None:
    if request.prompt.media:
        raise ValueError(f"request for prompt '{request.prompt_id}': it has images, which engines are not given")
    if request.bias is not None:
        raise ValueError(f"request for prompt '{request.prompt_id}': it makes some words less likely (bias), which engines are not told")
