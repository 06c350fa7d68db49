"""`keel bench vlm`: steps of GRPO and DPO on images beside TRL, in time, memory and counted work."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from keel.data.batching import batch_at
from labs.bench.compare import TUNED, check_tokens, machine, run_side, trl_version
from labs.bench.report import side_summary
from labs.bench.vlm_count import PARTS
from labs.bench.vlm_model import make_image, make_model
from labs.bench.vlm_work import GEOMETRIES, MODEL, Verb, VisionWork, make_rows, write

log = logging.getLogger("keel")
VERBS: tuple[Verb, ...] = ("rl", "dpo")
CAUSES = {"tower": "an image once", "decoder": "a prompt once, no padding", "head": "scored positions only"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The workloads, against what, how often, and TRL's interpreter."""

    works: tuple[VisionWork, ...]
    against: str = "trl"
    repeats: int = 1
    tuned: bool = False  # TRL a second time, with memory that is freed kept by glibc
    trl_python: Path = Path(sys.executable)


def works(geometries: Sequence[str], verbs: Sequence[str], like: VisionWork) -> tuple[VisionWork, ...]:
    """``like`` for every geometry and verb. Raises UserError for names that there are not."""
    for given, known in ((geometries, GEOMETRIES), (verbs, VERBS)):
        if wrong := sorted(set(given) - set(known)):
            raise UserError(f"there is no '{wrong[0]}'", f"one of: {', '.join(known)}")
    shape = like.model
    return tuple(replace(like, verb=v, model=replace(shape, geometry=g)) for g in geometries or GEOMETRIES for v in verbs or VERBS)  # type: ignore[arg-type]


def compare(plan: Plan) -> dict[str, Any]:
    """Every workload on both sides, which take turns; then the ratios. Raises UserError as ``compare.compare`` does."""
    found: dict[str, Any] = {"machine": {**machine(), "trl": None}, "cases": {}}
    if plan.against == "trl":
        found["machine"]["trl"] = trl_version(plan.trl_python)
    for work in plan.works:
        name = f"{work.model.geometry}/{work.verb}"
        found["cases"][name] = {**_case(plan, work), "workload": work.to_json()}
        log.info("%s done", name)
    return found


def _case(plan: Plan, work: VisionWork) -> dict[str, Any]:
    sides: dict[str, tuple[list[str], Mapping[str, str]]] = {"keel": ([sys.executable, "-m", "labs.bench.vlm_keel"], {})}
    if plan.against == "trl":
        command = [str(plan.trl_python), str(Path(__file__).with_name("vlm_trl.py"))]
        sides |= {"trl": (command, {})} | ({"trl_tuned": (command, TUNED)} if plan.tuned else {})
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="keel-bench-") as scratch:
        folder, rows = Path(scratch), make_rows(work)
        make_model(work.model, folder / MODEL, work.seed)
        for row in rows:
            make_image(work.model.image, folder / f"{row['image']}.png", work.seed + row["image"])
        order = [batch_at(len(rows), step, work.rows_a_step, work.seed) for step in range(work.steps + 1)]
        write(folder, work, rows, order)
        for _ in range(plan.repeats):
            for side, (command, extra) in sides.items():
                runs[side].append(run_side(side, command, extra, folder, work.threads))
                log.info("%s %s: %.2f s a step", work.model.geometry, side, runs[side][-1]["step_s"])
    check_tokens(runs)
    return case_summary(runs, work.model.depth)


def case_summary(runs: Mapping[str, Sequence[Mapping[str, Any]]], depth: int) -> dict[str, Any]:
    """Medians of the sides and, beside another one, ratios of step, of processor seconds and of peak memory; counted work: GFLOP by part,
    its ratio as run and with all layers (``depth`` times those that ran), and the share of each cause in what is saved."""
    keel = runs["keel"]
    found: dict[str, Any] = {}
    for side, of in runs.items():
        found[side] = {**side_summary(of), "gflop": of[0]["gflop"]}
    found["keel"]["gflop_seen"] = keel[0]["gflop_seen"]
    for name in ("seen_step_s", "seen_cpu_s"):
        found["keel"][name] = sorted(r[name] for r in keel)[len(keel) // 2]
    if "trl" not in runs:
        return found
    theirs, ours = found["trl"], found["keel"]
    for name in ("step_s", "cpu_s"):
        found[f"ratio_{name}"] = theirs[name] / ours[name]
        found[f"ratio_seen_{name}"] = theirs[name] / ours[f"seen_{name}"]
        if "trl_tuned" in runs:
            found[f"ratio_tuned_{name}"] = found["trl_tuned"][name] / ours[name]
    found["memory_ratio"] = ours["peak_mb"] / theirs["peak_mb"]
    found["memory_ratio_above_loaded"] = ours["above_loaded_mb"] / theirs["above_loaded_mb"]
    return found | counted(theirs["gflop"], ours["gflop"], depth)


def counted(theirs: Mapping[str, float], ours: Mapping[str, float], depth: int) -> dict[str, Any]:
    """The ratio of counted work, as run and with ``depth`` times the layers of tower and decoder; the share of each cause in the saving."""
    scale = {"tower": depth, "decoder": depth, "head": 1}
    saved = {part: theirs[part] - ours[part] for part in PARTS}
    whole = sum(saved.values())
    return {
        "counted_ratio": sum(theirs.values()) / sum(ours.values()),
        "counted_ratio_all_layers": sum(theirs[p] * scale[p] for p in PARTS) / sum(ours[p] * scale[p] for p in PARTS),
        "share_of_saving": {CAUSES[part]: saved[part] / whole for part in PARTS} if whole else {},
    }


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a line a case."""
    lines = [
        "| case | Keel s | TRL s | step | of processor time | images seen before | peak MB, Keel / TRL | counted | with all layers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in found["cases"].items():
        keel = case["keel"]
        if "trl" not in case:
            lines.append(f"| {name} | {keel['step_s']:.2f} | | | | {keel['seen_step_s']:.2f} s | {keel['peak_mb']:.0f} | | |")
            continue
        trl, ratios = case["trl"], [f"{case[k]:.1f}x" for k in ("ratio_step_s", "ratio_cpu_s", "ratio_seen_cpu_s")]
        memory = f"{keel['peak_mb']:.0f} / {trl['peak_mb']:.0f} ({case['memory_ratio']:.2f})"
        work = f"{case['counted_ratio']:.1f}x | {case['counted_ratio_all_layers']:.1f}x"
        lines.append(f"| {name} | {keel['step_s']:.2f} | {trl['step_s']:.2f} | {' | '.join(ratios)} | {memory} | {work} |")
    causes = [
        f"{name}: " + ", ".join(f"{cause} {100 * share:.0f}%" for cause, share in case["share_of_saving"].items())
        for name, case in found["cases"].items()
        if case.get("share_of_saving")
    ]
    depths = {case["workload"]["model"]["depth"] for case in found["cases"].values()}
    note = (
        f"true widths; of 12 tower and 30 decoder layers each {'/'.join(map(str, sorted(depths)))}th is there; tower and projector frozen"
    )
    said = ["share of each cause in the counted saving:", *causes] if causes else []
    return "\n".join([*lines, "", *said, note])
