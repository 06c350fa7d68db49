"""What both sides measure and how: seconds of the parts of a step, and memory. Nothing but the standard library."""

from __future__ import annotations

import functools
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Clock:
    """Seconds of each step, and of its parts; a part may lie in another. The first step is not counted: it warms up."""

    def __init__(self) -> None:
        self.steps: defaultdict[int, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._start = (0.0, 0.0, 0)

    def part(self, owner: Any, method: str, name: str) -> None:
        """From now on, count the seconds of ``owner.method`` as part ``name``."""
        function = getattr(owner, method)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._parts[name] += time.perf_counter() - started

        setattr(owner, method, timed)

    def add_all(self, parts: Mapping[str, float]) -> None:
        """Count these seconds as parts of what is running."""
        for name, seconds in parts.items():
            self._parts[name] += seconds

    def start(self) -> None:
        """A stretch of a step begins."""
        self._parts.clear()
        self._start = (time.perf_counter(), time.process_time(), page_faults())

    def stop(self, step: int, whole: str = "") -> None:
        """It ends: add it to ``step``, and to the part ``whole`` of it if that is named."""
        wall, cpu, faults = self._start
        seconds = time.perf_counter() - wall
        found = {"step_s": seconds, "cpu_s": time.process_time() - cpu, "page_faults": float(page_faults() - faults)}
        found |= {f"parts/{name}": seconds for name, seconds in self._parts.items()}
        found |= {f"parts/{whole}": seconds} if whole else {}
        for name, value in found.items():
            self.steps[step][name] += value

    def medians(self) -> dict[str, Any]:
        """Medians over all steps but the first: ``step_s``, ``cpu_s``, ``page_faults`` and ``parts``."""
        timed = [self.steps[i] for i in sorted(self.steps)[1:]]
        names = dict.fromkeys(name for step in timed for name in step)
        found = {name: statistics.median(step.get(name, 0.0) for step in timed) for name in names}
        parts = {name.removeprefix("parts/"): value for name, value in found.items() if name.startswith("parts/")}
        return {**{name: value for name, value in found.items() if not name.startswith("parts/")}, "parts": parts}


def page_faults() -> int:
    """Pages that the system had to hand out to this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024 / 1024


def resident_mb() -> float:
    """Resident memory now, in MB; where the system does not tell, the largest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_mb()
    return pages * resource.getpagesize() / 2**20
