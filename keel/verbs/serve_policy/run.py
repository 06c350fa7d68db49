"""`keel serve policy MODEL`: a policy behind OpenAI's protocol, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.config import load
from keel.core.errors import ModelError
from keel.serve.policy.config import ServePolicyConfig
from keel.verbs.shared.serving import needs


def read_settings(model: str, host: str, port: int | None, overrides: Sequence[str]) -> ServePolicyConfig:
    """``model``: a model, or a recipe (.yaml) that names one. Raises ConfigError."""
    recipe = Path(model) if model.endswith((".yaml", ".yml")) else None
    given = [] if recipe is not None else [f"model={json.dumps(model)}"]
    given += [f"host={host}"] if host else []
    given += [f"port={port}"] if port is not None else []
    return load(ServePolicyConfig, recipe, [*given, *overrides])


def run_serve_policy(model: str, host: str, port: int | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM; returns what was done. Raises UserError before it serves."""
    needs()
    from keel.feedback.db import Store
    from keel.serve.policy.app import make_app
    from keel.serve.policy.server import BodyLimits, Door, key_for, run, serve
    from keel.site.listening import address_of, listen
    from keel.verbs.serve_policy.build import build
    from keel.verbs.shared.user_votes import StoredVotes

    config = read_settings(model, host, port, overrides)
    key = key_for(config.host, os.environ.get(config.key_env, ""), config.key_env)
    listening = listen(config.host, config.port)
    done: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(listening))
        votes = StoredVotes(stack.enter_context(Store(config.feedback.store)), config.feedback.campaign) if config.feedback.store else None
        front = build(config, key, votes)
        door = Door(config.host, listening.getsockname()[1], config.public_url, BodyLimits(int(config.queue.max_body_mb * 1e6)))
        base = address_of(config.host, door.port)

        async def main() -> None:
            await start_all(front)
            try:
                await serve(make_app(front, door), front, listening, lambda: tell(front, base, key, config.key_env))
            finally:  # a second signal cuts the end short
                done.update(summary(front))

        run(main)
    return {"model": front.name, "url": base, **done}


async def start_all(front: Any) -> None:
    """The engines, all at once. Raises UserError; none is left behind then."""
    engines = front.router.engines
    try:
        for name, result in zip(engines, await asyncio.gather(*(e.start() for e in engines.values()), return_exceptions=True), strict=True):
            if isinstance(result, ModelError):
                raise ModelError(f"{name}: {result.message}", result.hint)
            if isinstance(result, BaseException):
                raise result
    except BaseException:
        await asyncio.gather(*(e.stop() for e in engines.values()), return_exceptions=True)
        raise
    reference = engines["stable"].about.details.get("reference")
    if reference:
        front.refer_to(reference)


def tell(front: Any, base: str, key: str, variable: str) -> None:
    """Where it is, and what is needed."""
    about = front.router.engines["stable"].about
    canary = front.router.canary
    print(f"serving {front.name} at {base}/v1 (GET /ready, /metrics)", flush=True)
    if canary is not None:
        state = f"{canary.config.share:.1%} of the keys" if canary.active else f"rolled back before: {canary.reason}"
        print(f"canary {canary.config.model}: {state}", flush=True)
    if not about.fast:
        print("note: this model takes the plain path, which answers one row after the other", flush=True)
    if key and not os.environ.get(variable):
        print(f"key: {key} (set {variable} to keep one)", flush=True)


def summary(front: Any) -> dict[str, Any]:
    """What was done, for the last line."""
    found: dict[str, int] = {}
    for metric in front.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name in ("keel_requests_total", "keel_refused_total", "keel_clients_left_total", "keel_moved_total"):
                name = sample.name.removeprefix("keel_").removesuffix("_total")
                found[name] = found.get(name, 0) + int(sample.value)
    return found
