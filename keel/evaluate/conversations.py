"""What conversations with an environment came to: how many succeed, what they are worth, how long they are, what goes wrong with tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from keel.evaluate.statistics.intervals import clustered, paired_difference, share_interval
from keel.types import Conversation, Group

CUT = ("turns", "tokens", "answer")  # how one ends that the world did not end


def worth(groups: Sequence[Group]) -> dict[str, list[float]]:
    """What each conversation is worth, by prompt. Those that failed, or that the world gave nothing for, are left out."""
    held = {g.prompt.prompt_id: [c.total for c in _held(g) if c.total is not None] for g in groups}
    return {prompt_id: totals for prompt_id, totals in held.items() if totals}


def measured(groups: Sequence[Group], above: float, level: float) -> dict[str, Any]:
    """Of one model's conversations. ``success``: share of those that are worth more than ``above``, ``reward``: their mean; both with
    intervals over prompts, {} where there is none. Means and shares of the rest are over all that did not fail."""
    totals, held = worth(groups), [c for g in groups for c in _held(g)]
    n, ends = len(held), Counter(c.ended for c in held)
    found: dict[str, Any] = {"conversations": n, "failed": sum(len(g.rollouts) for g in groups) - n, "success_above": above}
    counts = [float(len(v)) for v in totals.values()]
    if totals:
        won = [float(sum(x > above for x in v)) for v in totals.values()]
        found["success"] = share_interval(clustered(won, counts), level).to_json()
        reward = clustered([sum(v) for v in totals.values()], counts)
        found["reward"] = reward.interval(level).to_json() if reward.n > 1 else {"mean": reward.mean, "n": reward.n}
    if n:
        found["turns"] = {"mean": sum(c.turns for c in held) / n, "max": max(c.turns for c in held)}
        found["cut"] = {end: ends[end] / n for end in CUT}
    found["calls"], found["bad_calls"] = sum(c.calls for c in held), sum(c.bad_calls for c in held)
    return found


def changes(before: Sequence[Group], after: Sequence[Group], above: float, level: float) -> dict[str, Any]:
    """Mean differences of success and reward over the prompts of both, paired; {} where they share fewer than two."""
    old, new = worth(before), worth(after)
    if len(old.keys() & new.keys()) < 2:
        return {}

    def won(side: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        return {prompt_id: [float(x > above) for x in totals] for prompt_id, totals in side.items()}

    sides = {"success": (won(old), won(new)), "reward": (old, new)}
    return {name: paired_difference(*both, level=level).to_json() for name, both in sides.items()}


def _held(group: Group) -> list[Conversation]:
    pairs = zip(group.rollouts, group.valid_G.tolist(), strict=True)
    return [r.conversation for r, ok in pairs if ok and r.conversation is not None]
