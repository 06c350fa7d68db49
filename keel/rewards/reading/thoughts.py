"""Where does the answer of a model that thinks aloud begin? What stands in its thoughts is no answer, and is not judged.

This is the one place that knows the markers. Verifiers and rules of form read ``answer_of(text)``; ``steps`` and functions of the user read
the whole text.
"""

from __future__ import annotations

import re

# The opening and the closing marker of each family of models, as regular expressions.
_WORDS = r"think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|seed:think|longcat_think"
_PAIRS = (
    (rf"<(?:{_WORDS})(?:\s[^<>]*)?>", rf"</(?:{_WORDS})\s*>"),  # Qwen, DeepSeek, GLM, Seed, EXAONE and most others
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # Sky-T1
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    (r"<unused94>thought", r"<unused95>"),  # MedGemma
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    (r"<\|channel\|>(?:analysis|commentary)\b", r"<\|channel\|>final[^<]*<\|message\|>"),  # gpt-oss
    (r"\A\s*analysis(?=[A-Z])", r"assistantfinal"),  # the same, decoded without its special tokens
)
_MARKER = re.compile("|".join(f"(?P<open{i}>{a})|(?P<close{i}>{b})" for i, (a, b) in enumerate(_PAIRS)), re.IGNORECASE)
_END = re.compile(r"<\|(?:return|end|END_RESPONSE|end_of_solution)\|>\s*\Z")
_START = re.compile(r"\s*<\|(?:START_RESPONSE|begin_of_solution)\|>")
_QUOTES = "`'\""


def answer_span(text: str) -> tuple[int, int] | None:
    """Where the answer stands in ``text``: after the last thought; all of it where there is none. None where a thought is not finished.

    A closing marker without an opening one counts: templates may open the thought in the prompt. A marker between quotes or backticks
    (``"</think>"``) is spoken of, not used."""
    start, open_ = 0, False
    for marker in _MARKER.finditer(text):
        before, after = text[marker.start() - 1 : marker.start()], text[marker.end() : marker.end() + 1]
        if before and before in _QUOTES and before == after:
            continue
        open_ = (marker.lastgroup or "").startswith("open")
        start = marker.end()
    if open_:
        return None
    if start and (head := _START.match(text, start)):
        start = head.end()
    end = _END.search(text, start) if start else None
    return start, end.start() if end else len(text)


def answer_of(text: str) -> str | None:
    """What follows the last thought; None where a thought is not finished, so that there is no answer."""
    span = answer_span(text)
    return None if span is None else text[span[0] : span[1]]


def names_a_marker(pattern: str) -> bool:
    """Does a regular expression look for thoughts themselves? Then it must see them."""
    return _MARKER.search(re.sub(r"\\([<>/|\[\]])", r"\1", pattern)) is not None
