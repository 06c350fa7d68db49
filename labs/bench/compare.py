"""Both sides of a comparison, in processes of their own, taking turns: what disturbs the machine disturbs both."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from keel.core.errors import UserError
from keel.data.batching import batch_at
from keel.methods import ALGORITHMS
from labs.bench import trl_side
from labs.bench.model import make_model
from labs.bench.report import summary
from labs.bench.workload import MODEL, Workload, write

log = logging.getLogger("keel")
TRL = "1.16.0"
# glibc hands memory of this size back to the system on every free, and takes it anew, page by page: half of TRL's time on a CPU
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload, against what, how often, and TRL's interpreter."""

    work: Workload
    against: Literal["trl", "padded", "none"] = "trl"
    repeats: int = 5
    trl_python: Path = Path(sys.executable)


def compare(plan: Plan) -> dict[str, Any]:
    """Run everything and return the result as ``report.summary`` has it, with the workload and the machine. Raises UserError where TRL is
    missing, a side fails, or the sides did not train on equally many tokens."""
    work = plan.work
    sides: dict[str, tuple[list[str], Mapping[str, str]]] = {"keel": ([sys.executable, "-m", "labs.bench.keel_side"], {})}
    version = None
    if work.algorithm not in ALGORITHMS:
        raise UserError(f"no algorithm is named {work.algorithm}", f"one of: {', '.join(ALGORITHMS)}")
    if plan.against == "trl":
        if work.algorithm != "grpo":
            raise UserError(f"TRL's side measures GRPO, not {work.algorithm}", "leave --algorithm out, or take --against none")
        version = trl_version(plan.trl_python)
        command = [str(plan.trl_python), str(Path(trl_side.__file__))]
        sides |= {"trl": (command, {}), "trl_tuned": (command, TUNED)}
    if plan.against == "padded":
        if (work.verb, work.algorithm, work.model.dtype) != ("rl", "ppo", "float32"):
            raise UserError("the padded side measures PPO in float32", "keel bench rl --algorithm ppo --against padded")
        command = [sys.executable, "-m", "labs.bench.padded_side"]
        sides |= {"padded": (command, {}), "padded_tuned": (command, TUNED)}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    state = machine()
    with tempfile.TemporaryDirectory(prefix="keel-bench-") as scratch:
        folder = Path(scratch)
        make_model(work.model, folder / MODEL, work.seed)
        count = work.rows_a_step * (work.steps + 1)
        write(folder, work, [batch_at(count, step, work.rows_a_step, work.seed) for step in range(work.steps + 1)])
        for repeat in range(plan.repeats):
            for side, (command, extra) in sides.items():
                runs[side].append(run_side(side, command, extra, folder, work.threads))
                log.info("%s %d of %d: %.3f s a step", side, repeat + 1, plan.repeats, runs[side][-1]["step_s"])
    check_tokens(runs)
    return {**summary(runs), "workload": work.to_json(), "repeats": plan.repeats, "machine": {**state, "trl": version}}


def check_tokens(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise UserError when some side trained on another number of tokens in any step: the comparison would be void."""
    found = {side: sorted({tuple(r["tokens"]) for r in of}) for side, of in runs.items()}
    if len({str(counts) for counts in found.values()}) > 1 or any(len(counts) > 1 for counts in found.values()):
        raise UserError(
            f"the sides did not train on the same tokens a step: {found}", "this is a mistake of the benchmark: please report it"
        )


def trl_version(python: Path) -> str:
    """The version of TRL in an interpreter. Raises UserError when there is none."""
    install = f"pip install 'keel-align[bench]' (trl=={TRL}), or --trl-python PATH of an environment that has it, or --against none"
    code = "from importlib.metadata import version; import trl; print(version('trl'))"
    try:
        found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--trl-python {python} cannot be started: {error.strerror}", install) from error
    if found.returncode:
        raise UserError(f"TRL is not installed for {python}", install)
    version = found.stdout.strip()
    if version != TRL:
        log.warning("TRL %s: this comparison was written for %s", version, TRL)
    return version


def run_side(side: str, command: Sequence[str], extra: Mapping[str, str], folder: Path, threads: int) -> dict[str, Any]:
    """What one process of a side measures. Raises UserError with its last words where it fails."""
    out = folder / "result.json"
    out.unlink(missing_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    env = {**inherited, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **extra}
    done = subprocess.run([*command, str(folder), str(out)], env=env, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise UserError(f"{side} failed (exit {done.returncode}):\n{last}", "try a smaller workload, or --against none")
    return json.loads(out.read_text())


def machine() -> dict[str, Any]:
    """What the numbers belong to. ``load``: processes that wanted to run in the minute before."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
