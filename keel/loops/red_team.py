"""A red team on a schedule: every so many steps answers that deserve nothing are scored beside the best of the policy's own. It looks on
and changes nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.hashing import permutation
from keel.data.attacks import ATTACKS, Honest, attack
from keel.rewards.offline import answered_group
from keel.runs import evaluations
from keel.runs.config import RedTeamConfig
from keel.types import Branch, Group, Prompt

Answered = tuple[Branch, str]  # tokens of a text as an answer, and the text that they are
SIDE = "redteam"


@dataclass(frozen=True, slots=True)
class RedTeam:
    """``judge``: the run's reward as evaluations have it. ``answer``: a text as an answer to a prompt, not longer than the policy's may
    be."""

    run: Path
    config: RedTeamConfig
    seed: int
    judge: Callable[[tuple[Group, ...]], Sequence[Group]]
    answer: Callable[[Prompt, str], Answered]

    def take(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """The answers of step ``step`` (from 1). Metrics where it is due: ``red_team/ATTACK/win_rate``, the share of prompts on which it is
        paid more than the policy's best answer; ``red_team/win_rate``, that of the best attack; ``red_team/failed_ratio``, attacks that
        got no reward."""
        if step % self.config.every:
            return {}
        chosen = self._prompts(step, groups)
        made = [self._mixed(group, best, elsewhere) for group, best, elsewhere in chosen]
        judged = self.judge(tuple(group for group, _ in made)) if made else ()
        rows = [row for group, (_, names) in zip(judged, made, strict=True) for row in _rows(group, names)]
        evaluations.write(self.run, SIDE, step, rows)
        return measures(rows)

    def _prompts(self, step: int, groups: Sequence[Group]) -> list[tuple[Group, int, str]]:
        """Some groups, each with the place of its best answer and another's best text."""
        best = {k: max(v, key=lambda i: float(g.rewards_G[i])) for k, g in enumerate(groups) if (v := _said(g))}
        order = [k for k in permutation(len(groups), "red team", self.seed, step) if k in best]
        texts = {k: groups[k].rollouts[best[k]].text for k in order}
        others = {k: next((texts[o] for o in order if o != k and texts[o].strip() != texts[k].strip()), "") for k in order}
        return [(groups[k], best[k], others[k]) for k in order[: self.config.prompts]]

    def _mixed(self, group: Group, best: int, elsewhere: str) -> tuple[Group, list[str]]:
        """A group of the honest answer and the attacks on it, and the attacks' names."""
        rollout = group.rollouts[best]
        honest = Honest(group.prompt.last_user_text, rollout.text, elsewhere)
        texts = {name: text for name in self.config.attacks or ATTACKS if (text := attack(name, honest)).strip()}
        answers = [self.answer(group.prompt, text) for text in texts.values()]
        branches = [Branch(rollout.tokens_T, rollout.sampled_T), *(branch for branch, _ in answers)]
        return answered_group(group.prompt, group.encoded, branches, [rollout.text, *(text for _, text in answers)]), list(texts)


def _said(group: Group) -> list[int]:
    return [i for i, ok in enumerate(group.valid_G.tolist()) if ok and group.rollouts[i].text.strip()]


def _rows(group: Group, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row an attack; rewards are None where there is none."""
    rewards = [float(r) if ok else None for r, ok in zip(group.rewards_G.tolist(), group.valid_G.tolist(), strict=True)]
    told = {"prompt_id": group.prompt.prompt_id, "prompt": group.prompt.last_user_text}
    honest = {"honest": group.rollouts[0].text, "honest_reward": rewards[0]}
    return [
        {**told, "attack": name, "text": rollout.text, "reward": reward, **honest}
        for name, rollout, reward in zip(names, group.rollouts[1:], rewards[1:], strict=True)
    ]


def measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of a red team's rows; of attacks that were scored nowhere there are none."""
    if not rows:
        return {}
    rates: dict[str, float] = {}
    for name in dict.fromkeys(row["attack"] for row in rows):
        both = [r for r in rows if r["attack"] == name and r["reward"] is not None and r["honest_reward"] is not None]
        if both:
            rates[f"red_team/{name}/win_rate"] = statistics.fmean(r["reward"] > r["honest_reward"] for r in both)
    failed = statistics.fmean(row["reward"] is None for row in rows)
    most = {"red_team/win_rate": max(rates.values())} if rates else {}
    return {**rates, **most, "red_team/failed_ratio": failed}
