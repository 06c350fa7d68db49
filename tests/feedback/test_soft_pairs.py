"""Posteriors to pairs by hand, and each method of `preferences.aggregate.method` on votes whose result is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from keel.core.errors import DataError
from keel.feedback.aggregate import aggregate, counts, left_out
from keel.feedback.config import AggregateConfig
from keel.feedback.reliability.calibrate import guarded
from keel.feedback.reliability.dawid_skene import dawid_skene
from keel.feedback.reliability.mace import mace
from keel.feedback.reliability.majority import vote_share
from keel.feedback.reliability.votes import from_comparisons
from keel.feedback.soft_pairs import aggregated, reliability_weights, soft_pairs
from keel.types import Candidate, Comparison, Message, Prompt

A, B = Candidate("a", "one"), Candidate("b", "two")
NAMES = {"1": "first", "2": "second", "=": "tie"}


def votes(task: str, said: dict[str, str], turned: bool = False, strength: float = 0.5) -> list[Comparison]:
    """``{"ann": "1"}``: ann says that A is better, whichever order the record has."""
    prompt = Prompt(task, (Message("user", task),))
    flip = {"1": "2", "2": "1", "=": "="}
    return [
        Comparison(f"{task}:{a}", prompt, (B, A) if turned else (A, B), NAMES[flip[k] if turned else k], strength, a, "pairwise-v1", (0, 1))  # type: ignore[arg-type]
        for a, k in said.items()
    ]


def test_label_tie_margin_and_report_by_hand() -> None:
    cast = [
        *votes("p", {"ann": "1", "bob": "2"}),
        *votes("q", {"ann": "1", "bob": "1", "cat": "2"}, turned=True, strength=0.8),
        *votes("r", {"ann": "="}),
        *votes("s", {"ann": "1"}),
    ]
    soft = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]])
    found = soft_pairs(cast, soft)
    p, q, s = found.pairs
    assert (p.record_id, p.label, p.tie) == ("p:a>b", pytest.approx(0.6), 0.2)
    assert (q.record_id, q.label, q.tie) == ("q:b>a", pytest.approx(0.8), 0.2)
    assert (q.chosen[0].text, q.rejected[0].text, q.margin) == ("two", "one", 0.8)
    assert (found.tasks, found.even, found.near_half, found.sure, found.overturned) == (4, 1, 0, 1, 1)
    assert found.mean_label == pytest.approx((0.6 + 0.8 + 1.0) / 3)
    kept = soft_pairs(cast, soft, ties="keep", weight="votes").pairs
    assert [(x.label, x.tie) for x in kept][2] == (0.5, 0.5)
    assert [x.weight for x in kept] == pytest.approx([2 / 1.75, 3 / 1.75, 1 / 1.75, 1 / 1.75])
    hard = soft_pairs(cast, soft, ties="keep", hard=True).pairs
    assert [(x.label, x.tie) for x in hard] == [(1.0, 0.0), (1.0, 0.0), (0.5, 1.0), (1.0, 0.0)]
    assert s.margin == 0.5


def test_what_does_not_fit_is_refused() -> None:
    cast = votes("p", {"ann": "1", "bob": "2"})
    with pytest.raises(ValueError, match="a row each"):
        soft_pairs(cast, np.array([[0.5, 0.3, 0.3]]))
    with pytest.raises(DataError, match="several protocols"):
        soft_pairs([cast[0], replace(cast[1], protocol="likert-v1")], np.array([[1.0, 0, 0]]))


def crowd_of_comparisons() -> list[Comparison]:
    """Five good readers and a contrary one on 40 tasks with A better; on the last task the contrary and another outvote a good one."""
    rng = np.random.default_rng(0)
    cast: list[Comparison] = []
    for i in range(40):
        better = "12"[i % 2]
        worse = "21"[i % 2]
        said = {f"good{j}": better if rng.random() < 0.9 else worse for j in range(5)} | {"bad": worse}
        cast += votes(f"t{i}", said, turned=i % 3 == 0)
    return cast + votes("last", {"good0": "1", "bad": "2", "bad2": "="})


def test_each_method_does_what_it_says() -> None:
    cast = crowd_of_comparisons()
    by = {m: {p.prompt.prompt_id: p for p in aggregate(cast, AggregateConfig(method=m, ties="keep"))} for m in METHODS}  # type: ignore[arg-type]
    v = from_comparisons(cast)
    share = vote_share(v)
    last = len(v.tasks) - 1
    assert by["votes"]["last"].label == 0.5
    assert (by["majority"]["last"].label, by["majority"]["t0"].label) == (0.5, 1.0)
    weights = reliability_weights(v)
    assert weights[v.annotators.index("bad")] == 0.0  # worse than chance: not heard
    assert by["weighted"]["last"].label > 0.6
    for name, posterior in (("dawid_skene", dawid_skene(v).posterior_TK), ("mace", mace(v).posterior_TK)):
        first, _, tie = guarded(posterior, share)[last]
        pair = by[name]["last"]
        assert pair.label == pytest.approx(max(first + tie / 2, 1 - first - tie / 2))
        assert pair.tie == pytest.approx(tie)
    assert by["dawid_skene"]["last"].chosen[0].text == "one"
    assert len({round(by[m]["t1"].label, 6) for m in METHODS}) >= 4


METHODS = ("votes", "majority", "weighted", "dawid_skene", "mace")


def test_the_share_of_soft_pairs_is_that_of_the_old_way() -> None:
    cast = [*crowd_of_comparisons(), *votes("x", {"ann": "1", "bob": "="}), *votes("y", {"ann": "=", "bob": "="})]
    for settings in ({}, {"ties": "keep"}, {"smoothing": 1.5}, {"label": "majority", "ties": "keep"}, {"weight": "votes"}):
        config = AggregateConfig(**settings)  # type: ignore[arg-type]
        old, new = aggregate(cast, config), aggregated(cast, config).pairs
        assert [p.record_id for p in new] == [p.record_id for p in old]
        for name in ("label", "tie", "margin", "weight"):
            assert [getattr(p, name) for p in new] == pytest.approx([getattr(p, name) for p in old])


def test_given_reliabilities_and_strangers() -> None:
    cast = votes("p", {"ann": "1", "bob": "2", "new": "2"})
    config = AggregateConfig(method="weighted")
    (pair,) = aggregate(cast, config, {"ann": 0.9, "bob": 0.1})  # the stranger counts 0.5, their mean
    assert (pair.chosen[0].text, pair.label) == ("one", pytest.approx(0.9 / 1.5))


def test_gold_says_how_sure_to_be() -> None:
    cast = crowd_of_comparisons()
    v = from_comparisons(cast)
    right = {v.tasks.index(t): i % 2 for i, t in enumerate(v.tasks[:40])}
    config = AggregateConfig(method="dawid_skene")
    with_gold, without = aggregated(cast, config, gold=right), aggregated(cast, config)
    assert with_gold.mean_label > without.mean_label  # the model is right about all of them


def test_a_persons_repeats_count_nothing() -> None:
    """Asked again, whatever they say, in whichever order the answers stand: labels, margins and weights are those of first votes."""
    rng = np.random.default_rng(3)
    for _ in range(3):
        cast = [c for i in range(12) for c in votes(f"t{i}", {f"a{j}": "12="[rng.integers(3)] for j in range(1 + i % 4)}, strength=0.2)]
        again = [
            replace(c, record_id=f"{c.record_id}:{n}", candidates=c.candidates[::-1], outcome=NAMES["12="[rng.integers(3)]], strength=1.0)  # type: ignore[arg-type]
            for c in cast
            for n in range(rng.integers(3))
        ]
        together = cast + [again[i] for i in rng.permutation(len(again))]
        for method in METHODS:
            for weight in ("equal", "votes"):
                config = AggregateConfig(method=method, weight=weight, ties="keep")  # type: ignore[arg-type]
                assert aggregate(together, config) == aggregate(cast, config)
                assert aggregated(together, config) == aggregated(cast, config)
                lost = {x.record_id: x.reason for x in left_out(together, aggregate(together, config))}
                assert lost.keys() == {c.record_id for c in again}
                assert all("a further vote of" in reason for reason in lost.values())
                assert sum(counts(together, aggregate(together, config)).values()) == len(together)


def test_no_vote_vanishes_without_a_name() -> None:
    cast = crowd_of_comparisons() + votes("even", {"u": "1", "v": "2"})
    for method in METHODS:
        pairs = aggregate(cast, AggregateConfig(method=method))  # type: ignore[arg-type]
        assert sum(counts(cast, pairs).values()) == len(cast)
        assert len(left_out(cast, pairs)) == counts(cast, pairs)["left_out"]
