"""What engine and trainer say to each other: plain values as JSON, tensors as safetensors, in one body. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from keel.types import Encoded, SampleRequest, SamplingParams

_HEAD = 8  # bytes that say how long the JSON is
_TUPLES = ("stop", "stop_tokens", "banned_tokens")
_PARAMS = frozenset(f.name for f in fields(SamplingParams))
_REQUEST = ("prompt_id", "n", "seed", "attempt", "first_sample", "keep_support")


class WireError(Exception):
    """A body that is none of ours; the message says what is wrong."""


def write(plain: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> bytes:
    """One body."""
    head = json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    return len(head).to_bytes(_HEAD, "little") + head + (save({k: t.contiguous() for k, t in tensors.items()}) if tensors else b"")


def read(body: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What was written. Raises WireError."""
    size = int.from_bytes(body[:_HEAD], "little")
    try:
        plain = json.loads(body[_HEAD : _HEAD + size])
        tensors = load(body[_HEAD + size :]) if len(body) > _HEAD + size else {}
    except (ValueError, SafetensorError) as error:
        raise WireError(f"the body cannot be read: {error}") from None
    if not isinstance(plain, dict):
        raise WireError("the body's JSON is no object")
    return plain, tensors


def write_requests(requests: Sequence[SampleRequest], **more: Any) -> bytes:
    """Requests without images and without biases, which no engine is told of."""
    rows = [{name: getattr(r, name) for name in _REQUEST} | {"params": asdict(r.params), "length": len(r.prompt)} for r in requests]
    return write({"requests": rows, **more}, {"tokens": torch.cat([r.prompt.tokens_T for r in requests])} if requests else None)


def read_requests(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[SampleRequest]:
    """Raises WireError for what is no request."""
    found: list[SampleRequest] = []
    try:
        parts = tensors["tokens"].split([int(row["length"]) for row in plain["requests"]]) if plain["requests"] else ()
        for row, tokens_T in zip(plain["requests"], parts, strict=True):
            if unknown := row["params"].keys() - _PARAMS:
                raise WireError(f"params has unknown fields: {', '.join(sorted(unknown))}")
            values: dict[str, Any] = {k: tuple(v) if k in _TUPLES else v for k, v in row["params"].items()}
            params = SamplingParams(**values)
            found.append(SampleRequest(prompt=Encoded(tokens_T.clone()), params=params, **{name: row[name] for name in _REQUEST}))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WireError(f"no request: {type(error).__name__}: {error}") from None
    return found
