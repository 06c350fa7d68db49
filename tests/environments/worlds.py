"""A world for whole stages: an untrained model has something to learn in it, as its turns end at a letter."""

from __future__ import annotations

import os
import random
import time

from keel.types import Message, Prompt, Reply


class Letters:
    """Short turns are worth more; the world throws a die at each, and goes wrong where it is asked to."""

    def __init__(self, prompt: Prompt, seed: int, turns: int = 3, wrong: str = "") -> None:
        self.turns, self.wrong, self.made = turns, wrong, 0
        self.tools = [self.count]

    def start(self) -> str:
        return "Be short."

    def count(self, text: str) -> int:
        """Count letters.

        Args:
            text: Of this.
        """
        return len(text)

    def answer(self, message: Message) -> Reply:
        self.made += 1
        die = random.randint(1, 6)
        if die <= 2 and self.wrong == "raises":
            raise RuntimeError("a bad day")
        if die <= 2 and self.wrong == "dies":
            os._exit(1)
        if die <= 2 and self.wrong == "hangs":
            time.sleep(1000)
        return Reply(f"die {die}", reward={"short": 1.0 / (1 + len(message.text))}, done=self.made == self.turns)

    def reward(self) -> float:
        return 0.25 * self.made


class Silent:
    """Gives no reward."""

    def __init__(self, prompt: Prompt, seed: int) -> None: ...

    def answer(self, message: Message) -> Reply:
        return Reply(done=True)
