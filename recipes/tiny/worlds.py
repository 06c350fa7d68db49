"""Worlds for trying environments out: a game of several turns, and sums that are done with a tool."""

from __future__ import annotations

import random
import re

from keel.types import Message, Prompt, Reply


class GuessNumber:
    """The world hides a number from 1 to ``high``. After a wrong guess it says where the number is: in a range of 3, then in one of 1.
    Found at once it is worth 1, each further guess costs ``price``; not found in ``guesses``, nothing."""

    def __init__(self, prompt: Prompt, seed: int, high: int = 9, guesses: int = 4, price: float = 0.2) -> None:
        chance = random.Random(seed)
        self.hidden = chance.randint(1, high)
        self.low = chance.randint(max(1, self.hidden - 2), min(self.hidden, high - 2))
        self.guesses, self.price = guesses, price
        self.made, self.found = 0, False

    def answer(self, message: Message) -> Reply:
        self.made += 1
        self.found = message.text.strip() == str(self.hidden)
        if self.found or self.made == self.guesses:
            return Reply(done=True)
        return Reply(f"{self.low} to {self.low + 2}" if self.made == 1 else f"{self.hidden} to {self.hidden}")

    def reward(self) -> float:
        return 1.0 - self.price * (self.made - 1) if self.found else 0.0


class ChainSum:
    """A sum like "2+5+4" in the prompt, and a tool that adds two numbers. The last answer is worth 1 where it is the sum; each call that
    adds what the chain wants next, 0.25."""

    def __init__(self, prompt: Prompt, seed: int) -> None:
        self.numbers = [int(n) for n in re.findall(r"\d+", prompt.last_user_text)]
        self.tools = [self.add]
        self.done, self.total = 1, self.numbers[0]
        self.right = False

    def add(self, a: int, b: int) -> Reply:
        """Add two numbers.

        Args:
            a: The first number.
            b: The second number.
        """
        wanted = self.done < len(self.numbers) and (a, b) == (self.total, self.numbers[self.done])
        if wanted:
            self.total, self.done = a + b, self.done + 1
        return Reply(str(a + b), reward={"right_call": 0.25 if wanted else 0.0})

    def answer(self, message: Message) -> Reply:
        self.right = message.text.strip() == str(sum(self.numbers))
        return Reply(done=True)

    def reward(self) -> dict[str, float]:
        return {"right_answer": float(self.right)}
