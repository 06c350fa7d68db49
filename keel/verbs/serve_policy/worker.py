"""The worker's process: `python -m keel.verbs.serve_policy.worker FD`. Its settings are the first line that it reads there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import torch

from keel.core.config import checked
from keel.core.errors import UserError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.rollout.continuous import ContinuousSampler
from keel.rollout.prove import prove_slots
from keel.serve.policy import frames
from keel.serve.policy.worker import Channel, Worker, about, serve
from keel.verbs.shared.session import renderer_of

log = logging.getLogger("keel")


def make(settings: Mapping[str, Any], channel: Channel) -> tuple[Worker, frames.About]:
    """The model of these settings (``serve.policy.worker_settings``), ready to answer. Raises UserError."""
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    loaded = load_model(settings["model"], checked(ModelOptions, settings["model_options"]))
    loaded.model.freeze()
    # completions are raw text; conversations come as messages
    renderer = renderer_of(loaded, checked(RenderConfig, {**settings["render"], "as_chat": False}))
    fast = prove_slots(loaded.model)
    sampler = ContinuousSampler(loaded.model, fast, settings["rows"])
    sizes = (settings["rows"], settings["prefill_tokens"], settings["waiting_tokens"])
    worker = Worker(sampler, renderer, channel.send, *sizes, settings["count_words"])
    reference = [renderer.codec.encode(text) for text in settings["reference"]]
    return worker, about(renderer, settings["model"], fast, settings["tools"], {"reference": reference} if reference else {})


def main(fd: int) -> int:
    """Until the front is gone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the front's: it closes our socket when all answers are given
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with socket.socket(fileno=fd) as sock:
        channel = Channel(sock)
        settings = channel.read(block=True)
        if not settings:
            return 1
        try:
            worker, said = make(settings[0], channel)
        except UserError as error:
            channel.send([{"failed": error.message, "hint": error.hint}])
            return 2
        channel.send([{"ready": frames.plain(said)}])
        try:
            serve(channel, worker)
        except (BrokenPipeError, ConnectionResetError):
            log.info("the front is gone")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
