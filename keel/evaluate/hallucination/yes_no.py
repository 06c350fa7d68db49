"""Does an answer say yes or no? Read as people read it, in English and Chinese; None where it says neither."""

from __future__ import annotations

import re

from keel.rewards.reading.thoughts import answer_of

_FIRST = re.compile(r"[\s*_`\"'“‘(\[#>\-]*(?:(yes|yeah|yep|true|correct)|(no|nope|not|none|false|incorrect))\b", re.IGNORECASE)
_FIRST_ZH = re.compile(r"\s*(?:(不|没|沒|否|错|錯|無|无)|(是|有|对|對|正确|可以|能))")
_UNSURE = re.compile(
    r"\b(?:can(?:no|')t|cannot|can not|could not|couldn't|unable|impossible|hard|difficult) (?:to )?(?:be )?"
    r"(?:tell|determined?|say|know|see (?:the |any |your )?(?:image|picture|photo)|answer|confirm|verify|discern|judge)"
    r"|\b(?:not|n't|isn't) (?:\w+ )?(?:sure|certain|clear|know)\b|\b(?:do not|don't) know\b|\bun(?:clear|certain|sure|known)\b"
    r"|\b(?:i'?m|i am|as an ai|i) (?:sorry|apologi[sz]e)"
    r"|\bno (?:idea|way to|(?:image|picture|photo) (?:is|was|has))\b|\bmay(?: or may not)? be\b|\bmaybe\b"
    r"|无法|無法|不确定|不確定|不清楚|不知道|难以|難以|看不清|也许|可能",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    r"answer(?: here)? (?:is|would be|:)[\s*:\"'“]*(?:(yes)|(no))\b|答案(?:是|为|：|:)\s*(?:(是|有|对)|(否|不|没))", re.IGNORECASE
)
_NEGATED = re.compile(
    r"\b(?:no|not|none|neither|nor|never|nothing|nobody|nowhere|without|absent|lacks?)\b|n't\b|不|没|沒|无|無", re.IGNORECASE
)
_STATES = re.compile(
    r"\b(?:there|it|this|that|these|those|he|she|they|[\w-]+) (?:is|are|was|were|'s|has|have)\b"
    r"|\b(?:shows?|contains?|depicts?|features?|includes?|appears?|i (?:can )?see|can be seen|visible)\b|有|是",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s|[。！？\n]|(?<=[a-z])\.(?=[A-Z])")
_BOTH = re.compile(r"\W*yes\W*(?:/|or|and)\W*no\b|\W*no\W*(?:/|or|and)\W*yes\b|\W*是(?:或|/|还是|和)(?:否|不是)", re.IGNORECASE)


def says_yes(answer: str) -> bool | None:
    """True for yes, False for no, None for neither ("", "I cannot tell", "yes or no"). What a model thinks aloud before is not read.

    The answer's first word decides; else "the answer is ..."; else its first sentence: one that denies is no, one that states is yes.
    """
    text = answer_of(answer)
    if text is None:
        return None
    sentence = next((s for s in _SENTENCE.split(text.strip()) if s.strip(" *_#>-")), "")
    if _BOTH.match(sentence):
        return None
    unsure = _UNSURE.search(sentence) is not None
    if not unsure or re.match(r"\W*(?:yes|no)\b\s*[,.;:]", sentence, re.IGNORECASE):
        if first := _FIRST.match(sentence):
            return first[1] is not None
        if first := _FIRST_ZH.match(sentence):
            return first[2] is not None
    if said := _ANNOUNCED.search(text):
        return said[1] is not None or said[3] is not None
    if unsure:
        return None
    if _NEGATED.search(sentence):
        return False
    return True if _STATES.search(sentence) else None


def original_says_no(answer: str) -> bool:
    """The reading of the published script of POPE (Li et al. 2023, ``evaluate.py``): no where "No", "not" or "no" is a word between single
    spaces of the text before the first point, commas taken out; yes else, whatever it says."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return any(word in words for word in ("No", "not", "no"))
