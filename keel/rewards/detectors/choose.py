"""Which detector finds what is made up: one of ours by its name, or a function of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.python_file import file_of, load_object, names_a_file
from keel.rewards.detectors.found import Detector
from keel.rewards.detectors.judge import PictureJudgeConfig, by_judge
from keel.rewards.detectors.words import SeenConfig, WordsConfig, by_looking, by_words, of_row
from keel.rewards.settings import InputFile

_READS = {"truth": ("words",), "objects": ("words", "seen"), "judge": ("judge",)}  # settings of each detector of ours


class DetectorSettings(Section):
    """What finds errors in an answer, and the settings of the detectors that have a name."""

    detector: str = Field(
        pattern=r"^(truth|objects|judge|.+\.py:\w+)$",
        description="What finds what is made up. truth: objects of a list (`words`) that the row does not name; objects: the same, by an "
        "object detector that looks at the picture (`seen`); judge: a server that is shown picture and answer (`judge`); or FILE.py:NAME "
        "of fn(prompt, completion) -> Found: errors with their type and characters, and the coverage.",
    )
    words: WordsConfig = Field(default=WordsConfig(), description="Words of objects, for truth and objects.")
    seen: SeenConfig = Field(default=SeenConfig(), description="The object detector of objects.")
    judge: PictureJudgeConfig = Field(default=PictureJudgeConfig(), description="The server of judge.")

    @model_validator(mode="after")
    def _settings_of_the_detector(self) -> Self:
        read = _READS.get(self.detector, ())
        for name in ("words", "seen", "judge"):
            changed = getattr(self, name).changed
            if changed and name not in read:
                raise ValueError(f"{name}.{min(changed)} would have no effect with detector={self.detector}: leave it out")
        if self.detector == "objects" and "field" in self.words.changed:
            raise ValueError("words.field would have no effect with detector=objects, which looks at the picture: leave it out")
        needed = {
            "words.objects": self.words.objects,
            "seen.weights": self.seen.weights,
            "judge.url": self.judge.url,
            "judge.model": self.judge.model,
        }
        for key, value in needed.items():
            if key.split(".")[0] in read and not value:
                raise ValueError(f"{key} is needed with detector={self.detector}")
        return self

    def detector_files(self) -> Iterator[InputFile]:
        """Files whose content decides what is found."""
        named = {
            "words.objects": self.words.objects,
            "words.pairs": self.words.pairs,
            "seen.weights": self.seen.weights,
            "judge.ask": self.judge.ask,
        }
        yield from (InputFile(key, path) for key, path in named.items() if path)
        if names_a_file(self.detector):
            yield InputFile("detector", file_of(self.detector))

    def made(self) -> Detector:
        """The detector. Raises UserError for files, weights and keys that are not there."""
        if self.detector == "truth":
            return by_words(self.words, of_row(self.words.field))
        if self.detector == "objects":
            return by_words(self.words, by_looking(self.seen))
        if self.detector == "judge":
            return by_judge(self.judge)
        return load_object(self.detector, "detector")
