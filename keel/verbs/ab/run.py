"""`keel ab plan|check|assign FILE`: how many units a comparison needs, what it says so far, and who gets which arm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.config import dump, load
from keel.core.errors import ConfigError, DataError
from keel.evaluate.ab.assign import assign
from keel.evaluate.ab.config import AbConfig
from keel.evaluate.ab.decide import check, streams, unit_deviation
from keel.evaluate.ab.design import Design, design
from keel.evaluate.ab.effect import Stream
from keel.evaluate.ab.page import lines, write_verdict
from keel.evaluate.ab.units import Units, read_units
from keel.evaluate.statistics.distributions import NORMAL
from keel.runs.durable import write_atomic

_RECIPES = (".yaml", ".yml")
_NAMES = {"obrien_fleming": "O'Brien-Fleming", "pocock": "Pocock"}


def _config(file: str, overrides: Sequence[str]) -> AbConfig:
    """The experiment of a recipe, or of a bare file of data with all settings as they are."""
    path = Path(file)
    if path.suffix in _RECIPES:
        return load(AbConfig, path, list(overrides))
    return load(AbConfig, None, [f"name={json.dumps(path.stem)}", f"data={json.dumps(file)}", *overrides])


def _pilot(config: AbConfig) -> tuple[Stream | None, bool | None]:
    """The values of the pilot, and whether they are online."""
    if config.plan is None or not config.plan.pilot:
        return None, None
    units = read_units(Path(config.plan.pilot), config)
    return streams(units, config.model_copy(update={"guards": ()}))[0], units.online


def run_plan(file: str, json_file: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Print (and write) looks, bounds and units of the plan. Raises UserError for a file without one."""
    config = _config(file, overrides)
    if config.plan is None:
        raise ConfigError(f"{file}: there is no plan in it", "add plan: {min_effect: 0.05}; without a plan there is nothing to compute")
    pilot, online = _pilot(config)
    if online is None:
        online = _is_online(config)
    found = design(config.plan, config.alpha, unit_deviation(config, online, pilot))
    for line in _plan_lines(config, found, online):
        print(line)
    summary = {"name": config.name, "online": online, "settings": dump(config), **_design_json(found)}
    _write(json_file, summary)
    return summary


def _is_online(config: AbConfig) -> bool:
    """What the data says, where there is any; else what the settings speak of."""
    if config.data and Path(config.data).is_file():
        return read_units(Path(config.data), config).online
    return bool({"range", "share"} & config.changed) or config.outcome == "outcome"


def _design_json(found: Design) -> dict[str, Any]:
    p = [2 * (1 - NORMAL.cdf(bound)) for bound in found.bounds]
    more = {"expected_units_null": found.expected_null, "expected_units_effect": found.expected_effect}
    return (
        {"n": found.n, "fixed_n": found.fixed, "looks": list(found.looks), "bounds": list(found.bounds), "nominal_p": p}
        | more
        | {
            "inflation": found.n / found.fixed,
            "deviation": found.deviation,
            "power": found.power,
        }
    )


def _plan_lines(config: AbConfig, found: Design, online: bool) -> list[str]:
    assert config.plan is not None
    units = "users, both arms together" if online else "prompts"
    effect = f"{config.plan.min_effect:g} of the outcome" if online else f"a win rate of {0.5 + config.plan.min_effect:.1%}"
    kind = config.plan.boundary.removeprefix("lan_demets_")
    spent = " by alpha spending (Lan-DeMets)" if kind != config.plan.boundary else ""
    said = [
        f"{config.name}: {config.treatment} against {config.control}, {'online' if online else 'offline'}",
        f"  to find: {effect}, with power {config.plan.power:.0%}; a wrong claim in at most {config.alpha:.0%}",
        f"  bounds: {_NAMES[kind]}{spent}",
        "  look      units    stops at |z|    p below",
    ]
    for k, (n, bound) in enumerate(zip(found.looks, found.bounds, strict=True), 1):
        said.append(f"  {k:>4} {n:>10,} {bound:>15.3f} {2 * (1 - NORMAL.cdf(bound)):>10.2g}")
    said.append(f"  {found.n:,} {units} at most (a single look: {found.fixed:,})")
    said.append(f"  on average {found.expected_null:,.0f} if there is no difference, {found.expected_effect:,.0f} if it is there")
    said += [f"  guard {g.name}: may be worse by {g.margin:g} at most; it must be shown to hold" for g in config.guards]
    return said


def run_check(file: str, json_file: str = "", html_file: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Print (and write) the verdict on the data so far."""
    config = _config(file, overrides)
    if not config.data:
        raise ConfigError(f"{file}: no data", "add data: FILE.jsonl, or data=FILE.jsonl on the command line")
    units = read_units(Path(config.data), config)
    _check_ranges(units, config)
    pilot, _ = _pilot(config)
    result = check(units, config, pilot)
    print(f"{config.name}: {config.treatment} against {config.control}, {'online' if units.online else 'offline'}")
    for line in lines(result, config, units.online):
        print(line)
    summary = {"name": config.name, "online": units.online, **result.to_json(), "settings": dump(config)}
    _write(json_file, summary)
    if html_file:
        print(f"  page: {write_verdict(Path(html_file), result, config, units.online)}")
    return summary


def _check_ranges(units: Units, config: AbConfig) -> None:
    if units.online and len({u.treated for u in units.units}) < 2:
        raise DataError(f"{config.data}: all users are in one arm", f"rows name both arms: {config.control!r} and {config.treatment!r}")


def run_assign(file: str, keys: Sequence[str], json_file: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Print which arm each key gets; the same for ever."""
    config = _config(file, overrides)
    if not keys:
        raise ConfigError("no keys to assign", "keel ab assign FILE user-1 user-2 ...")
    names = {"control": config.control, "treatment": config.treatment}
    found = {key: names[assign(config.name, key, config.share)] for key in keys}
    for key, arm in found.items():
        print(f"{key}\t{arm}")
    _write(json_file, found)
    return found


def _write(json_file: str, value: Any) -> None:
    if json_file:
        write_atomic(Path(json_file), (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode())
