"""Object hallucination by extraction (ObjHal; Rohrbach et al. 2018 as refined by Yu et al. 2024, arXiv:2405.17220): of the captions that
name an object, how many name one that is not there; of the objects named, how many; and how many of those that are there are named.

Objects are those that an extractor listed (a model's output file), or those of the list that stand in the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from keel.core.errors import DataError
from keel.data.rows import RawRow
from keel.evaluate.hallucination.chair import Judged, score
from keel.evaluate.hallucination.chair_files import Caption, read_captions, read_truth
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import id_of, read_rows, setting
from keel.evaluate.hallucination.result import Result
from keel.rewards.reading.lexicon import Finder, Lexicon, Mention, original_mentions, read_objects, read_pairs
from keel.rewards.reading.words import Words, own

FIELD = "extract_objs"
SHORT = 3  # words; of shorter captions the script extracts nothing
_IDS = ("id", "image_id", "image")
_ARTICLES = frozenset({"a", "an", "the"})
Find = Callable[[Caption], tuple[Mention, ...]]
InText = Callable[[str], tuple[Mention, ...]]


def run(config: HallucinationConfig) -> Result:
    """Captions by the files that ``config`` names. Raises DataError."""
    original = config.mode == "original"
    names = read_objects(setting(config.objects, "objects", "a line an object, its names"), original)
    pairs = read_pairs(config.pairs)
    if original:
        pairs = {name: name for name in names if len(name.split(" ")) > 1} | pairs
    lexicon, words = Lexicon(names, pairs), own()
    in_text: InText = partial(original_mentions, lexicon=lexicon, words=words) if original else Finder(lexicon, words)
    captions, own_truth = read_captions(config.file, original)
    there, asked = read_truth(config, captions, own_truth, lexicon, in_text)
    listed = _extracted(config)
    find, way = (lambda c: in_text(c.text)), "words of the list in the captions"
    unread: list[str] = []
    if listed is not None:
        unread = [c.name for c in captions if c.name not in listed and c.text.strip()]
        if unread and original:
            raise DataError(f"{unread[0]}: the extractor listed nothing, not even []", "run it again for this caption, or use mode=fixed")
        refine = (lambda o: _original_objects(o, lexicon, words)) if original else (lambda o: _objects(o, lexicon))
        find, way = _by_extraction(listed, refine, original), "listed by an extractor"
    judged = [_judged(c, find(c), there[c.image]) for c in captions if c.name not in unread]
    said = {c.image for c in captions}
    found = score(judged, {i: there[i] for i in asked if i not in said}, config.draws, count_empty=original)
    rates = {"response": found.rates["chair_s_with_objects"], "object": found.rates["chair_i"], "chair_s": found.rates["chair_s"]}
    named = {**found.named, "not_extracted": unread} if unread else found.named
    ways = {"objects": way, "words": f"{words.name}, in place of the script's lemmatiser and tagger" if original else words.name}
    return replace(found, rates=rates, named=named, ways=ways, printed=printed(judged) if original else {})


def printed(judged: Sequence[Judged]) -> dict[str, Any]:
    """The script's numbers; None where it would divide by 0."""

    def part(above: float, below: float) -> float | None:
        return above / below if below else None

    wrong = sum(bool(j.wrong) for j in judged)
    with_objects, mentions = sum(bool(j.mentions) for j in judged), sum(len(j.mentions) for j in judged)
    refined, instances = part(wrong, with_objects), part(sum(len(j.wrong) for j in judged), mentions)
    right, known = sum(j.covered for j in judged), sum(len(j.there) for j in judged)
    return {
        "CHAIRs": part(wrong, len(judged)),
        "CHAIRs_refine": refined,
        "CHAIRi": instances,
        "obj_rec": part(right, known),
        "sentence_num": len(judged),
        "coco_sentence_num": with_objects,
        "coco_word_count": right,
        "gt_word_count": known,
        "avg_word_len": part(sum(len(j.caption.text.strip().split(" ")) for j in judged), len(judged)),
        "correct_rate": None if refined is None else 1 - refined,
        "object_correct_rate": None if instances is None else 1 - instances,
    }


def _judged(caption: Caption, mentions: tuple[Mention, ...], there: frozenset[str]) -> Judged:
    return Judged(caption, mentions, tuple(m for m in mentions if m.node not in there), there)


def _extracted(config: HallucinationConfig) -> dict[str, list[str]] | None:
    """What the extractor listed, by the caption's id: of ``extracted``, or of the rows themselves; None where there is no such list.
    Raises DataError."""
    rows = read_rows(config.extracted or config.file) if config.extracted or not config.file.endswith(".json") else ()
    found: dict[str, list[str]] = {}
    for row in rows:
        value = row.values.get(FIELD)
        if value is None and not config.extracted:
            continue
        found[id_of(row, _IDS)] = _list(row, value)
    return found if found or config.extracted else None


def _list(row: RawRow, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise DataError(f"{row.place}: {FIELD}: must be a list of texts, is {value!r:.60}", f'write {FIELD}: ["dog", ...]')
    return value


def _by_extraction(listed: Mapping[str, Sequence[str]], refine: Callable[[Sequence[str]], list[Mention]], original: bool) -> Find:
    def find(caption: Caption) -> tuple[Mention, ...]:
        if original and len(caption.text.split()) <= SHORT:
            return ()
        return tuple(refine(listed.get(caption.name, ())))

    return find


def _objects(listed: Sequence[str], lexicon: Lexicon) -> list[Mention]:
    """Each object once, whatever its names."""
    finder = Finder(lexicon, own())
    found: dict[str, Mention] = {}
    for text in listed:
        for mention in finder(text):
            found.setdefault(mention.node, mention)
    return list(found.values())


def _original_objects(listed: Sequence[str], lexicon: Lexicon, words: Words) -> list[Mention]:
    """As the script refines a list: pairs of words that it knows, else the noun; each word once, so that two names of one object are two.

    The script's tagger leaves adjectives out; here it is the last words of a text that are a name.
    """
    refined: list[str] = []
    for text in listed:
        ones = [words.singular(w) for w in words.tokens(text.lower()) if w not in _ARTICLES]
        doubled, i = list[str](), 0
        while i < len(ones):
            pair = " ".join(ones[i : i + 2])
            if pair in lexicon.pairs:
                doubled.append(lexicon.pairs[pair])
            i += 2 if pair in lexicon.pairs else 1
        refined += doubled or [next((s for n in range(len(ones)) if (s := " ".join(ones[n:])) in lexicon.node_of), " ".join(ones))]
    unique = list(dict.fromkeys(refined))
    if "toilet" in unique and "seat" in unique:
        unique.remove("seat")
    return [Mention(w, lexicon.node_of[w], i) for i, w in enumerate(unique) if w in lexicon.node_of]
