"""Memory of this process: how much it took, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024 / 1024


def give_back_memory() -> None:
    """Free what nothing refers to, and hand free pages back to the system: glibc keeps those that lie between pages still in use, hundreds
    of MB after a training stage. Elsewhere than on glibc only the first."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
