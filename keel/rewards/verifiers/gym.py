"""Tasks of reasoning-gym (the extra ``gym``, imported when it is needed): their own scorers as a reward."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from keel.core.errors import UserError
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import IsolatedConfig
from keel.rewards.verifiers.truth import column_of
from keel.types import Prompt


class GymReward(IsolatedConfig):
    """A reasoning-gym task's own scorer, from 0 to 1."""

    libraries: ClassVar[tuple[str, ...]] = ("reasoning-gym",)

    type: Literal["reasoning_gym"] = Field(default="reasoning_gym", description="Procedural tasks.")
    entry: str = Field(
        default="", description="Key of the prompt's extra columns that holds the task's entry; empty = the extra columns are the entry."
    )


_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


@of_answers
def gym(config: GymReward) -> TextReward:
    """What the task's ``score_answer`` says, of the text in the last <answer> tags, else of the whole text. The row's entry is what the
    library makes: ``question``, ``answer`` and ``metadata`` with ``source_dataset``. Raises UserError when the library is not there."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(f"reward {config.name!r} needs the library reasoning-gym", "pip install 'keel-align[gym]'")

    library: Any = importlib.import_module("reasoning_gym")  # by name: it is an extra, which types need not know

    def judge(prompt: Prompt, text: str) -> Score:
        entry = column_of(prompt.meta, config.entry) if config.entry else _entry(prompt)
        name = column_of(entry, "metadata.source_dataset") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            return failure("no task: the row needs the columns of reasoning-gym's entries (answer, metadata with source_dataset)")
        try:
            scorer = library.get_score_answer_fn(name)
        except ValueError as error:
            return failure(f"no such task: {error}")
        tagged = _TAGGED.findall(text)
        answer = tagged[-1] if tagged else text.strip()
        value: Any = scorer(answer, entry)
        return Score(float(value), f"{name}: answered {answer[:60]!r}")

    return judge


def _entry(prompt: Prompt) -> dict[str, Any]:
    """The extra columns as an entry. The converters name the expected answer ``ground_truth``."""
    entry: dict[str, Any] = {"question": prompt.last_user_text, **prompt.meta}
    entry.setdefault("answer", entry.get("ground_truth"))
    return entry


ROW = TextRow(GymReward, gym)
