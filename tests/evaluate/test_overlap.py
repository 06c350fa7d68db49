"""BLEU and CIDEr by hand and beside sacrebleu 2 and pycocoevalcap 1.2 (tokens as they are here)."""

from __future__ import annotations

import math

import pytest

from keel.evaluate.overlap import bleu, cider, sentence_bleu
from keel.evaluate.statistics import correlation_interval, spearman
from keel.evaluate.wording import wording

ANSWERS = ["the red dog sat on the mat", "a cat in the park", "the boat is light and sturdy"]
REFERENCES = [["the red dog sat on a mat", "the dog sat"], ["a cat runs in the park with a ball"], ["the boat is light and very sturdy"]]
BLEU, SENTENCES, CIDER = 49.307805, [64.345888, 22.466448, 67.318214], [4.36362662, 2.94440587, 7.12864611]


def test_beside_other_implementations():
    """sacrebleu.corpus_bleu and sentence_bleu(smooth_method="exp", use_effective_order=True), tokenize="none"; Cider().compute_score."""
    assert bleu(ANSWERS, [r[:1] for r in REFERENCES]) == pytest.approx(BLEU, abs=1e-4)
    assert [sentence_bleu(a, r) for a, r in zip(ANSWERS, REFERENCES, strict=True)] == pytest.approx(SENTENCES, abs=1e-4)
    assert cider(ANSWERS, REFERENCES) == pytest.approx(CIDER, abs=1e-6)


def test_ends():
    same = ["one two three four five"]
    assert bleu(same, [same]) == pytest.approx(100)
    assert bleu(["one two three"], [["four five six"]]) == 0.0
    assert sentence_bleu("one two", ["one two"]) == pytest.approx(100)  # orders that it is too short for are left out
    assert sentence_bleu("one two three four", ["one two three four five six seven eight"]) == pytest.approx(100 * math.exp(1 - 8 / 4))
    assert bleu(["这个帐篷又轻又结实"], [["这个帐篷又轻又结实"]]) == pytest.approx(100)  # characters are words
    with pytest.raises(ValueError, match="reference"):
        bleu(["x"], [[]])


def test_correlation_with_people_has_an_interval():
    texts = {"m": {str(i): "the boat is light and sturdy"[: 8 + 2 * i] for i in range(12)}}
    found = wording(
        texts, {str(i): ["the boat is light and sturdy"] for i in range(12)}, {"m": {str(i): i / 12 for i in range(12)}}, draws=60
    )
    told = found["correlations"]["bleu"]["spearman"]
    assert told["low"] <= told["mean"] <= told["high"]
    assert told["mean"] > 0.8
    with pytest.raises(ValueError, match="no answer has a reference"):
        wording(texts, {}, {})
    assert correlation_interval(spearman, [1.0, 1.0], [1.0, 2.0]) is None
