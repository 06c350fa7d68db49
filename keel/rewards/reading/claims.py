r"""What does a text say its answer is? Boxes, ``####``, ``<answer>`` tags and announcements ("the answer is", 答案是).

An answer is what a text settles on. One that it takes back ("no, wait") does not count, and one that it gives beside another is a hedge:
both are claimed, so both must be right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from keel.rewards.reading.notation import braced

MOST = 60  # claims of one text: who claims more is searching, not answering

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:(?=\{)|(?P<bare>\d+(?:\.\d+)?))")
_LINE = re.compile(r"####[ \t]*([^\n]*)")
_LAST_LINE = re.compile(r"(?:\A|\n)[ \t]*(?:A|Ans)[ \t]*[:：][ \t]*(?P<said>\S[^\n]*?)\s*\Z")  # "A: 42"
_HEADING = re.compile(
    r"^\W*(?:step|part|case|solution|explanation|final|answer|conclusion|calculat|problem|question|note|method|check|verif|第|步骤|解|答案|"
    r"结论|最终)|^\d+\s*[.)、:：]\s*[^\d\s]",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(final_answer|answer|finalanswer)>(.*?)(?:</\1>|(?=<\1>)|\Z)", re.IGNORECASE | re.DOTALL)
_IS = r"(?:is|was|are|equals|would\s+be|should\s+be|must\s+be|will\s+be|comes\s+(?:out\s+)?to|has\s+to\s+be|can\s+only\s+be)"
_ADVERB = r"(?:therefore|thus|hence|then|simply|indeed|just|clearly|exactly|actually|obviously|definitely|also|now|given\s+by|as\s+follows)"
_SAID = re.compile(
    rf"(?P<final>\bfinal\s+|最终的?|最后的?)?(?:\b(?:answer|final\s+result|final\s+value)\b[*_]*(?P<to>\s+(?:to|for|of|in)\s[^.:=\n]{{0,80}}?|\s*\([^()\n]{{0,40}}\))?"
    rf"[*_\s]*(?:(?P<not>(?:is|was)(?:n['’]t|\s+not)\b|(?:can(?:no|['’])?t|cannot|can not)\s+be)|{_IS}(?:\s+{_ADVERB})*(?:\s+that\b)?"
    rf"|[\"']?\s*[:：=]|->|→)|【(?:正确|参考|最终)?答案】|(?:答案|结果|解集|结论)(?:应该|应|就|则|便|只能)?(?:(?P<nicht>不是|并非|不为|不应是)|[是为:：=选]|等于)|(?:^|(?<=[\s。，,；;]))答[:：])"
    rf"[\s*_]*[:：]?(?P<gap>[\s*_]*)",
    re.IGNORECASE,
)
_TITLE = re.compile(
    r"^[#*_\s]*(?P<final>final\s+)?answer[*_\s]*[:：]?[*_\s]*$\n|^[#*_\s]*(?:最终)?答案[*_\s]*[:：]?[*_\s]*$\n",
    re.IGNORECASE | re.MULTILINE,
)
_SUPPOSED = re.compile(
    r"(?:\b(?:if|whether|suppose|supposing|assume|assuming|say|unless|why|guess|think|check\s+that|does\s+not\s+mean|question|when|once|"
    r"wrong|incorrect|options?|choices?|possible)\b(?:\s+\w+){0,3}\s*|(?:如果|假设|假如|若|是否|错误的?|倘若)[^\n。，,]{0,8})$",
    re.IGNORECASE,
)
_BUT = re.compile(r"\bbut\s+(?:rather\s+)?|,?\s*(?:而|应该|应)是|[,，]\s*是|[,;.]\s*(?:it\s+is|it's|rather|instead)\s+", re.IGNORECASE)
_BELIEF = re.compile(r"\b(?:I|we)\s+(?:think|guess|say)\b(?:\s+\w+){0,3}\s*$", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])(?<!approx)(?<!\bca)[.!?](?=\s+\S)|[。！？]")
RETRACTED = re.compile(
    r"\b(?:wait|hold\s+on|nope|no|actually|correction|corrected|mistakes?|mistaken|wrong|incorrect|instead|sorry|scratch\s+that|on\s+second\s+thoughts?|let\s+me\s+(?:fix|correct)|recheck|re-check|recalculat\w*|"
    r"recomput\w*|oops|recount\w*|I\s+misread|not\s+right|error)\b|不对|错了|有误|更正|修正|重新|等等|等一下|算错|订正",
    re.IGNORECASE,
)
_SLIP = (
    r"on\s+second\s+thoughts?|let\s+me\s+(?:fix|correct)(?:\s+(?:that|this|it|myself))?"
    r"|I\s+(?:made|see)\s+(?:a|an|my)\s+(?:\w+\s+)?(?:mistake|error)"
)
_TAKEN_BACK = re.compile(  # "The answer is 12. Sorry, I made an error; the correct value is" 13
    rf"(?<=[.!?,;。\n—–-])\s*(?:(?:hmm+|oh|but|um|ah|uh)\b[,.\s]*)*(?:\b(?:hold\s+on|wait|no|nope|oops|sorry|actually|correction|scratch\s+that|"
    rf"strike\s+that|{_SLIP})\b|不对|更正|等等|等一下|抱歉|错了|算错了)(?:[\s,.:;!。—–]|\b(?:that(?:'s|\s+is)\s+(?:wrong|incorrect|not\s+right)|"
    rf"no|wait|actually|sorry|hold\s+on|{_SLIP}|I\s+meant?|(?:the\s+)?(?:correct|right|real|actual|true)(?:\s+(?:answer|value|result|number|total))?|"
    r"it|that|this|is|it's|should|must|be|make\s+that)\b|应该?是|应为|正确答案|答案|而?是)*(?=[*$\s]*[-+$€£¥]?\s*(?:\d|\\[dt]?frac|\\sqrt))",
    re.IGNORECASE,
)
_AND_NO_MORE = re.compile(  # a value and what it counts: no calculation, and no sentence about the value
    r"[*$\s]*[^\sA-Za-z,]\S*(?:\s+(?!(?:is|was|are|were|would|will|can|cannot|of|more|other|out|has|have|had|times|plus|minus|and|or|also|comes)\b)"
    r"[A-Za-z%]+){0,3}[.!。\s]*"
)
HEDGE = re.compile(
    r"\b(?:or|alternatively|maybe|perhaps|possibly|could\s+(?:also\s+)?be|might\s+(?:also\s+)?be|either|otherwise|else|another\s+(?:possible\s+)?answer)\b"
    r"|或|也许|可能|要么|还是(?=\s*[\d\\$])|抑或|另一个",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A piece of a text that is said to be the answer: where it stands, what it says, and what follows it."""

    start: int
    end: int
    text: str
    rest: str
    kind: str  # box, line, tag, said
    final: bool = False  # announced as the final one
    negated: bool = False  # said not to be it
    partial: bool = False  # the answer to something: a part of the question


