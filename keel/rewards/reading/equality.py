r"""Are two mathematical answers the same? Numbers, lists, sets, points, intervals, inequalities, matrices and words are compared here; what
is left, expressions with symbols and roots, is the ``leaf`` function's to decide."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keel.rewards.reading.dates import clock, date_of, same_date
from keel.rewards.reading.notation import plain, split_top, tight
from keel.rewards.reading.quantity import Quantity, read_quantity, same
from keel.rewards.reading.units import unit_of
from keel.rewards.reading.verdicts import same_verdict

Leaf = Callable[[str, str], bool]
_OPS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\lt": "<", r"\gt": ">", r"\ne": "!=", r"\in": "in", r"\equiv": "="}
_RELATION = re.compile(r"\\(?:le|ge|lt|gt|ne|in|equiv)(?![A-Za-z])|[=<>]")
_MATRIX = re.compile(r"^\\begin\s*\{(?:[pbvBV]?matrix|array|smallmatrix)\*?\}\s*(?:\{[lcr|]+\})?(.*)\\end\s*\{[A-Za-z]+\*?\}$", re.DOTALL)
_BUILDER = re.compile(r"\s*[a-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||\\mid|:)\s*(.*)")  # {x | x > 1}
_WITHOUT = re.compile(r"(?:\\mathbb\s*\{?R\}?|\\R|R)\s*(?:\\setminus|\\backslash|\\smallsetminus|-|\\)\s*\\?\{(.*?)\\?\}")
_OPEN_ENDED = re.compile(r"([\[\](])([^\[\]()]+)([\[\])])")  # ]0, 1[ as French writes it
_REALS = ("\\mathbb{R}", "\\Bbb{R}", "\\R", "allrealnumbers", "allreals", "全体实数", "所有实数", "R")
_NAME = re.compile(
    r"[A-Za-z](?:_\{?\w+\}?)?'*|[A-Za-z](?:\([A-Za-z](?:,[A-Za-z])*\))|\\[a-z]+|[A-Za-z]\^\{-1\}\([A-Za-z]\)|(?:\\angle|P|\\triangle)[A-Z()]*|[A-Z]{2,3}"
)
_FUNCTIONS = r"sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|mod|min|max|gcd|lcm|arcsin|arccos|arctan|pi|infty|frac"
WORDS = re.compile(rf"(?<![A-Za-z\\])(?!(?:{_FUNCTIONS})(?![A-Za-z]))[A-Za-z]{{2,}}|[\u4e00-\u9fff]")
_CONJUNCTION = re.compile(
    r"\s*(?:,\s*)?(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s*|\s*(?:,\s*)?(?:\\(?:lor|vee)(?![a-z])|或者?|和|以及|、)\s*"
)


_UNIT_BEHIND = re.compile(
    r"\s(?:(?:sq|square|cubic)\s)?[A-Za-z]{2,}(?:\s?\^\s?\{?[23]\}?)?\s*$|\s[A-Za-z]\s?\^\s?\{?[23]\}?\s*$|\s[mgsL]\s*$"
)
_SOME_UNITS = re.compile(r"\s(?:(?:sq|square|cubic)\s)?units?\b")


@dataclass(frozen=True, slots=True)
class Shape:
    """How an expression is built. ``kind``: list (no order), tuple and interval (order, ``marks`` are the brackets), union, matrix (rows in
    ``parts``), relation (``marks`` is the sign), leaf (``text``)."""

    kind: str
    text: str
    parts: tuple[Shape, ...] = ()
    marks: str = ""


def shape_of(expression: str, depth: int = 0) -> Shape:
    """The parts of an expression. Whatever cannot be taken apart is a leaf."""
    text = plain(expression).strip()
    if text.count("$") > 1 or text.endswith("$"):  # a formula's marks; a lone one in front is money
        text = re.sub(r"^\$+|\$+$", "", text).strip()
    text = re.sub(r"^\\[\[(]|\\[\])]$", "", text).strip().rstrip("。").rstrip(".").strip(" ,;")
    if depth > 8 or read_quantity(text) is not None:
        return Shape("leaf", text)

    if tight(text) in _REALS[: 7 if depth else 8]:
        return Shape("tuple", text, (Shape("leaf", r"-\infty"), Shape("leaf", r"\infty")), "()")

    def inner(pieces: Sequence[str]) -> tuple[Shape, ...]:
        return tuple(shape_of(p, depth + 1) for p in pieces)

    if (cut := _without_points(text, inner) or _turned_out(text, inner)) is not None:
        return cut
    matrix = _MATRIX.match(text)
    if matrix:
        rows = [r for r in re.split(r"\\\\", matrix[1]) if r.strip()]
        return Shape("matrix", text, tuple(Shape("tuple", r, inner(r.split("&")), "()") for r in rows))
    pieces = [p for part in split_top(text, ",;") for p in _conjoined(part)]
    if len(pieces) > 1 and all(p.strip() for p in pieces):
        return Shape("list", text, inner(pieces))
    union = [p for p in re.split(r"\\cup(?![a-z])", text) if p.strip()]
    if len(union) > 1:
        return Shape("union", text, inner(union))
    signs = [m for m in _RELATION.finditer(text) if _outside(text, m.start())]
    if signs:
        cuts = [0, *(p for m in signs for p in m.span()), len(text)]
        sides = [text[a:b].strip() for a, b in zip(cuts[::2], cuts[1::2])]
        if all(sides[1:]):
            return Shape("relation", text, inner(sides), " ".join(_OPS[m.group()] for m in signs))
    return _bracketed(text, inner) or _plus_minus(text, inner) or Shape("leaf", text)


def _without_points(text: str, inner: Callable[[Sequence[str]], tuple[Shape, ...]]) -> Shape | None:
    """All reals but some numbers, as the union of the intervals between them."""
    match = _WITHOUT.fullmatch(text)
    points = [(q.value, p) for p in match[1].split(",") if (q := read_quantity(p)) is not None] if match else []
    if match is None or len(points) != len(match[1].split(",")):
        return None
    ends = [r"-\infty", *(p for _, p in sorted(points)), r"\infty"]
    return Shape("union", text, tuple(Shape("tuple", f"({a},{b})", inner([a, b]), "()") for a, b in itertools.pairwise(ends)))


def _turned_out(text: str, inner: Callable[[Sequence[str]], tuple[Shape, ...]]) -> Shape | None:
    """An interval whose open ends are square brackets turned outwards."""
    match = _OPEN_ENDED.fullmatch(text)
    pieces = split_top(match[2], ",;") if match else []
    if match is None or len(pieces) != 2 or not (match[1] == "]" or match[3] == "["):
        return None
    return Shape("tuple", text, inner(pieces), ("[" if match[1] == "[" else "(") + ("]" if match[3] == "]" else ")"))


def _conjoined(text: str) -> list[str]:
    """At "and" and "or" between expressions; words (black and white) stay whole."""
    parts = _CONJUNCTION.split(text)
    return parts if len(parts) > 1 and all(p.strip() and not WORDS.search(p) for p in parts) else [text]


def _outside(text: str, at: int) -> bool:
    depth = 0
    for c in text[:at]:
        depth += (c in "([{") - (c in ")]}")
    return depth == 0


def _bracketed(text: str, inner: Callable[[Sequence[str]], tuple[Shape, ...]]) -> Shape | None:
    match = re.fullmatch(r"(\\\{|[(\[{])(.*)(\\\}|[)\]}])", text, re.DOTALL)
    if match is None or not _closes_at_end(text):
        return None
    open_, body, close = match[1][-1], match[2], match[3][-1]
    if builder := _BUILDER.match(body):
        return inner([builder[1]])[0]
    pieces = split_top(body, ",;")
    if open_ == "{" and close == "}":
        return Shape("list", text, inner(pieces), "{}") if body.strip(" \\") else Shape("leaf", r"\emptyset")
    if len(pieces) == 1:
        return inner(pieces)[0] if open_ + close in ("()", "[]") and body.strip() else None
    return Shape("tuple", text, inner(pieces), open_ + close)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 and c in ")]}":
            return i == len(text) - 1
    return False


def _plus_minus(text: str, inner: Callable[[Sequence[str]], tuple[Shape, ...]]) -> Shape | None:
    left, sign, right = text.partition(r"\pm")
    if not sign or r"\pm" in right or not right.strip() or not _outside(text, len(left)):
        return None
    return Shape("list", text, inner([f"{left}+{right}", f"{left}-{right}"] if left.strip() else [right, f"-{right.strip()}"]), "{}")


class Comparison:
    """Compares with tolerances as ``quantity.same`` has them; ``leaf`` decides of expressions that are written differently."""

    def __init__(self, leaf: Leaf, near: Fraction | None = None, close: bool = True) -> None:
        self.leaf, self.near, self.close = leaf, near, close

    def same(self, found: Shape, wanted: Shape) -> bool:
        """Is ``found`` the right answer ``wanted``?"""
        if tight(found.text) == tight(wanted.text) and found.kind == wanted.kind:
            return True
        if (date := date_of(wanted.text)) is not None:
            return (other := date_of(found.text)) is not None and same_date(other, date)
        found, wanted = _without_name(found, wanted), _without_name(wanted, found)
        kinds = (found.kind, wanted.kind)
        if kinds == ("list", "list"):
            return self._unordered(found.parts, wanted.parts)
        if kinds in (("tuple", "tuple"), ("matrix", "matrix")):
            return found.marks == wanted.marks and self._ordered(found.parts, wanted.parts)
        if set(kinds) == {"matrix", "tuple"} and _vector(found) is not None and _vector(wanted) is not None:
            return self._ordered(_vector(found) or (), _vector(wanted) or ())
        if kinds == ("tuple", "list") and not wanted.marks and found.marks == "()":
            return self._ordered(found.parts, wanted.parts)
        if "union" in kinds and set(kinds) <= {"union", "list"}:
            a, b = ([i[0] if (i := _interval(p)) is not None else p for p in s.parts] for s in (found, wanted))
            return self._unordered(a, b)
        if "list" in kinds and _single(found, wanted):
            found, wanted = (s.parts[0] if s.kind == "list" and len(_distinct(s.parts)) == 1 else s for s in (found, wanted))
            return found.kind != "list" and wanted.kind != "list" and self.same(found, wanted)
        if kinds == ("list", "tuple") and wanted.marks == "()" and all(p.kind == "relation" for p in found.parts):
            return self._named_point(found, wanted)
        if "relation" in kinds:
            return self._relations(found, wanted)
        if kinds == ("leaf", "leaf"):
            return self._leaves(found.text, wanted.text)
        return False

    def _ordered(self, found: Sequence[Shape], wanted: Sequence[Shape]) -> bool:
        return len(found) == len(wanted) and all(self.same(a, b) for a, b in zip(found, wanted))

    def _unordered(self, found: Sequence[Shape], wanted: Sequence[Shape]) -> bool:
        """Each of one side has its like on the other; said twice is said once."""
        found, wanted = _distinct(found), _distinct(wanted)
        if len(found) > 30 or len(wanted) > 30 or len(found) != len(wanted):
            return False
        left = list(wanted)
        for part in found:
            match = next((w for w in left if self.same(part, w)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _named_point(self, found: Shape, wanted: Shape) -> bool:
        """x = 1, y = 2 for (1, 2), in the order of the names."""
        named = sorted(found.parts, key=lambda p: p.parts[0].text)
        if any(p.marks != "=" or len(p.parts) != 2 for p in named) or len({p.parts[0].text for p in named}) != len(named):
            return False
        return self._ordered([p.parts[1] for p in named], wanted.parts)

    def _relations(self, found: Shape, wanted: Shape) -> bool:
        a, b = _interval(found), _interval(wanted)
        if a is not None and b is not None:
            if a[1] != b[1] and "" not in (a[1], b[1]):
                return False
            return a[0].marks == b[0].marks and self._ordered(a[0].parts, b[0].parts)
        if found.kind != wanted.kind or len(found.parts) != len(wanted.parts):
            return False
        if found.marks == wanted.marks and self._ordered(found.parts, wanted.parts):
            return True
        if found.marks == wanted.marks == "=" and len(found.parts) == 2:
            if self._ordered(found.parts[::-1], wanted.parts):
                return True
            if any(_is_name(s.parts[0]) for s in (found, wanted)) and all(_is_name(s.parts[0]) for s in (found, wanted)):
                return False  # x = 5 and y = 5
            return self.leaf(found.text, wanted.text)
        return False

    def _leaves(self, found: str, wanted: str) -> bool:
        a, b = read_quantity(found), read_quantity(wanted)
        if a is not None and b is not None:
            return same(a, b, self.near, self.close)
        if (time := clock(wanted)) is not None:
            return clock(found) == time
        if (proportional := _ratio(found, wanted)) is not None:
            return proportional
        if (based := _in_base(found, wanted)) is not None:
            return based
        found, wanted = _radians(a, wanted) or _bare(found, a), _radians(b, found) or _bare(wanted, b)
        if WORDS.search(wanted) or WORDS.search(found) or r"\emptyset" in found + wanted:
            return same_words(found, wanted)
        if not found or not wanted:
            return False
        if r"\infty" in found + wanted and tight(found).lstrip("+") == tight(wanted).lstrip("+"):
            return True
        return self.leaf(found, wanted)


_RATIO = re.compile(r"\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)+")


def _ratio(found: str, wanted: str) -> bool | None:
    """Ratios of three numbers or more in proportion: 2:4:6 is 1:2:3. None where neither is one."""
    sides = [tight(t) for t in (found, wanted)]
    if not any(t.count(":") > 1 and _RATIO.fullmatch(t) for t in sides):
        return None
    if not all(_RATIO.fullmatch(t) for t in sides):
        return False
    a, b = ([Fraction(n) for n in t.split(":")] for t in sides)
    return len(a) == len(b) and all(x * sum(b) == y * sum(a) for x, y in zip(a, b))


def _vector(shape: Shape) -> tuple[Shape, ...] | None:
    """The entries of a matrix of one column or one row, or of a point in round brackets."""
    if shape.kind == "tuple":
        return shape.parts if shape.marks == "()" else None
    if all(len(row.parts) == 1 for row in shape.parts):
        return tuple(row.parts[0] for row in shape.parts)
    return shape.parts[0].parts if len(shape.parts) == 1 else None


_BASED = re.compile(r"(?P<digits>[0-9A-Fa-f]+)(?:_\{?\(?(?P<base>\d{1,2})\)?\}?)?")


def _in_base(found: str, wanted: str) -> bool | None:
    """Numerals with their base (1011_2) by value; where one side leaves the base out, by their digits. None where neither has one."""
    a, b = _BASED.fullmatch(tight(found)), _BASED.fullmatch(tight(wanted))
    if a is None or b is None or not (a["base"] or b["base"]):
        return None
    if not (a["base"] and b["base"]):
        return a["digits"].lower() == b["digits"].lower()
    try:
        return int(a["digits"], int(a["base"])) == int(b["digits"], int(b["base"]))
    except ValueError:  # no such digit in this base
        return False


def _radians(quantity: Quantity | None, other: str) -> str:
    r"""Degrees in radians, where the other side is written with \pi; "" elsewhere."""
    if quantity is None or quantity.unit is None or quantity.unit[0] != "angle" or r"\pi" not in other:
        return ""
    return rf"\frac{{{quantity.value.numerator}\pi}}{{{180 * quantity.value.denominator}}}"


def _bare(text: str, quantity: Quantity | None) -> str:
    """For a library: a number without its unit, a percentage as a fraction."""
    if quantity is None:
        if re.search(r"sin|cos|tan|cot|sec|csc", text):
            return re.sub(r"(\d+(?:\.\d+)?)\s*\^\\circ", r"{(\1\\pi/180)}", text)
        return _UNIT_BEHIND.sub(
            lambda m: "" if unit_of(m.group()) or _SOME_UNITS.match(m.group()) else m.group(), re.sub(r"\s*\^\\circ\s*$", "", text)
        )
    value = quantity.value / 100 if quantity.percent else quantity.value
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def same_words(found: str, wanted: str) -> bool:
    """The same words, case, articles, punctuation and white space aside."""
    a, b = _words(found), _words(wanted)
    if a == b != "" or (_NOTHING.fullmatch(a) and _NOTHING.fullmatch(b)):
        return True
    return same_verdict(a, b)


_NOTHING = re.compile(
    r"emptyset|(?:there (?:is|are) )?no (?:real |such )?(?:solutions?|values?|roots?)|none|empty set|does not exist|dne"
    r"|无(?:实数)?解|空集|不存在"
)


def _words(text: str) -> str:
    text = unicodedata.normalize("NFKC", plain(text)).casefold()
    text = re.sub(r"\b(?:a|an|the)\s+(?=\w)", " ", re.sub(r"[\"'“”‘’$,，。.!?;:{}\\]", " ", text))
    return re.sub(r"(?<=[\u4e00-\u9fff])\s+|\s+(?=[\u4e00-\u9fff])", "", " ".join(text.split()))


def _is_name(shape: Shape) -> bool:
    return shape.kind == "leaf" and bool(_NAME.fullmatch(tight(shape.text)))


def _without_name(shape: Shape, other: Shape) -> Shape:
    """``x = 5`` and ``x \\in A`` without the name, where the other side has none; of a calculation (6 * 7 = 42) what it comes to. Numbers
    that are said to be equal and are not (42 = 43) are nothing."""
    while shape.kind == "relation" and other.kind != "relation":
        sides, signs = list(shape.parts), set(shape.marks.split())
        first, last = sides[0], sides[-1]
        if signs == {"="} and (len(sides) > 2 or _named(first)):
            values = {q.value for s in sides if (q := read_quantity(s.text)) is not None}
            shape = last if len(values) < 2 else Shape("leaf", "")
        elif signs == {"in"} and len(sides) == 2:
            shape = last
        elif signs == {"="} and _is_name(last) and not _named(first):
            shape = first
        else:
            break
    return shape


def _named(side: Shape) -> bool:
    """A left side that only says what is meant: a name, words, nothing, or a calculation in numbers."""
    text = tight(side.text)
    if side.kind == "tuple":  # (x, y) = (3, 4)
        return all(_is_name(p) for p in side.parts)
    return not text or _is_name(side) or bool(WORDS.search(side.text)) or not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text))


def _interval(shape: Shape) -> tuple[Shape, str] | None:
    r"""An inequality in one name as an interval with that name: x > 5 as (5, \infty); an interval as itself, without one."""
    if shape.kind == "tuple" and len(shape.parts) == 2 and shape.marks in ("()", "[]", "(]", "[)"):
        return shape, ""
    signs = shape.marks.split()
    if signs == ["in"] and len(shape.parts) == 2 and _is_name(shape.parts[0]):
        inside = _interval(shape.parts[1])
        return None if inside is None else (inside[0], tight(shape.parts[0].text))
    if shape.kind != "relation" or not signs or not set(signs) <= {"<", ">", "<=", ">="}:
        return None
    sides = list(shape.parts)
    if signs[0][0] == ">":
        sides, signs = sides[::-1], [s.replace(">", "<") for s in signs[::-1]]
    if any(s[0] == ">" for s in signs):
        return None
    names = [i for i, side in enumerate(sides) if _is_name(side) and r"\infty" not in side.text and r"\pi" not in side.text]
    if len(names) != 1:
        return None
    at, name = names[0], tight(sides[names[0]].text)
    if len(sides) == 3 and at == 1:
        low, high, marks = sides[0], sides[2], ("[" if "=" in signs[0] else "(") + ("]" if "=" in signs[1] else ")")
    elif len(sides) == 2 and at == 0:
        low, high, marks = Shape("leaf", r"-\infty"), sides[1], "(" + ("]" if "=" in signs[0] else ")")
    elif len(sides) == 2:
        low, high, marks = sides[0], Shape("leaf", r"\infty"), ("[" if "=" in signs[0] else "(") + ")"
    else:
        return None
    return Shape("tuple", shape.text, (low, high), marks), name


def _distinct(parts: Sequence[Shape]) -> list[Shape]:
    found: dict[str, Shape] = {}
    for part in parts:
        quantity = read_quantity(part.text) if part.kind == "leaf" else None
        found.setdefault(str(quantity) if quantity is not None else tight(part.text), part)
    return list(found.values())


def _single(found: Shape, wanted: Shape) -> bool:
    return (found.kind == "list" and len(_distinct(found.parts)) == 1) or (wanted.kind == "list" and len(_distinct(wanted.parts)) == 1)
