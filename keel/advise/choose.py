"""The ways that data, model and machine leave, ranked; and the best of them for a caller that wants one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.advise.estimate import Load, Plan, estimate, load_of
from keel.advise.learned import with_experience
from keel.advise.measure import Measures
from keel.advise.rank import Ranked, possible, ranked, reasons
from keel.advise.ways import Start, Way, start
from keel.data.dataset import Dataset
from keel.plan.fit import MARGIN
from keel.plan.machine import Machine
from keel.plan.size import Size
from keel.plan.work import Mode

MODES: tuple[Mode, ...] = ("full", "lora")


@dataclass(frozen=True, slots=True)
class Choice:
    """The best way with its reasons, and the verb and recipe that it starts with."""

    ranked: Ranked
    start: Start


def choose(
    data: Dataset, m: Measures, model: str, size: Size | None, machine: Machine, path: str, settings: Mapping[str, Any], wanted: Mode | None
) -> Choice | None:
    """The first way of the ranking; None where the data allow none. ``wanted``: adapters or all weights, where the caller has decided;
    ``path`` and ``settings``: the data section of the recipe."""
    mode, ranking = ranking_of(data, m, (), machine, size, None)
    if not ranking:
        return None
    return Choice(ranking[0], start(ranking[0].way, m, path, model, wanted or mode, settings))


def ranking_of(
    data: Dataset, m: Measures, earlier: Sequence[dict[str, Any]], machine: Machine, size: Size | None, seconds: float | None
) -> tuple[Mode, list[Ranked]]:
    """The ways that the data allow, ranked, and the mode: full training where the best way fits, else adapters."""
    ways, _ = possible(m)
    if size is None:
        return "full", ranked(with_experience([Ranked(way, reasons(way, m), None, None, None) for way in ways], earlier, m))
    tokens = load_of(data.records, data.prompts(), size)
    found: dict[Mode, list[Ranked]] = {}
    for mode in MODES:
        found[mode] = with_experience([_judge(way, m, mode, tokens, size, machine, seconds) for way in ways], earlier, m)
    best = max(found["full"], key=lambda r: r.score, default=None)
    mode: Mode = "full" if best is None or best.fits else "lora"
    return mode, ranked(found[mode])


def _judge(way: Way, m: Measures, mode: Mode, tokens: Load, size: Size, machine: Machine, seconds: float | None) -> Ranked:
    found = estimate(way.kind, mode, tokens, size, machine, Plan(), way.reward_model)
    in_time = None if seconds is None else found.seconds <= seconds
    return Ranked(way, reasons(way, m), found, found.memory <= MARGIN * machine.memory, in_time)
