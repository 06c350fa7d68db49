"""A reply is a verdict or a failure, and nothing else."""

from __future__ import annotations

import math

import pytest

from keel.judges.parse import LEAST_MASS, UnreadableError, choice_of, distribution, label_of, ranking_of, score_of

FAILURE = None
LABELS = ("A", "B", "C")
# how the reply is read, the reply, the verdict
TABLE = [
    ("label", "A", "A"),
    ("label", " B\n", "B"),
    ("label", "C", "C"),
    ("label", "<think>B says [[A]]</think>\nB", "B"),
    ("label", "", FAILURE),
    ("label", "a", FAILURE),
    ("label", "D", FAILURE),
    ("label", "CI", FAILURE),
    ("label", "A.", FAILURE),
    ("label", "AB", FAILURE),
    ("label", "[[A]]", FAILURE),
    ("label", "GRADE: C", FAILURE),
    ("label", "downgrade: A", FAILURE),
    ("label", "Output (b)", FAILURE),
    ("label", "The better answer is A", FAILURE),
    ("label", "A\nB", FAILURE),
    ("label", "<think>A", FAILURE),
    ("label", "<think>it says </think>B</think>A", FAILURE),
    ("json", '{"verdict": "A"}', "A"),
    ("json", '{"reason": "because \\"verdict\\": \\"A\\"", "verdict": "B"}', "B"),
    ("json", '```json\n{"verdict": "C"}\n```', "C"),
    ("json", '{"verdict": "a"}', FAILURE),
    ("json", '{"verdict": ["A"]}', FAILURE),
    ("json", '{"verdict": null}', FAILURE),
    ("json", '{"verdict": "A", "verdict": "B"}', FAILURE),
    ("json", '{"verdict": "A", "score": 3}', FAILURE),
    ("json", '{"verdict": "A"} {"verdict": "B"}', FAILURE),
    ("json", 'Sure: {"verdict": "A"}', FAILURE),
    ("json", '["A"]', FAILURE),
    ("json", '{"verdict": "A"', FAILURE),
    ("json", "{}", FAILURE),
    ("json", '<think>it is A</think>{"reason": "</think>", "verdict": "B"}', FAILURE),  # where does the thought end?
    ("json", "[" * 100_000, FAILURE),
    ("score", '{"score": 7}', 7.0),
    ("score", '{"reason": "10 of 10", "score": 2.5}', 2.5),
    ("score", '{"score": 11}', FAILURE),
    ("score", '{"score": 0}', FAILURE),
    ("score", '{"score": -1}', FAILURE),
    ("score", '{"score": true}', FAILURE),
    ("score", '{"score": "7"}', FAILURE),
    ("score", '{"score": NaN}', FAILURE),
    ("score", "7", FAILURE),
    ("score", "Score: 5", FAILURE),
    ("ranking", '{"ranking": ["B", ["A", "C"]]}', (("B",), ("A", "C"))),
    ("ranking", '{"ranking": ["A", "B"]}', FAILURE),
    ("ranking", '{"ranking": ["A", "B", "B"]}', FAILURE),
    ("ranking", '{"ranking": ["A", "B", "C", []]}', FAILURE),
    ("ranking", '{"ranking": "ABC"}', FAILURE),
    ("ranking", '{"ranking": ["A", "B", 3]}', FAILURE),
]
READ = {
    "label": lambda reply: label_of(reply, LABELS),
    "json": lambda reply: choice_of(reply, LABELS),
    "score": lambda reply: score_of(reply, 1, 10),
    "ranking": lambda reply: ranking_of(reply, LABELS),
}


@pytest.mark.parametrize(("how", "reply", "wanted"), TABLE, ids=lambda x: repr(x)[:30])
def test_table(how: str, reply: str, wanted: object):
    assert len(TABLE) >= 40
    if wanted is FAILURE:
        with pytest.raises(UnreadableError):
            READ[how](reply)
    else:
        assert READ[how](reply) == wanted


def test_distribution_adds_up_spellings_and_leaves_the_rest_out():
    found = distribution({"A": math.log(0.3), " A": math.log(0.1), "▁B": math.log(0.2), "The": math.log(0.4)}, ("A", "B"))
    assert found == pytest.approx({"A": 4 / 6, "B": 2 / 6})


@pytest.mark.parametrize(
    "top",
    [
        {"The": math.log(0.9), "A": math.log(LEAST_MASS - 0.1)},
        {},
        {"A": math.nan},
        {"A": 0.5},
        {"A": -0.01, " A": -0.01, "B": -0.01},
        {"A": "x"},
    ],
)
def test_no_distribution(top):
    with pytest.raises(UnreadableError):
        distribution(top, ("A", "B"))
