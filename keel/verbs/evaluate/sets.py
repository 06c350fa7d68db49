"""The sets of prompts of an evaluation by role: what is held out of the training's own kind, and what is of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.evaluate.compare import PromptAnswers
from keel.evaluate.config import EvaluateConfig
from keel.evaluate.gap import gaps
from keel.types import Prompt


@dataclass(frozen=True, slots=True)
class Sets:
    """``data``: what is held out, sets of role ``in`` among it; ``outside``: the other sets by name. ``prompts`` are all that is asked;
    ``home``: name of the outside set, by prompt id."""

    data: Dataset
    outside: Mapping[str, Dataset]
    prompts: tuple[Prompt, ...]
    home: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])  # outside prompts that stand inside too

    def inside(self, prompt_id: str) -> bool:
        return prompt_id not in self.home

    def gap(self, config: EvaluateConfig, rows: Mapping[str, Sequence[PromptAnswers]]) -> dict[str, Any]:
        """By model and scorer how far the outside sets are from what is held out; {} without any."""
        if not self.outside:
            return {}
        marked = ((p.prompt_id, p.meta.get(config.cluster)) for p in self.prompts if config.cluster)
        clusters = {name: str(value) for name, value in marked if value is not None}
        if config.cluster and not clusters:
            raise DataError(f"evaluate.cluster: no prompt has the field {config.cluster!r}", "keel data show tells which fields rows have")
        found: dict[str, Any] = {}
        for name, every in rows.items():
            of_model = [r for r in every if not config.languages or r.language in config.languages]
            within = [r for r in of_model if self.inside(r.prompt_id)]
            without = {s: [r for r in of_model if self.home.get(r.prompt_id) == s] for s in self.outside}
            found[name] = gaps(within, without, clusters, level=config.level)
        sizes = {s: sum(h == s for h in self.home.values()) for s in self.outside}
        inside = len(self.prompts) - len(self.home)
        return {"models": found, "prompts": {"in": inside, **sizes}, "left_out": dict(self.left_out), "cluster": config.cluster}


def read_sets(config: EvaluateConfig) -> Sets:
    """All prompts. One that stands in an outside set and inside counts inside alone. Ids of outside prompts begin with their set's name."""
    own = [*config.prompts, *(path for s in config.sets if s.role == "in" and s.limit is None for path in s.prompts)]
    if limited := [s.name for s in config.sets if s.role == "in" and s.limit is not None]:
        raise DataError(f"evaluate.sets: {limited[0]} has a limit of its own, and sets of role `in` share evaluate.limit", "set that one")
    data = load_data(DataConfig(path=own, limit=config.limit), config.seed)
    asked = list(data.prompts())
    outside: dict[str, Dataset] = {}
    home: dict[str, str] = {}
    left_out: dict[str, int] = {}
    for one in config.sets:
        if one.role == "in":
            continue
        found = load_data(DataConfig(path=list(one.prompts), limit=one.limit), config.seed)
        outside[one.name] = found.without_prompts(data)
        if gone := len(found) - len(outside[one.name]):
            left_out[one.name] = gone
        for prompt in outside[one.name].prompts():
            named = replace(prompt, prompt_id=f"{one.name}/{prompt.prompt_id}")
            home[named.prompt_id] = one.name
            asked.append(named)
    return Sets(data, outside, tuple(asked), home, left_out)
