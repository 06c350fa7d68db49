"""Answers that are yes or no: "true", "The statement is not true.", 不正确."""

from __future__ import annotations

import re

_VERDICT = re.compile(r"yes|no|true|false|correct|incorrect|是的?|否|不是|对|不对|错误?|正确|不正确")
_OF_WHAT = (
    r"(?:(?:so|thus|hence|therefore) )?"
    r"(?:(?:this|that|it|the|given)? ?(?:statement|claim|proposition|assertion|equation|sentence)?(?: above)? ?(?:is|was) )?"
)
_STATEMENT = re.compile(
    rf"{_OF_WHAT}(?P<not>not )?(?:(?P<yes>yes|true|correct)|no|false|incorrect|untrue|wrong)"
    r"|(?:这个|这一|该|此|本|上述)?(?:说法|命题|陈述|结论|判断|观点|等式)?是?(?:(?P<zh_yes>对|正确|成立)|不对|错误?|不正确|不成立)的?"
    r"|(?P<zh_is>是的?)|否|不是"
)


def same_verdict(found: str, wanted: str) -> bool:
    """Do both say yes, or both no? Only where the right answer ``wanted`` is one such word. Both in small letters, without articles."""
    if not _VERDICT.fullmatch(wanted):
        return False
    said = says_yes(found)
    return said is not None and said == says_yes(wanted)


def says_yes(words: str) -> bool | None:
    """Does a verdict in words say yes? "statement is not true" says no. None for what is no verdict."""
    match = _STATEMENT.fullmatch(words)
    return None if match is None else any(match[name] is not None for name in ("yes", "zh_yes", "zh_is")) != (match["not"] is not None)
