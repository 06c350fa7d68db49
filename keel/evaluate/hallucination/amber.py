"""AMBER: descriptions and yes-or-no questions about existence, attribute and relation (Wang et al. 2023, arXiv 2311.07397).

``amber_original.py`` counts as the published script; here the quirks are mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keel.evaluate.hallucination.amber_files import Asked, Description, Question, Vocabulary, read
from keel.evaluate.hallucination.amber_original import Found, amber_score, describe, discriminative, generative
from keel.evaluate.hallucination.amber_words import Language, language
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.result import Claim, Result, ratio, type_rates
from keel.evaluate.hallucination.yes_no import says_yes
from keel.evaluate.statistics import Interval
from keel.rewards.reading.lexicon import Finder, Lexicon
from keel.rewards.reading.words import own, singular

_TYPE: Mapping[str, str] = {"existence": "object", "number": "object", "state": "attribute", "action": "relation", "relation": "relation"}
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "existence": ("existence",), "attribute": ("state", "number", "action"), "state": ("state",), "number": ("number",),
    "action": ("action",), "relation": ("relation",),
}  # fmt: skip
ONE_CLASS = "the right answer is always {}: whoever always says it is right, so there is no F1 and no balanced accuracy"


def mentioned(text: str, vocabulary: Vocabulary, language: Language) -> list[str]:
    """The words of the vocabulary that a description names: the longest that fits, capitals and plurals aside. Where nouns are found
    otherwise than by the vocabulary, those nouns, in small letters and in the singular."""
    if language.names["nouns"] == "nltk":
        known = {singular(w): w for w in vocabulary.words}
        return [known[s] for n in language.nouns(text.lower()) if (s := singular(n)) in known]
    find = Finder(Lexicon({w: w for w in vocabulary.words}, {}), own())
    return [m.node for m in find(text)]


def examine(description: Description, nouns: Sequence[str], vocabulary: Vocabulary, language: Language) -> Found:
    """The nouns of a description against what is there. Safe words do not count; a noun that is a word for a target is a hallucination of
    that one target; other nouns are wrong unless they are, or mean the same as, a word for an object that is there."""
    there = _words(description.there, vocabulary)
    targets = _words(description.targets, vocabulary)
    counted = [n for n in nouns if n not in vocabulary.safe]
    wrong: list[str] = []
    covered: set[int] = set()
    hit: set[int] = set()
    for noun in counted:
        if noun in there:
            covered.add(there[noun])
        elif noun in targets:
            hit.add(targets[noun])
            wrong.append(noun)
        elif (like := next((i for word, i in there.items() if language.same(noun, word)), None)) is not None:
            covered.add(like)
        else:
            wrong.append(noun)
            hit |= {i for word, i in targets.items() if language.same(noun, word)}
    return Found(tuple(counted), tuple(wrong), frozenset(covered), frozenset(hit))


def _words(objects: Sequence[str], vocabulary: Vocabulary) -> dict[str, int]:
    """Word -> index of its object: the objects themselves first, then the words that stand for them."""
    found: dict[str, int] = {}
    for i, name in enumerate(objects):
        found.setdefault(name, i)
    for i, name in enumerate(objects):
        for word in vocabulary.associations[name]:
            found.setdefault(word, i)
    return found


def describing(descriptions: Sequence[Description], found: Mapping[str, Found], draws: int) -> dict[str, Interval | None]:
    """Rates of descriptions. ``hal`` is over those that name something; ``cover`` over everything that was asked: a description that is
    empty or missing names nothing. ``cog``: share of the nouns that are typical additions; ``targets_hit``: share of these that came."""
    said = [(d, found[d.name]) for d in descriptions if d.name in found]
    everything = [(d, found[d.name].covered if d.name in found else frozenset[int]()) for d in descriptions]
    return {
        "chair": ratio([(d.name, float(len(f.wrong)), float(len(f.nouns))) for d, f in said], draws),
        "hal": ratio([(d.name, float(bool(f.wrong)), 1.0) for d, f in said if f.nouns], draws),
        "cover": ratio([(d.name, float(len(covered)), float(len(d.there))) for d, covered in everything], draws),
        "cog": ratio([(d.name, float(len(f.hit)), float(len(f.nouns))) for d, f in said], draws),
        "targets_hit": ratio([(d.name, float(len(f.hit)), float(len(d.targets))) for d, f in said], draws),
    }


def asking(questions: Sequence[Question], said: Mapping[str, bool | None], draws: int) -> dict[str, Interval | None]:
    """Rates of questions. An answer that says neither is wrong. ``hallucination``: untrue yes among answered questions whose answer is no;
    ``coverage``: yes among all whose answer is yes; ``balanced_accuracy``: the mean of the shares of right answers among the yes and
    among the no; ``f1`` as the benchmark has it, positive is no."""
    rows = [(q, said[q.name]) for q in questions]
    n_yes = sum(q.label for q in questions)
    n_no = len(questions) - n_yes
    found = {
        "hallucination": ratio([(q.name, float(s is True), 1.0) for q, s in rows if not q.label and s is not None], draws),
        "coverage": ratio([(q.name, float(s is True), 1.0) for q, s in rows if q.label], draws),
        "accuracy": ratio([(q.name, float(s is q.label), 1.0) for q, s in rows], draws),
        "says_no": ratio([(q.name, float(s is False), 1.0) for q, s in rows if s is not None], draws),
        "f1": None,
        "balanced_accuracy": None,
    }
    if n_yes and n_no:
        right_no = [(q, float(s is False and not q.label)) for q, s in rows]
        found["f1"] = ratio([(q.name, 2 * r, float(said[q.name] is False) + float(not q.label)) for q, r in right_no], draws)
        weight = {True: len(questions) / (2 * n_yes), False: len(questions) / (2 * n_no)}
        found["balanced_accuracy"] = ratio([(q.name, weight[q.label] * float(s is q.label), weight[q.label]) for q, s in rows], draws)
    return found


def fixed(asked: Asked, words: Language, draws: int) -> Result:
    """All rates of what was asked, by part; always saying no gains nothing, nor does silence."""
    found = {
        d.name: examine(d, mentioned(d.answer, asked.vocabulary, words), asked.vocabulary, words)
        for d in asked.descriptions
        if d.answer is not None and d.answer.strip()
    }
    said = {q.name: None if q.answer is None else says_yes(q.answer) for q in asked.questions}
    parts: dict[str, Mapping[str, Interval | None]] = {}
    notes = list(_left_out(asked))
    if asked.descriptions:
        parts["generative"] = describing(asked.descriptions, found, draws)
    for name, dimensions in _GROUPS.items():
        of = [q for q in asked.questions if q.dimension in dimensions]
        if of:
            parts[name] = asking(of, said, draws)
            if len({q.label for q in of}) == 1:
                notes.append(f"{name}: {ONE_CLASS.format('yes' if of[0].label else 'no')}")
    claims = [Claim(q.name, _TYPE[q.dimension], q.label, said[q.name]) for q in asked.questions]
    return Result(
        rates=asking(asked.questions, said, draws) if asked.questions else parts["generative"],
        coverage=_coverage(asked, said, draws),
        counts=_counts(asked, found, said),
        named=_named(asked, found, said),
        types=type_rates(claims, draws),
        parts=parts,
        ways=words.names,
        notes=tuple(notes),
        rows=(*_described(asked, found), *_answered(asked, said)),
    )


def _coverage(asked: Asked, said: Mapping[str, bool | None], draws: int) -> Interval | None:
    """The share of all items that were answered so that it can be read."""
    items = [(d.name, float(bool((d.answer or "").strip())), 1.0) for d in asked.descriptions]
    return ratio([*items, *((q.name, float(said[q.name] is not None), 1.0) for q in asked.questions)], draws)


def _named(asked: Asked, found: Mapping[str, Found], said: Mapping[str, bool | None]) -> dict[str, list[str]]:
    items = (*asked.descriptions, *asked.questions)
    return {
        "missing": [i.name for i in items if i.answer is None],
        "empty": [i.name for i in items if i.answer is not None and not i.answer.strip()],
        "unreadable": [q.name for q in asked.questions if said[q.name] is None and (q.answer or "").strip()],
        "without_nouns": [name for name, f in found.items() if not f.nouns],
    }


def _counts(asked: Asked, found: Mapping[str, Found], said: Mapping[str, bool | None]) -> dict[str, int]:
    return {
        "descriptions": len(asked.descriptions),
        "questions": len(asked.questions),
        "nouns": sum(len(f.nouns) for f in found.values()),
        **{k: len(v) for k, v in _named(asked, found, said).items()},
    }


def _left_out(asked: Asked) -> tuple[str, ...]:
    return (f"not asked, no answer is there: {', '.join(asked.left_out)}",) if asked.left_out else ()


def _described(asked: Asked, found: Mapping[str, Found]) -> list[dict[str, Any]]:
    return [
        {
            "id": d.name,
            "nouns": list(f.nouns),
            "hallucinated": list(f.wrong),
            "not_named": [o for i, o in enumerate(d.there) if i not in f.covered],
        }
        for d in asked.descriptions
        if (f := found.get(d.name)) is not None
    ]


def _answered(asked: Asked, said: Mapping[str, bool | None]) -> list[dict[str, Any]]:
    words = {True: "yes", False: "no", None: "neither"}
    return [{"id": q.name, "dimension": q.dimension, "said": words[said[q.name]], "label": words[q.label]} for q in asked.questions]


def original(asked: Asked, words: Language, draws: int) -> Result:
    """The numbers of the published script under ``printed``; the rates beside them are of its counts, with intervals, not rounded."""
    descriptions = [d for d in asked.descriptions if d.answer is not None]
    found = {d.name: describe(d, asked.vocabulary, words) for d in descriptions}
    general = generative(descriptions, list(found.values())) if descriptions else {}
    special = discriminative(asked.questions)
    exact = {"Yes": True, "No": False}
    said = {q.name: exact.get(q.answer or "") for q in asked.questions}
    parts: dict[str, Mapping[str, Interval | None]] = {"generative": describing(descriptions, found, draws)} if descriptions else {}
    answered = [q for q in asked.questions if q.answer is not None]
    printed: dict[str, Any] = {**({"generative": general} if general else {}), **special, "AMBER": amber_score(general, special)}
    rates = asking(answered, said, draws) if answered else parts.get("generative", {})
    return Result(
        rates=rates,
        coverage=_coverage(asked, said, draws),
        counts=_counts(asked, found, said),
        named=_named(asked, found, said),
        parts=parts,
        printed=printed,
        ways=words.names,
        notes=_left_out(asked),
        rows=(*_described(asked, found), *_answered(asked, said)),
    )


def run(config: HallucinationConfig) -> Result:
    """Answers against the annotations that ``config`` names. Raises DataError, and UserError for libraries that are missing."""
    asked = read(config)
    words = language(config, asked.vocabulary.words)
    return original(asked, words, config.draws) if config.mode == "original" else fixed(asked, words, config.draws)
