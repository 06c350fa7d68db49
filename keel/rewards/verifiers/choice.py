"""Multiple choice: which option does an answer settle on?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from keel.rewards.reading.claims import HEDGE, RETRACTED
from keel.rewards.reading.notation import bounded, without_markdown
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import TruthConfig
from keel.rewards.verifiers.truth import column_of, no_truth, text_of
from keel.types import Prompt


class ChoiceReward(TruthConfig):
    """1 when the option that the answer settles on is the right one; else 0."""

    type: Literal["choice"] = Field(default="choice", description="Multiple choice.")
    options: str = Field(
        default="choices", description="Key of the prompt's extra columns with the options' texts (a list, or letter: text); may be absent."
    )


_L = r"[A-Z](?![A-Za-z0-9]|['’][A-Za-z])"
_OPEN, _CLOSE = r"[\(\[<{（【\"'“]?\s*", r"\s*[\)\]>}）】\"'”]?"
_ONE = (  # B, (B), AC
    rf"{_OPEN}(?:(?i:option|choice|answer|选项)\s*)?{_OPEN}(?:[A-Z](?=[A-Z]*(?![A-Za-z0-9]|['’][A-Za-z])))+{_CLOSE}"
    r"(?:[.):：]|、(?!\s*[A-Z](?![A-Za-z])))?"
)
_NOT = re.compile(r"\s*(?:not|never|不是|不选)\s+(?!sure|certain|only)|\s*(?:不是|不选)", re.IGNORECASE)
_AND = r"\s*(?:,|、|/|&|;|，|和|与|及|\band\b|,\s*and\b)\s*"
_LETTERS = re.compile(rf"\s*(?>{_ONE})(?>{_AND}{_ONE})*+")
_ANNOUNCED = re.compile(
    r"(?P<box>\\boxed\s*\{\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*)"
    r"|####\s*|<answer>\s*|【(?:正确|参考)?答案】\s*[:：]?\s*"
    r"|(?:\b(?:answer|choice|option)s?\b(?:\s+(?:to|for)\s[^.:\n]{0,60}?)?\s*(?:(?P<not>(?:is|are|was)(?:n['’]t|\s+not))|(?:is|are|was|would\s+be|should\s+be|must\s+be)"
    r"(?:\s+(?:therefore|thus|hence|then|clearly|definitely|indeed|probably|likely|either))*\s*[:：]?|[\"']?\s*[:：=]\s*[\"']?|->))\s*(?:(?:the\s+)?(?:option|choice|answer|letter)\s*[:：]?\s*)?"
    r"|\b(?P<dont>(?:don['’]t|do\s+not|not|never|won['’]t)\s+)?(?:choose|pick|select|chose|go\s+with|going\s+with)\s+(?:(?:option|choice|answer|letter)\s*)?"
    r"|(?:答案|选项|结论)(?:应该|应|就|则)?(?:(?P<nicht>不是|并非|不为)|[是为选]|[:：])\s*[:：]?\s*(?:选项)?\s*"
    r"|(?P<nie>不应?该?|不能|别)?(?:应该?|故|所以|因此|我|该)?选(?:择|项)?(?:的是|是)?\s*[:：]?\s*",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    rf"(?P<letter>{_OPEN}(?:option|choice|answer|选项)?\s*{_OPEN}{_L}{_CLOSE}(?:{_AND}{_OPEN}{_L}{_CLOSE}){{0,4}})\s*(?:(?:选项\s*是?|is|are|would\s+be|是|都是?)\s*(?:both\s+|all\s+|都)?(?:the\s+)?(?:correct|right|best|正确的?|对的)(?!ly)|(?:选项)?\s*正确(?!吗|与否))",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|why|suppose|unless)\s+(?:the\s+)?(?:correct\s+|right\s+|final\s+)?$|(?:如果|假设|若|是否)\s*(?:正确)?$", re.IGNORECASE
)
_CONCLUDED = re.compile(
    rf"\b(?:(?:so|therefore|thus|hence|then)\b[,:]?\s+(?:it(?:'s|\s+is|\s+must\s+be)\s+)?|it(?:'s|\s+is|\s+must\s+be)\s+"
    r"|(?:leaves|leaving|left\s+with)\s+(?:us\s+with\s+)?(?:only\s+)?|but\s+|my\s+(?:guess|pick|vote)\s+is\s+"
    r"|I(?:['’]d|['’]ll|\s+would|\s+will)?\s+(?:say|guess|answer)\s+)"
    rf"(?P<letter>{_ONE})\s*(?=[.!。]?\s*(?:\n|\Z))"
)
_CORRECTED = re.compile(  # "Answer: C. Wait, let me recheck. Actually B."
    r"\b(?:actually|no|nope|wait|correction|sorry|oops|scratch\s+that|instead|on\s+second\s+thoughts?|let\s+me\s+(?:fix|correct)(?:\s+that)?)\b|不对|更正|错了|抱歉",
    re.IGNORECASE,
)
_IN_PLACE = re.compile(
    rf"(?:[\s,.:;!，：。—-]|\b(?:no|wait|actually|sorry|it(?:'s|\s+is|\s+should\s+be)|that(?:'s|\s+is)|should\s+be|make\s+that|I\s+mean)\b|应该?是|应为|应选|是|选)*"
    rf"(?P<letter>{_ONE})\s*(?=[.!。]?\s*(?:\n|\Z))"
)
_NOT_BUT = re.compile(rf"(?:n['’]t|\bnot|不是)\s*{_ONE}\s*[,，]?\s*(?:but(?:\s+rather)?\s+|而是)(?P<letter>{_ONE})")
_OR = re.compile(
    rf"^[\s,.;)\]】）\"'。，；*]*(?:[^\n.;。；A-Z]{{0,30}}?)(?:\b(?:or|maybe|perhaps|possibly|alternatively|could\s+(?:also\s+)?be|might\s+(?:also\s+)?be)\b|或者?|也许|可能|还是)"
    rf"(?:\s*(?:maybe|perhaps|possibly|also|even|be|it\s+is|option|choice|the\s+answer\s+is|是|选))*\s*(?P<other>{_ONE})",
    re.IGNORECASE,
)
_BUT = re.compile(rf"(?:\bbut(?:\s+rather)?\s+|而是|应该是|应为|,?\s*it(?:\s+is|'s)\s+|instead,?\s+)(?P<instead>{_ONE})", re.IGNORECASE)
_ALONE = re.compile(rf"^\W*(?>{_ONE}(?>{_AND}{_ONE})*+)\W*$")
_EITHER = re.compile(r"(?:either|要么)\s*", re.IGNORECASE)
_DRESSED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*([^{}]*?)\s*\}|\$\s*(\(?[A-Z]\)?)\s*\$")  # \text{B}, $B$
_SMALL = re.compile(r"\s*\(?([a-h])\)?\s*(?:[.,。}<]|\n|\Z)")
_LEADING = re.compile(r"^\s*[\(\[（【]?\**([A-Z])\**\s*(?:[\)\].:：、）】]|\n|$)")
_NEGATED = re.compile(r"(?:\b(?:not|isn't|never|neither|nor|except)|不是|并非|不)\s*(?:the\s+)?$", re.IGNORECASE)


@of_answers
def choice(config: ChoiceReward) -> TextReward:
    """1 when the chosen option is the right one; else 0. The truth is a letter (or several, where all of them are to be chosen), the
    option's text, or its index (from 0) where the row has options; a failure where it is none of these. A text that offers more options
    than are right is wrong."""

    def judge(prompt: Prompt, text: str) -> Score:
        options = _options(column_of(prompt.meta, config.options))
        raw = column_of(prompt.meta, config.truth)
        several = raw if isinstance(raw, list | tuple) else [raw]
        if any(text_of(r) is None for r in several) or not several:
            return no_truth(prompt, config.truth)
        wanted = [_wanted(str(r), r, options) for r in several]
        if not all(wanted):
            bad = several[wanted.index(frozenset())]
            return failure(f"no option: the right answer {str(bad)!r} is neither a letter nor one of the row's {config.options!r}")
        found = chosen_options(text, options)
        if not found:
            return Score(0.0, "no option was chosen")
        told = f"chose {', '.join(sorted(found))}"
        right = found in wanted
        return Score(float(right), told + (", which is right" if right else f", not {', '.join(sorted(wanted[0]))}"))

    return judge


def chosen(text: str, options: Mapping[str, str] | None = None) -> str | None:
    """The one letter that a text settles on; None where it settles on none, or on several."""
    found = chosen_options(text, options)
    return next(iter(found)) if len(found) == 1 else None


def chosen_options(text: str, options: Mapping[str, str] | None = None) -> frozenset[str]:
    """The letters that a text settles on: announced ones, letters alone (the whole text, the last line, the start), else the one option
    whose words stand in the text. What it offers beside its choice ("B or C") belongs to it; what it takes back does not."""
    text = without_markdown(unicodedata.normalize("NFKC", bounded(text))).strip()
    text = _DRESSED.sub(lambda m: m[1] or m[2], text)
    announced = _announced(text, options)
    if announced:
        return _settled(announced, text)
    lines = [line for line in text.splitlines() if line.strip()]
    for candidate in (text, _last_cell(lines[-1]) if lines else ""):
        offered = re.split(r"\s+or\s+|\s*或者?\s*", re.sub(r"^\s*either\s+", "", candidate))
        if len(offered) > 1 and all(_ALONE.match(o) for o in offered):
            return frozenset().union(*(_letters(o, options) for o in offered))
        if _ALONE.match(candidate) and (found := _letters(candidate, options)):
            return found
        if (small := re.match(r"^\W*([a-h])\W*$", candidate)) and (found := _letters(small[1].upper(), options)):
            return found
    leading = _LEADING.match(text)
    if leading and (not options or leading.group(1) in options):
        if instead := _corrections(text, leading.end(), options):
            return instead[-1][2]
        last = re.split(r"(?<=[.!?。])\s+|\n", text)[-1]
        if _ALONE.match(last) and (settled := _letters(last, options)) and len(last) < len(text):
            return settled if RETRACTED.search(text) else settled | frozenset(leading.group(1))
        other = _OR.match(text[leading.end(1) :])
        chosen = frozenset(leading.group(1)) | (_letters(other["other"], options) if other else frozenset())
        return chosen | _contradicted(text[leading.end() :], chosen, options)
    return _by_words(text, options) or _by_place(text, options)


Announced = tuple[int, int, frozenset[str]]  # where, to where, letters


def _announced(text: str, options: Mapping[str, str] | None) -> list[Announced]:
    """Every choice that the text announces, in order."""
    found: list[Announced] = []
    for match in _ANNOUNCED.finditer(text):
        if not _supposed(text, match.start()):
            denied = match["not"] or match["dont"] or match["nicht"] or match["nie"]
            stated = _NOT.match(text, match.end())
            read = _instead(text, stated.end() if stated else match.end(), options) if denied or stated else _named(text, match, options)
            if read is not None and read[1]:
                found.append((match.start(), *read))
    for match in [*_CONCLUDED.finditer(text), *_NOT_BUT.finditer(text)]:
        if letters := _letters(match["letter"], options):
            found.append((match.start(), match.end(), letters))
    for match in _IS_RIGHT.finditer(text):
        denied = _supposed(text, match.start()) or re.match(r"\s*not", text[match.end() :])
        if not denied and (letters := _letters(match["letter"], options)):
            found.append((match.start(), match.end(), letters))
    found.sort(key=lambda f: (f[0], f[1]))
    if found:
        found += _corrections(text, found[0][1], options)
    return sorted(found, key=lambda f: (f[0], f[1]))


def _corrections(text: str, after: int, options: Mapping[str, str] | None) -> list[Announced]:
    """Letters that the text puts in the place of its choice: "Wait, actually B." """
    found: list[Announced] = []
    for match in _CORRECTED.finditer(text, after):
        instead = _IN_PLACE.match(text, match.end())
        if instead and (letters := _letters(instead["letter"], options)):
            found.append((instead.start("letter"), instead.end(), letters))
    return found


def _supposed(text: str, at: int) -> bool:
    """ "If the answer is B": nothing is announced."""
    return bool(_SUPPOSED.search(text[max(0, at - 30) : at]))


def _instead(text: str, at: int, options: Mapping[str, str] | None) -> tuple[int, frozenset[str]] | None:
    """Behind "is not": what is chosen instead ("not C but B"), where to."""
    sentence = re.split(r"[.。!?\n](?:\s|$)", text[at:], maxsplit=1)[0]
    instead = _BUT.search(sentence)
    return None if instead is None else (at + instead.end(), _letters(instead["instead"], options))


def _named(text: str, match: re.Match[str], options: Mapping[str, str] | None) -> tuple[int, frozenset[str]] | None:
    """Behind an announcement: letters, with those offered beside them; a small letter alone; else an option's words."""
    either = _EITHER.match(text, match.end())
    at = either.end() if either else match.end()
    named = _LETTERS.match(text, at)
    letters = _letters(named.group(), options) if named else frozenset()
    if named and letters and not _pronoun(text, named.end(), named.group()):
        stop = named.end()
        while other := _OR.match(text[stop : stop + 80]):
            letters, stop = letters | _letters(other["other"], options), stop + other.end()
        return stop, letters | _contradicted(text[named.end() : named.end() + 120], letters, options)
    small = _SMALL.match(text, at)
    if small:
        return small.end(), _letters(small[1].upper(), options)
    said = text[at:].partition("}")[0] if match["box"] else re.split(r"[.。\n]", text[at:], maxsplit=1)[0]
    return at, _by_words(said, options)


