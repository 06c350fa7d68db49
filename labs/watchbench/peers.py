"""Public tools for the same purpose on the same records: in how many healthy and sick runs each finds something. None of them is a
dependency; those that can be imported are asked, with their own default limits."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, float]
Find = Callable[[Sequence[Row]], bool]  # rows of a run -> is there a warning, or worse?
# What the tools call Keel's metrics.
_RLPROBE = {
    "reward": "reward_mean",
    "reward_std": "group_reward_std_mean",
    "reward_min": "reward_min",
    "reward_max": "reward_max",
    "frac_reward_zero_std": "zero_variance_group_frac",
    "kl": "kl_mean",
    "kl/max": "kl_max",
    "entropy": "entropy_mean",
    "clip_ratio/region_mean": "clip_fraction",
    "loss/value_avg": "value_loss",
    "val/clipfrac_avg": "value_clip_fraction",
    "loss": "loss",
    "lr": "lr",
    "grad_norm": "grad_norm",
    "completions/mean_length": "completion_len_mean",
    "completions/clipped_ratio": "truncation_rate",
}
_RLWATCH = {
    "reward": "reward_mean",
    "reward_std": "reward_std",
    "kl": "kl_divergence",
    "entropy": "entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
}


def _rldoctor() -> Find:
    """All metrics as they are: it knows names itself."""
    doctor: Any = importlib.import_module("rl_doctor")
    return lambda rows: doctor.diagnose(doctor.run_from_records(rows)).worst >= doctor.Severity.WARNING


def _rlprobe() -> Find:
    schemas: Any = importlib.import_module("rlprobe.schemas")
    view: Any = importlib.import_module("rlprobe.doctor.runview")
    engine: Any = importlib.import_module("rlprobe.doctor.engine")

    def find(rows: Sequence[Row]) -> bool:
        manifest = schemas.RunManifest(run_id="run", created_at="2000-01-01T00:00:00+00:00", algorithm="grpo")
        records = [schemas.StepRecord(step=int(row["step"]), **_named(row, _RLPROBE)) for row in rows if "reward" in row]
        return any(f.severity != "info" for f in engine.diagnose_view(view.RunView(manifest, records)))

    return find


def _rlwatch() -> Find:
    config: Any = importlib.import_module("rlwatch.config")
    detectors: Any = importlib.import_module("rlwatch.detectors")

    def find(rows: Sequence[Row]) -> bool:
        suite = detectors.DetectorSuite(config.RLWatchConfig())
        return any(suite.check_step(int(row["step"]), **_named(row, _RLWATCH)) for row in rows)

    return find


def _named(row: Row, names: Mapping[str, str]) -> dict[str, float]:
    return {name: row[own] for own, name in names.items() if own in row}


PEERS: Mapping[str, Callable[[], Find]] = {"rldoctor": _rldoctor, "rlprobe": _rlprobe, "rlwatch": _rlwatch}


def ask(stored: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, bool | None] | str]:
    """By tool: what it says of each run by its name (None: it failed on it); or why it was not asked."""
    found: dict[str, dict[str, bool | None] | str] = {}
    for name, make in PEERS.items():
        try:
            find = make()
        except ImportError as error:
            found[name] = f"not installed ({error.name})"
            continue
        found[name] = {row["run"].name: _said(find, row["rows"]) for row in stored}
    return found


def _said(find: Find, rows: Sequence[Row]) -> bool | None:
    try:
        return find(rows)
    except Exception:  # a tool that fails on a run has found nothing in it; such runs are counted
        return None
