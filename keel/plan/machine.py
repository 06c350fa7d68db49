"""What this machine is: memory, cores, GPU, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from keel.models.config import ModelOptions
from keel.models.loading import compute_dtype

_SECONDS = 0.2  # what each shape is timed for
_DIM = {"cpu": 768, "cuda": 4096}
_WIDE = {"cpu": 768, "cuda": 4096}  # rows of a training pass
_NARROW = 32  # answers decoded side by side


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes, rates in floating-point operations a second. ``memory`` is what training may take: that of the GPU where there is
    one, else what is free of the computer's (of a container's limit, where it has one)."""

    device: str
    cores: int
    memory: int
    compute: str  # float32 or bfloat16
    wide: float  # rate of products of many rows, as in training
    narrow: float  # rate of products of few rows, as in decoding

    @property
    def bytes_per_value(self) -> int:
        """Bytes of a value in the compute precision."""
        return 2 if self.compute == "bfloat16" else 4

    def to_json(self) -> dict[str, Any]:
        """As it stands in the advice, in GB and GFLOP/s."""
        raw = asdict(self)
        rates = {f"{k}_gflops": round(raw.pop(k) / 1e9, 1) for k in ("wide", "narrow")}
        return {**raw, "memory": self.memory, "memory_gb": round(self.memory / 1e9, 2), **rates}


def measure_machine(options: ModelOptions) -> Machine:
    """Look at the machine; takes under a second."""
    kind = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    device, dtype = torch.device(kind), compute_dtype(options.model_copy(update={"device": kind}))  # a GPU may be asked for and not here
    name = torch.cuda.get_device_name(device) if kind == "cuda" else "cpu"
    memory = torch.cuda.mem_get_info(device)[0] if kind == "cuda" else free_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rates = [matmul_rate(rows, _DIM[kind], dtype, device) for rows in (_WIDE[kind], _NARROW)]
    return Machine(name, cores, memory, str(dtype).removeprefix("torch."), *rates)


def matmul_rate(rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of [rows, dim] x [dim, dim]: the median of as many products as fit in 0.2 s, at least three."""
    x_RD, weight_DD = (torch.randn(n, dim, device=device).to(dtype) for n in (rows, dim))
    torch.mm(x_RD, weight_DD)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < 1000):
        started = time.perf_counter()
        torch.mm(x_RD, weight_DD)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2.0 * rows * dim * dim / sorted(times)[len(times) // 2]


def free_memory() -> int:
    """Bytes that this process may still take: what the system says is available, or what is left of the container's limit if less."""
    found = [_available()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return max(0, min(found))


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
