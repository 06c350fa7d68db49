"""Episodes in processes of their own: what goes wrong in one is its own, and has a name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keel.core.errors import UserError
from keel.environments.config import EnvironmentConfig
from keel.environments.host import Failure, LocalHost, host_of
from keel.environments.play import Start
from keel.environments.tools import Call
from keel.types import Message, Prompt

WORLD = '''
import os, random, time
from keel.types import Message, Reply

print("a user's print is no answer")

class Dice:
    def __init__(self, prompt, seed, sides=6):
        self.hidden, self.sides = random.Random(seed).randrange(1000), sides
        self.beginning = random.random()
        self.tools = [self.roll]
    def start(self):
        return [Message("user", f"{self.hidden} {self.beginning}")]
    def roll(self, times: int) -> str:
        """Roll the dice."""
        return " ".join(str(random.randint(1, self.sides)) for _ in range(times))
    def answer(self, message):
        word = message.text
        print("asked", word)
        if word == "hang":
            os.system("sleep 1000 &")
            time.sleep(1000)
        if word == "die":
            os._exit(3)
        if word == "raise":
            raise ValueError("oh")
        return Reply([Message("user", f"{word} {os.getpid()}")], reward={"said": 0.5})
    def reward(self):
        return 0.25
'''


@pytest.fixture
def world(tmp_path: Path) -> str:
    path = tmp_path / "world.py"
    path.write_text(WORLD)
    return f"{path}:Dice"


def asked(word: str, *calls: Call) -> tuple[Message, tuple[Call, ...]]:
    return Message("assistant", word), calls


def starts(n: int) -> list[tuple[int, Start]]:
    return [(i, Start(Prompt(f"p{i // 2}"), i // 2, i)) for i in range(n)]


def test_failures_have_names_and_are_alone(world):
    host = host_of(EnvironmentConfig(path=world, processes=4, timeout_s=2.0))
    openings = host.open(starts(5))
    assert not any(isinstance(o, Failure) for o in openings)
    words = ("well", "die", "raise", "hang", "fine")
    found = host.answer([(i, asked(word)) for i, word in enumerate(words)])
    assert [isinstance(f, Failure) for f in found] == [False, True, True, True, False]
    assert [f.error for f in found if isinstance(f, Failure)] == [
        "the episode's process died",
        "the episode raised ValueError: oh",
        "the episode hung: no reply after 2 s",
    ]
    pids = {f.messages[0].text.split()[1] for f in found if not isinstance(f, Failure)}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert host.end([0, 4]) == [(0.25, {}), (0.25, {})]
    host.close()


def test_here_and_in_processes_the_world_is_the_same(world):
    """The beginning hangs on the prompt's seed; the dice behind it on the conversation's, and on no other conversation."""
    seen = []
    for processes in (0, 1, 3):
        host = host_of(EnvironmentConfig(path=world, processes=processes))
        openings = host.open(starts(4))
        rolls = [host.answer([(i, asked("", Call("roll", {"times": 5})))])[0].messages[0].text for i in (2, 0, 1, 3)]
        again = [s.messages[0].text for s in host.answer([(i, asked("", Call("roll", {"times": 5}))) for i in range(4)])]
        seen.append((openings, rolls, again))
        host.close()
    assert seen[0] == seen[1] == seen[2]
    openings, rolls, _ = seen[0]
    assert openings[0] == openings[1] != openings[2]
    assert len(set(rolls)) == 4


def test_a_program_in_this_process_keeps_its_own_chance(world):
    import random

    random.seed(4)
    expected = random.random()
    random.seed(4)
    host = host_of(EnvironmentConfig(path=world, processes=0))
    assert isinstance(host, LocalHost)
    host.open(starts(2))
    host.close()
    assert random.random() == expected


@pytest.mark.parametrize(
    ("text", "word"), [("1 / 0", "ZeroDivisionError"), ("x = 1", "no function 'Dice'"), (WORLD.replace("sides=6", "faces=6"), "faces")]
)
def test_a_users_mistake_is_told_before_anything_is_sampled(tmp_path, text, word):
    (tmp_path / "w.py").write_text(text)
    for processes in (0, 1):
        with pytest.raises(UserError) as raised:
            host_of(EnvironmentConfig(path=f"{tmp_path}/w.py:Dice", arguments={"sides": 3}, processes=processes))
        assert word in str(raised.value)


def test_the_processes_load_no_torch():
    code = "import sys, keel.environments.mother; assert not {'torch', 'transformers'} & set(sys.modules), 'too much'"
    subprocess.run([sys.executable, "-c", code], check=True)
