"""Answers that a run kept, by byte: the file stays on the disk, memory holds where each answer stands."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.hashing import stable_hash
from keel.dash.tail import CHUNK, Tail
from keel.runs import logs

_TEXT = 20_000  # characters of a text that are sent
_TURNS = 200  # of a conversation that are sent
_NAME = 300  # characters by which a prompt is shown in a list


@dataclass(slots=True)
class Asked:
    """A prompt and its answers: step, reward and byte of each, in the order of the file."""

    prompt: str
    steps: array[float]
    rewards: array[float]
    places: array[int]


class Samples:
    """``samples/training.jsonl`` of a run."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self.path = path
        self._clear()

    def _clear(self) -> None:
        self.prompts: dict[int, Asked] = {}
        self.n = 0

    def refresh(self) -> Samples:
        """Read what is new."""
        while True:
            lines = self._tail.lines(CHUNK)
            if self._tail.again:
                self._clear()
            if not lines:
                return self
            for start, line in lines:
                if (row := logs.parse(line)) is not None:
                    self._take(start, row)

    def _take(self, start: int, row: Mapping[str, Any]) -> None:
        prompt = str(row.get("prompt", ""))
        asked = self.prompts.setdefault(stable_hash("prompt", prompt), Asked(prompt[:_NAME], array("d"), array("d"), array("q")))
        reward, step = logs.number(row.get("reward")), logs.number(row.get("step"))
        asked.steps.append(step if step is not None else 0.0)
        asked.rewards.append(reward if reward is not None else float("nan"))
        asked.places.append(start)
        self.n += 1

    def at(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """The answers that begin at these bytes. One that a run took back meanwhile is left out."""
        found = list[dict[str, Any]]()
        try:
            with self.path.open("rb") as file:
                for place in places:
                    file.seek(place)
                    if (row := logs.parse(file.readline())) is not None:
                        found.append(shown(row))
        except OSError:
            return found
        return found

    def worst(self, most: int, up_to: float = float("inf"), since: float = float("-inf")) -> list[tuple[float, float, int]]:
        """(reward, step, byte) of the answers with the least rewards in a stretch of steps; failed ones, without a reward, first."""
        rows = (
            (reward if reward == reward else float("-inf"), -step, place)
            for asked in self.prompts.values()
            for step, reward, place in zip(asked.steps, asked.rewards, asked.places)
            if since <= step <= up_to
        )
        return [(reward, -step, place) for reward, step, place in heapq.nsmallest(most, rows)]


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the page shows it; long texts are cut, and say how long they were."""
    kept: dict[str, Any] = {"step": row.get("step"), "reward": logs.number(row.get("reward"))}
    if kept["reward"] is not None and not abs(kept["reward"]) < float("inf"):
        kept["reward"] = str(kept["reward"])
    for name in ("prompt", "text", "raw", "why", "error"):
        text = row.get(name)
        if isinstance(text, str) and text:
            kept[name] = text[:_TEXT]
            if len(text) > _TEXT:
                kept[f"{name}_length"] = len(text)
    if isinstance(turns := row.get("turns"), list):
        kept["turns"] = turns_shown(turns)
    if kept.get("raw") == kept.get("text"):
        kept.pop("raw", None)
    return kept


def turns_shown(turns: Sequence[Any]) -> list[dict[str, Any]]:
    """A conversation's turns as the page shows them: who, what, what for. Calls of tools are lines of text."""
    found: list[dict[str, Any]] = []
    for turn in turns[:_TURNS]:
        if not isinstance(turn, Mapping):
            continue
        row: Mapping[str, Any] = turn
        shown_turn: dict[str, Any] = {"role": str(row.get("role", "")), "text": str(row.get("text", ""))[:_TEXT]}
        if row.get("name"):
            shown_turn["name"] = str(row["name"])
        if row.get("reasoning_content"):
            shown_turn["thought"] = str(row["reasoning_content"])[:_TEXT]
        calls = [_call_text(call) for call in row.get("tool_calls") or () if isinstance(call, Mapping)]
        if calls:
            shown_turn["calls"] = calls
        reward = logs.number(row.get("reward"))
        if reward is not None and abs(reward) < float("inf"):
            shown_turn["reward"] = reward
        found.append(shown_turn)
    return found


def _call_text(call: Mapping[str, Any]) -> str:
    function: Any = call.get("function") or call
    arguments: Any = function.get("arguments") or {}
    given = ", ".join(f"{k}={v!r}" for k, v in arguments.items()) if isinstance(arguments, Mapping) else str(arguments)
    return f"{function.get('name', '')}({given})"[:_TEXT]
