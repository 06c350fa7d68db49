"""Simulated annotators: deterministic, noisy, each a slightly different reader of the hidden gold utility.

They write the same ``Comparison`` records that people write, so everything after them cannot tell the difference. The perceived difference
of two answers is Thurstone's (1927, case V): a weighted difference of features, plus the annotator's position bias, plus Gaussian noise.
The utility is that of ``gold``, or a function of the user's that tells what each feature of an answer is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from keel.core.hashing import permutation, stable_hash, uniform
from keel.feedback.config import AnnotatorsConfig
from keel.simulate import gold
from keel.types import Candidate, Comparison, Prompt

PROTOCOL = "pairwise-v1"
_CLEAR = 0.2  # a perceived difference of this much is stated with strength 1 - 1/e
Item = tuple[Prompt, Candidate, Candidate]
Worth = Callable[[Prompt, str], Mapping[str, float]]
"""What each feature of an answer adds to its utility, by name; the sum lies in [0, 1] or near it."""


@dataclass(frozen=True, slots=True)
class Annotator:
    """One reader. All numbers are on the scale of the utility."""

    annotator_id: str
    noise: float  # standard deviation of one judgement
    tie_threshold: float
    position_bias: float  # added to what is shown on the left
    worth: Worth = gold.worth
    taste: Callable[[str], float] = lambda _: 1.0  # what a feature's worth is multiplied by

    def value(self, prompt: Prompt, text: str) -> float:
        """What the answer is worth to this annotator, before noise."""
        return sum(self.taste(name) * value for name, value in self.worth(prompt, text).items())


def make_annotators(config: AnnotatorsConfig, seed: int, worth: Worth = gold.worth) -> tuple[Annotator, ...]:
    """Annotators ``sim-1`` ... ``sim-count``: each weight and each noise is multiplied by exp(spread * z), z standard normal by hash."""

    @lru_cache
    def factor(i: int, what: str) -> float:
        return math.exp(config.spread * _normal("annotator", seed, i, what))

    return tuple(
        Annotator(
            annotator_id=f"sim-{i}",
            noise=config.noise * factor(i, "noise"),
            tie_threshold=config.tie_threshold * factor(i, "tie"),
            position_bias=config.position_bias * factor(i, "position"),
            worth=worth,
            taste=lambda name, i=i: factor(i, f"weight:{name}"),
        )
        for i in range(1, config.count + 1)
    )


def compare(annotator: Annotator, item: Item, seed: int, repeat: int = 0) -> Comparison:
    """The annotator's judgement of two candidates: a function of (annotator, prompt, candidates, seed), whatever their order in ``item``.

    ``repeat`` counts how often the annotator was asked before: every other time the answers stand the other way round.

    Raises ValueError when both are the same candidate.
    """
    prompt, *pair = item
    first, second = sorted(pair, key=lambda c: c.candidate_id)
    if first.candidate_id == second.candidate_id:
        raise ValueError(f"candidate {first.candidate_id} of prompt {prompt.prompt_id} cannot be compared with itself")
    key = (seed, annotator.annotator_id, prompt.prompt_id, first.candidate_id, second.candidate_id)
    order = (0, 1) if (_uniform("display", *key) < 0.5) == (repeat % 2 == 0) else (1, 0)
    key = (*key, repeat) if repeat else key
    bias = annotator.position_bias if order == (0, 1) else -annotator.position_bias
    difference = annotator.value(prompt, first.text) - annotator.value(prompt, second.text)
    perceived = difference + bias + annotator.noise * _normal("noise", *key)
    tie = abs(perceived) < annotator.tie_threshold
    name = f"{prompt.prompt_id}:{first.candidate_id}:{second.candidate_id}:{annotator.annotator_id}" + (f":{repeat}" if repeat else "")
    return Comparison(
        record_id=name,
        prompt=prompt,
        candidates=(first, second),
        outcome="tie" if tie else "first" if perceived > 0 else "second",
        strength=0.0 if tie else round(1.0 - math.exp(-abs(perceived) / _CLEAR), 4),
        annotator_id=annotator.annotator_id,
        protocol=PROTOCOL,
        display_order=order,
        source_id="simulated",
    )


def annotate(items: Sequence[Item], annotators: Sequence[Annotator], per_item: int, seed: int) -> tuple[Comparison, ...]:
    """``per_item`` different annotators judge each item; who does is decided by hash, item by item."""
    assert 1 <= per_item <= len(annotators)
    result: list[Comparison] = []
    for item in items:
        prompt, *pair = item
        names = sorted(c.candidate_id for c in pair)
        chosen = permutation(len(annotators), "assign", seed, prompt.prompt_id, *names)[:per_item]
        result += [compare(annotators[i], item, seed) for i in sorted(chosen)]
    return tuple(result)


def _uniform(*parts: str | int) -> float:
    return float(uniform(np.array([stable_hash(*parts)], dtype=np.uint64), 0)[0])


def _normal(*parts: str | int) -> float:
    return NormalDist().inv_cdf(min(1.0 - 1e-12, max(1e-12, _uniform(*parts))))
