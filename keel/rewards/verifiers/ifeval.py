"""Instructions that a program can check, as a reward: the kinds of IFEval (Zhou et al. 2023, arXiv:2311.07911, table 1), each a function of
the text and the instruction's arguments. The names of kinds and arguments are those of the published data; Chinese text is read by
Chinese marks and characters."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from keel.data.text import count_keywords, language, sentences
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import IsolatedConfig
from keel.rewards.verifiers.truth import column_of
from keel.types import Prompt


class IFEvalReward(IsolatedConfig):
    """Instructions that a program can check, in English and Chinese (the 25 kinds of IFEval, Zhou et al. 2023, arXiv:2311.07911)."""

    type: Literal["ifeval"] = Field(default="ifeval", description="Checkable instructions.")
    instructions: str = Field(
        default="instruction_id_list", min_length=1, description="Key of the prompt's extra columns with the list of instruction names."
    )
    arguments: str = Field(
        default="kwargs", min_length=1, description="Key of the prompt's extra columns with one mapping of arguments an instruction."
    )
    loose: bool = Field(
        default=False, description="Also try without the first line, the last line and asterisks; the kindest reading counts."
    )
    score: Literal["all", "share"] = Field(
        default="all", description="all: 1 when every instruction is followed; share: the share of them."
    )

    def columns(self) -> Iterator[tuple[str, str]]:
        yield self.instructions, "which holds the list of instructions"


Check = Callable[[str, Mapping[str, Any]], bool]
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_NUMERALS = "一二三四五六七八九十百"
_CONSTRAINED = (
    ("my answer is yes", "my answer is no", "my answer is maybe"),
    ("我的答案是肯定的", "我的答案是否定的", "我的答案是不确定"),
)
_QUOTES = ('""', "“”", "「」", "『』", "«»", "„“")
_RELATIONS: Mapping[str, Callable[[int, int], bool]] = {
    "less than": lambda n, wanted: n < wanted,
    "at least": lambda n, wanted: n >= wanted,
    "at most": lambda n, wanted: n <= wanted,
    "more than": lambda n, wanted: n > wanted,
    "exactly": lambda n, wanted: n == wanted,
}


def _related(n: int, wanted: Any, relation: Any) -> bool:
    if relation not in (None, *_RELATIONS):
        raise ValueError(f"relation {relation!r} is none of: {', '.join(_RELATIONS)}")
    return _RELATIONS[relation or "at least"](n, int(wanted))


# --- words ------------------------------------------------------------------------------------------------------------------------


def _existence(text: str, given: Mapping[str, Any]) -> bool:
    return all(keyword.casefold() in text.casefold() for keyword in given["keywords"])


def _frequency(text: str, given: Mapping[str, Any]) -> bool:
    n = text.casefold().count(given["keyword"].strip().casefold())
    return _related(n, given["frequency"], given.get("relation"))


def _forbidden(text: str, given: Mapping[str, Any]) -> bool:
    return not count_keywords(text, given["forbidden_words"])


def _letters(text: str, given: Mapping[str, Any]) -> bool:
    n = text.lower().count(given["letter"].lower())
    return _related(n, given["let_frequency"], given.get("let_relation"))


def _no_comma(text: str, given: Mapping[str, Any]) -> bool:
    return not re.search("[,，、]", text)


def _capital_words(text: str, given: Mapping[str, Any]) -> bool:
    n = sum(w.isupper() for w in re.findall(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*", text))
    return _related(n, given["capital_frequency"], given.get("capital_relation"))


# --- lengths ----------------------------------------------------------------------------------------------------------------------


def _words(text: str, given: Mapping[str, Any]) -> bool:
    """Runs of letters and digits, as in the published check (a hyphen or an apostrophe parts words); each Han character is one."""
    return _related(len(re.findall(rf"[{_HAN}]|[^\W{_HAN}]+", text)), given["num_words"], given.get("relation"))


def _sentences(text: str, given: Mapping[str, Any]) -> bool:
    return _related(len(sentences(text)), given["num_sentences"], given.get("relation"))


def _paragraphs(text: str, given: Mapping[str, Any]) -> bool:
    """Paragraphs between dividers of three asterisks; the divider may stand at either end, nowhere two in a row."""
    parts = [p.strip() for p in re.split(r"\s?\*\*\*\s?", text)]
    inner = parts[(not parts[0]) : len(parts) - (not parts[-1])] if len(parts) > 1 else parts
    return all(inner) and len(inner) == int(given["num_paragraphs"])


def _first_word(text: str, given: Mapping[str, Any]) -> bool:
    paragraphs = [p.strip() for p in re.split(r"\n\n", text) if p.strip()]
    n = int(given["nth_paragraph"])
    if len(paragraphs) != int(given["num_paragraphs"]) or n > len(paragraphs):
        return False
    start, wanted = paragraphs[n - 1].lstrip("'\"“‘「").casefold(), given["first_word"].strip().casefold()
    after = start[len(wanted) : len(wanted) + 1]
    return start.startswith(wanted) and (language(wanted) in ("zh", "ja") or not (after.isalnum() or after in ("-", "_")))


# --- content and format -----------------------------------------------------------------------------------------------------------


def _placeholders(text: str, given: Mapping[str, Any]) -> bool:
    return len(re.findall(r"\[.*?\]|【.*?】", text)) >= int(given["num_placeholders"])


def _postscript(text: str, given: Mapping[str, Any]) -> bool:
    """The marker, dots and spaces inside it as one likes (P.S., p. s., PS ... of P.S. only the letters are fixed), then something."""
    marker = (given.get("postscript_marker") or "P.S.").strip()
    letters = [re.escape(c) for c in marker if c not in ". "]
    pattern = r"\.?\s?".join(letters) + r"[.:：]?" if re.fullmatch(r"[A-Za-z. ]+", marker) else re.escape(marker)
    return bool(re.search(rf"(?:^|\n|\s|[。！？])\s*{pattern}.*\S", text, re.IGNORECASE))


def _bullets(text: str, given: Mapping[str, Any]) -> bool:
    found = re.findall(r"^\s*\*[^*].*$|^\s*-.*$|^\s*[•·].*$", text, re.MULTILINE)
    return len(found) == int(given["num_bullets"])


def _highlights(text: str, given: Mapping[str, Any]) -> bool:
    """Single and double asterisks are looked for one after the other, as in the published check."""
    marked = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(m.strip()) for m in marked) >= int(given["num_highlights"])


def _sections(text: str, given: Mapping[str, Any]) -> bool:
    name = re.escape(given["section_spliter"].strip())
    number = rf"(?:\d+|[{_NUMERALS}]+|[IVX]+\b)"
    return len(re.findall(rf"第\s?{number}\s?{name}|{name}\s?{number}", text)) >= int(given["num_sections"])


def _json(text: str, given: Mapping[str, Any]) -> bool:
    inside = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(inside)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, given: Mapping[str, Any]) -> bool:
    return any(title.strip() for found in re.findall(r"<<([^\n]+?)>>|《([^\n]+?)》", text) for title in found)


def _constrained(text: str, given: Mapping[str, Any]) -> bool:
    return any(option in text.strip().casefold() for options in _CONSTRAINED for option in options)


def _two(text: str, given: Mapping[str, Any]) -> bool:
    parts = text.split("******")
    kept = [p.strip() for i, p in enumerate(parts) if p.strip() or 0 < i < len(parts) - 1]
    return len(kept) == 2 and all(kept) and kept[0] != kept[1]


def _repeat(text: str, given: Mapping[str, Any]) -> bool:
    return text.strip().casefold().startswith(given["prompt_to_repeat"].strip().casefold())


def _end(text: str, given: Mapping[str, Any]) -> bool:
    return text.strip().strip('"“”').casefold().endswith(given["end_phrase"].strip().casefold())


def _quoted(text: str, given: Mapping[str, Any]) -> bool:
    text = text.strip()
    return len(text) > 1 and any(text[0] == pair[0] and text[-1] == pair[1] for pair in _QUOTES)


# --- languages --------------------------------------------------------------------------------------------------------------------

_SCRIPTS = {
    "ar": "ARABIC", "fa": "ARABIC", "ur": "ARABIC", "bn": "BENGALI", "gu": "GUJARATI", "hi": "DEVANAGARI", "mr": "DEVANAGARI",
    "ne": "DEVANAGARI", "kn": "KANNADA", "ml": "MALAYALAM", "pa": "GURMUKHI", "ta": "TAMIL", "te": "TELUGU", "th": "THAI", "he": "HEBREW",
    "el": "GREEK", "ru": "CYRILLIC", "bg": "CYRILLIC", "uk": "CYRILLIC",
}  # fmt: skip
_COMMON_WORDS = {code: frozenset(words.split()) for code, words in {
    "en": "a i so the of and to in is that for it with as are be this was on you have not but they from or we can your an will at by",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es werden aus er hat dass sie nach wird",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se il ce avec sont vous nous cette mais",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o este sí porque muy sin",
    "it": "di e il la che in a per un è del le si una con non i da sono dei come gli alla nel più della anche ma questo ha lo",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou",
    "vi": "và của là có trong được cho không các với một những này để người khi đã từ như đến cũng về ra nhiều",
    "fi": "ja on ei se että oli hän joka mutta myös kun ovat ole tai sen niin kuin olla voi mitä tämä sekä vain jos",
    "sw": "ya na wa kwa ni katika la za kuwa hii au yake kama cha hiyo pia watu lakini huo hizo vya ili",
}.items()}  # fmt: skip


def _language(text: str, given: Mapping[str, Any]) -> bool:
    """Is the text in this language? By its script, and for languages in Latin letters by their commonest words. Languages that share a
    script and have no list here are told by the script alone."""
    wanted = str(given["language"]).lower().split("-")[0]
    if wanted in ("zh", "ja", "ko"):
        return language(text) == wanted
    letters = [c for c in text if c.isalpha()]
    if wanted in _SCRIPTS:
        named = sum(unicodedata.name(c, "").startswith(_SCRIPTS[wanted]) for c in letters)
        return 2 * named > len(letters)
    if wanted not in _COMMON_WORDS:
        raise ValueError(
            f"the language {wanted!r} cannot be told here (known: {', '.join(sorted(['zh', 'ja', 'ko', *_SCRIPTS, *_COMMON_WORDS]))})"
        )
    if language(text) != "en":  # not in Latin letters
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {code: sum(w in known for w in words) for code, known in _COMMON_WORDS.items()}
    return hits[wanted] == max(hits.values()) and (hits[wanted] > 0 or wanted == "en")


def _upper(text: str, given: Mapping[str, Any]) -> bool:
    return text.isupper() and _language(text.lower(), {"language": "en"})


def _lower(text: str, given: Mapping[str, Any]) -> bool:
    return text.islower() and _language(text, {"language": "en"})


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _upper,
    "change_case:english_lowercase": _lower,
    "punctuation:no_comma": _no_comma,
}


# --- the reward -----------------------------------------------------------------------------------------------------------------


@of_answers
def ifeval(config: IFEvalReward) -> TextReward:
    """Are the row's instructions followed? All of them or the share, as asked; an empty answer follows none. A failure when the row has no
    list of instructions, or one that is unknown or lacks an argument."""

    def judge(prompt: Prompt, text: str) -> Score:
        names, arguments = column_of(prompt.meta, config.instructions), column_of(prompt.meta, config.arguments)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list | tuple) or not names:
            return failure(f"no instructions: the row needs a column {config.instructions!r} with a list of names")
        given = _arguments(arguments, len(names))
        if given is None:
            return failure(f"column {config.arguments!r} must hold one mapping for each of the {len(names)} instructions")
        try:
            broken = [name for name, kwargs in zip(names, given, strict=True) if not follows(name, kwargs, text, config.loose)]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return failure(f"instruction: {error.args[0] if error.args else error}")
        value = float(not broken) if config.score == "all" else 1.0 - len(broken) / len(names)
        return Score(value, f"not followed: {', '.join(broken)}" if broken else "all followed")

    return judge


def follows(name: str, arguments: Mapping[str, Any], text: str, loose: bool = False) -> bool:
    """Does the text follow one instruction? ``loose``: also without its first line, its last line, and asterisks, in any combination
    (Zhou et al. 2023, section 2.2).

    Raises ValueError for an unknown instruction, KeyError for a missing argument."""
    check = CHECKS.get(name)
    if check is None:
        near = difflib.get_close_matches(str(name), CHECKS, 1)
        raise ValueError(f"unknown kind {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    try:
        return any(variant.strip() and check(variant, arguments) for variant in (_variants(text) if loose else [text]))
    except KeyError as error:
        raise KeyError(f"{name} needs the argument {error.args[0]!r}") from None


def _variants(text: str) -> list[str]:
    lines = text.split("\n")
    cut = [text] + ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [*cut, *(c.replace("*", "") for c in cut)]


def _arguments(found: Any, n: int) -> Sequence[Mapping[str, Any]] | None:
    """One mapping an instruction, absent arguments out (data sets write them as null); none at all where no instruction needs any."""
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    if found is None:
        return [{}] * n
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Sequence) or len(found) != n or not all(isinstance(f, Mapping) or f is None for f in found):
        return None
    return [{k: v for k, v in (f or {}).items() if v is not None} for f in found]


ROW = TextRow(IFEvalReward, ifeval)
