"""What other tools' words, numbers, times and places in a text mean."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from typing import Any

from keel.data.errors import FieldError
from keel.types.judgements import Choice, Chosen, Ranks, Span

_FIRST = "left a 1 first modela answera answer1 responsea response1 optiona option1 左 左边 甲"
_SECOND = "right b 2 second modelb answerb answer2 responseb response2 optionb option2 右 右边 乙"
_TIE = "0 tie tied draw equal same both bothgood nopreference equallygood aboutthesame 平局 一样好 差不多 相同"
_BAD = "bothbad tie(bothbad) tiebothbad allbad bothwrong equallybad 都不好 都很差 都差"
_CANNOT = "cannot cannottell canttell cannotjudge unsure notsure dontknow unknown 无法判断 不确定"
_WORDS: dict[str, Chosen] = {
    **dict.fromkeys(_FIRST.split(), "first"),
    **dict.fromkeys(_SECOND.split(), "second"),
    **dict.fromkeys(_TIE.split(), "tie"),
    **dict.fromkeys(_BAD.split(), "both_bad"),
    **dict.fromkeys(_CANNOT.split(), "cannot"),
}
WRITTEN: dict[Chosen, str] = {"first": "left", "second": "right", "tie": "tie", "both_bad": "both bad", "cannot": "cannot"}
_ZONES = {"UTC": 0, "GMT": 0, "PST": -8, "PDT": -7, "MST": -7, "MDT": -6, "CST": -6, "CDT": -5, "EST": -5, "EDT": -4}
_LETTERS = re.compile(r"[\s_\-'’.]+")


def plain_word(text: Any) -> str:
    """A name without case, spaces, dashes: ``Answer_1`` and ``answer 1`` are the same."""
    return _LETTERS.sub("", str(text)).casefold()


def choice_of(value: Any, names: Sequence[Sequence[str]] = (), texts: Sequence[str] = ()) -> Choice | None:
    """The choice that a word stands for; None for a word that is none. ``names``: what each of the two candidates is called in the file
    (its column, its model), which count before the usual words; ``texts``: what each says, where a label may repeat the winner's.

    Words that forms are written with (``WRITTEN``) are never taken for an answer's text. Raises FieldError for another usual word that is
    the text of another answer than the one it means: ``2`` where the first answer says 2.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    if (named := _one_of(value, names)) is not None:
        return Choice("first" if named == 0 else "second")
    word = _WORDS.get(plain_word(value))
    text = _one_of(value, [(t,) for t in texts])
    if text is None or (word is not None and plain_word(value) in map(plain_word, WRITTEN.values())):
        return None if word is None else Choice(word)
    said: Chosen = "first" if text == 0 else "second"
    if word not in (None, said):
        raise FieldError("label", f"{str(value)[:40]!r} is the text of the {said} answer and also a word for {word!r}: which is not known")
    return Choice(said)


def _one_of(value: Any, names: Sequence[Sequence[str]]) -> int | None:
    """Whose name this is; None where it is nobody's or several have it."""
    hits = _called(value, names)
    return hits[0] if len(hits) == 1 else None


def _called(value: Any, names: Sequence[Sequence[str]]) -> list[int]:
    """Those who are called so: to the letter, else without case and spaces."""
    hits = [i for i, own in enumerate(names) if any(str(value).strip() == str(n).strip() for n in own if n)]
    return hits or [i for i, own in enumerate(names) if plain_word(value) in {plain_word(n) for n in own if n}]


