"""What a claim says, in expressions: the first one behind an announcement, the alternatives beside it, the parts of a list."""

from __future__ import annotations

import re
from dataclasses import dataclass

from keel.rewards.reading.claims import HEDGE, RETRACTED, Claim
from keel.rewards.reading.notation import plain
from keel.rewards.reading.numerals import HAN
from keel.rewards.reading.quantity import Quantity, quantity_at, read_quantity, words_quantity

_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?(?:\s?[ap]\.?m\b\.?)?(?![\d:])", re.IGNORECASE)
_FORMULA = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|\$([^$\n]+?)\$)", re.DOTALL)
_MATHY = re.compile(
    r"(?:\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+|\\[{}|,;! \\]|[0-9.,:+\-*/^_=<>()\[\]{}|!'%$&√\s]"
    r"|(?<![A-Za-z\\])(?![aI]\s+[A-Za-z]{2})[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|mod|min|max|gcd|lcm|arcsin|arccos|arctan|and)(?![A-Za-z])|(?<=[\d)])[a-z]{1,3}(?=[\d^(]))+"
)
_SENTENCE = re.compile(r"(?<=[^\s.])[.!?](?=\s|$|[A-Z\u4e00-\u9fff])|[。！？;；\n]|\.(?=\s|$)")
_OR = re.compile(
    r"[\s,(]*(?:\b(?:or|alternatively|maybe|perhaps|possibly|could(?:\s+also)?\s+be|might(?:\s+also)?\s+be)\b|或者?是?|也许是?|可能是?|要么是?|还是|抑或是?)"
    r"(?:\s*(?:\b(?:maybe|perhaps|possibly|even|rather|else|also|it\s+is|it's|is|be|the\s+answer\s+is)\b|也许|可能|是))*[\s:,]*",
    re.IGNORECASE,
)
_MAYBE = re.compile(r"(?:(?:actually|hmm+|well|but|though)\b[,\s]*)?(?:it|this|that|the\s+answer)\s+(?:could|might|may)\s", re.IGNORECASE)
_EITHER = re.compile(r"^\s*(?:either|要么|不是)\s*", re.IGNORECASE)
_NOT = re.compile(r"^\s*(?:not(?!\s+(?:sure|certain|only))|never|n['’]t|不是|并非|不等于|非|\\ne(?![a-z]))\s*", re.IGNORECASE)
_BUT = re.compile(r"\bbut\s+(?:rather\s+)?|(?:而|应该|应)是|[,;.]\s*(?:it\s+is|it's|rather|instead)\s+", re.IGNORECASE)
_BOUND = re.compile(
    r"(?:\b(?:at\s+(?:least|most)|(?:more|less|greater|fewer|larger|smaller|higher|lower)\s+than|over|under|above|below|up\s+to|between|no\s+(?:more|less|fewer)\s+than|"
    r"anything\s+but|except|other\s+than)\b|\b(?:between|from)\s+\S+(?:\s+\w+)?\s+(?:and|to)\b|不少于|不多于|至少|至多|超过|大于|小于|不超过|多于|少于|不到|介于|除了)\s*$",
    re.IGNORECASE,
)
_BOUND_BEHIND = re.compile(
    r"^\s*(?:[A-Za-z]+\s+)?(?:or\s+(?:more|less|greater|fewer|so|higher|lower|something|anything)\b|at\s+(?:most|least)\b|\+(?!\s*[\d\\A-Za-z(])|(?:个|元|人|米)?(?:以上|以下|或以上|或以下|或更多|或更少))",
    re.IGNORECASE,
)
_ALSO = re.compile(
    r"(\$?[-+]?\d[\d,.]*\$?)\s*(?:(?:is|are|would\s+be|could\s+be|may\s+be)\s+(?:also\s+|equally\s+)?(?:possible|plausible|acceptable|correct|valid|right|an\s+option|fine)"
    r"|also\s+works|works\s+too|也可以|也行|也对|也可能|也是)",
    re.IGNORECASE,
)
_CORRECTED = re.compile(
    r"^[\s,.;:(–—-]*(?:\b(?:no|wait|oops|sorry|actually|correction)\b|不对)[\s,.:;!]*(?:(?:no|wait|actually|it's|it\s+is|the\s+answer\s+is|是|应该是|应为)[\s,]*)*(?=[-+$]?[\d\\])",
    re.IGNORECASE,
)
_RANGE = re.compile(r"^\s*(?:-|–|—|~|～|to\b|through\b|到|至)\s*(?=[\d\\$.])")
_LISTED = re.compile(r"^\s*(?:,\s*and\b|,|、|and\b|和|及|与|&)\s*(?=[-+]?[\d\\$.])(?!\d{1,2}[*/+=x×])")
_ABOUT = re.compile(
    r"^(?:\s*(?:\\approx|≈|~|approximately|about|roughly|around|exactly|only|just|a\s+total\s+of|equal\s+to|大约|约为|约|一共|共有?|总共|正好|等于|为|是|:|=))+\s*",
    re.IGNORECASE,
)
_PIECE_BEFORE = re.compile(r"(?:[*/^]|\\(?:times|cdot|sqrt|pm|frac|div)\s?\{?|[\d)}]\s?[-+])\s*$|[A-Za-z\d]\($|\^\{$|\{$")
_PIECE_BEHIND = re.compile(
    r"\s*[*^]|\s*/\s*[\d(\\]|[({})]|\s*\\(?:times|cdot|sqrt|pi|pm|frac|div)|\s*[-+]\s*[\d(\\a-z]|[A-Za-z](?![A-Za-z])"
)
_COMPARED = re.compile(r"(?:[<>]|\\(?:le|ge|lt|gt|ne)(?![a-z]))\s*\Z")
_CALCULATION = re.compile(r"\s*[*/+×÷-]\s*\$?\d[^\n=,;]*=\s*[-+$]?[\d][\d.,/]*(?:\s+[A-Za-z]+)?(?=[.\s]*(?:\n|\Z))")


