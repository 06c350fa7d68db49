"""The file of principles. Read strictly: every mistake is told with file, line and field, all at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section, dump, load
from keel.core.errors import ConfigError
from keel.data.identity import TRUTHS
from keel.data.text import language
from keel.rewards.constitution.maths import How, Rule
from keel.rewards.settings import SourceConfig
from keel.rewards.verifiers import choice, consistency, contains, exact, ifeval, json_schema, maths, numeric, regex
from keel.rewards.verifiers.rules import RuleSet, read_rules
from keel.types import ImagePart, Message, Prompt, TextPart

VERIFIERS = (
    *(exact.ROW, numeric.ROW, maths.ROW, choice.ROW, contains.ROW, consistency.ROW),
    *(regex.ROW, json_schema.ROW, ifeval.ROW),
)
if TYPE_CHECKING:
    VerifierConfig = SourceConfig  # checkers of types cannot read a union that is made of a table
else:
    VerifierConfig = Annotated[Union[tuple(row.settings for row in VERIFIERS)], Field(discriminator="type")]  # noqa: UP007


class RuleScorer(Section):
    """Rules of tone, format and length, as in a rule file: p is the rule set's score."""

    type: Literal["rule"] = Field(default="rule", description="Rules of form.")
    path: str = Field(default="", description="YAML file of the rules.")
    rules: RuleSet | None = Field(default=None, description="The rules themselves, in place of a file.")

    @model_validator(mode="after")
    def _one_of_both(self) -> RuleScorer:
        if bool(self.path) == (self.rules is not None):
            raise ConfigError("give either path (a rule file) or rules, not " + ("both" if self.path else "neither"))
        return self

    def read(self) -> RuleSet:
        """The rules. Raises ConfigError for a file that cannot be read."""
        return self.rules if self.rules is not None else read_rules(self.path)


