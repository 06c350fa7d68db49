"""Templates of what a judge is asked: YAML files, ours in ``prompts/``, a user's anywhere. And how a question is written into one.

Answers are somebody else's text. Each stands between two lines with a mark that occurs in none of the texts; placeholders are filled in
one pass, so that a text with ``{answers}`` in it fills nothing; markers of chat templates in a text are broken. Where the verdict stands
is fixed by the template's mode and never by what a text says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import ascii_uppercase
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from keel.core.config import Section, dump, load
from keel.core.errors import ConfigError, DataError
from keel.judges.ask import Kind, Question, digest
from keel.judges.pictures import Content, Part, content_of, each_text, holds_image, images_of, said, texts_of
from keel.types import ImagePart, TextPart

SectionT = TypeVar("SectionT", bound=Section)
Mode = Literal["label", "json"]
_FILL = re.compile(r"\{(prompt|answers|reference|criterion|reply|labels|scale)\}")
_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|</?s>|<(?:bos|eos|unk|pad)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?think>",
    re.IGNORECASE,
)
_BREAK = "\u200b"  # shows nothing and makes two tokens of one marker


class Words(Section):
    """What the parts are called in the template's language."""

    prompt: str = Field(description="Name of what was asked.")
    answer: str = Field(description="Name of an answer; its label follows where there are several.")
    reference: str = Field(description="Name of the reference answer.")
    begin: str = Field(description="Word of the line before a text.")
    end: str = Field(description="Word of the line after a text.")


class Template(Section):
    """What a judge is shown. `{prompt}`, `{answers}`, `{reference}` are the texts between their marks, `{criterion}` the rubric's line,
    `{labels}` the labels with their meanings, `{scale}` the ends of the scale, `{reply}` how to reply."""

    kind: Kind = Field(description="Which questions it is for.")
    language: str = Field(description="Language of its words, e.g. en or zh.")
    system: str = Field(description="The system message.")
    user: str = Field(description="The user message.")
    reply_label: str = Field(default="", description="How to reply with one label; empty = the template has no such form (rankings).")
    reply_json: str = Field(description="How to reply with one JSON object.")
    ties: bool = Field(default=True, description="May a pair be a tie? The label after the last answer stands for it.")
    tie: str = Field(default="equally good", description="Meaning of the label of ties.")
    low: int = Field(default=1, description="The worst score.")
    high: int = Field(default=10, description="The best score.")
    criteria: dict[str, str] = Field(default={}, description="Of a rubric: what is looked at, by name.")
    words: Words = Field(description="What the parts are called.")

    @model_validator(mode="after")
    def _fits(self) -> Template:
        wanted = {"prompt", "answers", "reply"} | ({"criterion"} if self.kind == "rubric" else set())
        missing = wanted - set(_FILL.findall(self.user)) - set(_FILL.findall(self.system))
        if missing:
            raise ConfigError(f"the template never shows {', '.join(f'{{{name}}}' for name in sorted(missing))}", "write it into `user`")
        if not 2 <= self.high - self.low + 1 <= len(ascii_uppercase):
            raise ConfigError(f"a scale from {self.low} to {self.high} has no letter for each step", "take 2 to 26 whole steps")
        if (self.kind == "rubric") != bool(self.criteria):
            raise ConfigError("criteria belong to templates of kind rubric, and such a template needs some", "name what is looked at")
        return self

    @property
    def hash(self) -> str:
        """Of all that it says."""
        return digest(dump(self))

    @property
    def guided(self) -> bool:
        """Does it show a reference answer?"""
        return "{reference}" in self.user

    @property
    def scores(self) -> tuple[int, ...]:
        """The steps of the scale, the worst first."""
        return tuple(range(self.low, self.high + 1))

    def labels(self, answers: int) -> tuple[str, ...]:
        """Letters: one a place on the screen and one for ties, or one a step of the scale."""
        if self.kind in ("pointwise", "rubric"):
            return tuple(ascii_uppercase[: len(self.scores)])
        return tuple(ascii_uppercase[: answers + (self.kind == "pairwise" and self.ties)])


@dataclass(frozen=True, slots=True)
class Written:
    """A question as a judge is shown it: (role, content) of each message, and the labels that a verdict may have."""

    messages: tuple[tuple[str, Content], ...]
    labels: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """All that is written, images left out."""
        return [text for _, content in self.messages for text in texts_of(content)]

    @property
    def images(self) -> list[ImagePart]:
        """The images in the order in which they are shown."""
        return [part for _, content in self.messages for part in images_of(content)]


def load_template(name: str) -> Template:
    """One of ours by its name, or a user's by its file. Raises ConfigError with the place of what is wrong in it."""
    return template_of(Template, "keel.judges", name)


