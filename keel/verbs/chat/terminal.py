"""A conversation in the terminal: one answer streams as it comes, two stand side by side."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from keel.core.errors import UserError
from keel.serve.policy.duel import Duel, Told, Turn

_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}
HELP = "/new begins anew, /names says which model is which, /quit ends"
_KEYS = {"1": "left", "2": "right", "=": "tie", "x": "both_bad"}
_ASK = "better: 1 or 2, = the same, x both bad, Enter for none > "


def shown(text: str) -> str:
    """Without the characters that steer a terminal: a model may write anything."""
    return text.translate(_CONTROLS)


async def talk(duel: Duel, system: str) -> None:
    """Until the input ends. ``system``: of the whole conversation; it stands in the models' settings already, and is told here."""
    console = Console(highlight=False)
    two = len(duel.engines) == 2
    console.print("two models, side by side and blind" if two else duel.models[0], style="bold", markup=False)
    console.print(HELP, style="dim")
    if system:
        console.print(f"system: {system}", style="dim", markup=False)
    messages: list[dict[str, Any]] = []
    while (line := await _line("> ")) is not None:
        said = line.strip()
        match said:
            case "":
                continue
            case "/quit" | "/exit":
                break
            case "/new":
                messages = []
                continue
            case "/names":
                _reveal(duel, console)
                continue
        asked = [*messages, {"role": "user", "content": line}]
        turn = duel.ask(asked)
        await (_both(duel, turn, console) if two else _one(duel, turn, console))
        if "error" in turn.ends:
            continue
        side = await _vote(duel, turn, console) if two else 0
        messages = [*asked, {"role": "assistant", "content": turn.texts[side]}]
    if two:
        _reveal(duel, console)


async def _line(prompt: str) -> str | None:
    """A line of the input; None at its end. On a daemon's thread, so that Ctrl-C need not wait for Enter."""
    loop = asyncio.get_running_loop()
    if sys.stdin.isatty():
        print(prompt, end="", flush=True)
    read = await loop.run_in_executor(None, sys.stdin.readline)
    return read.rstrip("\n") if read else None


async def _one(duel: Duel, turn: Turn, console: Console) -> None:
    async with aclosing(duel.tell(turn)) as told:  # type: ignore[type-var]
        async for one in told:
            console.print(shown(one.text), end="", markup=False, soft_wrap=True)
            if one.end:
                console.print(_note(one), style="dim", markup=False)


async def _both(duel: Duel, turn: Turn, console: Console) -> None:
    if not console.is_terminal:  # both, one after the other, when they are there
        async with aclosing(duel.tell(turn)) as told:  # type: ignore[type-var]
            ends = {one.side: one async for one in told if one.end}
        for side in (0, 1):
            console.print(f"[{side + 1}] {shown(turn.texts[side])}{_note(ends[side])}", markup=False, soft_wrap=True)
        return
    with Live(_panels(turn, console), console=console, refresh_per_second=12) as live:
        async with aclosing(duel.tell(turn)) as told:  # type: ignore[type-var]
            async for _ in told:
                live.update(_panels(turn, console))


def _panels(turn: Turn, console: Console) -> Columns:
    width = max(20, console.width // 2 - 1)
    return Columns([Panel(Text(shown(text)), title=str(side + 1), width=width) for side, text in enumerate(turn.texts)], padding=0)


def _note(told: Told) -> str:
    return {"length": " (cut off)", "error": f" (failed: {told.error})"}.get(told.end, "")


async def _vote(duel: Duel, turn: Turn, console: Console) -> int:
    """Ask which is better; the side that the conversation goes on with."""
    while (said := await _line(_ASK)) is not None and said.strip():
        key = _KEYS.get(said.strip().lower())
        if key is None:
            console.print("1, 2, =, x, or nothing", style="dim", markup=False)
            continue
        try:
            await duel.vote(turn.turn_id, key)
        except UserError as error:
            console.print(error.message, style="red", markup=False)
        return 1 if key == "right" else 0
    return 0


def _reveal(duel: Duel, console: Console) -> None:
    found = duel.revealed()
    for model, wins in zip(found["models"], found["wins"], strict=True):
        console.print(f"{model}: better {wins} times" if len(found["models"]) == 2 else model, markup=False)
    if len(found["models"]) == 2:
        console.print(f"the same {found['tie']} times, both bad {found['both_bad']} times", markup=False)