def _contradicted(behind: str, letters: frozenset[str], options: Mapping[str, str] | None) -> frozenset[str]:
    """The option whose very words stand behind a letter of another: "B) red"."""
    if not options or len(letters) != 1:
        return frozenset()
    said = _normal(re.split(r"[\n.。;]|\bbecause\b|\bsince\b", behind, maxsplit=1)[0].strip(" .):：、）]】}*-—,，"))
    named = [letter for letter, words in options.items() if words and said == _normal(words)]
    return frozenset(named) if named and not letters & set(named) else frozenset()


def _settled(announced: list[Announced], text: str) -> frozenset[str]:
    """The last choice, and earlier ones that are not taken back. Models think before they answer: what is announced as final, in a box or
    behind ####, stands alone."""
    start, _, letters = announced[-1]
    for begin, end, earlier in announced[:-1]:
        if begin >= start or earlier <= letters or re.match(r"\s*[?？]", text[end:]):
            continue
        before_last = text[max(0, start - 40) : start + 30]
        if RETRACTED.search(text[end:start]) and not HEDGE.search(text[start - 20 : start]):
            continue
        if re.search(r"(?i)\bbut\s+(?:I|we)\b", before_last) and letters < earlier:  # "B or C, but I pick B"
            continue
        if re.search(r"(?i)\bfinal|最终|最后|综上", before_last) and not re.search(
            r"(?i)\bfinal|最终|最后", text[max(0, begin - 40) : end]
        ):
            continue
        letters = letters | earlier
    return letters


