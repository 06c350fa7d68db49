"""From what each process measured to medians, ratios and a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
OTHERS = ("trl", "padded")  # what Keel is measured against, each as it is and with the allocator tuned
SIDES = ("keel", *(side for other in OTHERS for side in (other, f"{other}_tuned")))
_NUMBERS = ("step_s", "cpu_s", "page_faults", "peak_mb", "loaded_mb", "gpu_peak_mb")


def side_summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians over the repeats of one side: seconds of a step, its parts, tokens a second, memory in MB (``above_loaded_mb``: the peak less
    what lay in memory when everything was loaded), pages handed out by the system in a step. ``step_s_all``: every repeat, in order."""
    found: dict[str, Any] = {name: statistics.median(r[name] for r in runs) for name in _NUMBERS if name in runs[0]}
    found["above_loaded_mb"] = statistics.median(r["peak_mb"] - r["loaded_mb"] for r in runs)
    found["tokens_per_s"] = statistics.median(statistics.median(r["tokens"]) / r["step_s"] for r in runs)
    names = dict.fromkeys(name for r in runs for name in r["parts"])
    found["parts"] = {name: statistics.median(r["parts"].get(name, 0.0) for r in runs) for name in names}
    found["step_s_all"] = [r["step_s"] for r in runs]
    return found


def summary(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The whole result: the sides, ``speedup`` and ``speedup_tuned`` (the other side's median step over Keel's), their ranges over the
    repeats, the same of processor seconds (``cpu_``, which other programs disturb less), ``memory_ratio`` (Keel's peak over that of the
    other side untuned) and the same above loading, ``roofline_share``."""
    keel = runs["keel"]
    found: dict[str, Any] = {side: side_summary(of) for side, of in runs.items()}
    other = next((name for name in OTHERS if name in runs), "")
    for side, name in ((other, "speedup"), (f"{other}_tuned", "speedup_tuned")):
        if side in runs:
            found[name] = found[side]["step_s"] / found["keel"]["step_s"]
            pairs = [theirs["step_s"] / ours["step_s"] for theirs, ours in zip(runs[side], keel, strict=True)]
            found[f"{name}_range"] = [min(pairs), max(pairs)]
            found[f"cpu_{name}"] = found[side]["cpu_s"] / found["keel"]["cpu_s"]
    if other:
        found["memory_ratio"] = found["keel"]["peak_mb"] / found[other]["peak_mb"]
        found["memory_ratio_above_loaded"] = found["keel"]["above_loaded_mb"] / max(1.0, found[other]["above_loaded_mb"])
    found["roofline_share"] = statistics.median(statistics.median(r["floor_s"]) / r["step_s"] for r in keel)
    return found


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a line a side, then the ratios."""
    lines = ["| side | step s | CPU s | tokens/s | peak MB | above loading MB | page faults |", "|---|---|---|---|---|---|---|"]
    for side in SIDES:
        if side in found:
            f = found[side]
            times = f"{f['step_s']:.3f} | {f['cpu_s']:.3f} | {f['tokens_per_s']:.0f}"
            memory = f"{f['peak_mb']:.0f} | {f['above_loaded_mb']:.0f}"
            lines.append(f"| {side} | {times} | {memory} | {f['page_faults']:.0f} |")
    names = ("speedup", "speedup_tuned", "cpu_speedup", "cpu_speedup_tuned", "memory_ratio")
    ratios = [f"{name} {found[name]:.2f}" for name in names if name in found]
    parts = ", ".join(f"{name.removesuffix('_s')} {seconds:.3f}" for name, seconds in found["keel"]["parts"].items())
    return "\n".join([*lines, "", ", ".join([*ratios, f"roofline share {found['roofline_share']:.2f}"]), f"keel's seconds: {parts}"])
