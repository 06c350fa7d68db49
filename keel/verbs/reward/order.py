"""How hard the training rows of a reward model are: by their labels, by an earlier model, by the model as it is now."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence

from keel.core.errors import ConfigError
from keel.data.ordering import percentiles
from keel.evaluate.reward_measures import log_loss
from keel.learner.inference import LocalInference
from keel.loops.config import OrderConfig
from keel.loops.ordering import Judges
from keel.methods.objectives.reward import order_of
from keel.models.loading import Loaded
from keel.types import PairTarget, StepsTarget, Unit
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.reward.refresh import other_judge
from keel.verbs.shared.learners import AnyLearner
from keel.verbs.shared.scored_labels import judge

log = logging.getLogger("keel")


def judges(units: Sequence[Unit], recipe: RewardRecipe, loaded: Loaded, learner: AnyLearner) -> Judges:
    """What the recipe's order asks of the training units. Raises ConfigError where nothing could be ordered."""
    config = recipe.order
    measure = (lambda some: measured(learner.whole(), some)) if config.again is not None else None
    if config.again is not None and not any(_can_be_wrong(u) for u in units):
        raise ConfigError("order.again: no row prefers anything, so none can be right or wrong", "leave order.again out")
    return Judges(_difficulty(units, config, recipe, loaded), measure)


def _difficulty(units: Sequence[Unit], config: OrderConfig, recipe: RewardRecipe, loaded: Loaded) -> Sequence[float]:
    if config.curriculum is None:
        return ()
    if config.curriculum.by == "labels":
        found = label_difficulty(units)
        if len(set(found)) == 1:
            raise ConfigError(
                "order.curriculum.by=labels: all labels are equally clear (no strengths, no votes that disagree), so none comes first",
                "use by=model with an earlier reward model",
            )
        return found
    other = other_judge(config.curriculum.model, "order.curriculum.model", recipe, loaded.model, loaded.tokenizer)
    losses = [loss for loss, _ in measured(other, units)]
    unknown = sum(map(math.isnan, losses))
    if unknown:
        log.info(
            "order.curriculum: %d of %d rows prefer nothing that a model could get wrong; they stand in the middle", unknown, len(losses)
        )
    middle = sorted(x for x in losses if not math.isnan(x))[(len(losses) - unknown) // 2 :][:1] or [0.0]
    return [middle[0] if math.isnan(x) else x for x in losses]


def label_difficulty(units: Sequence[Unit]) -> list[float]:
    """From 0 (the clearest label of its kind) to 1: of pairs by their certainty and then their margin, of rankings by the answers that are
    tied, of ratings by how far they are apart. Labels of different kinds are compared by where they stand among their own."""
    clear: dict[type, list[tuple[int, tuple[float, float]]]] = defaultdict(list)
    for i, unit in enumerate(units):
        clear[type(unit.target)].append((i, _clarity(unit)))
    found = [0.5] * len(units)
    for of_kind in clear.values():
        ranks = {value: float(rank) for rank, value in enumerate(sorted({c for _, c in of_kind}))}
        for (i, _), place in zip(of_kind, percentiles([-ranks[c] for _, c in of_kind]), strict=True):
            found[i] = place
    return found


def _clarity(unit: Unit) -> tuple[float, float]:
    if isinstance(unit.target, PairTarget):
        edges = unit.target.edges
        return (
            math.fsum(abs(2.0 * e.label - 1.0) for e in edges) / max(1, len(edges)),
            math.fsum(e.margin for e in edges) / max(1, len(edges)),
        )
    if isinstance(unit.target, StepsTarget) or unit.target is None:
        return 0.0, 0.0
    order = order_of(unit, {})
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    apart = sum(a != b for a, b in pairs) / max(1, len(pairs))
    return apart, (max(order) - min(order)) / max(1, len(order))


def _can_be_wrong(unit: Unit) -> bool:
    if isinstance(unit.target, PairTarget):
        return any(e.label != 0.5 for e in unit.target.edges)
    return isinstance(unit.target, StepsTarget) or len(set(order_of(unit, {}))) > 1


def measured(inference: LocalInference, units: Sequence[Unit]) -> list[tuple[float, bool]]:
    """(mean cross-entropy of the preferences, is the mean lead of the better answer 0 or less) of each unit; of steps the same with each
    step's label. (NaN, False) where nothing is preferred."""
    steps = [u for u in units if isinstance(u.target, StepsTarget)]
    others = [u for u in units if not isinstance(u.target, StepsTarget)]
    of = {id(u): j.pairs for u, j in zip(others, judge(inference, others), strict=True)}
    for unit, scores in zip(steps, inference.steps(steps), strict=True):
        assert isinstance(unit.target, StepsTarget)
        of[id(unit)] = [
            (float(s), float(right)) for labels, row in zip(unit.target.labels, scores, strict=True) for s, right in zip(row, labels)
        ]
    return [_measure(of[id(u)]) for u in units]


def _measure(pairs: Sequence[tuple[float, float]]) -> tuple[float, bool]:
    decided = [(m, y) for m, y in pairs if y != 0.5]
    if not pairs:
        return math.nan, False
    lead = math.fsum(m if y > 0.5 else -m for m, y in decided)
    return log_loss(pairs), bool(decided) and lead <= 0
