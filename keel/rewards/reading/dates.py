"""Dates and times of day as people write them: 2024-03-05, March 5, 2024, 5th of March, 3/5/2024, 2024年3月5日; 3:30 PM, 15:30."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?"
    r"|dec(?:ember)?)\.?"
)
_DAY, _YEAR = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?", r"(?P<y>\d{4})"
_FORMS = tuple(
    re.compile(rf"(?<![\w/.-]){form}(?![\w/-])", re.IGNORECASE)
    for form in (
        rf"{_YEAR}(?P<mark>[-/.])(?P<m>\d{{1,2}})(?P=mark)(?P<d>\d{{1,2}})",
        rf"{_YEAR}\s?年\s?(?P<m>\d{{1,2}})\s?月\s?(?P<d>\d{{1,2}})\s?[日号]",
        r"(?P<m>\d{1,2})\s?月\s?(?P<d>\d{1,2})\s?[日号]",
        rf"{_MONTH}\s+(?:the\s+)?{_DAY}(?:,?\s+{_YEAR})?",
        rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?",
        rf"(?P<a>\d{{1,2}})(?P<mark>[/.-])(?P<b>\d{{1,2}})(?P=mark){_YEAR}",
    )
)


@dataclass(frozen=True, slots=True)
class Date:
    """A day as written: the (month, day) that it can mean, two where 3/5 may be either; ``year`` None where it is left out."""

    year: int | None
    days: tuple[tuple[int, int], ...]


def dates_in(text: str) -> list[Date]:
    """The dates in a text, in no certain order; a piece of a longer one is none."""
    found: list[tuple[int, int, Date]] = []
    for form in _FORMS:
        for match in form.finditer(text):
            date = _date(match.groupdict())
            if date is not None and not any(a < match.end() and match.start() < b for a, b, _ in found):
                found.append((match.start(), match.end(), date))
    return [date for _, _, date in sorted(found, key=lambda f: f[0])]


def date_of(text: str) -> Date | None:
    """The date that ``text`` is, with nothing else in it but a full stop; None where it is none."""
    text = text.strip().rstrip(".。")
    return next((d for form in _FORMS if (m := form.fullmatch(text)) and (d := _date(m.groupdict()))), None)


def same_date(found: Date, wanted: Date) -> bool:
    """The same day; a year that the right answer leaves out is not missed. Of two dates in figures (3/5/2024) the order must be one."""
    if wanted.year is not None and found.year != wanted.year:
        return False
    if len(found.days) == len(wanted.days) == 2:
        return found.days == wanted.days
    return bool(set(found.days) & set(wanted.days))


def _date(groups: dict[str, str | None]) -> Date | None:
    year = int(groups["y"] or 0) if groups.get("y") else None
    if groups.get("a") is not None:
        a, b = int(groups["a"] or 0), int(groups["b"] or 0)
        pairs = [(a, b), (b, a)]
    else:
        name = (groups.get("name") or "")[:3].lower()
        pairs = [(_MONTHS.index(name) + 1 if name else int(groups["m"] or 0), int(groups["d"] or 0))]
    days = tuple(dict.fromkeys((m, d) for m, d in pairs if 1 <= m <= 12 and 1 <= d <= 31))
    return Date(year, days) if days else None


def clock(text: str) -> int | None:
    """Seconds since midnight of a time of day: 3:30 PM, 15:30."""
    match = re.fullmatch(r"(\d{1,2}):(\d\d)(?::(\d\d))?\s?(?:([ap])\.?m\.?)?", text.strip(), re.IGNORECASE)
    if match is None:
        return None
    hour = int(match[1]) % 12 + 12 * (match[4].lower() == "p") if match[4] else int(match[1])
    return 3600 * hour + 60 * int(match[2]) + int(match[3] or 0)