def template_of(kind: type[SectionT], room: str, name: str) -> SectionT:
    """A template of a kind: one that comes with a room, by its name, or a user's, by its file. Raises ConfigError."""
    if name.endswith((".yaml", ".yml")):
        return load(kind, Path(name).expanduser())
    with resources.as_file(resources.files(room) / "prompts" / f"{name}.yaml") as path:
        if not path.is_file():
            raise ConfigError(f"no template {name!r}", f"ours are {', '.join(template_names(room))}; yours is a file NAME.yaml")
        return load(kind, path)


def template_names(room: str = "keel.judges") -> list[str]:
    """The templates that come with Keel."""
    return sorted(f.name.removesuffix(".yaml") for f in (resources.files(room) / "prompts").iterdir() if f.name.endswith(".yaml"))


def write(template: Template, question: Question, mode: Mode, controls: Sequence[str] = (), sees: bool = False) -> Written:
    """The messages that ask ``question``. ``controls``: special tokens of the judge's own tokenizer, broken where a text has them.
    ``sees``: is the judge shown images, where they stand in the turns? One that is not raises DataError for them.

    Raises ConfigError for a template of another kind, without this form of reply, or for a reference that it needs or does not show.
    """
    if question.kind != template.kind:
        raise ConfigError(f"a template of kind {template.kind} cannot ask a {question.kind} question", "name one of that kind")
    if template.guided != bool(question.reference):
        what = "needs a reference answer, and there is none" if template.guided else "does not show the reference answer that is given"
        raise ConfigError(f"the template {what}", "take another template, or give every row a reference")
    reply = template.reply_label if mode == "label" else template.reply_json
    if not reply:
        raise ConfigError(f"a {template.kind} template without reply_label has no reply of one label", "take mode: json")
    prompt = question.prompt
    if question.holds_image and not sees:
        what = (
            f"prompt {prompt.prompt_id} ({prompt.source_id})" if holds_image(prompt.messages) else f"an answer to prompt {prompt.prompt_id}"
        )
        raise DataError(f"{what} holds images, and this judge reads text alone", "leave such rows out")
    answers = [question.answers[i] for i in question.order]
    asked = (TextPart(prompt.text),) if prompt.text is not None else said(prompt.messages)
    each = [asked, *(said(a.turns) or (TextPart(a.text),) for a in answers), (TextPart(question.reference),)]
    shown = [each_text(parts, lambda text: broken(text, controls)) for parts in each]
    mark, labels, words = mark_of([t for parts in shown for t in texts_of(parts)]), template.labels(len(answers)), template.words
    names = [words.answer if len(answers) == 1 else f"{words.answer} {letter}" for letter in ascii_uppercase[: len(answers)]]

    def block(name: str, parts: Sequence[Part]) -> list[Part]:
        return [TextPart(f"[{words.begin} {name} | {mark}]\n"), *parts, TextPart(f"\n[{words.end} {name} | {mark}]")]

    blocks = [block(name, parts) for name, parts in zip(names, shown[1:-1], strict=True)]
    filled: dict[str, Sequence[Part]] = {
        "prompt": block(words.prompt, shown[0]),
        "answers": [part for k, one in enumerate(blocks) for part in (*([TextPart("\n\n")] if k else ()), *one)],
        "reference": block(words.reference, shown[-1]),
        "criterion": (TextPart(template.criteria.get(question.criterion, question.criterion)),),
        "labels": (TextPart(_meanings(template, labels, names)),),
        "scale": (TextPart(f"{template.low} - {template.high}"),),
    }
    filled["reply"] = fill(_FILL, reply, filled)
    sides = (("system", template.system), ("user", template.user))
    return Written(tuple((role, content_of(fill(_FILL, text, filled))) for role, text in sides), labels)


def broken(text: str, controls: Sequence[str] = ()) -> str:
    """The text with every marker of a chat template made into plain words: looks the same, ends no turn."""
    text = _CONTROL.sub(lambda m: m[0][0] + _BREAK + m[0][1:], text)
    for control in controls:
        if len(control) > 1 and control.strip():
            text = text.replace(control, control[0] + _BREAK + control[1:])
    return text


def mark_of(texts: Sequence[str]) -> str:
    """Twelve hexadecimal digits that stand in none of the texts, the same for the same texts."""
    seed = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    while any((mark := seed.hexdigest()[:12]) in text for text in texts):
        seed = hashlib.sha256(seed.digest())
    return mark


def _meanings(template: Template, labels: Sequence[str], names: Sequence[str]) -> str:
    if template.kind in ("pointwise", "rubric"):
        return ", ".join(f"{label} = {score}" for label, score in zip(labels, template.scores, strict=True))
    return ", ".join(f"{label} = {name}" for label, name in zip(labels, [*names, template.tie], strict=False))


def fill(pattern: re.Pattern[str], text: str, filled: Mapping[str, Sequence[Part]]) -> list[Part]:
    """A template's text with the parts in the places of their names, in one pass: nothing that is filled in is filled again."""
    found: list[Part] = []
    end = 0
    for place in pattern.finditer(text):
        found += [TextPart(text[end : place.start()]), *filled.get(place[1], (TextPart(place[0]),))]
        end = place.end()
    return [*found, TextPart(text[end:])]
