"""What critics and revisers are shown: YAML files, ours in ``prompts/``, a user's anywhere. Texts stand between marks, as for judges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from keel.core.config import Section, dump
from keel.core.errors import ConfigError
from keel.critique.ask import Ask, Writing
from keel.judges.ask import digest
from keel.judges.templates import asked, between, broken, mark_of, template_of

_FILL = re.compile(r"\{(prompt|answer|principle|request|critique)\}")
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
    """(role, content) of each message, and the mark that no text has."""

    messages: tuple[tuple[str, str], ...]
    mark: str


def load_template(name: str) -> WritingTemplate:
    """One of ours by its name, or a user's by its file. Raises ConfigError with the place of what is wrong in it."""
    return template_of(WritingTemplate, "keel.critique", name)


def show(template: WritingTemplate, ask: Ask, controls: Sequence[str] = ()) -> Shown:
    """The messages of one call. ``controls``: special tokens of the writer's own tokenizer, broken where a text has them."""
    if template.kind != ask.kind:
        raise ConfigError(f"a template for a {template.kind} cannot ask for a {ask.kind}", "name one of that kind")
    shown = {"prompt": asked(ask.prompt), "answer": ask.answer, "critique": ask.critique}
    texts = {name: broken(text, controls) for name, text in shown.items()}
    mark, words = mark_of(list(texts.values())), template.words

    def block(name: str) -> str:
        return between(words["begin"], words["end"], words[name], mark, texts[name])

    own = ask.principle.critique if ask.kind == "critique" else ask.principle.revision
    filled = {name: block(name) for name in texts} | {"principle": ask.principle.text, "request": own or template.request}
    sides = (("system", template.system), ("user", template.user))
    return Shown(tuple((role, _FILL.sub(lambda m: filled[m[1]], text).strip()) for role, text in sides), mark)
