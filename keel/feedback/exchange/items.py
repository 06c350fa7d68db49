"""Columns of an item in another tool -> its prompt and the answers to it.

Tools let everybody name the columns; these are the names that are understood. A column that is none of them stays in the task's ``meta``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.fields import prompt_key
from keel.data.turns import as_messages
from keel.feedback.exchange.beside import meta_of
from keel.feedback.exchange.imported import digest
from keel.feedback.exchange.said import choice_of, plain_word, ranks_of
from keel.feedback.texts import by_bytes
from keel.types.judgements import Choice, Ranks
from keel.types.records import Candidate, ImagePart, Message, Prompt, TextPart

PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "user_input")
IMAGES = ("images", "image", "image_url", "picture")
_LISTS = ("responses", "answers", "generations", "candidates", "completions", "outputs", "items", "texts")
_SINGLE = ("response", "answer", "generation", "completion", "output", "reply", "text", "sentence")
_NUMBERED = re.compile(
    r"(?i)^(answer|response|completion|output|candidate|option|generation|summary|reply|text|model_response|item)[ _-]?([1-9]|10|[a-h])$"
)
_PICTURE = re.compile(r"(?i)\.(png|jpe?g|gif|webp|bmp|tiff?)$")
_TEXTS = ("body", "text", "html", "content", "response", "title")  # of an object that is an answer
_SIDES = ("left", "right")
_MODELS = (("model_a", "model_b"), ("model_left", "model_right"), ("left_model", "right_model"), ("model1", "model2"))
_LISTED_MODELS = ("models", "generation_models")
_MEANT = frozenset((*PROMPTS, *IMAGES, *_LISTS, *_SINGLE, *_SIDES, *(k for pair in _MODELS for k in pair), *_LISTED_MODELS))


def is_column(name: str) -> bool:
    """Is this the name of a column that an item is read from?"""
    return name.lower() in _MEANT or _NUMBERED.match(name) is not None


@dataclass(frozen=True, slots=True)
class Item:
    """``names[k]``: what answer k is called in the file, beside its text. ``rest``: columns that were not used."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    names: tuple[tuple[str, ...], ...]
    rest: Mapping[str, Any]

    def place_of(self, name: str) -> int | None:
        """The answer that a question's or column's name is about: its own name, or one that ends in the answer's; the only one there is."""
        for called in (self.names, [(text,) for text in self.texts]):
            for k, own in enumerate(called):
                if any(plain_word(name) == plain_word(n) for n in own if n):
                    return k
        if len(self.candidates) == 1:
            return 0
        hits = [k for k, own in enumerate(self.names) if any(n and plain_word(name).endswith(plain_word(n)) for n in own)]
        if not hits and (match := re.search(r"[ _-]?([1-9]|10|(?<=[ _-])[a-h])$", name)):
            place = int(match[1]) - 1 if match[1].isdecimal() else "abcdefgh".index(match[1])
            hits = [place] if place < len(self.candidates) else []
        return hits[0] if len(hits) == 1 else None

    def dimension(self, name: str) -> str:
        """A question's name without the answer that it is about: ``accuracy_2`` -> ``accuracy``."""
        if len(self.candidates) == 1:
            return name
        bare = re.sub(r"[ _-]?([1-9]|10|(?<=[ _-])[a-h])$", "", name)
        return bare or name

    def choice(self, value: Any, by_text: bool = True) -> Choice | None:
        """Which of the two answers a word means; None where there are not two, or it means nothing. ``by_text``: may it be the winner's
        text? Raises FieldError where it means one answer as a word and another as a text."""
        return choice_of(value, self.names, self.texts if by_text else ()) if len(self.candidates) == 2 else None

    def ranks(self, name: str, order: Sequence[Sequence[Any]]) -> Ranks:
        """Ranks from buckets of names, best first. Raises FieldError for a name that is no answer's, twice there, or missing."""
        return ranks_of(name, order, self.names, self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(c.text for c in self.candidates)


def item_of(values: Mapping[str, Any], folder: str = "", source_id: str = "", names: Sequence[str] = ()) -> Item:
    """The item in these columns. ``names``: the columns of the answers where the file tells them. Raises FieldError where there is no
    answer, or one that is no text."""
    known = {k.lower(): k for k in values}
    asked = next((known[n] for n in PROMPTS if n in known and values[known[n]] not in (None, "")), None)
    shown = next((known[n] for n in IMAGES if n in known and values[known[n]]), None)
    used = {c for c in (asked, shown) if c}
    answers = _named(values, names) if names else _answers(values, used)
    used |= {column for column, _, _, _ in answers}
    used |= {n for n in _LISTED_MODELS if used & set(map(known.get, _LISTS)) and isinstance(values.get(n), list)}
    prompt = make_prompt(values.get(asked) if asked else None, values.get(shown) if shown else None, folder, source_id)
    models = next(([values[k] for k in pair] for pair in _MODELS if all(values.get(k) for k in pair)), None)
    if models is not None and len(answers) == 2:
        used |= {k for pair in _MODELS if all(values.get(k) for k in pair) for k in pair}
    candidates: list[Candidate] = []
    called: list[tuple[str, ...]] = []
    for k, (column, name, text, origin) in enumerate(answers):
        if models is not None and len(answers) == 2:
            origin = {"model": str(models[k]), **origin}
        candidates.append(make_answer(prompt.prompt_id, text, origin, candidates, f"{column}.{k}" if column != name else column))
        called.append((name, *(str(origin[x]) for x in ("model",) if x in origin)))
    rest = {k: v for k, v in values.items() if k not in used and v is not None}
    return Item(prompt, tuple(candidates), tuple(called), meta_of(rest, is_column))


def make_prompt(said: Any, images: Any, folder: str, source_id: str) -> Prompt:
    """A prompt from text or turns, with images in front of its last question."""
    said, images = listed(said), listed(images)
    entries = images if isinstance(images, list) else [images] if images else []
    pictures = tuple(ImagePart(_place(str(e), folder)) for e in entries)
    text, messages = None, ()
    if isinstance(said, list):
        messages = as_messages("prompt", said)
    else:
        text = "" if said is None else str(said)
    if pictures:
        turns = list(messages) or [Message("user", text or "")]
        last = max((i for i, m in enumerate(turns) if m.role == "user"), default=0)
        content = turns[last].content
        parts = ((TextPart(content),) if content else ()) if isinstance(content, str) else content
        turns[last] = Message(turns[last].role, (*pictures, *parts), turns[last].extra)
        messages, text = tuple(turns), None
    return Prompt(prompt_key(tuple(map(by_bytes, messages)), text), messages, text, source_id=source_id)


def listed(value: Any) -> Any:
    """Turns or sources of images that a table's cell has as JSON, as the list that they are; anything else as it is."""
    if not isinstance(value, str) or value[:1] != "[":
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    turns = isinstance(found, list) and bool(found) and all(isinstance(x, dict) and {"role", "content"} <= set(x) for x in found)
    return found if turns or (isinstance(found, list) and len(found) > 1 and all(_is_image(x) for x in found)) else value


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("data:image/") or _PICTURE.search(value) is not None)


