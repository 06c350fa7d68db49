"""What it costs to read a long run: a run directory is made up, then `keel runs` and `keel report` look at it, each in a new process.

    python -m labs.bench.record --steps 100000 --metrics 66

``cold`` is the first look at a run whose side file of columns is not there (one that an older version wrote): it is made then.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from keel.core.hashing import stable_hash
from keel.runs import columns, logs
from keel.runs.directory import COLUMNS

NAMES = ("reward", "reward_std", "kl", "entropy", "loss", "grad_norm", "lr", "completions/mean_length", "time/step_s", "tokens_per_s")


_CODE = """
import resource, sys
from keel.cli import main
try:
    code = main(sys.argv[1:])
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("COST", used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command: processor seconds and peak memory in MB, of the whole process."""

    command: str
    cpu_s: float
    peak_mb: float


def make_run(run: Path, steps: int, metrics: int, sealed: bool = True) -> int:
    """A run of ``steps`` steps with ``metrics`` metrics each, a twentieth of them at evaluations only, one every 50 steps. Returns the
    bytes of ``metrics.jsonl``. ``sealed``: with its side file of columns, as a run leaves it."""
    run.mkdir(parents=True)
    at_evaluations = max(1, metrics // 20)
    names = [*NAMES, *(f"part/{i}/mean" for i in range(metrics))][: metrics - at_evaluations]
    manifest = {"schema": 1, "verb": "rl", "seed": 0, "config": {}, "starts": [{"at": "2026-01-01T00:00:00+00:00"}]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    path = run / "metrics.jsonl"
    with path.open("wb") as file:
        for step in range(1, steps + 1):
            noise = stable_hash("record", step) / 2**64
            row = {name: math.sin(step / 5000 + i) + noise / (i + 1) for i, name in enumerate(names)}
            if step % 50 == 0:
                row |= {f"eval/part{i}": math.cos(step / 5000 + i) for i in range(at_evaluations)}
            file.write(logs.json_line({"step": step, **row}))
    if sealed:
        columns.load(path)
    else:
        shutil.rmtree(run / COLUMNS, ignore_errors=True)
    return path.stat().st_size


def measure(name: str, argv: Sequence[str]) -> Cost:
    """Run ``keel`` with these arguments in a new process. Raises CalledProcessError where it fails."""
    done = subprocess.run([sys.executable, "-c", _CODE, *argv], capture_output=True, text=True, check=True)
    cpu, peak = next(line for line in done.stderr.splitlines() if line.startswith("COST")).split()[1:]
    return Cost(name, round(float(cpu), 2), round(int(peak) * (1 if sys.platform == "darwin" else 1024) / 1e6, 1))


def costs(folder: Path, steps: int, metrics: int) -> tuple[int, list[Cost]]:
    """Bytes of ``metrics.jsonl``, and what the commands cost."""
    making = multiprocessing.get_context("spawn")  # apart: what a process has used at its most, those that it starts have too
    with making.Pool(1) as pool:
        size = pool.apply(make_run, (folder / "runs" / "long", steps, metrics))
    found = [
        measure("keel runs", ["runs", "--root", str(folder / "runs")]),
        measure("keel report", ["report", str(folder / "runs" / "long")]),
    ]
    shutil.rmtree(folder / "runs" / "long" / COLUMNS)
    found.append(measure("keel report, cold", ["report", str(folder / "runs" / "long")]))
    return size, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--metrics", type=int, default=66)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size, found = costs(Path(folder), args.steps, args.metrics)
    base = measure("keel --help", ["--help"])
    print(f"metrics.jsonl: {size / 1e6:.0f} MB")
    for cost in (base, *found):
        print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()
