"""The prompts of agents, and what takes part in a conversation with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keel.agents.endpoint import Endpoints
from keel.environments.config import EnvironmentConfig
from keel.environments.workers import AgentHost
from keel.render.conversation import Turns
from keel.render.template import RefusedError
from keel.serve.policy.frames import About
from keel.serve.policy.tool_calls import Form, form_of
from keel.types import Message, Prompt


@dataclass(frozen=True, slots=True)
class Agents:
    """Their processes, and the server that they ask."""

    processes: AgentHost
    endpoints: Endpoints
    tool_form: Form | None  # how the model writes calls of tools; None: its template knows none

    @classmethod
    def of(cls, processes: AgentHost, turns: Turns) -> Agents:
        form, model = form_of(turns.template.source), processes.config.model
        about = About(model, tool_form=form, own_system=turns.renderer.config.system is not None)
        return cls(processes, Endpoints(model, about), form or None)

    def close(self) -> None:
        self.processes.close()
        self.endpoints.close()


class AgentOpener:
    """Prompts as agents are given them: as they are. What an agent asks of the policy is its own."""

    def __init__(self, host: Agents, turns: Turns, config: EnvironmentConfig, seed: int) -> None:
        self.host, self.turns, self.config, self.seed = host, turns, config, seed
        self.prompts: dict[str, tuple[Prompt, Prompt]] = {}  # by prompt id: as the data has it, as an agent's first request may be

    def __call__(self, prompts: Sequence[Prompt]) -> list[Prompt | RefusedError]:
        """The prompts, or why one cannot be given to an agent."""
        return [self._opened(prompt) for prompt in prompts]

    def _opened(self, prompt: Prompt) -> Prompt | RefusedError:
        shown = replace(prompt, messages=prompt.messages or (Message("user", prompt.text or ""),), text=None)
        if not all(isinstance(message.content, str) for message in shown.messages):
            return RefusedError("agents are given no images", "leave the row out, or write the world as an environment")
        try:
            self.turns.begin(shown)
        except RefusedError as refused:
            return refused
        self.prompts[prompt.prompt_id] = (prompt, shown)
        return shown
