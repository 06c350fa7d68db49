"""What ranks on a Ray cluster cost beside local ones: time to start and to start again, memory. ``ray_times.py [RANKS]`` prints a table."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from rank_cases import CASES

from keel.core.errors import RankLostError
from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.hosts import host_of

CASE = next(case for case in CASES if case.name == "sft")


def memory() -> tuple[float, float]:
    """MB of the ranks, and of what Ray has beside them; shared pages are counted by share."""
    of_ranks = of_ray = 0.0
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            pss = next(int(line.split()[1]) for line in (entry / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")) / 1024
        except (OSError, StopIteration):  # no process, or one that is gone
            continue
        if "ray::RayRank" in command or "keel.learner.rank" in command:
            of_ranks += pss
        elif "ray::" in command or "/ray/" in command:
            of_ray += pss
    return of_ranks, of_ray


def started(cluster: ClusterConfig) -> tuple[Host, float, float]:
    """Ranks with a learner on them; seconds until they were started, and until they had loaded it."""
    began = time.perf_counter()
    host = host_of(cluster, torch.device("cpu"))
    up = time.perf_counter() - began
    CASE.over(host)
    return host, up, time.perf_counter() - began


def row(name: str, cluster: ClusterConfig) -> str:
    """Start, look, kill a rank, start again, end."""
    host, up, ready = started(cluster)
    many = CASE.over(host)
    many.forward_backward(CASE.given, CASE.objective)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        many.discard_gradients()
        times.append(time.perf_counter() - began)
    of_ranks, of_ray = memory()
    os.kill(host.group.pids[-1], signal.SIGKILL)  # type: ignore[attr-defined]
    began = time.perf_counter()
    try:
        many.forward_backward(CASE.given, CASE.objective)
    except RankLostError:
        seen = time.perf_counter() - began
    host, _, again = started(cluster)
    host.close()
    command = sorted(times)[len(times) // 2] * 1000
    return f"| {name} | {up:.1f} | {ready:.1f} | {command:.1f} | {of_ranks:.0f} | {of_ray:.0f} | {seen:.1f} | {again:.1f} |"


if __name__ == "__main__":
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print("| ranks | started, s | loaded, s | a command, ms | ranks, MB | Ray, MB | a kill is seen, s | started and loaded again, s |")
    print("|---|---|---|---|---|---|---|---|")
    print(row("processes", ClusterConfig(ranks=ranks)), flush=True)
    print(row("Ray", ClusterConfig(ranks=ranks, ray="auto")), flush=True)