_IN_A_BOX = re.compile(
    r"(?:(?:the|our|so|final|correct|total)\s+)*(?:answer|value|result|sum|total|number|solution)\s*(?:is|are|equals|:|=)\s+(?!not\b)(?=.*[\d\\])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a claim says: expressions, all of which it stands by (more than one is a list or a hedge), and the same in words."""

    expressions: tuple[str, ...]
    words: str
    bound: bool = False  # a bound ("at least 5"), a range or a denial: no value


def read_claim(claim: Claim) -> Reading:
    """Of a box the whole content, and what is offered beside it; else the first expression, and what is offered beside it."""
    if claim.negated:
        return Reading((), claim.text, bound=True)
    if claim.kind in ("box", "tag"):
        inside = plain_words(claim.text)
        if named := _IN_A_BOX.match(inside):  # \boxed{\text{The value is } 7}
            return read_segment(inside[named.end() :], claim.rest)
        if claim.kind == "box" or len(claim.text) <= 80:
            others, bound = _beside(claim.rest, lists=False)
            return Reading((claim.text.strip(), *others), inside, bound or bool(_BOUND.search(inside[:0])))
    return read_segment(claim.text, claim.rest)


def plain_words(text: str) -> str:
    r"""Words without LaTeX's wrapping, quotes and the last full stop: ``\text{Yes.}`` is ``Yes``."""
    return plain(text).strip(" $.,;:!?。\"'")


def read_segment(text: str, rest: str = "") -> Reading:
    """What a sentence says the answer is."""
    text = plain(text)
    text = _ABOUT.sub("", text, count=1) if not re.match(r"\s*=?\s*$", text) else text
    denied = _NOT.match(text)
    if denied:
        but = _BUT.search(text, denied.end())
        if but is None:
            return Reading((), plain_words(text), bound=True)
        text = text[but.end() :]
    text = _EITHER.sub("", text)
    words = plain_words(text[: _sentence_end(text)])
    head, after = _head(text)
    if not head:
        return _in_words(text, words)
    corrected = _CORRECTED.match(text[after:])
    if corrected:  # "42 - no, 43"
        return read_segment(text[after + corrected.end() :], rest)
    calculated = _CALCULATION.match(text, after) if after else None
    if calculated and (found := last_numbers(text[: calculated.end()])).expressions:  # "28 days / 7 days = 4 weeks"
        return Reading(found.expressions, words, found.bound)
    others, bound = _beside(text[after:] + "\n" + rest)
    return Reading((head, *others), words, bound)


def _in_words(text: str, words: str) -> Reading:
    """A sentence that begins with words: the number in words that it is, else what it says last."""
    end = _sentence_end(text)
    sentence = text[:end]
    number = _leading_words(sentence)
    if number is not None:
        others, bound = _beside(sentence[number:] + text[end:])
        return Reading((sentence[:number], *others), words, bound)
    found = last_numbers(sentence)
    return Reading(found.expressions, words, found.bound)


def _leading_words(sentence: str) -> int | None:
    """Where a number in words ends that begins a sentence: forty-two apples, 三百五十个."""
    han = re.match(rf"\s*(?:打?[{HAN}\d]{{1,2}}成半?|打?[{HAN}\d]{{1,2}}折|负?(?:百分之)?[{HAN}半][{HAN}分之又点半]*)", sentence)
    if han and read_quantity(han.group()) is not None:
        return han.end()
    words = list(re.finditer(r"[A-Za-z]+(?:-[A-Za-z]+)*", sentence))
    for n in range(min(8, len(words)), 0, -1):
        piece = sentence[: words[n - 1].end()]
        found = words_quantity(piece) if re.fullmatch(r"[\sA-Za-z-]+", piece) else None
        if found is not None:
            return words[n - 1].end()
    return None


def _sentence_end(text: str) -> int:
    found = next((m for m in _SENTENCE.finditer(text) if not re.match(r"\d\.\d", text[max(0, m.start() - 1) : m.end() + 1])), None)
    return len(text) if found is None else found.start()


def _head(text: str) -> tuple[str, int]:
    """The first expression of a text and where it ends; "" where the text begins with words."""
    formula = _FORMULA.match(text)
    if formula:
        inside = next(g for g in formula.groups() if g is not None)
        if _is_formula(inside):
            return inside.strip(), formula.end()
    start = len(text) - len(text.lstrip())
    clock = _CLOCK.match(text, start)
    if clock:
        return clock.group(), clock.end()
    wrapped = re.match(r"\s*\\(?:text|mathrm|textbf|mathbf)\{", text)
    run = _MATHY.match(text, start)
    end = _cut(text, start, run.end() if run and not wrapped else start)
    measured = quantity_at(text, start)
    if measured is not None and measured[1] >= end and (measured[0].unit is not None or measured[0].percent or measured[1] > end):
        return text[start : measured[1]], measured[1]
    return text[start:end].strip(), end


def _is_formula(inside: str) -> bool:
    """Between two dollar signs: a formula, or what stands between two prices?"""
    return (
        not re.search(
            r"(?<![A-Za-z\\{])[A-Za-z]{3,}(?![A-Za-z}])",
            re.sub(r"\\[a-z]*\{[^{}]*\}|\\[A-Za-z]+|\b(?:sin|cos|tan|log|gcd|lcm|max|min|mod)\b", "", inside),
        )
        and inside[-1:] not in " ,("
    )


def _cut(text: str, start: int, end: int) -> int:
    """Take off what belongs to the sentence: its full stop, a bracket that opens a remark, a conjunction."""
    sentence = _sentence_end(text[start:end]) + start
    end = min(end, sentence)
    depth, opened = 0, None
    for i in range(start, end):
        if text[i - 1 : i] == "\\" and text[i] in "{}":
            continue
        if text[i] in "([{":
            opened = i if depth == 0 else opened
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
            if depth < 0:
                return _cut(text, start, i) if i > start else i
    if depth > 0 and opened is not None:
        end = opened
    piece = text[start:end]
    while True:
        shorter = re.sub(r"(?:\band|[\s,;:=(*/+^_\-]|(?<!\d)\.|\.(?=$)|(?<=\s)[aI])$", "", piece)
        if shorter == piece:
            return start + len(piece)
        piece = shorter


def _beside(text: str, lists: bool = True) -> tuple[list[str], bool]:
    """What is offered beside the first expression: behind "or" in the same sentence, in a next one that begins with it, or as a list or
    range; and whether it makes a bound of the first one."""
    if _BOUND_BEHIND.match(text):
        return [], True
    flat = text.lstrip(")]}$ ") if re.match(r"[)\]}$]", text) else text
    if _RANGE.match(flat) and lists:
        return [], True
    found: list[str] = []
    listed = _LISTED.match(flat) if lists else None
    if listed:
        head, _ = _head(flat[listed.end() :])
        found += [head] if head and not re.match(r"\s*[=*/]", flat[listed.end() + len(head) :]) else []
    end = _sentence_end(text)
    also = _ALSO.search(text[:end])
    if also:
        found.append(also[1])
    following = text[end:].lstrip(" .。!?！？\n")
    pieces = [
        text[:end],
        following[: _sentence_end(following)]
        if HEDGE.match(following.lstrip("( *")) or _OR.match(following) or _MAYBE.match(following)
        else "",
    ]
    for piece in pieces:
        for mark in _OR.finditer(piece):
            behind = piece[mark.end() :]
            head, _ = _head(behind)
            number = _leading_words(behind) if not head else None
            if head and re.search(r"[\dA-Za-z\\]", head):
                found.append(head)
            elif number:
                found.append(behind[:number])
    return found, False


# --- numbers in prose ----------------------------------------------------------------------------------------------------------------


def numbers_in(text: str) -> list[tuple[Quantity, int, int]]:
    """Every number of a text in digits, and where it stands. Dates are read as their parts."""
    found: list[tuple[Quantity, int, int]] = []
    at = 0
    for start in re.finditer(r"[-+]?\s?[$€£¥₹]?\s?[-+]?(?:\d|\.\d|\\frac|百分之\s?\d)", text):
        begin = start.start()
        if begin < at:
            continue
        before = text[:begin]
        sign = text[begin] in "+-"
        if sign and re.search(r"[A-Za-z0-9)}%]\s?$", before):  # a minus between two numbers
            begin += 1
            before = text[:begin]
        digit = re.search(r"[\d.\\百$€£¥₹+-]", text[begin:])
        begin += digit.start() if digit else 0
        before = text[:begin]
        if re.search(r"[A-Za-z_]$|\d$|(?<!\s)\.$", before) and not re.search(r"\\[a-z]+$", before):
            continue
        dated = re.match(r"(?:\d+/){2,}\d+|\d+[/:-]\d+[/:-]\d+|\d+:\d\d", text[begin:])
        if dated:
            last = re.search(r"\d+$", dated.group())
            assert last is not None, "it ends in a digit"
            number = read_quantity(last.group())
            if number is not None:
                found.append((number, begin + last.start(), begin + dated.end()))
            at = begin + dated.end()
            continue
        read = quantity_at(text, begin)
        if read is not None:
            found.append((read[0], begin, read[1]))
            at = read[1]
    return found


def last_numbers(sentence: str) -> Reading:
    """The number that a sentence says last, with what it offers beside it; of a number inside a formula, the formula."""
    flat = _without_remark(plain(sentence))
    numbers = numbers_in(flat)
    if not numbers and (said := _said_in_words(flat)):
        return Reading((said,), flat)
    if not numbers:
        han = [m for m in re.finditer(rf"负?(?:百分之)?[{HAN}][{HAN}分之又点半]*", flat) if len(m.group()) > 1 and read_quantity(m.group())]
        return Reading((han[-1].group(),) if han else (), flat)
    while len(numbers) > 1 and (_denied(flat[: numbers[-1][1]]) or _WHOLE_OF.fullmatch(flat[numbers[-2][2] : numbers[-1][1]])):
        # "12 (not 13)", "12 out of 13"
        numbers.pop()
    used = [numbers[-1]]
    for number in reversed(numbers[:-1]):
        if not _joined(flat[number[2] : used[0][1]]):
            break
        used.insert(0, number)
    first, last = used[0], used[-1]
    before = flat[max(0, first[1] - 40) : first[1]]
    compared = _COMPARED.search(before) and not re.search(r"[-=]>\s*\Z|\A\s*>\s*\Z", before)  # no arrow, and no mark of a quotation
    bound = bool(compared or _BOUND.search(before) or _BOUND_BEHIND.match(flat[last[2] :]) or _denied(before) or _ranged(flat, numbers))
    return Reading(tuple(_whole(flat, a, b) for _, a, b in used), flat, bound)


_WHOLE_OF = re.compile(r"(?:\s+[A-Za-z]+){0,3}\s+out\s+of\s+(?:the\s+|a\s+total\s+of\s+)?", re.IGNORECASE)
_MINUS = re.compile(r"(?:\A|\b(?:is|was|are|be|equals|to|gives|as)\s+|[=:]\s*)(?:minus|negative)\s+\Z", re.IGNORECASE)
_IS = re.compile(r"\b(?:is|are|was|were|be|equals|makes|gives|to)\s+(?=[A-Za-z])", re.IGNORECASE)
_REMARK = re.compile(r"(?<=[\w%$])(\s*)\(([^()]*[A-Za-z\u4e00-\u9fff]{2}[^()]*)\)[\s.。]*\Z")


def _without_remark(text: str) -> str:
    """A sentence without the remark in brackets at its end, where a number stands right before: "7 (3 for a and 4 for b)"."""
    found = _REMARK.search(text)
    if found is None or HEDGE.search(found[2]) or _OR.search(found[2]) or RETRACTED.search(found[2]) or _denied(found[2][:4]):
        return text
    numbers = numbers_in(text[: found.start()])
    return text[: found.start()] if numbers and re.fullmatch(r"(?:\s?[A-Za-z]+){0,2}", text[numbers[-1][2] : found.start()]) else text


def _said_in_words(sentence: str) -> str:
    """The number in words that a sentence without digits ends in: "The result is negative seven."; "" where it has none."""
    for verb in reversed(list(_IS.finditer(sentence))):
        said = sentence[verb.end() :].strip(" .!")
        if len(said.split()) <= 8 and not re.search(r"\bof\b", said) and words_quantity(said) is not None:
            return said
    return ""


def _whole(text: str, start: int, end: int) -> str:
    """The number, or the formula that it is a piece of."""
    before, after = text[:start], text[end:]
    if _MINUS.search(before):
        return f"-{text[start:end]}"
    alone = before[-1:] == "(" and after[:1] == ")" and not re.search(r"[\w*/^]\s?\($", before)
    if alone or re.search(r"\d[/:-]\d+[/:-]$|\d:$", before) or not (_PIECE_BEFORE.search(before) or _PIECE_BEHIND.match(after)):
        return text[start:end]
    for run in _MATHY.finditer(text):
        if run.start() <= start < run.end():
            first, _, last = run.group().strip(" ,.;:").rpartition("=")
            turned = read_quantity(first) is not None and re.fullmatch(r"[\d\s.*/+()-]+|(?:[\d\s.*/+()-]|\\times|\\cdot)+", last)
            return (first if turned else last).strip()  # 15 = 3 * 5 is 15
    return ""  # a piece of what is no formula either


def formulas_in(line: str) -> Reading | None:
    """The last formula between dollar signs (or LaTeX's brackets) of a line, with those that an "or" joins to it; None without any."""
    found = [m for m in _FORMULA.finditer(line) if _is_formula(next(g for g in m.groups() if g is not None))]
    if not found or (
        (numbers := numbers_in(line)) and numbers[-1][1] >= found[-1].end() and not re.match(r"\s*[^\w]", line[found[-1].end() :])
    ):
        return None
    bodies = [next(g for g in m.groups() if g is not None).strip() for m in found]
    used = [bodies[-1]]
    for i in range(len(found) - 2, -1, -1):
        between = line[found[i].end() : found[i + 1].start()]
        if not _joined(between) and not re.fullmatch(r"\s*,?\s*(?:and|和|及|以及|与)\s*", between):
            break
        used.insert(0, bodies[i])
    before, after = line[: found[-len(used)].start()], line[found[-1].end() :]
    bound = bool(_BOUND.search(before) or _BOUND_BEHIND.match(after) or _denied(before))
    others, more = _beside(after)
    return Reading((*used, *others), line, bound or more)


def _joined(between: str) -> bool:
    """Does an "or" stand between two numbers, with no more than a word or two?"""
    if re.fullmatch(r"\s*(?:,|、|;|/)\s*(?:and\s+)?", between):
        return True  # a list: all of it is said
    return (
        len(between) <= 40
        and bool(_OR.search(between))
        and len(re.findall(r"[A-Za-z]+", between)) <= 5
        and not re.search(r"[.;=]", between)
    )


def _denied(before: str) -> bool:
    return bool(re.search(r"(?:\b(?:not|never|isn't|wasn't|cannot\s+be|can't\s+be)|不是|并非|不等于|\\ne)\s*$", before, re.IGNORECASE))


def _ranged(text: str, numbers: list[tuple[Quantity, int, int]]) -> bool:
    if len(numbers) < 2:
        return False
    between = text[numbers[-2][2] : numbers[-1][1]]
    return bool(re.fullmatch(r"\s*(?:–|—|~|-|to|through|到|至)\s*", between)) and "=" not in text[numbers[-1][2] :][:3]
