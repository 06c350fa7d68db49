"""Critics and revisers behind OpenAI's chat protocol: the calls, journal, prices and budget are those of judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.critique.ask import Ask, Writing, Wrote, check
from keel.critique.templates import Shown, WritingTemplate, show
from keel.judges.ask import Question
from keel.judges.config import EndpointConfig
from keel.judges.endpoint import EndpointJudge, Ready
from keel.judges.journal import key_of
from keel.judges.parse import UnreadableError
from keel.judges.templates import Written
from keel.rewards.constitution.config import Principle
from keel.types import Candidate

_CUT = frozenset({"length", "content_filter"})  # the server's reasons for a reply without its end


@dataclass(frozen=True, slots=True)
class _Asked(Question):
    """A call as a question, so that its key holds all that makes it."""

    shown: Shown = field(default_factory=lambda: Shown((), "", ""))  # type: ignore[assignment]
    made_of: Ask | None = None
    template: WritingTemplate | None = None


class _Caller(EndpointJudge):
    """The judge's way of calling, with replies that are texts. What is not what was asked for is no answer, and is asked for again."""

    temperature: float = 0.0

    def _ready(self, question: Question) -> Ready:
        assert isinstance(question, _Asked), "made by `EndpointWriter`"
        assert question.template is not None, "made by `EndpointWriter`"
        assert question.made_of is not None, "made by `EndpointWriter`"
        parameters: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.config.max_tokens}
        if question.made_of.kind == "critique":
            parameters["response_format"] = {"type": "json_object"}
        seen = {"images": True} if self.sees_images and question.holds_image else {}  # to others a word stands in their place
        key = key_of(self.config.url, self.config.model, question.template.hash, parameters | seen, question)
        return Ready(question, self._templates["rubric"], Written(question.shown.messages, ()), parameters, key)

    def _read(self, ready: Ready, reply: dict[str, Any]) -> dict[str, Any]:
        question = ready.question
        assert isinstance(question, _Asked), "made by `EndpointWriter`"
        assert question.made_of is not None, "made by `EndpointWriter`"
        if (finish := reply.get("finish", "")) in _CUT:  # half an answer reads like a whole one
            raise UnreadableError(f"reply: it has no end ({finish}; max_tokens is {self.config.max_tokens})")
        check(question.made_of, reply["text"], question.shown.mark, question.shown.request)
        return {"scores": {}}


class EndpointWriter:
    """A `Writer`. Raises UserError where httpx or the key is missing."""

    def __init__(self, name: str, config: EndpointConfig, templates: Mapping[Writing, WritingTemplate], temperature: float) -> None:
        self.name, self._templates = name, templates
        self._caller = _Caller(name, config)
        self._caller.temperature = temperature

    @property
    def sees_images(self) -> bool:
        return self._caller.sees_images

    def price(self, asks: Sequence[Ask]) -> float | None:
        return self._caller.price([self._asked(a) for a in asks])

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        said = self._caller.ask([self._asked(a) for a in asks])
        return [Wrote("" if s.error else s.text, s.error, s.cost, s.tokens, s.made) for s in said]

    def _asked(self, ask: Ask) -> _Asked:
        template = self._templates[ask.kind]
        about = f"{ask.kind}: {_told(ask.principle)}"
        return _Asked(
            ask.prompt,
            (Candidate("answer", ask.answer),),
            "rubric",
            about,
            ask.critique,
            sample=ask.sample,
            shown=show(template, ask, sees=self.sees_images),
            made_of=ask,
            template=template,
        )


def _told(principle: Principle) -> str:
    return "\n".join((principle.text, principle.critique, principle.revision))