def _letters(text: str, options: Mapping[str, str] | None) -> frozenset[str]:
    upper = re.sub(r"(?i)option|choice|answer|\band\b|\bor\b", " ", text)
    found = re.findall(r"[A-Z]", upper)
    if len(found) > 10 or (options and any(f not in options for f in found)):
        return frozenset()
    return frozenset(found)


def _pronoun(text: str, end: int, letter: str) -> bool:
    """ "The answer is A cat", "I think": an article or a pronoun, no option."""
    bare = letter.strip()
    return (
        bare in ("A", "I")
        and bool(re.match(r"\s+[a-z]{2,}", text[end:]))
        and not re.match(r"\s+(?:because|since|as|is|and|or|for|which|due|given|based|but|by|with|from|if|when|here|not)\b", text[end:])
    )


def _by_words(text: str, options: Mapping[str, str] | None) -> frozenset[str]:
    """The one option whose words stand in the text, and are not denied there."""
    whole = _normal(text)
    named = [letter for letter, words in (options or {}).items() if words and _stands(_normal(words), whole)]
    longest = [x for x in named if not any(x != y and _normal((options or {})[x]) in _normal((options or {})[y]) for y in named)]
    return frozenset(longest) if len(longest) == 1 else frozenset()


_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_PLACE = re.compile(
    rf"\b(?:option|choice|answer)\s+(?:number\s+|#\s*)?(\d)\b|\b({'|'.join(_PLACES)})\s+(?:option|choice|answer|one)\b", re.I
)


