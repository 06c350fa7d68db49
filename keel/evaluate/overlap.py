"""BLEU and CIDEr: how much of the wording of a reference an answer shares. Neither says which answer is better; they stand beside people's
judgement with their correlation. Words are those of `measures.words`: in Chinese and Japanese each character is one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from keel.evaluate.measures import words

_N = 4
_SIGMA = 6.0  # of CIDEr-D's penalty on a difference of lengths, in words


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of a set of answers against their references, 0 to 100 (Papineni et al. 2002): n-grams up to 4, clipped, brevity penalty by the
    closest reference. No smoothing: 0 where no 4-gram is shared."""
    return _bleu([_counts(a, r) for a, r in zip(answers, references, strict=True)], smooth=False)


def sentence_bleu(answer: str, references: Sequence[str]) -> float:
    """BLEU of one answer, 0 to 100: an order without a match counts as half a match, the next as a quarter ... (Lin & Och 2004, Chen &
    Cherry 2014, method 3), and orders that the answer is too short for are left out."""
    return _bleu([_counts(answer, references)], smooth=True)


def _counts(answer: str, references: Sequence[str]) -> tuple[list[int], list[int], int, int]:
    """Matches and totals by order, length of the answer, length of the closest reference."""
    if not references:
        raise ValueError("BLEU and CIDEr need at least one reference")
    said, truth = words(answer), [words(r) for r in references]
    matches, totals = [], []
    for n in range(1, _N + 1):
        grams = _grams(said, n)
        most: Counter[tuple[str, ...]] = Counter()
        for r in truth:
            most |= _grams(r, n)
        matches.append(sum((grams & most).values()))
        totals.append(sum(grams.values()))
    closest = min((len(r) for r in truth), key=lambda length: (abs(length - len(said)), length))
    return matches, totals, len(said), closest


def _bleu(rows: Sequence[tuple[list[int], list[int], int, int]], *, smooth: bool) -> float:
    matches, totals = [sum(row[0][n] for row in rows) for n in range(_N)], [sum(row[1][n] for row in rows) for n in range(_N)]
    length, closest = sum(row[2] for row in rows), sum(row[3] for row in rows)
    if not length or not matches[0]:
        return 0.0
    logs, halves = [], 1.0
    for m, t in zip(matches, totals):
        if not t and smooth:
            break
        if not m:
            if not smooth:
                return 0.0
            halves *= 2
        logs.append(math.log((m or 1 / halves) / t))
    brevity = min(0.0, 1 - closest / length)
    return 100 * math.exp(brevity + math.fsum(logs) / len(logs))


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each answer (Vedantam et al. 2015, arXiv 1411.5726, equation 4), 0 to 10: cosine of tf-idf vectors of n-grams up to
    4, clipped, with a penalty on the difference of lengths. The weights come from these references: of one prompt all are 0."""
    truth = [[words(r) for r in rs] for rs in references]
    documents = Counter(gram for rs in truth for gram in {g for r in rs for n in range(1, _N + 1) for g in _grams(r, n)})
    size = math.log(max(len(truth), 1))

    def vector(said: Sequence[str]) -> list[dict[tuple[str, ...], float]]:
        return [{g: c * (size - math.log(max(1.0, documents[g]))) for g, c in _grams(said, n).items()} for n in range(1, _N + 1)]

    found = []
    for answer, rs in zip(answers, truth, strict=True):
        if not rs:
            raise ValueError("BLEU and CIDEr need at least one reference")
        said = words(answer)
        mine = vector(said)
        total = 0.0
        for r in rs:
            penalty = math.exp(-((len(said) - len(r)) ** 2) / (2 * _SIGMA**2))
            total += penalty * math.fsum(_cosine(a, b) for a, b in zip(mine, vector(r))) / _N
        found.append(10 * total / len(rs))
    return found


def _cosine(said: dict[tuple[str, ...], float], truth: dict[tuple[str, ...], float]) -> float:
    sizes = (math.sqrt(math.fsum(v * v for v in side.values())) for side in (said, truth))
    norm = math.prod(sizes)
    return math.fsum(min(v, truth[g]) * truth[g] for g, v in said.items() if g in truth) / norm if norm else 0.0


def _grams(said: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
