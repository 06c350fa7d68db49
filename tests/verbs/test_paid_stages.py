"""A server that is paid inside a training: whatever kills the run, no call is paid for twice, and the budget holds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main

pytest.importorskip("httpx")
sys.path.insert(0, str(Path(__file__).parents[1] / "judges"))

from asking import Server, completion

pytestmark = pytest.mark.stages
CONCURRENCY = 2
CALL = 101 * 1e-3  # what a call costs: 100 tokens read, 1 written, at a thousand a million

IMPROVE = {
    "model": "tiny:llama?seed=1",
    "model_options": {"precision": "fp32"},
    "data": {"path": "recipes/tiny/letters.jsonl", "limit": 40},
    "rounds": 1,
    "patience": 0,
    "samples": 2,
    "sampling": {"max_tokens": 6},
    "select": {"cut": True},
    "difficulty": {"prompts": 4},
    "train": {"by": "sft", "optim": {"lr": 1e-3}, "loop": {"steps": 1, "batch_size": 2, "probes": 0}},
    "held_out": {
        "prompts": 0.3,
        "sampling": {"samples": 1},
        "draws": 200,
        "rewards": [{"type": "python", "name": "useful", "function": "recipes/tiny/useful.py:useful"}],
    },
    "settings": {"threads": 1, "checkpoint": {"every": 1, "keep": 1}},
}


class Paid:
    """Answers by a hash of what it is asked; counts whole bodies; from the call ``hold`` on it answers only when ``gone`` is set."""

    def __init__(self) -> None:
        self.bodies: Counter[str] = Counter()
        self.hold = 0
        self.enough, self.gone = threading.Event(), threading.Event()

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        key = json.dumps(body, sort_keys=True)
        self.bodies[key] += 1
        if self.hold and self.bodies.total() > self.hold:
            self.enough.set()
            self.gone.wait(120)
        label = "AE"[zlib.crc32(key.encode()) & 1] if "rubric" in key or "The point:" in key else "AB"[zlib.crc32(key.encode()) & 1]
        return 200, {}, completion(label, {label: -0.01})

    @property
    def twice(self) -> int:
        return sum(n - 1 for n in self.bodies.values())


@pytest.fixture
def paid(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Paid]]:
    monkeypatch.chdir(root)
    made = Server()
    made.reply = reply = Paid()
    yield made, reply
    reply.gone.set()
    made.close()


def judges(tmp_path: Path, url: str, **more: Any) -> str:
    far = {"type": "endpoint", "url": url, "model": "m", "journal": str(tmp_path / "calls.sqlite"), "concurrency": CONCURRENCY}
    far |= {"price": {"read": 1000.0, "written": 1000.0}, "attempts": 1, **more}
    (tmp_path / "judges.yaml").write_text(json.dumps({"judges": {"far": far}}), encoding="utf-8")
    return str(tmp_path / "judges.yaml")


def written(tmp_path: Path, recipe: dict[str, Any]) -> Path:
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"run_dir": str(tmp_path / "run")}), encoding="utf-8")
    return tmp_path / "recipe.yaml"


def killed_and_done(reply: Paid, verb: str, path: Path, hold: int) -> None:
    """Kill the run when the server holds its calls, start it again, and once more when it is finished."""
    command = [sys.executable, "-m", "keel.cli", verb, str(path)]
    reply.hold = hold
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if reply.enough.wait(1):
                break
            assert job.poll() is None, "it ended before the server had so many calls"
        assert reply.enough.is_set()
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    reply.hold = 0
    reply.gone.set()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert reply.bodies.total() > hold + CONCURRENCY
    assert reply.twice <= CONCURRENCY, "those in flight when it died, whose answers nobody ever had"
    before = reply.bodies.total()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert reply.bodies.total() == before


@pytest.mark.slow
def test_self_improvement_killed_in_a_round(paid: tuple[Server, Paid], tmp_path: Path) -> None:
    server, reply = paid
    use = {"judges": judges(tmp_path, server.url), "judge": "far", "override": "far"}
    path = written(tmp_path, IMPROVE | {"judge": use})
    killed_and_done(reply, "improve", path, hold=7)
    rows = json.loads((tmp_path / "run" / "rounds" / "01" / "round.json").read_text())
    assert rows["cost"] == pytest.approx(rows["made"] * CALL)


def test_the_budget_of_a_self_improvement(paid: tuple[Server, Paid], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spent: the run stops and says so, nothing is learnt of half a round. With more money the same command goes on, nothing paid twice."""
    server, reply = paid
    use = {"judges": judges(tmp_path, server.url, budget=7.5 * CALL), "judge": "far", "override": "far"}
    path = written(tmp_path, IMPROVE | {"judge": use})
    assert main(["improve", str(path)]) != 0
    assert "budget: " in (told := capsys.readouterr().err)
    assert "start the same command again" in told
    assert 8 <= reply.bodies.total() <= 8 + CONCURRENCY - 1
    assert not (tmp_path / "run" / "rounds" / "01" / "train.jsonl").exists()
    judges(tmp_path, server.url, budget=1000.0)
    assert main(["improve", str(path)]) == 0
    assert reply.twice == 0


@pytest.mark.parametrize("kind", ["constitution", pytest.param("judge", marks=pytest.mark.slow)])
def test_rl_by_a_server_killed_in_a_step(paid: tuple[Server, Paid], tmp_path: Path, kind: str) -> None:
    server, reply = paid
    principles = tmp_path / "principles.yaml"
    principles.write_text("principles: [{name: kind, text: It is kind.}, {name: brief, text: It is brief.}]", encoding="utf-8")
    reward = {"type": kind, "name": "r", "judges": judges(tmp_path, server.url), "judge": "far", "override": "far"}
    reward |= {"path": str(principles)} if kind == "constitution" else {"how": "pairwise"}
    recipe = {
        "base": str(Path("recipes/tiny_grpo.yaml").resolve()),
        "model_options": {"precision": "fp32"},
        "samples": 2,
        "sampling": {"max_tokens": 6},
        "rewards": [reward],
        "loop": {"steps": 2, "batch_size": 2, "eval_every": 0, "probes": 0, "eval_at_start": False},
        "settings": {"threads": 1, "checkpoint": {"every": 1, "keep": 1}},
    }
    killed_and_done(reply, "rl", written(tmp_path, recipe), hold=5)
