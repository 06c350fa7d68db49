"""The most memory that this process had in a stretch of its work: resident on a CPU, allocated on a GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from keel.core.errors import UserError
from keel.runs.memory import give_back_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """``start`` begins a stretch, ``peak`` is the most since then, ``now`` what is taken at the moment; bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self, trim: bool = False) -> None:
        """Begin a stretch; ``trim``: first hand back what nothing needs. Raises UserError where the system does not tell."""
        if trim:
            give_back_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            _CLEAR.write_text("5")  # the high-water mark falls to what is resident now
        except OSError:
            raise UserError("--measure needs Linux's /proc/self/clear_refs, or a GPU", "leave --measure out") from None

    def peak(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else _field("VmHWM")

    def now(self) -> int:
        """Bytes."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else _field("VmRSS")


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])
