"""Tasks of lm-evaluation-harness (an extra), asked of the model in memory on the very ids that Keel reads."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from keel.core.errors import UserError
from keel.evaluate.parts import LmEvalConfig
from keel.models.loading import Loaded
from keel.render.renderer import Renderer
from keel.rollout.config import SamplerConfig

log = logging.getLogger("keel")
_Z = 1.959963984540054  # of a 95% interval


def run_tasks(config: LmEvalConfig, loaded: Loaded, renderer: Renderer, sampler: SamplerConfig) -> dict[str, Any]:
    """Results and the record of how they came about; where the harness is not installed ``{"skipped": why}``. Raises UserError for tasks
    that it does not know. Nothing is cached: a model never gets the answers of another."""
    if importlib.util.find_spec("lm_eval") is None:
        why = "lm-evaluation-harness is not installed: pip install keel-align[lm-eval]"
        log.warning("evaluate.lm_eval is skipped: %s", why)
        return {"skipped": why}
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    from keel.verbs.evaluate.lm_model import KeelLM

    if config.chat_template and renderer.template is None:
        what = "evaluate.lm_eval.chat_template: the model has no chat template"
        raise UserError(what, "set chat_template=false, or render.chat_template")
    manager = TaskManager(include_path=config.include_path or None, include_defaults=not config.include_path)
    if unknown := [name for name in config.tasks if name not in manager.all_tasks]:
        where = config.include_path or f"lm-eval {metadata.version('lm-eval')}"
        raise UserError(f"evaluate.lm_eval.tasks: {where} has no task {unknown[0]!r}", "lm-eval ls tasks lists those that there are")
    lm = KeelLM(loaded, renderer, sampler)
    seeds = {f"{name}_seed": config.seed for name in ("random", "numpy_random", "torch_random", "fewshot_random")}
    found = simple_evaluate(
        model=lm,
        tasks=list(config.tasks),
        num_fewshot=config.shots,
        limit=config.limit,
        apply_chat_template=config.chat_template,
        fewshot_as_multiturn=config.chat_template,
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
        use_cache=None,
        cache_requests=False,
        **seeds,
    )
    assert found is not None, "lm-eval gives nothing on other ranks than the first, and there is one"
    asked = {"ids_sha256": lm.seen.hexdigest(), "cut_at_context": lm.cut}
    return {"results": _results(found), "record": _record(config, found, renderer) | asked}


def _results(found: Mapping[str, Any]) -> dict[str, Any]:
    """By task and metric the mean with the interval of its standard error over items; a metric without one has no ends."""
    out: dict[str, Any] = {}
    for task, values in found["results"].items():
        n = found.get("n-samples", {}).get(task, {}).get("effective")
        rows: dict[str, Any] = {}
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = _sample_error(found, task, metric, filtered)
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            rows[name] = {"mean": float(value), "n": n}
            if error is not None:
                rows[name] |= {"low": float(value) - _Z * error, "high": float(value) + _Z * error}
        out[task] = rows
    return out


def _sample_error(found: Mapping[str, Any], task: str, metric: str, filtered: str) -> float | None:
    """Standard error of the mean over items, from the items themselves; None where the metric is no mean of theirs."""
    values = [s[metric] for s in found.get("samples", {}).get(task, ()) if metric in s and s.get("filter", "none") == filtered]
    if len(values) < 2 or not all(isinstance(v, int | float) for v in values):
        return None
    mean = sum(values) / len(values)
    if abs(mean - float(found["results"][task][f"{metric},{filtered}"])) > 1e-9:
        return None
    return (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5


def _record(config: LmEvalConfig, found: Mapping[str, Any], renderer: Renderer) -> dict[str, Any]:
    """What a number hangs on: template, beginning of texts, examples, limit, versions."""
    return {
        "lm_eval": metadata.version("lm-eval"),
        "tasks": {name: {"version": found["versions"].get(name), "sha256": _sha(found["configs"].get(name))} for name in found["configs"]},
        "shots": dict(found.get("n-shot", {})),
        "limit": config.limit,
        "samples": {name: dict(n) for name, n in found.get("n-samples", {}).items()},
        "chat_template": {"used": config.chat_template, "sha256": renderer.template_hash if config.chat_template else ""},
        "bos": list(renderer.codec.bos),
        "seed": config.seed,
    }


def _sha(config: Any) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=_name).encode()).hexdigest()


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__name__)


def ids_of(words: Sequence[int]) -> bytes:
    """Ids as they enter the record's hash."""
    return (",".join(map(str, words)) + ";").encode()
