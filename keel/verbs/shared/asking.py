"""A reward that is unsure asks a person: answers on which an ensemble's members disagree become tasks, a few a step."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.feedback.candidates import make_candidate
from keel.feedback.rows import named, task_row
from keel.rewards.sources.model import AskConfig, ModelReward
from keel.rewards.table import RewardConfig
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Group, Rollout, Task

log = logging.getLogger("keel")
ASKED = "asked.jsonl"


@dataclass(slots=True)
class Asker:
    """Tasks for the answers of a training that one reward is unsure of, each beside the answer of its group that the reward is surest of.

    They go to ``file`` (the same tasks once, also when steps are taken again), or to a store's campaign.
    """

    reward: str
    config: AskConfig
    file: Path
    asked: int = field(default=0, init=False)
    unsure: int = field(default=0, init=False)  # answers above the limit, asked about or not
    _lines: dict[str, bytes] = field(default_factory=dict[str, bytes], init=False)

    def __post_init__(self) -> None:
        if not self.config.store and self.file.is_file():  # an interrupted run goes on; half a line is what was not written
            for line in self.file.read_bytes().split(b"\n"):
                try:
                    self._lines[json.loads(line)["task_id"]] = line + b"\n"
                except (ValueError, KeyError, TypeError):
                    continue
            self.asked = len(self._lines)

    def __call__(self, groups: Sequence[Group]) -> None:
        """Ask about the most doubtful answers of these groups, at most ``per_step``."""
        found = sorted((d for g in groups for d in self._doubtful(g)), key=lambda d: (-d[0], d[1].task_id))
        self.unsure += len(found)
        new = [task for _, task in found if task.task_id not in self._lines][: self.config.per_step]
        if not new:
            return
        if self.config.store:
            self._put(new)
        self._lines |= {t.task_id: json_line(task_row(t)) for t in new}
        if not self.config.store:
            write_atomic(self.file, b"".join(self._lines.values()))
        self.asked += len(new)

    def _doubtful(self, group: Group) -> list[tuple[float, Task]]:
        spread_G = group.parts.get(f"{self.reward}/epistemic")
        if spread_G is None:
            return []
        said = [(float(spread_G[i]), r) for i, r in enumerate(group.rollouts) if r.finish_reason != "error" and r.text.strip()]
        known = [(s, r) for s, r in said if s == s]
        if not known:
            return []
        surest = min(known, key=lambda x: x[0])[1]
        return [(s, self._task(group, r, surest, s)) for s, r in known if s > self.config.above and r.text.strip() != surest.text.strip()]

    def _task(self, group: Group, doubtful: Rollout, other: Rollout, spread: float) -> Task:
        prompt = group.prompt
        both = [make_candidate(prompt.prompt_id, r.text, {"source": "policy", "finish_reason": r.finish_reason}) for r in (doubtful, other)]
        both.sort(key=lambda c: c.candidate_id)  # an order that tells nothing
        meta = {"asked": {"reward": self.reward, "spread": round(spread, 4)}}
        return named(Task("", prompt, tuple(both), "pairwise", self.config.protocol, source_id=prompt.source_id, meta=meta))

    def _put(self, tasks: Sequence[Task]) -> None:
        from keel.feedback.db import Campaign, Store

        config = self.config
        with Store(config.store) as store:
            if all(c.name != config.campaign for c in store.campaigns()):
                store.add_campaign(Campaign(config.campaign, config.people, "pairwise", config.protocol))
            store.add_tasks(config.campaign, tasks)


@dataclass(frozen=True, slots=True)
class Askers:
    """All rewards of a training that ask."""

    each: tuple[Asker, ...]

    def __call__(self, groups: Sequence[Group]) -> None:
        for asker in self.each:
            asker(groups)

    def summary(self) -> dict[str, Any]:
        """For the run's summary: of how many answers each reward was unsure, and how many tasks it wrote."""
        return {"asked_people": {a.reward: {"unsure": a.unsure, "tasks": a.asked} for a in self.each}} if self.each else {}


def askers_of(rewards: Sequence[RewardConfig], folder: Path) -> Askers:
    """The rewards with ``ensemble.ask``; their files lie in ``folder`` unless the settings say otherwise."""
    found: list[Asker] = []
    for reward in rewards:
        if isinstance(reward, ModelReward) and (ask := reward.ensemble.ask) is not None:
            found.append(Asker(reward.name, ask, Path(ask.tasks) if ask.tasks else folder / ASKED))
    return Askers(tuple(found))
