"""Grounded decoding: while answers are drawn, names of objects that were not seen in the picture are made less likely.

What was seen is a field of the row, or what a detector says of the prompt. Before each token the names that a row is about to say are
looked up (``keel.rollout.phrases``), so that a name of several tokens is lowered where it can be recognised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import DataError, UserError
from keel.core.python_file import file_of, load_object
from keel.rewards.detectors.words import SeenConfig, by_looking, of_row
from keel.rewards.reading.lexicon import read_objects
from keel.rollout.phrases import PhraseBias, Speller, names_of
from keel.types import Prompt
from keel.verbs.shared.recipes import NamedFile

log = logging.getLogger("keel")


class GroundedDecodingConfig(Section):
    """Grounded decoding: names of objects that are not in the picture are made less likely while answers are drawn. Only where nothing is
    trained on the log-probabilities of the answers."""

    objects: str = Field(
        min_length=1, description="Text file of objects, one a line, the first name stands for all (docs/hallucination.md); any language."
    )
    field: str = Field(default="objects", min_length=1, description="Field of the row with the names of what is in the picture, a list.")
    detector: str = Field(
        default="",
        pattern=r"^(.+\.py:\w+)?$",
        description="FILE.py:NAME of fn(prompt) -> names of what it sees in the picture; empty = the row says it, or `seen` looks.",
    )
    seen: SeenConfig = Field(default=SeenConfig(), description="An object detector that looks at the pictures, where it has weights.")
    amount: float = Field(default=5.0, gt=0, description="What is taken from the logit of a name that is not grounded, in nats.")

    @model_validator(mode="after")
    def _one_says_what_is_there(self) -> Self:
        if self.detector and self.seen.changed:
            raise ValueError("detector and seen both say what is in the picture: leave one out")
        if "field" in self.changed and (self.detector or self.seen.weights):
            raise ValueError("field would have no effect: a detector says what is in the picture; leave it out")
        if self.seen.changed and not self.seen.weights:
            raise ValueError(f"seen.{min(self.seen.changed)} would have no effect without seen.weights")
        return self

    def files(self, key: str) -> Iterator[NamedFile]:
        yield NamedFile(f"{key}.objects", self.objects)
        if self.seen.weights:
            yield NamedFile(f"{key}.seen.weights", self.seen.weights)
        if self.detector:
            yield NamedFile(f"{key}.detector", file_of(self.detector))


def biases(config: GroundedDecodingConfig | None, prompts: Mapping[str, Prompt], tokenizer: Any) -> dict[str, PhraseBias]:
    """The bias of each prompt by its id; empty without a config. Raises DataError for rows that do not say what is in the picture, and
    UserError for a detector that is not there or fails."""
    if config is None:
        return {}
    objects = read_objects(config.objects, original=False)
    speller, seen = Speller(tokenizer), _seen(config)
    found = {i: PhraseBias(speller, *names_of(objects, seen(prompt)), config.amount) for i, prompt in prompts.items()}
    if missed := {name for bias in found.values() for name in bias.missed}:
        log.warning(
            "grounded_decoding: %s cannot be told from names of what is there, and are not lowered there", ", ".join(sorted(missed)[:5])
        )
    log.info(
        "grounded_decoding: %d names of %d objects; of those not in a picture %g nats are taken",
        len(objects),
        len(set(objects.values())),
        config.amount,
    )
    return found


def _seen(config: GroundedDecodingConfig) -> Callable[[Prompt], Collection[str]]:
    if config.seen.weights:
        return by_looking(config.seen)
    detect: Callable[[Prompt], Any]
    if config.detector:
        detect, what = load_object(config.detector, "grounded_decoding.detector"), f"grounded_decoding.detector {config.detector}"
    else:
        detect, what = of_row(config.field), f"field '{config.field}'"

    def seen(prompt: Prompt) -> Collection[str]:
        try:
            names = detect(prompt)
        except UserError:
            raise
        except Exception as error:  # whatever it raises is the user's to mend
            raise UserError(f"{what} failed at {prompt.source_id or prompt.prompt_id}: {type(error).__name__}: {error}") from error
        if isinstance(names, str) or not all(isinstance(n, str) for n in names):
            raise DataError(f"{prompt.source_id or prompt.prompt_id}: {what} gives {names!r:.80}", "it must be a list of names")
        return list(names)

    return seen