def _by_place(text: str, options: Mapping[str, str] | None) -> frozenset[str]:
    """The one option that the text names by its place: "option 3", "the third option"."""
    named = {
        int(m[1]) if m[1] else _PLACES.index(m[2].lower()) + 1 for m in _PLACE.finditer(text) if not _NEGATED.search(text[: m.start()])
    }
    letters = list(options or {})
    spoken = {word for word in re.findall(r"[a-z]+", text.lower()) if word in _PLACES}
    if len(named) != 1 or len(spoken) > 1 or not 1 <= min(named) <= len(letters):  # "the first or the third option"
        return frozenset()
    return frozenset(letters[n - 1] for n in named)


def _last_cell(line: str) -> str:
    """Of a row of a table its last cell; any other line as it is."""
    row = re.fullmatch(r"\s*\|(.*)\|\s*", line)
    return row[1].rpartition("|")[2].strip() if row else line


def _stands(words: str, text: str) -> bool:
    """As words of their own, and not denied."""
    edge = r"(?<![^\W_])", r"(?![^\W_])"
    pattern = (edge[0] if words[:1].isascii() else "") + re.escape(words) + (edge[1] if words[-1:].isascii() else "")
    found = list(re.finditer(pattern, text))
    return bool(found) and not any(_NEGATED.search(text[: m.start()]) for m in found)


