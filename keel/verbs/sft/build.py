"""The parts of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from keel.methods.objectives.supervised import SupervisedObjective
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.augment import shown
from keel.verbs.shared.continual import remember
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.probes import probe_of
from keel.verbs.shared.session import Session, load, record
from keel.verbs.shared.units import Splits, plain_units, prepare


def build(session: Session, recipe: SFTRecipe, splits: Splits) -> OfflineParts:
    """Load the model and render the demonstrations."""
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    account = Account(session.run.path, recipe.settings.max_refused, **splits.sides)
    units = prepare(account, renderer, plain_units(renderer))
    parts = OfflineParts.of(loaded, SupervisedObjective(), units, recipe.training)
    memory = remember(recipe, parts.learner, renderer, splits, account)
    summary = {"units": len(units.train), "held_out": len(units.held_out), "data": account.summary()}
    return replace(
        parts,
        shown=shown(recipe.augment, renderer, recipe.seed, units.train),
        probe=probe_of(session.run, recipe.loop.probes, loaded, renderer, splits),
        summary=summary,
        told=memory.told,
    )
