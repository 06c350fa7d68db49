"""What critics and revisers are shown: YAML files, ours in ``prompts/``, a user's anywhere. Texts stand between marks, as for judges."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from keel.core.config import Section, dump
from keel.core.errors import ConfigError
from keel.critique.ask import Ask, Writing
from keel.judges.ask import digest
from keel.judges.pictures import Content, Part, content_of, each_text, said, texts_of
from keel.judges.templates import broken, fill, mark_of, template_of
from keel.types import ImagePart, TextPart

_FILL = re.compile(r"\{(prompt|answer|principle|request|critique)\}")
_IMAGE = defaultdict(lambda: "image", zh="图像")  # by the template's language
_NEEDED: dict[str, set[str]] = {"critique": {"prompt", "answer", "principle", "request"}}
_NEEDED["revision"] = _NEEDED["critique"] | {"critique"}


class WritingTemplate(Section):
    """What a critic or a reviser is shown. `{prompt}`, `{answer}` and `{critique}` are texts between their marks, `{principle}` is the
    principle, `{request}` what it asks a critic or reviser for."""

    kind: Writing = Field(description="Which of the two it is for.")
    language: str = Field(description="Language of its words, e.g. en or zh.")
    system: str = Field(description="The system message.")
    user: str = Field(description="The user message.")
    request: str = Field(description="The request of a principle that has none of its own.")
    words: dict[str, str] = Field(description="What the parts are called: prompt, answer, critique, begin, end.")

    @model_validator(mode="after")
    def _fits(self) -> WritingTemplate:
        missing = _NEEDED[self.kind] - set(_FILL.findall(self.user)) - set(_FILL.findall(self.system))
        if missing:
            raise ConfigError(f"the template never shows {', '.join(f'{{{name}}}' for name in sorted(missing))}", "write it into `user`")
        unnamed = {"prompt", "answer", "critique", "begin", "end"} - set(self.words)
        if unnamed:
            raise ConfigError(f"words: {', '.join(sorted(unnamed))} has no name", "name all five")
        return self

    @property
    def hash(self) -> str:
        """Of all that it says."""
        return digest(dump(self))


@dataclass(frozen=True, slots=True)
class Shown:
    """(role, content) of each message, the mark that no text has, and the request's own words around the texts."""

    messages: tuple[tuple[str, Content], ...]
    mark: str
    request: str


def load_template(name: str) -> WritingTemplate:
    """One of ours by its name, or a user's by its file. Raises ConfigError with the place of what is wrong in it."""
    return template_of(WritingTemplate, "keel.critique", name)


def show(template: WritingTemplate, ask: Ask, controls: Sequence[str] = (), sees: bool = False) -> Shown:
    """The messages of one call. ``controls``: special tokens of the writer's own tokenizer, broken where a text has them. ``sees``: is the
    writer shown images? To one that is not, a word says where an image stands."""
    if template.kind != ask.kind:
        raise ConfigError(f"a template for a {template.kind} cannot ask for a {ask.kind}", "name one of that kind")
    prompt = ask.prompt
    asked = (TextPart(prompt.text),) if prompt.text is not None else said(prompt.messages)
    if not sees:
        asked = tuple(TextPart(f"[{_IMAGE[template.language]}]") if isinstance(p, ImagePart) else p for p in asked)
    plain = {"prompt": asked, "answer": (TextPart(ask.answer),), "critique": (TextPart(ask.critique),)}
    texts = {name: each_text(parts, lambda text: broken(text, controls)) for name, parts in plain.items()}
    mark, words = mark_of([t for parts in texts.values() for t in texts_of(parts)]), template.words

    def block(name: str) -> list[Part]:
        begin, end = (f"[{words[side]} {words[name]} | {mark}]" for side in ("begin", "end"))
        return [TextPart(f"{begin}\n"), *texts[name], TextPart(f"\n{end}")]

    own = ask.principle.critique if ask.kind == "critique" else ask.principle.revision
    filled: dict[str, Sequence[Part]] = {name: block(name) for name in texts}
    filled |= {"principle": (TextPart(ask.principle.text),), "request": (TextPart(own or template.request),)}
    sides = (("system", template.system), ("user", template.user))
    messages = tuple((role, content_of(fill(_FILL, text, filled))) for role, text in sides)
    return Shown(messages, mark, _FILL.sub("\n", f"{template.system}\n{template.user}\n{template.request}"))