def _options(found: Any) -> dict[str, str] | None:
    """Letter -> text. Data sets write a list, a mapping, or a mapping of two lists (ARC: {text: [...], label: [...]})."""
    if isinstance(found, Mapping) and isinstance(found.get("text"), list) and isinstance(found.get("label"), list):
        return {str(k).strip().upper(): str(v) for k, v in zip(found["label"], found["text"], strict=False)}
    if isinstance(found, Mapping):
        return {str(k).strip().upper(): str(v) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return {chr(ord("A") + i): _without_letter(str(v), chr(ord("A") + i)) for i, v in enumerate(found)}
    return None


def _without_letter(option: str, letter: str) -> str:
    return re.sub(rf"^\s*\(?{letter}[\).:：、]\s*", "", option)


def _wanted(truth: str, raw: Any, options: Mapping[str, str] | None) -> frozenset[str]:
    """The right letters; none where the truth is no option."""
    if isinstance(raw, int) and options:
        letters = list(options)
        return frozenset(letters[raw]) if 0 <= raw < len(letters) else frozenset()
    plain = truth.strip()
    match = re.match(r"^\W*([A-Za-z])\W*$", plain)
    if match and (not options or match.group(1).upper() in options):
        return frozenset(match.group(1).upper())
    by_text = [letter for letter, words in (options or {}).items() if _normal(words) == _normal(plain)]
    if len(by_text) == 1:
        return frozenset(by_text)
    return chosen_options(plain, options)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。")


ROW = TextRow(ChoiceReward, choice)
