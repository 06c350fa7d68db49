r"""One notation for what people write in many: LaTeX, Unicode and Markdown become plain LaTeX without marks of layout."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")  # 1½ is no 11/2
_DASH = re.compile(r"(?:^|(?<=is )|(?<=[:=：(是为$]))[–—]\s?(?=[\d\\.])")  # a minus, where no range can be
_SIGNS = {
    "−": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "\u2044": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "≈": r"\approx ", "°": r"^\circ ", "º": r"^\circ ", "√": r"\sqrt ", "∅": r"\emptyset ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "ℝ": r"\mathbb{R}", "→": r"\to ",
    "￥": "¥", "’": "'", "‘": "'", "“": '"', "”": '"', "，": ",", "：": ":", "；": ";", "（": "(", "）": ")", "【": "[", "】": "]",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_RULES = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])\s*", ""),
        (r"\\(?:boldsymbol|mathbf|bm|mathrm|operatorname\*?|mathit|mathsf|mathtt)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
        (r"\\(?:text|textbf|textrm|textit|textsf|mbox|hbox|emph)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"(?<!\\)\\(?:[,;:!> ]|(?:quad|qquad)(?![A-Za-z]))", " "),
        (r"(?<=\d)\{,\}(?=\d)", ","),
        (r"(?<=\d),\s*\\?\s+(?=\d{3}(?:\D|$))(?!.)", ","),
        (r"\\(leq|leqslant)(?![A-Za-z])", r"\\le "),
        (r"\\(geq|geqslant)(?![A-Za-z])", r"\\ge "),
        (r"\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\(?:degrees?|deg)(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ", r"^\\circ "),
        (r"\\(?:lbrace|\{)", r"\\{"),
        (r"\\(?:rbrace|\})", r"\\}"),
        (r"\\(?:varnothing)", r"\\emptyset "),
        (r"\\([%$#&_])", r"\1"),
        (r"~", " "),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d+|[A-Za-z]\b)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])(?:pi)(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])(?:oo|inf|infinity|Infinity|infty|无穷大?)(?![A-Za-z])", r"\\infty "),
        (r"\\(?:dot|bar)\s*\{(\d+)\}\\dot\s*\{(\d)\}|\\(?:dot|bar)\s*\{(\d+)\}", r"\\overline{\1\2\3}"),
        (r"(?<=\d\.)\((\d+)\)", r"\\overline{\1}"),  # 0.(3)
        (r"(\d{1,20}\.\d{0,12}?)(\d{1,8}?)\2\2+(?:\.\.\.|\\[lc]?dots(?![A-Za-z]))", r"\1\\overline{\2}"),  # 0.1666...
        (r"<=|=<", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
    )
)
_MARKDOWN = re.compile(
    r"\*\*\*?((?:[^*\n]|(?<=\s)\*(?=\s))+?)\*\*\*?|(?<!\w)__([^_\n]+?)__(?!\w)|(?<![\w*])\*(?!\s)([^*\n]+?)(?<!\s)\*(?![\w*])|(?<!`)`([^`\n]+)`(?!`)"
)
# x**2: a power of Python's, where no bold type can begin
_STARS = re.compile(r"(?<![A-Za-z*]{2})(?<=[A-Za-z0-9)])\*\*(?=\(?-?[\dA-Za-z](?!\w*[.!]?\*\*))")

_LONGEST = 6000  # characters that are read, the last ones: an answer stands at the end
_RUN = re.compile(r"[\d,.' _]{150,}|([^\w\s])\1{40,}")


def bounded(text: str) -> str:
    """What can be read in a moment, whatever a model wrote: the last characters, without runs of digits or marks that are no number."""
    return _RUN.sub(" ... ", re.sub(r"[ \t]{3,}", "  ", text[-_LONGEST:]))


def folded(text: str) -> str:
    """NFKC without its traps: ``x²`` keeps its exponent, ``1½`` its two parts, and quotation marks, brackets and minus signs are ASCII."""
    text = _DASH.sub("-", text)
    text = _VULGAR.sub(" ", _SUPERSCRIPT.sub(lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text))
    return _SIGN.sub(lambda m: _SIGNS[m.group()], unicodedata.normalize("NFKC", _SIGN.sub(lambda m: _SIGNS[m.group()], text)))


def without_markdown(text: str) -> str:
    """Bold, italic and code marks off: ``**42**`` is ``42``. A power (``2**3``) stays."""
    text = _STARS.sub("^", text)
    return _MARKDOWN.sub(lambda m: next(g for g in m.groups() if g is not None), text)


def plain(text: str) -> str:
    """An expression in one notation, white space made single. Applied to what ``folded`` gives, or to raw text."""
    text = folded(text)
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    return " ".join(text.split())


def tight(text: str) -> str:
    """``plain`` without any white space, trailing full stop or dollar signs: for comparing how two expressions are written. A command keeps
    apart from a letter behind it."""
    text = re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])", "\\1\0", plain(text))
    text = re.sub(r"(?<=\d)\s+(?=\d)", "\0", text)  # 4 2 is no 42
    return re.sub(r"\s+", "", text).strip("$").rstrip(".。").replace("\0", " ")


def braced(text: str, start: int) -> str | None:
    """What stands in the braces that open at ``start``; None where they are never closed. ``\\{`` is no brace of LaTeX's."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 1 : i]
        i += 1
    return None


def split_top(text: str, marks: str) -> list[str]:
    """``text`` cut at each of the characters ``marks`` that stands in no brackets of any kind."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 and c in marks and text[i - 1 : i] != "\\":
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
