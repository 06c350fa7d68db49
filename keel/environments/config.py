"""Settings of environments."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.python_file import file_of


class EnvironmentConfig(Section):
    """The world that a policy talks with, in as many turns as it takes. Your code is run as it is: use files you trust."""

    path: str = Field(
        pattern=r"^.+\.py:\w+$",
        description="FILE.py:NAME of the environment: a class, a function, an object of one, or an agent (a function with `endpoint`).",
    )
    arguments: dict[str, Any] = Field(default={}, description="What it is made with, by name.")
    max_turns: int = Field(default=8, ge=1, description="Answers of one conversation, at most; a longer one is cut there, and counted.")
    max_tokens: int = Field(
        default=1024,
        ge=1,
        description="Tokens of one conversation behind its prompt, the world's among them; sampling.max_tokens is the limit of one answer.",
    )
    weight: float | None = Field(
        default=1.0,
        description="Factor of the world's own reward in the sum, where its name is `environment`; 0: only measured; null: it gives none.",
    )
    describe_tools: bool = Field(
        default=True,
        description="Put the tools' schemas into prompts where the chat template shows none; false: your prompts tell of them.",
    )
    processes: int = Field(
        default=8, ge=0, le=256, description="Episodes that work at the same time, each in a process; 0: in this process, no time limit."
    )
    timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="Seconds for one reply, or between two answers of an agent; what takes longer is ended, its conversation failed.",
    )
    wait_s: float = Field(
        default=5.0,
        ge=0,
        description="Of agents: the others' answers wait at most so long for one that works by itself.",
    )
    model: str = Field(default="keel", min_length=1, description="Of agents: the name under which they ask for the policy.")
    at_once: int = Field(
        default=256, ge=1, le=4096, description="Conversations that are open at the same time, at most; an agent is a process each."
    )

    @model_validator(mode="after")
    def _read(self) -> EnvironmentConfig:
        if self.processes == 0 and "timeout_s" in self.changed:
            raise ValueError("timeout_s would have no effect with processes=0: set processes=1 or more")
        return self

    @property
    def file(self) -> str:
        """The user's file."""
        return file_of(self.path)
