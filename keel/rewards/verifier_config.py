"""Settings of the verifiers: rewards that check an answer against what the row says is right."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.rewards.reading.thoughts import names_a_marker
from keel.rewards.settings import Aggregate, FormConfig, IsolatedConfig, SourceConfig, TruthConfig, compiles


class ExactReward(TruthConfig):
    """1 when the answer is the right one, white space aside; else 0."""

    type: Literal["exact"] = Field(default="exact", description="The whole answer is compared.")
    ignore_case: bool = Field(default=True, description="Upper and lower case are the same.")


class NumericReward(TruthConfig):
    """1 when the final number of the answer is the right one; else 0. GSM8K is of this kind: its truth ends in #### and the number."""

    type: Literal["numeric", "gsm8k"] = Field(default="numeric", description="The final number is compared.")
    tolerance: float | None = Field(
        default=None,
        ge=0,
        description="Allowed difference, relative to the right number where that is above 1; empty = whole numbers are compared exactly, "
        "others to about six digits (0.333333 is 1/3).",
    )


class ChoiceReward(TruthConfig):
    """1 when the option that the answer settles on is the right one; else 0."""

    type: Literal["choice"] = Field(default="choice", description="Multiple choice.")
    options: str = Field(
        default="choices", description="Key of the prompt's extra columns with the options' texts (a list, or letter: text); may be absent."
    )


class MathReward(IsolatedConfig, TruthConfig):
    """1 when the final expression of the answer equals the right one: 1/2 is 0.5 is \\frac{1}{2}; else 0."""

    type: Literal["math"] = Field(default="math", description="Mathematical expressions are compared.")
    precision: int | None = Field(
        default=None,
        ge=1,
        le=15,
        description="Decimals that numbers are compared to; empty = whole numbers are compared exactly, others to about six digits.",
    )


class RegexReward(IsolatedConfig, FormConfig):
    """1 when the pattern is found; with ``truth``, when its first group (or the whole match) is the right answer."""

    type: Literal["regex"] = Field(default="regex", description="A pattern is looked for.")
    pattern: str = Field(
        default="", description="Regular expression; its last match counts. Empty = each row's own, in its column `pattern`."
    )
    truth: str = Field(default="", description="Key of the prompt's extra columns that holds the right answer; empty = any match will do.")

    @field_validator("pattern")
    @classmethod
    def _regular(cls, value: str) -> str:
        return compiles(value)

    @model_validator(mode="after")
    def _sees_thoughts(self) -> RegexReward:
        if self.pattern and not self.thoughts and names_a_marker(self.pattern):
            raise ValueError("the pattern looks for thoughts, which are taken off before it is tried: set thoughts=true")
        return self


class StepsReward(SourceConfig):
    """Is each step of a chain of thought right? Every equation ``expression = number`` that the answer writes down is computed."""

    type: Literal["steps"] = Field(default="steps", description="The arithmetic of each step is checked.")
    aggregate: Aggregate = Field(
        default="mean", description="The answer's score, of 1 and 0 for each equation: mean, sum, the least, the last one's."
    )
    none: float = Field(default=0.0, description="Score of an answer that has no equation.")


class JsonSchemaReward(IsolatedConfig):
    """1 when the answer is JSON that a schema allows; else 0. The JSON is the whole answer, or its last fenced block."""

    type: Literal["json_schema"] = Field(default="json_schema", description="JSON is checked against a schema.")
    path: str = Field(default="", description="File with the schema; empty = each row's own.")
    column: str = Field(default="schema", min_length=1, description="Key of the prompt's extra columns that holds the row's schema.")


class IFEvalReward(IsolatedConfig):
    """Instructions that a program can check, in English and Chinese (the 25 kinds of IFEval, Zhou et al. 2023, arXiv:2311.07911)."""

    type: Literal["ifeval"] = Field(default="ifeval", description="Checkable instructions.")
    instructions: str = Field(
        default="instruction_id_list", min_length=1, description="Key of the prompt's extra columns with the list of instruction names."
    )
    arguments: str = Field(
        default="kwargs", min_length=1, description="Key of the prompt's extra columns with one mapping of arguments an instruction."
    )
    loose: bool = Field(
        default=False, description="Also try without the first line, the last line and asterisks; the kindest reading counts."
    )
    score: Literal["all", "share"] = Field(
        default="all", description="all: 1 when every instruction is followed; share: the share of them."
    )


class GymReward(IsolatedConfig):
    """A reasoning-gym task's own scorer, from 0 to 1."""

    type: Literal["reasoning_gym"] = Field(default="reasoning_gym", description="Procedural tasks.")
    entry: str = Field(
        default="", description="Key of the prompt's extra columns that holds the task's entry; empty = the extra columns are the entry."
    )


class CodeReward(IsolatedConfig):
    """Tests of the Python code in an answer, run in a sandbox: no network, no files, limits of time, memory and processes."""

    type: Literal["code"] = Field(default="code", description="Python code is tested.")
    tests: str = Field(
        default="tests",
        min_length=1,
        description="Key of the prompt's extra columns: a list of {input, output}, a list of assertions, or code with check(candidate), "
        "which is called with the function that the column `entry_point` names.",
    )
    partial: bool = Field(default=False, description="The share of tests passed in place of all or nothing.")
    timeout_s: float = Field(default=4.0, gt=0, description="Seconds of wall time for each test (and of CPU time, rounded up).")
    memory_mb: int = Field(default=512, ge=64, description="Address space of the tested code.")
    max_tests: int = Field(default=50, ge=1, description="At most so many tests are run, the first ones.")
    unsandboxed: bool = Field(
        default=False,
        description="Run the code as it is where no sandbox works: it can then do whatever you can. Never for a model's code.",
    )
