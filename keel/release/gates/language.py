"""Gates over the likelihood of texts: what fewer bits cost, and what training made the model forget."""

from __future__ import annotations

import math
from collections.abc import Mapping

from keel.core.errors import DataError
from keel.evaluate.statistics import relative_change
from keel.release.candidate import Candidate, Reader, Texts, losses, texts_of
from keel.release.config import QuantisationGate, RetentionGate
from keel.release.gates.verdict import Verdict, cannot_tell, decide


def quantisation(gate: QuantisationGate, candidate: Candidate) -> Verdict:
    """The mean negative log-likelihood of the texts as the model goes out, or with its weights kept ``gate.way``, relative to what it is of
    the model that it was made from: paired by text, bootstrap over texts. 2% of it is not 2% of perplexity: that is exp of the difference,
    and stands in the facts."""
    reader = candidate.open(str(candidate.source))
    texts = texts_of(reader, gate.texts, gate.limit)
    before = losses(reader, texts.units)
    after = losses(candidate.kept(gate.way, reader), texts.units)
    tokens = sum(len(b) for u in texts.units for b in u.branches)
    return _compared(gate.at_most, gate.fewest, before, after, {"way": gate.way, "tokens": tokens, **texts.told()}, tokens)


def retention(gate: RetentionGate, candidate: Candidate) -> Verdict:
    """The loss of likelihood of the model that goes out, relative to the one that its lineage began with."""
    spec = gate.baseline or candidate.baseline
    if not spec:
        return cannot_tell("no_baseline")
    reader, base = candidate.open(candidate.spec), candidate.open(spec)
    texts = texts_of(reader, gate.texts, gate.limit)
    facts = {"baseline": spec, **texts.told()}
    if not _read_alike(texts, base, gate):
        return cannot_tell("other_tokens", **facts)
    tokens = sum(len(b) for u in texts.units for b in u.branches)
    before, after = losses(base, texts.units), losses(reader, texts.units)
    return _compared(gate.at_most, gate.fewest, before, after, {**facts, "tokens": tokens}, tokens)


def _read_alike(texts: Texts, base: Reader, gate: RetentionGate) -> bool:
    """Does the other model read the same ids?"""
    try:
        return _ids(texts) == _ids(texts_of(base, gate.texts, gate.limit))
    except DataError:
        return False


def _ids(texts: Texts) -> list[list[list[int]]]:
    return [[u.prompt.tokens_T.tolist(), *(b.tokens_T.tolist() for b in u.branches)] for u in texts.units]


def _compared(
    at_most: float, fewest: int, before: Mapping[str, float], after: Mapping[str, float], facts: Mapping[str, object], tokens: int
) -> Verdict:
    old, new = math.fsum(before.values()), math.fsum(after.values())
    told = {**facts, "nll_before": old / tokens, "nll_after": new / tokens, "perplexity_ratio": math.exp((new - old) / tokens)}
    return decide(relative_change(before, after), at_most=at_most, fewest=fewest, unit="texts", facts=told)
