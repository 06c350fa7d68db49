"""Failures by reason, category, language, length and wording: how many, which share, examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keel.evaluate.statistics import Interval, clustered, share_interval
from keel.verbs.cases.config import CasesConfig
from keel.verbs.cases.read import Key, Read
from keel.verbs.cases.reasons import KINDS, Reasons, kind_of
from keel.verbs.cases.talks import turns_of
from keel.verbs.cases.wording import clusters

BY = ("reason", "category", "language", "length", "turns", "wording")
_FEWEST = 12  # answers that are cut into thirds by length


@dataclass(frozen=True, slots=True)
class Group:
    """Failing answers with something in common. ``rate``: the share of failing answers among those of the group (by reason: among all),
    mean over prompts with its interval."""

    by: str
    name: str
    failures: int
    answers: int
    rate: Interval
    examples: tuple[Key, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        shown = [{"prompt_id": p, "model": m, "answer": n} for p, m, n in self.examples]
        return {
            "by": self.by,
            "name": self.name,
            "failures": self.failures,
            "answers": self.answers,
            "rate": self.rate.to_json(),
            "examples": shown,
        }


def groups_of(read: Read, model: str, reasons: Reasons, config: CasesConfig) -> list[Group]:
    """Groups of one model's answers that hold a failure, each kind in the order of how many."""
    keys = [key for key, _, _ in read.answers() if key[1] == model]
    members = _members(read, keys, config)
    found: list[Group] = []
    for reason in sorted({r for key in keys for r in reasons.get(key, ())}):
        having = {key for key in keys if reason in reasons.get(key, ())}
        found.append(_group("reason", reason, keys, having, reasons, config.examples))
    failing = {key for key in keys if reasons.get(key)}
    for by, names in members.items():
        found += [_group(by, name, its, failing, reasons, config.examples) for name, its in names.items()]
    kept = [g for g in found if g.failures]
    return sorted(kept, key=lambda g: (BY.index(g.by), -g.failures, g.name))


def _members(read: Read, keys: Sequence[Key], config: CasesConfig) -> dict[str, dict[str, list[Key]]]:
    found: dict[str, dict[str, list[Key]]] = {by: defaultdict(list) for by in BY[1:]}
    for key in keys:
        case = read.cases[key[0]]
        for by, name in (("category", case.category), ("language", case.language)):
            if name:
                found[by][name].append(key)
    lengths = [read.cases[p].sides[m][n].length for p, m, n in keys]
    if len(keys) >= _FEWEST and (cuts := np.quantile(lengths, [1 / 3, 2 / 3]).tolist()) and cuts[0] < cuts[1]:
        for key, length in zip(keys, lengths, strict=True):
            name = f"<= {cuts[0]:g}" if length <= cuts[0] else f"> {cuts[1]:g}" if length > cuts[1] else f"{cuts[0]:g} - {cuts[1]:g}"
            found["length"][name].append(key)
    if any(read.cases[p].sides[m][n].turns for p, m, n in keys):
        for key in keys:
            found["turns"][str(_own_turns(read, key))].append(key)
    prompts = sorted({key[0] for key in keys})
    for cluster in clusters([read.cases[p].wording for p in prompts], config.clusters, config.seed):
        inside = {prompts[i] for i in cluster.members}
        found["wording"][cluster.name or "-"] += [key for key in keys if key[0] in inside]
    return found


def _own_turns(read: Read, key: Key) -> int:
    """Answers of the policy in a conversation."""
    return sum(m.role == "assistant" for m in turns_of(read.cases[key[0]].sides[key[1]][key[2]]))


def _group(by: str, name: str, keys: Sequence[Key], having: set[Key], reasons: Reasons, examples: int) -> Group:
    by_prompt: defaultdict[str, list[bool]] = defaultdict(list)
    for key in keys:
        by_prompt[key[0]].append(key in having)
    rate = share_interval(clustered([sum(flags) / len(flags) for _, flags in sorted(by_prompt.items())]))
    failing = sorted((key for key in keys if key in having), key=lambda key: (-urgency(reasons[key]), key))
    return Group(by, name, len(failing), len(keys), rate, tuple(failing[:examples]))


def urgency(reasons: Mapping[str, float]) -> float:
    """That of the most urgent reason, a little more for each further kind."""
    kinds = {kind_of(r) for r in reasons}
    return max(KINDS[k] for k in kinds) + 0.01 * (len(kinds) - 1)