def settled(text: str) -> list[Claim] | None:
    """The claims that a text stands by, in order; [] where it makes none, None where it makes more than ``MOST``."""
    claims = _all(text)
    distinct = {(c.kind, c.text.strip()) for c in claims}
    if len(distinct) > MOST:
        return None
    if not claims:
        return []
    last = next((c for c in reversed(claims) if not c.negated), claims[-1])
    kept: list[Claim] = []
    seen: set[str] = set()
    for claim in claims:
        key = claim.text.strip()
        if claim is not last and (key in seen or _dropped(claim, last, text)):
            continue
        seen.add(key)
        kept.append(claim)
    return kept


def _dropped(claim: Claim, last: Claim, text: str) -> bool:
    """Is an earlier claim one that the text does not stand by? (A later one than ``last`` is negated.)"""
    if claim.negated or claim.start > last.start:
        return True
    if claim.partial and claim.kind == "said":
        return True
    between = text[claim.start if claim.kind == "said" else claim.end : last.start]
    if last.final and not claim.final and not HEDGE.search(between[-40:]):
        return True
    retracted = RETRACTED.search(between)
    return retracted is not None and not HEDGE.search(between[retracted.end() :][:60])


def _all(text: str) -> list[Claim]:
    boxes = _boxes(text)
    found = [*boxes, *_tags(text), *_lines(text), *_said(text)]
    inside = [c for c in found if c.kind == "box"]
    found = [c for c in found if c.kind == "box" or not any(c.start <= b.start < c.end for b in inside)]
    tags = [c for c in found if c.kind == "tag"]
    found = [c for c in found if c.kind in ("tag", "box") or not any(t.start <= c.start < t.end for t in tags)]
    if found:
        found += _in_place(text, min(c.start for c in found))
    return sorted(found, key=lambda c: (c.start, -c.end))


