"""`keel chat MODEL [MODEL]`: the models' processes, then the terminal or the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

from keel.core.config import load
from keel.core.errors import ConfigError, ModelError
from keel.serve.policy.config import ChatConfig, ProbeConfig, RowsConfig
from keel.verbs.shared.serving import needs


def run_chat(models: Sequence[str], page: bool, host: str, port: int, browser: bool, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Talk until the end of input (terminal) or Ctrl-C (page). Returns the votes. Raises UserError before it begins."""
    config = load(ChatConfig, None, [f"models={json.dumps(list(models))}", *overrides])
    if config.store and len(config.models) < 2:
        raise ConfigError("store would have no effect with one model: there is nothing to compare", "name two models, or leave store out")
    with contextlib.ExitStack() as stack:
        votes = None
        if config.store:
            from keel.feedback.db import Store
            from keel.verbs.shared.user_votes import StoredVotes

            votes = StoredVotes(stack.enter_context(Store(config.store)), config.campaign)
        from keel.serve.policy.duel import Duel

        sampling = {"max_tokens": config.max_tokens, "temperature": config.temperature, "top_p": config.top_p}
        duel = Duel([engine_of(config, model) for model in config.models], sampling, votes)
        if page:
            return _page(config, duel, host, port, browser)
        from keel.verbs.chat.terminal import talk

        async def main() -> None:
            await start(duel)
            try:
                await talk(duel, config.system)
            finally:
                await stop(duel)

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main())
        return duel.revealed()


def engine_of(config: ChatConfig, model: str) -> Any:
    """A process of ours, or a server that runs already (its only model, or the one behind `#`: http://HOST:PORT#NAME)."""
    if model.startswith(("http://", "https://")):
        from keel.serve.policy.remote import RemoteEngine

        url, _, name = model.partition("#")
        if not name:
            raise ConfigError(f"{model}: which model of that server?", f"{model}#NAME")
        if config.system or config.render.changed:
            raise ConfigError(f"system and render would have no effect on {model}, which makes tokens by itself", "leave them out")
        return RemoteEngine(url, name, os.environ.get("KEEL_API_KEY", ""))
    from keel.serve.policy.engine import ProcessEngine
    from keel.serve.policy.worker_settings import worker_settings

    queue = RowsConfig(rows=2, prefill_tokens=4096)  # one person writes
    settings = worker_settings(model, queue, config.model_options, config.render, threads=config.threads, system=config.system)
    return ProcessEngine(settings, ProbeConfig())


async def start(duel: Any) -> None:
    """All models. Raises UserError; none is left behind then."""
    results = await asyncio.gather(*(engine.start() for engine in duel.engines), return_exceptions=True)
    for engine, result in zip(duel.engines, results, strict=True):
        if isinstance(result, BaseException):
            await stop(duel)
            raise result
        if not engine.about.chat:
            await stop(duel)
            raise ModelError(f"{engine.about.model} has no chat template", "use an instruct model, or render.chat_template=FILE")


async def stop(duel: Any) -> None:
    """The models' processes are gone after this."""
    await asyncio.gather(*(engine.stop() for engine in duel.engines), return_exceptions=True)


def _page(config: ChatConfig, duel: Any, host: str, port: int, browser: bool) -> dict[str, Any]:
    needs()
    import uvicorn

    from keel.serve.policy.chat_app import make_chat_app
    from keel.serve.policy.server import BodyLimits, Door, key_for, run
    from keel.site.listening import address_of, listen
    from keel.site.protocol import EitherProtocol

    key = key_for(host, "", "")
    with contextlib.closing(listen(host, port)) as listening:
        door = Door(host, listening.getsockname()[1], "", BodyLimits(4_000_000))
        link = address_of(host, door.port) + (f"/?key={key}" if key else "/")

        async def main() -> None:
            await start(duel)
            try:
                app = make_chat_app(duel, door, key)
                server = uvicorn.Server(
                    uvicorn.Config(app, http=EitherProtocol, log_level="warning", server_header=False, timeout_graceful_shutdown=2)
                )
                print(f"chat: {link}", flush=True)
                if browser and not key:
                    threading.Timer(0.3, webbrowser.open, [link]).start()
                await server.serve(sockets=[listening])
            finally:
                await stop(duel)

        run(main)
    return duel.revealed()
