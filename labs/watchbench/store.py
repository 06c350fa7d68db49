"""Records of runs on disk: a line for each run, metrics as columns of four digits, a file for each family."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.runs import logs
from labs.watchbench.plan import HEALTHY, SICK, Run

FOLDER = Path(__file__).parent / "records"  # those that come with the repository
TUNED_ON = FOLDER / "tuned_on.txt"  # names of the runs that were in view when the default rules were chosen
FAMILIES = (HEALTHY, *SICK)
DIGITS = 4
# What rules and diagnosis may ask for. Times, memory, moving averages and what stands there twice are left out.
KEPT = (
    "loss",
    "grad_norm",
    "lr",
    "skipped_steps",
    "entropy",
    "kl",
    "kl/max",
    "objective/kl",
    "kl_coef",
    "clip_ratio/region_mean",
    "policy/approxkl_avg",
    "policy/bounded_ratio",
    "reward",
    "reward_std",
    "reward_min",
    "reward_max",
    "frac_reward_zero_std",
    "sampling/staleness/mean",
    "sampling/sampling_logp_difference/mean",
    "completions/mean_length",
    "completions/clipped_ratio",
    "completions/failed_ratio",
    "completions/unique_token_ratio",
    "completions/refrain_ratio",
    "completions/reward_length_corr",
    "prompts/mean_length",
    "prompts/surprise",
    "critic/grad_norm",
    "critic/value_mean",
    "loss/value_avg",
    "val/clipfrac_avg",
    "completions/distinct_2",
    "eval/reward",
    "eval/reward_std",
    "eval/rewards/own/std",
    "eval/rewards/gold/mean",
    "eval/rewards/gold/std",
    "eval/completions/mean_length",
    "eval/completions/failed_ratio",
)


def rounded(value: float) -> float:
    """With four digits that count; what is not finite stays as it is."""
    if not math.isfinite(value) or value == 0:
        return value
    found = float(f"{value:.{DIGITS}g}")
    return int(found) if found.is_integer() and abs(found) < 1e6 else found


def packed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record (``asdict``) with its rows as columns; null where a row does not have a metric."""
    rows: Sequence[Mapping[str, float]] = row["rows"]
    there = [name for name in ("step", *KEPT) if any(name in r for r in rows)]
    columns = {name: [rounded(float(r[name])) if name in r else None for r in rows] for name in there}
    return {**{k: v for k, v in row.items() if k != "rows"}, "columns": logs.plain(columns)}


def unpacked(row: Mapping[str, Any]) -> dict[str, Any]:
    """With rows again, as ``metrics.jsonl`` has them."""
    columns: Mapping[str, Sequence[Any]] = row["columns"]
    n = len(next(iter(columns.values()), ()))
    rows = [{name: value for name, values in columns.items() if (value := logs.number(values[i])) is not None} for i in range(n)]
    return {**{k: v for k, v in row.items() if k != "columns"}, "rows": rows, "run": Run(**row["run"])}


def append(folder: Path, family: str, row: Mapping[str, Any]) -> None:
    """Add a run to what a bench under way has."""
    folder.mkdir(parents=True, exist_ok=True)
    logs.append(folder / f"{family}.jsonl", [packed(row)])


def read(folder: Path, family: str) -> Iterator[dict[str, Any]]:
    """The runs of a family, of a bench under way or a packed one. Raises DataError for a file that is not whole."""
    plain, small = folder / f"{family}.jsonl", folder / f"{family}.jsonl.xz"
    if plain.is_file():
        yield from map(unpacked, logs.rows_of(plain))
    elif small.is_file():
        try:
            lines = lzma.decompress(small.read_bytes()).splitlines()
        except (lzma.LZMAError, EOFError) as error:
            raise DataError(f"{small} cannot be read: {error}", "take it from the repository again, or record it anew") from None
        yield from (unpacked(json.loads(line)) for line in lines)


def done(folder: Path) -> set[str]:
    """Names of the runs that are there."""
    return {row["run"].name for family in FAMILIES for row in read(folder, family)}


def tuned_on() -> frozenset[str]:
    """The names in ``TUNED_ON``."""
    return frozenset(TUNED_ON.read_text(encoding="utf-8").split())


def pack(folders: Sequence[Path], to: Path) -> dict[str, int]:
    """Write each family of ``folders`` as one compressed file, runs in order, each once. Returns their bytes."""
    to.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    for family in FAMILIES:
        found = {row["run"]["number"]: row for folder in folders for row in logs.rows_of(folder / f"{family}.jsonl")}
        if found:
            data = b"".join(json.dumps(found[n], separators=(",", ":")).encode() + b"\n" for n in sorted(found))
            (to / f"{family}.jsonl.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
            sizes[family] = (to / f"{family}.jsonl.xz").stat().st_size
    return sizes
