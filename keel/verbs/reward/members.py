"""Several reward models from one recipe: trained one after the other, left in one folder that loads as one model."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError
from keel.core.hashing import stable_hash
from keel.learner.inference import LocalInference
from keel.loops.offline import Sides
from keel.models import tiny
from keel.models.ensemble import Manifest, Member, fingerprint_of_base
from keel.models.heads import HeadSpec
from keel.models.loading import Loaded, load_model
from keel.types import Unit
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.reward.refresh import datasets_with_earlier
from keel.verbs.shared.account import Account
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.rewards import SCALE_FILE, write_scale
from keel.verbs.shared.scored_labels import summary_measures
from keel.verbs.shared.session import Session, keep_day, open_session, renderer_of
from keel.verbs.shared.units import prepare

log = logging.getLogger("keel")
MAX_SCALE_UNITS = 64  # prompts whose scores give the mean and deviation that the reward is standardised with
TrainOne = Callable[[RewardRecipe, Path, str], dict[str, Any]]


def seed_of(recipe: RewardRecipe) -> int:
    """What a model's start, order and draw of the prompts come from: the recipe's seed, of a member one of its own. The data are split by
    the recipe's, so that all members are measured on the same prompts."""
    if recipe.ensemble is None or recipe.ensemble.member is None:
        return recipe.seed
    return stable_hash("ensemble", recipe.seed, recipe.ensemble.member) & 0x7FFF_FFFF_FFFF_FFFF


def start_of(recipe: RewardRecipe) -> RewardRecipe:
    """The recipe with the seed of its member. The model it starts from is the same for all, a tiny one too."""
    model = recipe.model
    if recipe.ensemble is not None and model.startswith(tiny.PREFIX) and "seed=" not in model:
        model += f"{'&' if '?' in model else '?'}seed={recipe.seed}"
    return recipe.model_copy(update={"seed": seed_of(recipe), "model": model})


def check_member(recipe: RewardRecipe, loaded: Loaded) -> None:
    """Raise ConfigError for a model whose adapters cannot share a base."""
    if recipe.ensemble is not None and loaded.model.start_rows:
        what = "an ensemble of adapters shares its base, and this one trains rows of added tokens or whole parts beside them"
        raise ConfigError(what, "leave out lora or model_options.train, or add the tokens to the model before")


def accuracy_of(measures: Mapping[str, Any]) -> dict[str, float]:
    """How often a model is right on held-out labels, where its measures say it: what members are weighed by."""
    found = measures.get("reward_model", {}).get("accuracy")
    return {} if found is None else {"accuracy": float(found)}


def save_member(session: Session, loaded: Loaded) -> None:
    """``final/`` of a whole model, ``adapter/`` (with its head) of an adapted one."""
    model = loaded.model
    if model.peft_model is None:
        model.save(session.run.path / "final", loaded.tokenizer, loaded.processor)
        return
    model.save_adapter(session.run.path / "adapter")


def run_members(recipe: RewardRecipe, path: Path, parent: str, train_one: TrainOne) -> dict[str, Any]:
    """Train all members in ``members/<k>``; leaves ``final/`` with all of them, which loads as one model, and its held-out measures in
    the summary. Started again, it goes on with the member that is not finished."""
    assert recipe.ensemble is not None, "an ensemble has settings"
    splits = replace(datasets_with_earlier(recipe), earlier=())  # which the members measure
    with open_session("reward", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        summaries: list[dict[str, Any]] = []
        for k in range(recipe.ensemble.members):
            log.info("member %d of %d", k + 1, recipe.ensemble.members)
            one = recipe.model_copy(update={"ensemble": recipe.ensemble.model_copy(update={"member": k})})
            summaries.append(train_one(one, path / "members" / str(k), str(path)))
            if summaries[-1].get("interrupted"):
                return {"run_dir": str(path), "verb": "reward", "interrupted": True, "member": k, "step": summaries[-1]["step"]}
        final = path / "final"
        _gather(recipe, path, summaries).write(final)
        loaded = load_model(str(final), recipe.model_options, heads=frozenset({"score"}), seed=recipe.seed)
        renderer = renderer_of(loaded, recipe.render)
        keep_day(session, renderer)
        for member in loaded.model.members:
            member.transform = loaded.model.transform
        head = HeadSpec.from_json(summaries[0]["head"])
        account = Account(path, recipe.settings.max_refused, **splits.sides)
        units = prepare(account, renderer, lambda data: reward_units(renderer, data, head.dimensions if head.units else ()))
        inference = LocalInference(loaded.model, recipe.batch)
        constants = scale(inference, units.train)
        measures = held_out_measures(inference, units)
        write_scale(final, constants | accuracy_of(measures))
        told = [{"member": k, **accuracy_of(s), "steps": s["steps"]} for k, s in enumerate(summaries)]
        summary = {key: summaries[0][key] for key in ("labels", "head", "loss", "pairs")}
        return session.finish({**summary, "members": told, "scale": constants, "data": account.summary(), **measures})


def _gather(recipe: RewardRecipe, path: Path, summaries: list[dict[str, Any]]) -> Manifest:
    """Move what the members left into ``final/``."""
    adapters = recipe.lora is not None
    members: list[Member] = []
    for k, summary in enumerate(summaries):
        made, name = path / "members" / str(k) / ("adapter" if adapters else "final"), f"member{k}"
        target = path / "final" / name
        if not target.exists():  # an attempt that was cut off here has moved some already
            target.parent.mkdir(exist_ok=True)
            made.rename(target)
        mean = json.loads((target / SCALE_FILE).read_text(encoding="utf-8"))["mean"]
        members.append(Member(name, mean, accuracy_of(summary).get("accuracy")))
    if not adapters:
        return Manifest("models", tuple(members))
    here = Path(recipe.model).expanduser()
    base = str(here.resolve()) if here.exists() else start_of(recipe).model
    return Manifest("adapters", tuple(members), base, fingerprint_of_base(base), HeadSpec.from_json(summaries[0]["head"]))


def held_out_measures(inference: LocalInference, units: Sides) -> dict[str, Any]:
    """What a summary says of the held-out and of the test units."""
    tested = {f"test_{name}": value for name, value in summary_measures(inference, units.test).items()}
    return {**summary_measures(inference, units.held_out), **tested}


def scale(learner: LocalInference, units: Sequence[Unit]) -> dict[str, Any]:
    """Mean and standard deviation of the scores of the first training answers: the constants that a reward is standardised with. Of
    several heads also the mean of each (``members``), since each has a zero of its own."""
    judged = [members_GM for members_GM, _ in learner.judgements(units[:MAX_SCALE_UNITS])]
    scores = [float(s) for members_GM in judged for s in members_GM.mean(1)]
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)
    found: dict[str, Any] = {"mean": mean, "std": math.sqrt(variance) or 1.0}
    if judged[0].shape[1] > 1:
        found["members"] = [math.fsum(map(float, s)) / len(scores) for s in zip(*(row for m in judged for row in m.tolist()), strict=True)]
    return found
