"""Settings -> engines, rules, scores, the front."""

from __future__ import annotations

import math
import os
from pathlib import Path

from keel.core.errors import ConfigError
from keel.serve.policy.canary import ArmName, Canary
from keel.serve.policy.config import ENGINES, ServePolicyConfig
from keel.serve.policy.engine import Engine, ProcessEngine
from keel.serve.policy.filters import RuleConfig, Score, ScoreConfig, read_filters
from keel.serve.policy.front import Front
from keel.serve.policy.launched import LaunchedEngine, command_of, free_port, threads_of
from keel.serve.policy.memory import Votes
from keel.serve.policy.metrics import Metrics
from keel.serve.policy.remote import RemoteEngine
from keel.serve.policy.router import Router
from keel.serve.policy.worker_settings import worker_settings
from keel.verbs.shared.text_rows import texts_of


def engine_of(config: ServePolicyConfig, engine: str, model: str, reference: list[str]) -> Engine:
    """Not started yet. Raises ConfigError for one that is not installed."""
    if engine == "keel":
        settings = worker_settings(
            model,
            config.queue,
            config.model_options,
            config.render,
            tools=config.tools,
            threads=config.threads,
            count_words=config.drift.window > 0,
            reference=reference,
        )
        return ProcessEngine(settings, config.probe)
    if config.drift.window:
        raise ConfigError("drift needs token ids, which other servers do not tell", "set engine=keel, or drift.window=0")
    if engine in ENGINES:
        port = free_port()
        from keel.models.loading import compute_dtype  # loads torch, which the front does without otherwise

        dtype = str(compute_dtype(config.model_options)).removeprefix("torch.")
        command = [*command_of(engine, model, port, dtype), *config.engine_arguments]
        return LaunchedEngine(command, port, model, config.probe, threads_of(engine, config.threads))
    return RemoteEngine(engine, model, os.environ.get(config.key_env, ""))


def build(config: ServePolicyConfig, key: str, votes: Votes | None) -> Front:
    """All but what the engines say when they have started. Raises ConfigError, DataError."""
    rules = read_filters(Path(config.filters)) if config.filters else ()
    reference = texts_of(Path(config.drift.reference)) if config.drift.reference else []
    engines: dict[ArmName, Engine] = {"stable": engine_of(config, config.engine, config.model, reference)}
    canary = None
    if config.canary is not None:
        canary = Canary(config.canary)
        engines["canary"] = engine_of(config, config.canary.engine, config.canary.model, [])
    metrics = Metrics()
    router = Router(engines, config.queue, config.probe, metrics, canary)
    return Front(config, router, metrics, rules, _score_over_http(rules), votes, key)


def _score_over_http(rules: tuple[RuleConfig, ...]) -> Score | None:
    """Asks reward models behind `keel serve reward`; None where no rule does. A score that does not come is NaN, which stops the answer."""
    if not any(rule.score is not None for rule in rules):
        return None
    import httpx

    client = httpx.AsyncClient()

    async def score(config: ScoreConfig, prompt: str, answer: str) -> float:
        try:
            said = await client.post(config.url, json={"items": [{"prompt": prompt, "completion": answer}]}, timeout=config.timeout_s)
            value = said.json()["scores"][0]
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
            return math.nan
        return math.nan if value is None else float(value)

    return score
