"""`keel serve reward MODEL --port N`: a reward model over HTTP, for recipes (`type: remote`) and for other trainers."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
from collections.abc import Sequence
from typing import Any

import torch

from keel.core.config import load
from keel.core.errors import DataError, ModelError, UserError
from keel.learner.inference import LocalInference
from keel.models.loading import load_model
from keel.render.renderer import Renderer
from keel.rewards.offline import answered_group
from keel.rewards.segments import SegmentedModel
from keel.rewards.sources.ensemble import EnsembleSource
from keel.rewards.sources.model import ModelReward, ModelSource
from keel.serve.batcher import Batcher
from keel.serve.config import ServeRewardConfig
from keel.serve.http import RewardServer
from keel.serve.layouts import LAYOUTS, Asked, Verdict
from keel.types import Branch, Encoded, Group, Message, Prompt
from keel.verbs.shared.rewards import model_source, same_tokens
from keel.verbs.shared.session import renderer_of

log = logging.getLogger("keel")
WHOLE = Prompt("whole", text="a text in a template already")


class RewardScorer:
    """Scores what is asked with one source, in one pass for all."""

    def __init__(self, source: ModelSource | EnsembleSource | SegmentedModel, renderer: Renderer) -> None:
        self.source, self.renderer = source, renderer

    def __call__(self, asked: Sequence[Asked]) -> list[Verdict]:
        """One verdict each; what cannot be rendered (too long) has an error in place of a score."""
        found = [Verdict(math.nan, "not scored")] * len(asked)
        groups: list[Group] = []
        places: list[int] = []
        for i, one in enumerate(asked):
            try:
                groups.append(self._group(one))
                places.append(i)
            except DataError as error:
                found[i] = Verdict(math.nan, f"refused: {error.message}")
        scores = self.source.score(groups)
        details = self.source.details["epistemic"] if isinstance(self.source, EnsembleSource) else [None] * len(groups)
        for i, scores_G, std_G in zip(places, scores, details, strict=True):
            score, std = float(scores_G[0]), math.nan if std_G is None else float(std_G[0])
            unsure = "no score: the ensemble's members disagree" if math.isfinite(std) else "the score is not finite"
            found[i] = Verdict(score, "" if math.isfinite(score) else unsure, std)
        return found

    def _group(self, asked: Asked) -> Group:
        if asked.prompt is not None:
            encoded, branches = self.renderer.branches(asked.prompt, [(Message("assistant", asked.answer),)])
            return answered_group(asked.prompt, encoded, branches, [asked.answer])
        return self._whole(asked)

    def _whole(self, asked: Asked) -> Group:
        """A text in a template already: it ends, as in training, with its end token."""
        ids = self._closed(self.renderer.codec.start(asked.text + asked.answer))
        first = min(max(1, len(self.renderer.codec.start(asked.text)) if asked.text else 1), len(ids) - 1)
        limit, why = self.renderer.limits.prompt(0)
        if limit is not None and len(ids) > limit:
            raise DataError(f"the text has {len(ids)} tokens, {why}")
        branch = Branch(torch.tensor(ids[first:]), torch.ones(len(ids) - first, dtype=torch.bool))
        return answered_group(WHOLE, Encoded(torch.tensor(ids[:first])), (branch,), [asked.answer])

    def _closed(self, ids: list[int]) -> list[int]:
        """Without what a template writes behind the last end token, with an end token where there is none."""
        ends = [i for i, t in enumerate(ids) if t in self.renderer.stop_tokens]
        rest = ids[ends[-1] + 1 :] if ends else ids
        if ends and not self.renderer.tokenizer.decode(rest).strip():
            return ids[: ends[-1] + 1]
        return [*ids, *self.renderer.end_of_answer(WHOLE)]


def make_server(config: ServeRewardConfig) -> RewardServer:
    """A server that listens but does not answer yet (``serve_forever`` does). Raises ModelError and UserError."""
    loaded = load_model(config.model, config.model_options, heads=frozenset({"score"}))
    renderer = renderer_of(loaded, config.render)
    reward = ModelReward(name="served", path=config.model, standardise=config.standardise, ensemble=config.ensemble)

    def load_one(path: str) -> LocalInference:
        other = loaded if path == config.model else load_model(path, config.model_options, heads=frozenset({"score"}))
        same_tokens(other.tokenizer, loaded.tokenizer, path, reward)
        return LocalInference(other.model.freeze(), config.batch)

    scorer = RewardScorer(model_source(reward, load_one, renderer), renderer)
    _prove(scorer)
    batcher: Batcher[Asked, Verdict] = Batcher(scorer, config.queue.batch, config.queue.waiting)
    about = {"model": config.model, "layouts": list(LAYOUTS)}
    try:
        return RewardServer((config.host, config.port), batcher, config.queue, about)
    except OSError as error:
        batcher.stop()
        raise UserError(
            f"cannot listen at {config.host}:{config.port}: {error.strerror or error}", "another program may be there: set --port, or host"
        ) from None


def _prove(scorer: RewardScorer) -> None:
    """One score before the first request: what does not work is said now."""
    verdict = scorer([Asked("Hello.", Prompt("p", text="Hello?"))])[0]
    if verdict.error and not verdict.error.startswith("no score"):
        raise ModelError(f"{scorer.source.name}: the model gives no score of a plain answer: {verdict.error}")


def run_serve_reward(model: str, port: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM; returns what was done."""
    config = load(ServeRewardConfig, None, [f"model={json.dumps(model)}", f"port={port}", *overrides])
    server = make_server(config)
    host, bound = server.server_address[:2]
    print(f"serving {model} at http://{host}:{bound} ({', '.join(LAYOUTS)}; GET /health)", flush=True)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    stopped.wait()
    server.close()
    done = server.batcher
    return {"scored": done.scored, "passes": done.passes, "refused": done.refused, "abandoned": done.abandoned}