def ranks_of(name: str, order: Sequence[Sequence[Any]], names: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> Ranks:
    """Ranks from buckets of names, best first; ``names`` and ``texts`` as for `choice_of`. Raises FieldError for a name that is no
    candidate's, twice there, or missing."""
    buckets = tuple(tuple(_place(name, entry, names, texts) for entry in bucket) for bucket in order if bucket)
    places = [p for bucket in buckets for p in bucket]
    twice = next((p for i, p in enumerate(places) if p in places[:i]), None)
    if twice is not None:
        raise FieldError(name, f"ranks {names[twice][0]!r} twice")
    missing = next((i for i in range(len(names)) if i not in places), None)
    if missing is not None:
        raise FieldError(name, f"does not rank {names[missing][0]!r}")
    return Ranks(buckets)


def _place(name: str, entry: Any, names: Sequence[Sequence[str]], texts: Sequence[str]) -> int:
    found = _called(entry, names) or _called(entry, [(t,) for t in texts])
    if not found and plain_word(entry) in "abcdefgh" and len(plain_word(entry)) == 1:
        found = [i for i in ("abcdefgh".index(plain_word(entry)),) if i < len(names)]
    if len(found) != 1:
        raise FieldError(name, f"{str(entry)[:40]!r} names {'several answers' if found else 'no answer'} of this item")
    return found[0]


def number_of(value: Any) -> float | None:
    """A finite number, or text that is one; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def utc(name: str, value: Any) -> str:
    """A time as ISO 8601 in UTC that ends in ``Z``: of ISO text, seconds or milliseconds since 1970, or ``Wed Nov 29 10:00:00 PST 2017``.
    Nothing is "". A time without a zone is taken as UTC. Raises FieldError for anything else."""
    if value is None or value == "":
        return ""
    number = number_of(value)
    try:
        if number is not None:
            seconds = number / 1000.0 if number > 1e11 else number
            return _zulu(datetime.datetime.fromtimestamp(seconds, datetime.UTC))
        if isinstance(value, datetime.datetime):
            return _zulu(value if value.tzinfo else value.replace(tzinfo=datetime.UTC))
        match = re.fullmatch(r"(\w{3} \w{3} +\d+ \d+:\d+:\d+) ([A-Z]{3}) (\d{4})", str(value).strip())
        if match is not None:
            zone = datetime.timezone(datetime.timedelta(hours=_ZONES[match[2]]))
            return _zulu(datetime.datetime.strptime(f"{match[1]} {match[3]}", "%a %b %d %H:%M:%S %Y").replace(tzinfo=zone))
        found = datetime.datetime.fromisoformat(str(value).strip())
        return _zulu(found if found.tzinfo else found.replace(tzinfo=datetime.UTC))
    except (ValueError, OverflowError, OSError, KeyError):
        raise FieldError(name, f"is no time that can be read: {str(value)[:40]!r}") from None


def _zulu(time: datetime.datetime) -> str:
    return time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def span_of(name: str, candidate: int, text: str, start: Any, end: Any, kind: str, quoted: Any = None) -> Span:
    """A span in Unicode characters. Browsers count some characters twice (UTF-16): where ``quoted``, the text that the file says stands
    there, fits only that way of counting, places are converted. Raises FieldError where it fits neither."""
    if not kind or kind == "None":
        raise FieldError(name, "a span without a label says nothing")
    if isinstance(start, bool) or isinstance(end, bool) or not isinstance(start, int) or not isinstance(end, int):
        raise FieldError(name, f"start and end must be whole numbers, are {start!r} and {end!r}")
    if quoted is not None and text[max(0, start) : end] != quoted:
        raw = text.encode("utf-16-le", "surrogatepass")
        try:
            before, inside = (raw[a:b].decode("utf-16-le") for a, b in ((0, 2 * start), (2 * start, 2 * end)))
        except UnicodeDecodeError:
            before, inside = "", None
        if inside is None or inside != quoted:
            raise FieldError(name, f"{str(quoted)[:40]!r} does not stand at {start}-{end} of the answer")
        start, end = len(before), len(before) + len(inside)
    if not 0 <= start < end <= len(text):
        raise FieldError(name, f"{start}-{end} lies outside of the answer, which has {len(text)} characters")
    return Span(candidate, start, end, kind)


def span_in_utf16(text: str, start: int, end: int) -> tuple[int, int]:
    """The place of a span as browsers count."""
    return tuple(len(text[:i].encode("utf-16-le", "surrogatepass")) // 2 for i in (start, end))  # type: ignore[return-value]
