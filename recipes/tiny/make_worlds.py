"""Writes the data of the worlds in this folder: what a player says who knows the form and little else.

``python recipes/tiny/make_worlds.py``"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from keel.types import Message, Prompt

sys.path.insert(0, str(Path(__file__).parent))
from worlds import GuessNumber

FOLDER = Path(__file__).parent
Row = dict[str, Any]


def guessing(n: int) -> list[Row]:
    """Games of a player who heeds what was said one time in three, and else guesses anything."""
    rows: list[Row] = []
    for i in range(n):
        draw = random.Random(f"guess {i}")
        world = GuessNumber(Prompt("p"), draw.randrange(10**9))
        turns, low, high = [{"role": "user", "content": f"Game {i}"}], 1, 9
        while True:
            guess = draw.randint(low, high) if draw.random() < 1 / 3 else draw.randint(1, 9)
            turns.append({"role": "assistant", "content": str(guess)})
            reply = world.answer(Message("assistant", str(guess)))
            if reply.done:
                break
            turns.append({"role": "user", "content": str(reply.messages)})
            low, high = map(int, str(reply.messages).split(" to "))
        rows.append({"messages": turns})
    return rows


def call(a: int, b: int) -> str:
    return f'<tool_call>{{"name":"add","arguments":{{"a":{a},"b":{b}}}}}</tool_call>'


def sums(n: int, wrong: float) -> list[Row]:
    """Chains of a player who knows how a tool is called, and of each number he says mistakes the share ``wrong``."""
    rows: list[Row] = []
    for i in range(n):
        draw = random.Random(f"sum {i}")
        numbers = [draw.randint(1, 9) for _ in range(3)]
        turns = [{"role": "user", "content": "+".join(map(str, numbers))}]

        def said(number: int, draw: random.Random = draw) -> int:
            return draw.randint(1, 9) if draw.random() < wrong else number

        total = numbers[0]
        for number in numbers[1:]:
            a, b = said(total), said(number)
            turns += [{"role": "assistant", "content": call(a, b)}, {"role": "tool", "content": str(a + b)}]
            total = a + b
        turns.append({"role": "assistant", "content": str(said(total))})
        rows.append({"messages": turns})
    return rows


def write(name: str, rows: list[Row]) -> None:
    (FOLDER / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prompts(rows: list[Row]) -> list[Row]:
    return [{"prompt": row["messages"][0]["content"]} for row in rows]


if __name__ == "__main__":
    write("guess_games.jsonl", guessing(400))
    write("guess_prompts.jsonl", prompts(guessing(1700)[400:]))
    write("sum_chains.jsonl", sums(600, wrong=0.2))
    write("sum_prompts.jsonl", prompts(sums(700, wrong=0.0)[600:]))
