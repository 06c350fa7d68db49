"""What people write: messages, prompts, labels, judgements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class TextPart:
    """A stretch of text inside a message that also holds images."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image inside a message. ``source`` is a file path or a ``data:`` URL."""

    source: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``content`` is plain text, or parts in order when there are images."""

    role: str  # "system" | "user" | "assistant" | "tool"
    content: str | tuple[TextPart | ImagePart, ...]
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])  # tool_calls, reasoning_content, name ... as the template wants
    trained: bool = field(default=True, repr=False)  # False: an assistant's turn that the file marks as not to be trained; it is read

    @property
    def text(self) -> str:
        """The text of the message, images left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(p.text for p in self.content if isinstance(p, TextPart))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked. Either ``messages`` (chat) or ``text`` (raw, no template), never both."""

    prompt_id: str  # stable: hash of the content unless the data names one
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    source_id: str = ""  # where it came from: "file.jsonl:12"
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])  # ground truth, category, language ... untouched by Keel
    joint: str = ""  # white space between ``text`` and an answer from the file, where both are raw text; a chat has none

    @property
    def last_user_text(self) -> str:
        """The text of the last user turn (the raw text for a raw prompt)."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return self.text or ""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the answer to imitate. ``completion`` starts with an assistant turn; later user turns belong to it (multi-turn)."""

    record_id: str
    prompt: Prompt
    completion: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """An aggregated preference between two answers to one prompt."""

    record_id: str
    prompt: Prompt
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float = 0.0
    label: float = 1.0  # P(chosen is better), ties half: 0.5 = a tie or an even vote; below 1 when annotators disagree
    weight: float = 1.0
    tie: float = 0.0  # share of the votes that were ties: chosen won label - tie / 2 of them


@dataclass(frozen=True, slots=True)
class Ranking:
    """K answers to one prompt. ``ranks[k]`` is the rank of answer k, 1 the best; equal ranks are ties."""

    record_id: str
    prompt: Prompt
    answers: tuple[tuple[Message, ...], ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer with scores by dimension (Likert, stars, binary)."""

    record_id: str
    prompt: Prompt
    answer: tuple[Message, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Unpaired:
    """One answer, wanted or not (KTO kind)."""

    record_id: str
    prompt: Prompt
    answer: tuple[Message, ...]
    desirable: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Steps:
    """An answer in steps, each right or wrong (process supervision)."""

    record_id: str
    prompt: Prompt
    steps: tuple[str, ...]
    labels: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that can be compared, with how it was made."""

    candidate_id: str
    text: str
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])  # model, temperature, sample ...
    turns: tuple[Message, ...] = ()  # the whole answer where ``text`` is not all of it: images, tool calls, several turns

    @property
    def messages(self) -> tuple[Message, ...]:
        """The answer as turns: ``turns``, or one assistant turn with ``text``."""
        return self.turns or (Message("assistant", self.text),)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One annotator's judgement of two candidates, as shown: what training reads. The store's own record is `Judgement`."""

    record_id: str
    prompt: Prompt
    candidates: tuple[Candidate, Candidate]  # in canonical order
    outcome: Literal["first", "second", "tie"]  # refers to ``candidates``, not to the display
    strength: float  # 0..1, how clear the preference was to the annotator
    annotator_id: str
    protocol: str  # "pairwise-v1" ...: labels of different protocols are not mixed silently
    display_order: tuple[int, int]  # (0, 1) or (1, 0): which candidate was shown on the left
    source_id: str = ""


Record = Prompt | Demonstration | Pair | Ranking | Rating | Unpaired | Steps
