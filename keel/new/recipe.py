"""The recipe of a project: the way that the advice found, as a pipeline with an evaluation, in YAML with comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from keel.advise.ways import Start

STAGE_OF = {"sft": "sft", "prefer": "prefer", "reward": "reward", "rl": "rl"}  # the pipeline's names for the verbs of the ways
TINY = {False: "tiny:llama?seed=1", True: "tiny:llava?seed=1"}  # by: are there images?
# By machine, language, images: models under free licences (Apache-2.0), small enough to begin with.
MODELS: Mapping[tuple[str, str, bool], str] = {
    ("cpu", "en", False): "HuggingFaceTB/SmolLM2-135M-Instruct",
    ("cpu", "zh", False): "Qwen/Qwen2.5-0.5B-Instruct",
    ("gpu", "en", False): "Qwen/Qwen2.5-1.5B-Instruct",
    ("gpu", "zh", False): "Qwen/Qwen2.5-1.5B-Instruct",
    ("cpu", "en", True): "HuggingFaceTB/SmolVLM-256M-Instruct",
    ("cpu", "zh", True): "Qwen/Qwen2-VL-2B-Instruct",
    ("gpu", "en", True): "Qwen/Qwen2-VL-2B-Instruct",
    ("gpu", "zh", True): "Qwen/Qwen2-VL-2B-Instruct",
}


def pipeline_of(begin: Start, model: str, held_out: str) -> dict[str, Any]:
    """A recipe for `keel run`. ``held_out``: a file of rows for an evaluation, "" for none."""
    if begin.verb == "run":
        stages: dict[str, Any] = dict(begin.recipe["stages"])
    else:
        own = {k: v for k, v in begin.recipe.items() if k != "model"}
        stages = {STAGE_OF[begin.verb]: {"model": "@model", **own}}
    policy = next((name for name in ("rl", "prefer", "sft") if name in stages), "")
    if held_out and policy:
        asked = {"prompts": [held_out], "languages": [], "samples": 2, "max_tokens": 128, "kl_prompts": 4}
        rewards = stages[policy].get("rewards") or [{"type": "finished", "name": "finished"}]
        stages["evaluate"] = {"model": f"@{policy}", "baseline": "@model", "evaluate": asked, "rewards": rewards}
    return {"model": model, "seed": 0, "stages": stages}


def collect_pipeline(path: str, model: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Without any label: answers of the model as pairs that people compare. ``data``: settings of the data section beside its path."""
    sources = [{"type": "model", "name": "drawn", "samples": 3, "temperatures": [0.7, 1.0, 1.3]}]
    stage = {
        "verb": "collect",
        "model": "@model",
        "data": {"path": path, **data},
        "sources": sources,
        "sampling": {"max_tokens": 128},
        "candidates": {"min_words": 2},
        "task": {"kind": "pairwise", "pairs": 3},
    }
    return {"model": model, "seed": 0, "stages": {"collect": stage}}


class _Plain(yaml.SafeDumper):
    """What stands twice is written twice: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_STYLE: Mapping[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 1000, "default_flow_style": None}


def _wrapped(line: str) -> list[str]:
    """Lines of at most 120 characters; those that go on are indented as the first one."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line.strip(), 120, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)


def commented(recipe: Mapping[str, Any], head: Sequence[str], said: Mapping[str, str]) -> str:
    """The recipe as YAML; ``said["recipe.KEY"]`` stands above the key (``stages.NAME`` for a stage), the first time that it comes."""
    lines = [f"# {part}" for line in head for part in _wrapped(line)]
    told: set[str] = set()
    keys: list[str] = []
    for line in yaml.dump(dict(recipe), Dumper=_Plain, **_STYLE).splitlines():
        found = re.match(r"( *)(\w+):", line)
        if found:
            depth = len(found[1]) // 2
            keys = [*keys[:depth], found[2]]
            name = f"stages.{found[2]}" if depth == 1 else found[2]
            if depth <= 2 and (text := said.get(f"recipe.{name}")) and name not in told:
                told.add(name)
                lines.append(f"{found[1]}# {text}")
        lines.append(line)
    return "\n".join(lines) + "\n"
