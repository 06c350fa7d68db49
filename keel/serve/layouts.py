"""Request layouts of reward servers: Keel's own, OpenRLHF's, and those that verl asks of vLLM and SGLang.

- ``/score`` (Keel): ``{"items": [{"prompt": text or messages, "completion": text}]}`` ->
  ``{"scores": [number or null], "errors": [...], "std": [...]}``; the server puts the answer into the reward model's own template
- ``/get_reward`` (OpenRLHF): ``{"query": [whole texts], "prompts": [their beginnings], "labels": [...]}`` -> ``{"rewards": [...],
  "scores": [...], "extra_logs": {}}``; texts come in a template already
- ``/classify`` (vLLM): ``{"model": name, "input": text or texts}`` -> ``{"data": [{"index", "label", "probs": [score], ...}]}``
- ``/v1/embeddings`` (SGLang): the same -> ``{"data": [{"index", "object", "embedding": [score]}]}``
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.data.identity import content_key
from keel.types import Message, Prompt


class BadRequestError(ValueError):
    """The request cannot be read; the message says which field."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer to score: to a prompt that is rendered here, or after ``text``, which is in a template already."""

    answer: str
    prompt: Prompt | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score, NaN with the reason where there is none, and how far an ensemble's members are apart (NaN without one)."""

    score: float
    error: str = ""
    std: float = math.nan


Read = Callable[[Mapping[str, Any]], list[Asked]]
Write = Callable[[Mapping[str, Any], Sequence[Verdict]], dict[str, Any]]


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    found = body.get(name)
    if not isinstance(found, list):
        raise BadRequestError(f"{name} must be a list, is {type(found).__name__}")
    return found


def _texts(values: Sequence[Any], name: str) -> list[str]:
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise BadRequestError(f"{name}.{i} must be text, is {type(value).__name__}")
    return list(values)


def read_keel(body: Mapping[str, Any]) -> list[Asked]:
    """Keel's own layout."""
    asked: list[Asked] = []
    for i, item in enumerate(_list(body, "items")):
        if not isinstance(item, dict) or not isinstance(item.get("completion"), str):
            raise BadRequestError(f"items.{i} must be an object with prompt and completion (text)")
        asked.append(Asked(item["completion"], prompt_of(item.get("prompt"), f"items.{i}.prompt")))
    return asked


def prompt_of(value: Any, name: str) -> Prompt:
    """A prompt of text or of messages (text alone). Raises BadRequestError."""
    if isinstance(value, str):
        prompt = Prompt("", text=value)
    elif isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        for i, m in enumerate(value):
            if not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
                raise BadRequestError(f"{name}.{i} must have role and content, both text")
        prompt = Prompt("", tuple(Message(m["role"], m["content"]) for m in value))
    else:
        raise BadRequestError(f"{name} must be text or a list of messages")
    return Prompt(content_key(prompt), prompt.messages, prompt.text)


def write_keel(_: Mapping[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    std = {"std": [_finite(v.std) for v in verdicts]} if any(math.isfinite(v.std) for v in verdicts) else {}
    return {"scores": [_finite(v.score) for v in verdicts], "errors": [v.error for v in verdicts], **std}


def read_openrlhf(body: Mapping[str, Any]) -> list[Asked]:
    """OpenRLHF's: ``prompts`` may be absent, or be no beginning of the text; the text is then taken as a whole."""
    queries = _texts(_list(body, "query"), "query")
    prompts = body.get("prompts") or [""] * len(queries)
    if not isinstance(prompts, list) or len(prompts) != len(queries):
        raise BadRequestError(f"prompts must be a list of {len(queries)}, as query is")
    begins = [p if isinstance(p, str) and q.startswith(p) else "" for p, q in zip(prompts, queries)]
    return [Asked(q[len(p) :], text=p) for p, q in zip(begins, queries)]


def write_openrlhf(_: Mapping[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    rewards = [_finite(v.score) for v in verdicts]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}


def read_input(body: Mapping[str, Any]) -> list[Asked]:
    """vLLM's and SGLang's: one text or several."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else _list(body, "input")
    return [Asked(text) for text in _texts(texts, "input")]


def write_classify(body: Mapping[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    data = [{"index": i, "label": "LABEL_0", "probs": [_finite(v.score)], "num_classes": 1} for i, v in enumerate(verdicts)]
    return {"object": "list", "model": body.get("model", ""), "data": data}


def write_embeddings(body: Mapping[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    data = [{"index": i, "object": "embedding", "embedding": [_finite(v.score)]} for i, v in enumerate(verdicts)]
    return {"object": "list", "model": body.get("model", ""), "data": data}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


LAYOUTS: Mapping[str, tuple[Read, Write]] = {
    "/score": (read_keel, write_keel),
    "/get_reward": (read_openrlhf, write_openrlhf),
    "/classify": (read_input, write_classify),
    "/v1/embeddings": (read_input, write_embeddings),
}
