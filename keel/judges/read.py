"""From labels and JSON to what was said of the canonical answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keel.judges import parse
from keel.judges.ask import OVERALL, SIDES, Question
from keel.judges.templates import Template


def of_labels(template: Template, question: Question, said: Mapping[str, float]) -> dict[str, Any]:
    """Fields of a `Said` from a distribution over labels: a pair's sides, or the expected score (Zheng et al. 2023 take the greedy one)."""
    labels = template.labels(len(question.answers))
    if template.kind == "pairwise":
        names = [SIDES[i] for i in question.order] + ["tie"] * template.ties
        return {"probabilities": {name: said[label] for label, name in zip(labels, names, strict=True)}}
    total = math.fsum(said[label] * score for label, score in zip(labels, template.scores, strict=True))
    return {"scores": {question.criterion or OVERALL: total}}


def of_label(template: Template, question: Question, reply: str) -> dict[str, Any]:
    """The same from a reply that is one label. Raises UnreadableError."""
    labels = template.labels(len(question.answers))
    found = parse.label_of(reply, labels)
    return of_labels(template, question, {label: float(label == found) for label in labels})


def of_json(template: Template, question: Question, reply: str) -> dict[str, Any]:
    """The same from a reply that is one JSON object. Raises UnreadableError."""
    labels = template.labels(len(question.answers))
    match template.kind:
        case "pairwise":
            found = parse.choice_of(reply, labels)
            return of_labels(template, question, {label: float(label == found) for label in labels})
        case "ranking":
            place = dict(zip(labels, question.order, strict=True))
            buckets = parse.ranking_of(reply, labels)
            return {"ranks": tuple(tuple(sorted(place[x] for x in bucket)) for bucket in buckets)}
        case _:
            return {"scores": {question.criterion or OVERALL: parse.score_of(reply, template.low, template.high)}}
