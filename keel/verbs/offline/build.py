"""The parts of reinforcement learning on logged rewards, without sampling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from keel.core.errors import ConfigError, DataError
from keel.data.dataset import Dataset
from keel.loops.offline import Sides
from keel.loops.online import with_signal
from keel.methods.objectives.logged import VALUE, LoggedObjective
from keel.methods.offline import logged_objective
from keel.render.renderer import Refusal, Renderer
from keel.types import Rating, Unit
from keel.verbs.offline.recipe import OfflineRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.probes import probe_of
from keel.verbs.shared.reference_cache import cache_of
from keel.verbs.shared.session import Session, load, record
from keel.verbs.shared.units import Splits, prepare

log = logging.getLogger("keel")


def build(session: Session, recipe: OfflineRecipe, splits: Splits) -> OfflineParts:
    """Load the model and render the answers with their rewards. The reference, where one is needed, is the starting weights."""
    objective = replace(logged_objective(recipe.objective), dimension=_dimension(recipe.objective.dimension, splits.train))
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    account = Account(session.run.path, recipe.settings.max_refused, **splits.sides)
    units = prepare(account, renderer, _logged_units(renderer, objective))
    _check_groups(objective, units.train)
    parts = OfflineParts.of(loaded, objective, units, recipe.training)
    if objective.needs_reference:
        cache = cache_of(session, recipe.reference_cache, parts.learner)
        sides = (units.train, units.held_out, units.test)
        units = Sides(*(with_signal(side, "ref_logprobs", cache.logprobs(side)) if side else () for side in sides))
    answers = sum(len(u.branches) for u in units.train)
    return replace(
        parts,
        units=units,
        probe=probe_of(session.run, recipe.loop.probes, loaded, renderer, splits),
        starts_at_reference=objective.needs_reference,
        summary={"units": len(units.train), "answers": answers, "data": account.summary()},
    )


def _dimension(asked: str, data: Dataset) -> str:
    """The rating that is the reward. Raises ConfigError where that is not clear."""
    named = sorted({name for rating in data.of(Rating) for name in rating.scores})
    if asked in named or (not asked and len(named) == 1):
        return asked or named[0]
    what = f"nothing is rated by {asked!r}" if asked else "answers are rated in several ways"
    raise ConfigError(f"objective.dimension: {what}; there are: {', '.join(named)}", "name one of them")


def _logged_units(renderer: Renderer, objective: LoggedObjective) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """One unit a prompt, with all answers to it. Raises DataError where a baseline from the data is not one number a prompt."""

    def render(dataset: Dataset) -> tuple[list[Unit], list[Refusal]]:
        ratings = dataset.of(Rating)
        units, refused = reward_units(renderer, dataset, (objective.dimension,))
        if objective.baseline == "value":
            expected: dict[str, float] = {}
            for unit in units:
                expected[str(unit.meta["prompt_id"])] = objective.value(unit)
            for r in ratings:
                known = expected.get(r.prompt.prompt_id)
                if known is not None and r.prompt.meta.get(VALUE) != known:
                    raise DataError(
                        f"{r.prompt.source_id}: the column '{VALUE}' is {r.prompt.meta.get(VALUE)!r} here and {known:g} at another answer "
                        "to the same prompt",
                        "it is what was expected of the prompt: one number",
                    )
        return units, refused

    return render


def _check_groups(objective: LoggedObjective, units: Sequence[Unit]) -> None:
    """Tell how many answers are compared with no other. Raises DataError where no prompt has answers that could be compared."""
    if objective.baseline == "group" and all(len(set(objective.rewards(u))) < 2 for u in units):
        raise DataError(
            "objective.baseline=group compares the answers to a prompt, and no prompt has two answers of different rewards",
            "take objective.baseline=batch",
        )
    answers, alone = sum(len(u.branches) for u in units), sum(len(u.branches) == 1 for u in units)
    if objective.baseline == "group" and alone:
        log.warning(
            "%d of %d answers are the only ones to their prompts: objective.baseline=group compares them with nothing and learns nothing "
            "from them (objective.baseline=batch compares all answers)",
            alone,
            answers,
        )
