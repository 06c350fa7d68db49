"""CHAIR: which objects of a caption are not in the image (Rohrbach et al. 2018, arXiv 1809.02156).

CHAIR_i = mentions of objects that are not there / mentions; CHAIR_s = captions with one / captions. What is there: the objects that were
segmented, and those that people name in their captions. Beside them ObjHal's counts (Yu et al. 2024): the same share of the captions that
name an object, and the share of the objects there that were named, which is the coverage here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.core.errors import DataError
from keel.evaluate.hallucination.chair_files import Caption, read_captions, read_truth
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import setting
from keel.evaluate.hallucination.result import Result, TypeRate, ratio
from keel.rewards.checks import Verdict
from keel.rewards.reading.lexicon import Finder, Lexicon, Mention, original_mentions, read_objects, read_pairs
from keel.rewards.reading.words import of_original, own, tokens

Find = Callable[[str], tuple[Mention, ...]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A caption with the objects that it names (``mentions``), those of them that are not there (``wrong``), and what is there."""

    caption: Caption
    mentions: tuple[Mention, ...]
    wrong: tuple[Mention, ...]
    there: frozenset[str]

    @property
    def covered(self) -> int:
        """How many different objects that are there the caption names."""
        return len({m.node for m in self.mentions} & self.there)


def judge(captions: Sequence[Caption], there: Mapping[str, frozenset[str]], find: Find) -> list[Judged]:
    """Captions against the objects ``there`` by image."""
    found = []
    for caption in captions:
        objects = there[caption.image]
        mentions = find(caption.text)
        found.append(Judged(caption, mentions, tuple(m for m in mentions if m.node not in objects), objects))
    return found


def score(judged: Sequence[Judged], silent: Mapping[str, frozenset[str]], draws: int, *, count_empty: bool) -> Result:
    """Rates of judged captions. ``silent``: what is there in images that have no caption; it counts for the coverage. ``count_empty``:
    captions without text are captions without hallucination (as in the script), or no captions."""
    said = [j for j in judged if count_empty or j.caption.text.strip()]
    rates = {
        "chair_i": ratio([(j.caption.image, float(len(j.wrong)), float(len(j.mentions))) for j in said], draws),
        "chair_s": ratio([(j.caption.image, float(bool(j.wrong)), 1.0) for j in said], draws),
        "chair_s_with_objects": ratio([(j.caption.image, float(bool(j.wrong)), 1.0) for j in said if j.mentions], draws),
    }
    covered = [(j.caption.image, float(j.covered), float(len(j.there))) for j in judged]
    coverage = ratio([*covered, *((image, 0.0, float(len(objects))) for image, objects in silent.items())], draws)
    empty = [j.caption.name for j in judged if not j.caption.text.strip()]
    bare = [j.caption.name for j in judged if j.caption.text.strip() and not j.mentions]
    named = {"missing": list(silent), "empty": empty, "without_objects": bare}
    counts = {
        "captions": len(judged),
        "images": len({j.caption.image for j in judged}),
        "mentions": sum(len(j.mentions) for j in said),
        "hallucinated_mentions": sum(len(j.wrong) for j in said),
        **{k: len(v) for k, v in named.items()},
    }
    notes = ("no caption names an object of the list: there is no CHAIR_i",) if rates["chair_i"] is None else ()
    return Result(
        rates, coverage, counts, named, {"object": TypeRate(rates["chair_i"], coverage)}, notes=notes,
        rows=tuple(_row(j) for j in judged), verdicts=tuple(_verdict(j) for j in said if j.caption.text.strip()),
    )  # fmt: skip


def printed(judged: Sequence[Judged]) -> dict[str, Any]:
    """CHAIRs and CHAIRi of the published script; None where it would divide by 0."""
    mentions = sum(len(j.mentions) for j in judged)
    return {
        "CHAIRs": sum(bool(j.wrong) for j in judged) / len(judged) if judged else None,
        "CHAIRi": sum(len(j.wrong) for j in judged) / mentions if mentions else None,
    }


def run(config: HallucinationConfig) -> Result:
    """Captions by the files that ``config`` names. Raises DataError."""
    original = config.mode == "original"
    lexicon = Lexicon(read_objects(setting(config.objects, "objects", "a line an object, its names"), original), read_pairs(config.pairs))
    words = of_original() if original else own()
    if original:
        _check_script(lexicon, config)
    find: Find = (lambda text: original_mentions(text, lexicon, words)) if original else Finder(lexicon, words)
    captions, own_truth = read_captions(config.file, original)
    there, asked = read_truth(config, captions, own_truth, lexicon, find)
    judged = judge(captions, there, find)
    said = {c.image for c in captions}
    silent = {image: there[image] for image in asked if image not in said}
    found = score(judged, silent, config.draws, count_empty=original)
    ways = {"words": words.name, "pairs": config.pairs or "none: pass pairs=FILE to have some"}
    notes = found.notes + _notes(config, judged, own_truth)
    if not original:
        return _with(found, ways, notes, {})
    return _with(found, ways, notes, printed(judged))


def _with(found: Result, ways: Mapping[str, str], notes: tuple[str, ...], numbers: Mapping[str, Any]) -> Result:
    return replace(found, printed=numbers, ways=ways, notes=notes)


def _check_script(lexicon: Lexicon, config: HallucinationConfig) -> None:
    """Raises DataError for names that the script, which knows spaces only, cannot find."""
    odd = next((n for n in lexicon.node_of if len(tokens(n)) > 1 and " " not in n.strip() and "-" not in n and not n.isascii()), None)
    if odd is not None:
        raise DataError(f"{config.objects}: the published script cannot find {odd!r}: it splits captions at spaces", "use mode=fixed")


def _notes(config: HallucinationConfig, judged: Sequence[Judged], own_truth: Mapping[str, Any]) -> tuple[str, ...]:
    notes: list[str] = []
    if config.instances and not config.references:
        notes.append("the truth is what was segmented alone: objects that only people's captions name count as not there; see references")
    bare = sum(not j.there for j in judged)
    if bare:
        notes.append(f"{bare} captions are of images in which nothing is known to be there: all that they name is wrong")
    if own_truth and (config.instances or config.references or config.truth):
        notes.append("the rows of captions say themselves what is there; this is added to the files")
    return tuple(notes)


def _verdict(j: Judged) -> Verdict:
    wrong = [("existence", m.word) for m in j.wrong]
    return Verdict(j.caption.name, j.caption.text, ("existence",), wrong, images=(j.caption.image,))


def _row(j: Judged) -> dict[str, Any]:
    return {
        "id": j.caption.name,
        "image": j.caption.image,
        "mentions": [m.node for m in j.mentions],
        "hallucinated": [{"word": m.word, "object": m.node, "position": m.position} for m in j.wrong],
        "not_named": sorted(j.there - {m.node for m in j.mentions}),
    }
