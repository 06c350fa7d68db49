"""The highest rewarded answers of a training, and those that look made for the reward, as tasks for people or judges: does whoever looks
agree with the reward? Each stands beside another answer to its prompt. It looks on and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.hashing import permutation
from keel.data.gaming import gaming
from keel.feedback.candidates import make_candidate
from keel.feedback.hacks import hacks, refrains
from keel.feedback.rows import named, task_row
from keel.runs import audits
from keel.runs.config import AuditConfig
from keel.types import Group, Task

FEWEST = 5  # prompts: of fewer no sentence is a refrain


@dataclass(frozen=True, slots=True)
class Looked:
    """An answer with what detectors found, and the answer to the same prompt that it is put beside."""

    group: Group
    sample: int  # place in the group
    other: int  # place in the group
    found: dict[str, float]

    @property
    def reward(self) -> float:
        return float(self.group.rewards_G[self.sample])

    @property
    def candidate_id(self) -> str:
        return self._name(self.sample)

    @property
    def pair(self) -> frozenset[str]:
        return frozenset({self._name(self.sample), self._name(self.other)})

    def _name(self, i: int) -> str:
        return make_candidate(self.group.prompt.prompt_id, self.group.rollouts[i].text, {}).candidate_id


def common_sentences(groups: Sequence[Group]) -> frozenset[str]:
    """Sentences that stand in valid answers to a fifth of the prompts, and to five of them."""
    return refrains({g.prompt.prompt_id: [g.rollouts[i].text for i in _valid(g)] for g in groups})


def refrain_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """``completions/refrain_ratio``: share of the valid answers that hold a sentence which answers to a fifth of the step's prompts (and to
    five) hold: a template that goes with every question. Nothing with fewer than five prompts."""
    texts = [g.rollouts[i].text for g in groups for i in _valid(g)]
    if not texts or len({g.prompt.prompt_id for g in groups}) < FEWEST:
        return {}
    common = common_sentences(groups)
    return {"completions/refrain_ratio": sum("refrain" in hacks("", t, common) for t in texts) / len(texts) if common else 0.0}


def looked_at(groups: Sequence[Group]) -> tuple[list[Looked], int]:
    """Every valid answer with another one to its prompt, and how many have none: no other text, or none at all. Of the others, by reward,
    the middle one is taken (the lower of two): the best would always win, the worst always lose."""
    common = common_sentences(groups)
    found: list[Looked] = []
    alone = 0
    for group in groups:
        valid = sorted(_valid(group), key=lambda i: (float(group.rewards_G[i]), i))
        asked = group.prompt.last_user_text
        for i in sorted(valid):
            text = group.rollouts[i].text
            others = [j for j in valid if group.rollouts[j].text.strip() not in ("", text.strip())]
            if not others or not text.strip():
                alone += 1
                continue
            told = {**gaming(asked, text), **hacks(asked, text, common)}
            found.append(Looked(group, i, others[(len(others) - 1) // 2], told))
    return found, alone


def chosen(answers: Sequence[Looked], config: AuditConfig, seed: int, step: int, known: frozenset[str]) -> list[tuple[Looked, str]]:
    """Which answers are asked about, and why: ``top`` (highest reward, one a prompt), ``flagged`` (detectors found something; the highest
    rewarded first) and ``random``, which says how often reward and people agree by themselves. ``known`` candidates were asked about
    before; no pair is asked twice."""
    left = {a.candidate_id: a for a in reversed(answers) if a.candidate_id not in known}
    by_reward = sorted(left.values(), key=lambda a: (-a.reward, a.candidate_id))
    best = {a.group.prompt.prompt_id: a for a in reversed(by_reward)}
    names = sorted(left)
    arms = (
        ("top", config.top, [a for a in by_reward if best[a.group.prompt.prompt_id] is a]),
        ("flagged", config.flagged, [a for a in by_reward if a.found]),
        ("random", config.random, [left[names[i]] for i in permutation(len(names), "audit", seed, step)]),
    )
    taken: set[str] = set()
    pairs: set[frozenset[str]] = set()
    found: list[tuple[Looked, str]] = []
    for why, n, wanted in arms:
        for answer in [a for a in wanted if a.candidate_id not in taken]:
            if n and answer.pair not in pairs:
                found.append((answer, why))
                taken.add(answer.candidate_id)
                pairs.add(answer.pair)
                n -= 1
    return found


def task_of(answer: Looked, why: str, step: int, protocol: str) -> Task:
    """A pair in an order that tells nothing. People never see ``meta``: why it is asked, what was found, the rewards of both, and which of
    the two is the audited one."""
    group = answer.group
    made = {
        i: make_candidate(
            group.prompt.prompt_id, group.rollouts[i].text, {"source": "policy", "finish_reason": group.rollouts[i].finish_reason}
        )
        for i in (answer.sample, answer.other)
    }
    order = sorted(made, key=lambda i: made[i].candidate_id)
    audit: dict[str, Any] = {
        "why": why,
        "step": step,
        "audited": made[answer.sample].candidate_id,
        "found": {name: round(value, 4) for name, value in answer.found.items()},
        "rewards": [round(float(group.rewards_G[i]), 4) for i in order],
    }
    pair = (made[order[0]], made[order[1]])
    return named(Task("", group.prompt, pair, "pairwise", protocol, source_id=group.prompt.source_id, meta={"audit": audit}))


class Auditor:
    """Writes the tasks into the run directory. What it asks is a function of the run alone: of the answers, the seed, and the tasks of
    earlier steps on the path that stands."""

    def __init__(self, run: Path, config: AuditConfig, seed: int) -> None:
        self.run, self.config, self.seed = run, config, seed

    def take(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """The answers of step ``step`` (from 1). Returns what was done with them, where the step is audited."""
        if step % self.config.every:
            return {}
        known = frozenset(str(row["meta"]["audit"]["audited"]) for row in audits.rows(self.run, step))
        answers, alone = looked_at(groups)
        tasks = [task_of(a, why, step, self.config.protocol) for a, why in chosen(answers, self.config, self.seed, step, known)]
        audits.write(self.run, step, map(task_row, tasks))
        return {
            "audit/tasks": float(len(tasks)),
            "audit/flagged_ratio": sum(bool(a.found) for a in answers) / len(answers) if answers else 0.0,
            "audit/alone": float(alone),
        }

    def summary(self) -> dict[str, Any]:
        """For the run's summary: how many tasks, by why they are asked and by what was found."""
        told = [row["meta"]["audit"] for row in audits.rows(self.run)]
        found = Counter(name for audit in told for name in audit["found"])
        return {"audit": {"tasks": len(told), "why": dict(Counter(a["why"] for a in told)), "found": dict(found)}}


def _valid(group: Group) -> list[int]:
    return [i for i, ok in enumerate(group.valid_G.tolist()) if ok]