class VerifierScorer(Section):
    """A verifier: p is where its score lies between ``low`` and ``high``."""

    type: Literal["verifier"] = Field(default="verifier", description="A verifier, as among the rewards.")
    verifier: VerifierConfig = Field(description="Its settings: {type: regex, pattern: ...} and so on; it needs no name.")
    low: float = Field(default=0.0, description="Score that is p = 0.")
    high: float = Field(default=1.0, description="Score that is p = 1; below `low` where a high score is a fault.")

    @field_validator("verifier", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": "verifier", **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _a_scale(self) -> VerifierScorer:
        if self.low == self.high:
            raise ConfigError("low and high are the same: every score would be both the worst and the best")
        return self


class JudgeScorer(Section):
    """The judge of the constitution's user: p is where its score of this principle lies on its scale."""

    type: Literal["judge"] = Field(default="judge", description="The judge, asked about this principle alone.")


Scorer = Annotated[RuleScorer | VerifierScorer | JudgeScorer, Field(discriminator="type")]


class Principle(Section):
    """One principle."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Name in metrics, reports and histories.")
    text: str = Field(min_length=1, description="The principle in words, as judges and critics are shown it.")
    weight: float = Field(default=1.0, ge=0, description="Exponent or factor; 0 = as if it were not there.")
    band: str = Field(default="", description="Its priority band, one of `bands`; empty = the lowest.")
    aspect: Literal["content", "style", "compliance"] = Field(default="content", description="What a critique of it looks at.")
    domains: list[str] = Field(
        default=[], description="Only for prompts of these domains (the column `domain_column`: one or a list, in any case); empty = all."
    )
    languages: list[str] = Field(default=[], description="Only for prompts in these languages (en, zh ...; zh holds zh-CN); empty = all.")
    least: float = Field(default=0.5, gt=0, le=1, description="Below this p the principle is broken.")
    scorer: Scorer = Field(default=JudgeScorer(), description="Who says how well it is kept: rule, verifier or judge.")
    critique: str = Field(default="", description="What a critic is asked about it; empty = the template's request.")
    revision: str = Field(default="", description="What a reviser is asked for; empty = the template's request.")

    @field_validator("text", "critique", "revision")
    @classmethod
    def _one_text(cls, value: str) -> str:
        return " ".join(value.split())


class Constitution(Section):
    """A file of principles."""

    language: str = Field(default="en", pattern="^(en|zh)$", description="Language of its words: chooses the templates of critics.")
    bands: list[str] = Field(
        default=[], description="Priority bands, the highest first, e.g. [safety, accuracy, usefulness]; empty = all principles are equal."
    )
    domain_column: str = Field(default="domain", min_length=1, description="Extra column of the prompts that names their domain.")
    image_text: str = Field(
        default="", description="Extra column of the prompts that describes their images, for judges and critics that read text alone."
    )
    how: How = Field(
        default="product",
        description="product = prod p^w; geometric = its root of sum w; sum = sum w p; mean = that divided by sum w; within a band.",
    )
    floor: float = Field(default=0.01, ge=0, lt=1, description="The least that a factor counts as in a product.")
    principles: list[Principle] = Field(min_length=1, description="The principles; their order means nothing.")

    @model_validator(mode="after")
    def _fits(self) -> Constitution:
        twice = [name for name, n in Counter(p.name for p in self.principles).items() if n > 1]
        if twice:
            raise ConfigError(f"principles: {', '.join(twice)} stands twice", "give each its own name")
        alike = [text for text, n in Counter(p.text for p in self.principles).items() if n > 1]
        if alike:
            both = ", ".join(p.name for p in self.principles if p.text == alike[0])
            raise ConfigError(f"principles: {both} have the same text, so a judge's verdict on one would be that on the other", "keep one")
        if len(set(self.bands)) < len(self.bands):
            raise ConfigError("bands: each stands once")
        lost = [p for p in self.principles if p.band and p.band not in self.bands]
        if lost:
            there = ", ".join(self.bands) or "none"
            raise ConfigError(f"principle {lost[0].name}: no band {lost[0].band!r}", f"bands are: {there}")
        empty = [b for b in self.bands if all(self.band_of(p) != b for p in self.principles)]
        if empty:
            raise ConfigError(f"bands: no principle is in {empty[0]}", "leave the band out, or give it a principle")
        if not any(p.weight for p in self.principles):
            raise ConfigError("principles: all have weight 0, so nothing would be scored")
        return self

    def band_of(self, principle: Principle) -> str:
        """The band's name; "" where there are none."""
        return principle.band or (self.bands[-1] if self.bands else "")

    def rule(self, principle: Principle) -> Rule:
        """What the mathematics knows of it."""
        band = self.bands.index(self.band_of(principle)) if self.bands else 0
        return Rule(principle.name, principle.weight, band, principle.least)

    @property
    def rules(self) -> list[Rule]:
        return [self.rule(p) for p in self.principles]

    def named(self, name: str) -> Principle:
        return next(p for p in self.principles if p.name == name)

    def of(self, prompt: Prompt) -> list[Principle]:
        """Those that apply to a prompt, without those of weight 0."""
        domains, said = _plain_names(prompt.meta.get(self.domain_column)), prompt.last_user_text or prompt.text or ""
        spoken = _main_tag(str(prompt.meta.get("language") or language(said)))
        return [
            p
            for p in self.principles
            if p.weight > 0
            and (not p.domains or domains & _plain_names(p.domains))
            and (not p.languages or spoken in map(_main_tag, p.languages))
        ]

    def idle(self, prompts: Iterable[Prompt]) -> list[str]:
        """Names of the principles with a weight that apply to none of the prompts: they decide nothing."""
        used = {p.name for prompt in prompts for p in self.of(prompt)}
        return [p.name for p in self.principles if p.weight > 0 and p.name not in used]

    def columns(self) -> set[str]:
        """Columns of a prompt that may decide what applies to it, how it is scored, or what a right answer is."""
        verifiers = [p.scorer.verifier for p in self.principles if isinstance(p.scorer, VerifierScorer)]
        named = {value.partition(".")[0] for v in verifiers for value in dump(v).values() if isinstance(value, str)}
        return {self.domain_column, "language", *TRUTHS, *named} | ({self.image_text} if self.image_text else set())

    def shown(self, prompt: Prompt, sees: bool = False) -> Prompt | None:
        """The prompt as a judge or critic is shown it: as it is where it sees images, else each image as its description; None where there
        is none."""
        if sees or not any(isinstance(part, ImagePart) for m in prompt.messages if not isinstance(m.content, str) for part in m.content):
            return prompt
        told = prompt.meta.get(self.image_text) if self.image_text else None
        if not isinstance(told, str) or not told.strip():
            return None
        label = {"en": "image", "zh": "图像"}[self.language]
        described = TextPart(f"[{label}: {told.strip()}]\n")

        def turn(m: Message) -> Message:
            if isinstance(m.content, str):
                return m
            return replace(m, content=tuple(described if isinstance(part, ImagePart) else part for part in m.content))

        return replace(prompt, messages=tuple(turn(m) for m in prompt.messages))

    @property
    def judged(self) -> bool:
        """Does any principle need a judge?"""
        return any(isinstance(p.scorer, JudgeScorer) and p.weight > 0 for p in self.principles)

    def files(self) -> Iterator[str]:
        """Files that its scorers read."""
        for p in self.principles:
            if isinstance(p.scorer, RuleScorer) and p.scorer.path:
                yield p.scorer.path
            elif isinstance(p.scorer, VerifierScorer):
                yield from (f.path for f in p.scorer.verifier.files())


def shipped() -> list[str]:
    """The constitutions that come with Keel."""
    return sorted(f.name.removesuffix(".yaml") for f in _FOLDER.iterdir() if f.name.endswith(".yaml"))


def read_constitution(name: str) -> Constitution:
    """One of ours by its name, or a YAML or JSON file. Raises ConfigError with file, line and field of all that is wrong."""
    if name.endswith((".yaml", ".yml", ".json")):
        if not Path(name).expanduser().is_file():
            raise ConfigError(f"{name}: no such file of principles", f"check the path; ours are {', '.join(shipped())}")
        return load(Constitution, Path(name).expanduser())
    with resources.as_file(_FOLDER / f"{name}.yaml") as path:
        if not path.is_file():
            raise ConfigError(f"no constitution {name!r}", f"ours are {', '.join(shipped())}; yours is a file NAME.yaml or NAME.json")
        return load(Constitution, path)


def _plain_names(value: Any) -> set[str]:
    """The domains that a column, or a principle, names: one or a list, in any case."""
    values: list[Any] = value if isinstance(value, list) else [value]
    return {v.strip().casefold() for v in values if isinstance(v, str)}


def _main_tag(tag: str) -> str:
    """``zh`` of ``zh-CN`` and ``ZH_hans``."""
    return re.split("[-_]", tag.strip(), maxsplit=1)[0].casefold()


_FOLDER = resources.files("keel.rewards.constitution") / "files"
