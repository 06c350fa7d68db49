"""A process that loads a model, answers one prompt again and again, and says how fast and in how much memory. Settings on standard input,
one JSON line on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from keel.runs.memory import peak_mb


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    answer = _by_llama_cpp(asked) if asked["engine"] == "llama_cpp" else _by_keel(asked)
    answer()  # the first one warms up
    rates: list[float] = []
    for _ in range(asked["repeats"]):
        started = time.perf_counter()
        tokens = answer()
        rates.append(tokens / (time.perf_counter() - started))
    print(json.dumps({"tokens_per_s": rates, "peak_mb": peak_mb()}))


def _by_keel(asked: Mapping[str, Any]) -> Callable[[], int]:
    import torch

    from keel.models.config import ModelOptions
    from keel.models.loading import load_model
    from keel.rollout.local import LocalSampler
    from keel.types import Encoded, SampleRequest, SamplingParams

    model = load_model(asked["spec"], ModelOptions()).model.freeze()
    sampler = LocalSampler(model, lambda tokens_T: "")
    params = SamplingParams(max_tokens=asked["tokens"], temperature=0.0)
    encoded = Encoded(torch.tensor(asked["prompt"], dtype=torch.int64))

    def answer() -> int:
        sampler.submit([SampleRequest("speed", encoded, 1, params, 0, 0)])
        return sum(len(rollout) for rollout in sampler.collect())

    return answer


def _by_llama_cpp(asked: Mapping[str, Any]) -> Callable[[], int]:
    from keel.release.gguf.llama_cpp import LlamaCpp

    server = LlamaCpp(asked["spec"])
    return lambda: server.answer(asked["prompt"], asked["tokens"])


if __name__ == "__main__":
    main()
