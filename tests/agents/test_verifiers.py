"""Tasks of the verifiers library with its own agents: harness, tools and trace are the library's, the answers are the policy's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from talking import Scripted, furthest

from keel.agents.opening import AgentOpener, Agents
from keel.agents.sampler import AgentSampler
from keel.core.errors import UserError
from keel.environments.config import EnvironmentConfig
from keel.environments.host import host_of
from keel.render.conversation import Turns
from keel.types import Message, Prompt

TOOLS = """
import verifiers.v1 as vf


class Shelf(vf.Toolset[vf.ToolsetConfig]):
    @vf.tool
    async def weigh(self, item: str) -> str:
        '''The weight of an item in grams.

        Args:
            item: Its name.
        '''
        return f"{len(item) * 100} grams"


if __name__ == "__main__":
    Shelf.run()
"""
TASK = """
import verifiers.v1 as vf
from vf_shelf import Shelf


class Data(vf.TaskData):
    item: str = "rope"


class Config(vf.TaskConfig):
    most: int = 3


class Weigh(vf.Task[Data, vf.State, Config]):
    @classmethod
    def toolsets(cls, config):
        return [Shelf(vf.ToolsetConfig())]

    @vf.reward(weight=2.0)
    async def told(self, trace: vf.Trace) -> float:
        return float("400 grams" in (trace.last_reply or ""))

    @vf.reward
    async def asked(self, trace: vf.Trace) -> float:
        return 0.25 * trace.num_turns


class Plain(vf.Task[Data]):
    @vf.reward
    async def length(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply or ""))
"""


def says(prompt_id: str, sample: int, turn: int) -> str:
    if turn == 0:
        return '{"name": "shelf_weigh", "arguments": {"item": "rope"}}'
    return "It weighs 400 grams." if sample == 0 else "No idea."


@pytest.mark.slow
def test_a_harness_with_a_tool_server_is_trained_on(loaded, renderer_of, hold, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
    (tmp_path / "vf_shelf.py").write_text(TOOLS)
    (tmp_path / "weigh.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(filter(None, sys.path))}")
    renderer = renderer_of("chatml_tools")
    settings = EnvironmentConfig(path=f"{tmp_path / 'weigh.py'}:Weigh", arguments={"agent": {"max_turns": 4}}, timeout_s=120.0)
    turns = Turns(renderer)
    agents = Agents.of(host_of(settings), turns)  # type: ignore[arg-type]
    sampler = AgentSampler(Scripted(loaded, renderer, says), AgentOpener(agents, turns, settings, 5))
    prompt = Prompt("a", (Message("system", "Be short."), Message("user", "What does a rope weigh?")), meta={"item": "rope"})
    rollouts = hold(sampler, [prompt])
    assert [r.error for r in rollouts] == ["", ""]
    assert [r.conversation.parts for r in rollouts] == [{"told": 2.0, "asked": 0.5}, {"told": 0.0, "asked": 0.5}]
    assert furthest(loaded, sampler, rollouts) < 1e-5
    for rollout in rollouts:
        assert rollout.conversation.turns == 2
        assert rollout.conversation.calls == 1
        assert rollout.conversation.asking.branches == 1  # the harness goes on behind the tokens of its first answer
        assert any(row["role"] == "tool" and "400 grams" in row["text"] for row in rollout.conversation.told())
    agents.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "word"),
    [
        ({"runtime": {"type": "docker"}}, "a box"),
        ({"harness": {"id": "codex"}}, "needs a container"),
        ({"model": "gpt"}, "agent.model is the trainer's to say"),
        ({"max_turns": "many"}, "AgentConfig cannot be made"),
        (3, "fields of verifiers' AgentConfig"),
    ],
)
def test_what_needs_a_box_is_refused_by_name(tmp_path: Path, agent, word: str) -> None:
    pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
    (tmp_path / "plain.py").write_text(
        TASK.replace("from vf_shelf import Shelf", "").partition("class Weigh")[0] + TASK[TASK.index("class Plain") :]
    )
    with pytest.raises(UserError) as raised:
        host_of(EnvironmentConfig(path=f"{tmp_path}/plain.py:Plain", arguments={"agent": agent}))
    assert word in str(raised.value)