def _in_place(text: str, after: int) -> list[Claim]:
    """Values that a text puts in the place of the answer that it has given before: "Wait, no, 7."."""
    found: list[Claim] = []
    for m in _TAKEN_BACK.finditer(text, after):
        segment, end = _segment(text, m.end())
        if _AND_NO_MORE.fullmatch(segment):
            found.append(Claim(m.end(), end, segment, text[end : end + 300], "said"))
    return found


def _boxes(text: str) -> list[Claim]:
    found: list[Claim] = []
    for match in _BOX.finditer(text):
        if found and match.start() < found[-1].end:
            continue  # a box in a box
        if match["bare"]:
            inside, end = match["bare"], match.end()
        else:
            body = braced(text, match.end())
            if body is None:
                continue
            inside, end = body, match.end() + len(body) + 2
        while (inner := _BOX.match(inside.strip())) and not inner["bare"] and (deeper := braced(inside.strip(), inner.end())) is not None:
            inside = deeper
        if inside.strip():
            before = text[max(0, match.start() - 60) : match.start()]
            found.append(
                Claim(match.start(), end, inside.strip(), text[end : end + 300], "box", bool(re.search(r"(?i)\bfinal|最终", before)))
            )
    return found


def _tags(text: str) -> list[Claim]:
    return [
        Claim(m.start(), m.end(), m[2].strip(), text[m.end() : m.end() + 300], "tag", True) for m in _TAG.finditer(text) if m[2].strip()
    ]


def _lines(text: str) -> list[Claim]:
    found: list[Claim] = []
    for m in _LINE.finditer(text):
        if m[1].strip() and not _HEADING.match(m[1]) and m[1][:1] != "#":
            found.append(Claim(m.start(), m.end(), m[1].strip(), text[m.end() : m.end() + 300], "line", True))
    last = _LAST_LINE.search(text)
    return [*found, Claim(last.start(), last.end(), last["said"], "", "line", True)] if last else found


def _said(text: str) -> list[Claim]:
    found: list[Claim] = []
    for m in [*_SAID.finditer(text), *_TITLE.finditer(text)]:
        before = text[max(0, m.start() - 60) : m.start()]
        if _SUPPOSED.search(before) and not _BELIEF.search(before):
            continue
        groups = m.groupdict()
        segment, end = _segment(text, m.end())
        if segment.strip(" .,;:!*_$。"):
            final = bool(groups.get("final"))
            negated = bool(groups.get("not") or groups.get("nicht"))
            if negated and (instead := _BUT.search(segment)):  # "isn't C but B"
                segment, negated = segment[instead.end() :], False
            found.append(Claim(m.start(), end, segment, text[end : end + 300], "said", final, negated, bool(groups.get("to"))))
    return found


def _segment(text: str, start: int) -> tuple[str, int]:
    """From ``start`` to the end of the sentence or line; a line that only opens a formula goes on to where that closes."""
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    line = text[start:line_end]
    opened = re.match(r"\s*(\$\$|\\\[|\\\(|\$)\s*$", line)
    if opened:
        close = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}[opened[1]]
        at = text.find(close, line_end)
        if at >= 0:
            return opened[1] + text[line_end:at].strip() + close, at + len(close)
    sentence = SENTENCE_END.search(line, len(line) - len(line.lstrip()) + 1)
    return (line, line_end) if sentence is None else (line[: sentence.end()], start + sentence.end())
