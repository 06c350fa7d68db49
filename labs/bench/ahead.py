"""What it gains to draw rollouts beside the training: the same recipe with the trainer's own sampler, and with engines and lags.

    python -m labs.bench.ahead --steps 12 --cores 2

An answer ends with the first "d" that it writes, so lengths are ragged: about geometric, as the last columns show. The learning rate is
next to nothing, so all ways draw answers of one kind. Seconds a step are medians over the steps behind the first two, each way in turn,
``--rounds`` times; of the ways with an engine both processes have half of the cores each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from keel.core.json_lines import lines_of

WAYS = {
    "local": (),
    "server, lag 0": ("sampler.engine=server",),
    "server, lag 1": ("sampler.engine=server", "rollouts.lag=1"),
    "server, lag 2": ("sampler.engine=server", "rollouts.lag=2"),
    "server, lag 1, in flight": ("sampler.engine=server", "rollouts={lag: 1, in_flight: true}"),
}
_WARM = 2


def run(way: str, folder: Path, model: str, steps: int, cores: int, tokens: int) -> list[dict[str, float]]:
    """Metrics of each step behind the first ones."""
    beside = "sampler.engine=server" in WAYS[way]
    threads = max(1, cores // 2) if beside else cores
    command = [
        *(sys.executable, "-m", "keel.cli", "rl", "recipes/tiny_grpo.yaml", f"run_dir={folder}", f"model={model}"),
        *(f"loop.steps={steps}", "loop.batch_size=8", "loop.eval_every=0", "loop.eval_at_start=false", "loop.probes=0"),
        *(
            f"sampling.max_tokens={tokens}",
            "sampling.stop=[d]",
            "optim.lr=1e-7",
            "algorithm.correction.kind=truncate",
            "settings.checkpoint.every=1000",
        ),
        *(f"settings.threads={threads}", *([f"sampler.server.threads={threads}"] if beside else []), *WAYS[way]),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    rows = [json.loads(line) for line in lines_of((folder / "metrics.jsonl").read_text(encoding="utf-8"))]
    return [row for row in rows if row.get("step", 0) > _WARM and "time/step_s" in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny:llama?seed=1&hidden=256&layers=4")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(args.rounds):
            for way in WAYS:
                rows[way] += run(way, Path(folder) / f"{way}-{k}".replace(" ", ""), args.model, args.steps, args.cores, args.tokens)
    base = _median(rows["local"], "time/step_s")
    for way, found in rows.items():
        times = "   ".join(f"{name} {_median(found, f'time/{name}_s'):6.3f}" for name in ("step", "rollout", "train", "sync"))
        lengths = f"{_median(found, 'completions/mean_length'):5.1f} tokens, at most {max(r['completions/max_length'] for r in found):.0f}"
        print(f"{way:25} {times} s   {base / _median(found, 'time/step_s'):5.2f} x   {lengths}", flush=True)


def _median(rows: list[dict[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


if __name__ == "__main__":
    main()
