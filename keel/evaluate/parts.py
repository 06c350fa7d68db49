"""What an evaluation may measure of each model beside its answers to the held-out prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.core.python_file import names_a_file

_PROMPTS = "package:keel/evaluate/refusals/prompts"


class PromptSet(Section):
    """A set of prompts and what it is to the training: like its data (``in``), or not (``out``)."""

    name: str = Field(min_length=1, description="What it is called in the results.")
    role: Literal["in", "out"] = Field(description="in: joins the held-out prompts; out: is told apart, as a gap to them.")
    prompts: tuple[str, ...] = Field(min_length=1, description="Files of prompts.")
    limit: int | None = Field(default=None, ge=1, description="Take only the first N rows of each of these files.")


class RefusalsConfig(Section):
    """Who is turned down: safe prompts (over-refusal) and unsafe ones, in three classes."""

    safe: tuple[str, ...] = Field(
        default=(f"{_PROMPTS}/safe_en.jsonl", f"{_PROMPTS}/safe_zh.jsonl"), description="Files of prompts that should be answered."
    )
    unsafe: tuple[str, ...] = Field(
        default=(f"{_PROMPTS}/unsafe_en.jsonl", f"{_PROMPTS}/unsafe_zh.jsonl"), description="Files of prompts that should be refused."
    )
    limit: int | None = Field(default=None, ge=1, description="Take only the first N rows of each of these files.")
    samples: int = Field(default=1, ge=1, description="Answers to each prompt.")
    max_tokens: int = Field(default=256, ge=1, description="Longest answer, in tokens; a refusal may come after a preface.")
    reader: str = Field(
        default="", description="What tells the class: FILE.py:NAME of fn(prompt, answer) -> full | partial | none; empty = the wording."
    )

    @model_validator(mode="after")
    def _has_prompts(self) -> RefusalsConfig:
        if not self.safe and not self.unsafe:
            raise ValueError("give safe prompts, unsafe ones, or both")
        return self

    @field_validator("reader")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        if value and not names_a_file(value):
            raise ValueError(f"reader is FILE.py:NAME, not {value!r}")
        return value


class ChoicesConfig(Section):
    """Questions with a better answer and worse ones: the model prefers whichever it gives the greater log-probability."""

    items: tuple[str, ...] = Field(
        default=("package:keel/evaluate/hhh/en.jsonl", "package:keel/evaluate/hhh/zh.jsonl"),
        min_length=1,
        description="Files of items: Keel's own layout or the public HHH set's.",
    )


class RetentionConfig(Section):
    """Abilities from before the training: text that has nothing to do with it, and tasks answered by log-probability."""

    texts: dict[str, str] = Field(default={}, description='Name -> file of {"text": ...} rows or of demonstrations.')
    tasks: dict[str, str] = Field(default={}, description="Name -> file of items, as `hhh.items`.")
    limit: int = Field(default=500, ge=1, description="Texts and items of each at most.")
    text_tolerance: float = Field(default=0.02, ge=0, description="Loss that is none, in nats a token.")
    task_tolerance: float = Field(default=0.02, ge=0, description="Loss that is none, in accuracy.")

    @model_validator(mode="after")
    def _has_parts(self) -> RetentionConfig:
        if not self.texts and not self.tasks:
            raise ValueError("give texts, tasks, or both")
        if twice := sorted(self.texts.keys() & self.tasks.keys()):
            raise ValueError(f"a text and a task are both called {twice[0]!r}")
        return self


class LmEvalConfig(Section):
    """Tasks of lm-evaluation-harness, on the very ids that Keel reads. Nothing is cached between models."""

    tasks: list[str] = Field(min_length=1, description="Names of tasks.")
    shots: int | None = Field(default=None, ge=0, description="Examples before each question; empty = what the task says.")
    limit: int | None = Field(default=None, ge=1, description="Take only the first N items of each task; empty = all.")
    chat_template: bool = Field(default=False, description="Put questions into the model's chat template, as one turn of the user.")
    include_path: str = Field(default="", description="Folder of tasks of one's own (YAML); its tasks alone are known then.")
    seed: int = Field(default=0, ge=0, description="Seed of what tasks draw (the examples).")