def make_answer(prompt_id: str, said: Any, origin: Mapping[str, Any], earlier: Sequence[Candidate], name: str) -> Candidate:
    """An answer from text or turns; ``earlier`` ones of the same text get other ids. Raises FieldError for what is neither."""
    turns, said = (), listed(said)
    if isinstance(said, list):
        turns = as_messages(name, said)
        said = "\n\n".join(m.text for m in turns if m.role == "assistant")
        if len(turns) == 1 and isinstance(turns[0].content, str) and turns[0] == Message("assistant", turns[0].content):
            turns = ()
    if not isinstance(said, str):
        raise FieldError(name, f"must be text or turns, is {type(said).__name__}")
    if not said.strip() and not turns:
        raise FieldError(name, "the answer is empty")
    key = digest("candidate", prompt_id, said, [[m.role, repr(m.content)] for m in turns])
    n = sum(c.candidate_id.partition("~")[0] == key for c in earlier)
    return Candidate(f"{key}~{n}" if n else key, said, dict(origin), turns)


Found = tuple[str, str, Any, Mapping[str, Any]]  # column, name of the answer, what it says, where it comes from


def _named(values: Mapping[str, Any], names: Sequence[str]) -> list[Found]:
    missing = next((n for n in names if values.get(n) is None), None)
    if missing is not None:
        raise FieldError(missing, f"is missing (there are: {', '.join(values)})")
    return [(n, n, values[n], {}) for n in names]


def _answers(values: Mapping[str, Any], used: set[str]) -> list[Found]:
    """The answers among columns: a list of them, columns with numbers or letters, left and right, or a single one."""
    known = {k.lower(): k for k in values if k not in used and values[k] is not None}
    for name in _LISTS:
        column = known.get(name)
        if column is not None and isinstance(values[column], list) and values[column]:
            models = next((values[n] for n in _LISTED_MODELS if values.get(n)), None)
            models = models if isinstance(models, list) else []
            return [_entry(column, k, e, models) for k, e in enumerate(values[column])]
    if all(side in known for side in _SIDES):
        return [(known[k], k, values[known[k]], {}) for k in _SIDES]
    groups: dict[str, list[tuple[str, str]]] = {}
    for column in known.values():
        if match := _NUMBERED.match(column):
            groups.setdefault(match[1].lower(), []).append((match[2].lower().zfill(2), column))
    best = max(groups.values(), key=len, default=[])
    if best:
        return [(column, column, values[column], {}) for _, column in sorted(best)]
    single = next((known[n] for n in _SINGLE if n in known), None)
    if single is None:
        raise FieldError("answers", f"no column is an answer (there are: {', '.join(values)})")
    return [(single, single, values[single], {})]


def _entry(column: str, k: int, entry: Any, models: Sequence[Any]) -> Found:
    origin: dict[str, Any] = {"model": str(models[k])} if k < len(models) and models[k] else {}
    if not isinstance(entry, Mapping):
        return column, f"{column}.{k}", entry, origin
    key = next((t for t in _TEXTS if isinstance(x := entry.get(t), list) or (isinstance(x, str) and x.strip())), None)
    if key is None:
        raise FieldError(f"{column}.{k}", f"holds no text (it has: {', '.join(map(str, entry))})")
    origin |= {name: value for name, value in entry.items() if name not in (key, "id") and value not in (None, "")}
    return column, str(entry.get("id", f"{column}.{k}")), entry[key], origin


def _place(source: str, folder: str) -> str:
    if source.startswith(("data:", "http:", "https:")) or not folder or Path(source).is_absolute():
        return source
    return str(Path(folder) / source)
