"""The parts of a training whose adapters belong to owners: built once for all, shared out by whose row it is, saved as a folder each."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.core.errors import ConfigError
from keel.core.events import EventBus
from keel.loops.config import PersonalConfig
from keel.loops.harness import TrainResult
from keel.loops.offline import Sides
from keel.loops.personal import Owners, PersonalTrainer, folder_of
from keel.loops.rounds import Share
from keel.models.loading import Loaded
from keel.models.owned import standing_name, tell_base
from keel.runs.durable import write_atomic
from keel.selftest import CheckName
from keel.types import Encoded, Prompt, Unit
from keel.verbs.shared.learners import AnyLearner
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.plan import check_plan
from keel.verbs.shared.probes import SampleProbe
from keel.verbs.shared.prompts import Prompts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.sampled_parts import SampledParts
from keel.verbs.shared.session import Session, run_loop

log = logging.getLogger("keel")
ADAPTERS = "adapters.json"


@dataclass(slots=True)
class PersonalParts:
    """A verb's parts, with an adapter for each owner."""

    parts: OfflineParts | SampledParts
    config: PersonalConfig
    base: str  # the model that all adapters stand on
    trainer: PersonalTrainer | None = field(default=None)

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """Those of the parts, on one adapter: all are of one shape."""
        self.parts.self_test(bus, skip)

    def train(self, session: Session) -> TrainResult:
        """Rounds until every row was learnt from."""
        loop, seed = self.parts.training.loop, self.parts.training.seed
        owners = (
            offline_owners(self.parts, self.config.by)
            if isinstance(self.parts, OfflineParts)
            else sampled_owners(self.parts, self.config.by)
        )
        self.trainer = PersonalTrainer(owners, loop, self.config, seed, isinstance(self.parts, SampledParts))
        plan = f"{len(self.trainer.names)} adapters by '{self.config.by}', batches of up to {loop.batch_size} rows of one of them"
        return run_loop(session, self.trainer, loop, self.parts.best, plan)

    def save(self, session: Session) -> dict[str, Any]:
        """``final/``: a folder for each owner, which PEFT loads, and ``adapters.json``, which says whose is which and how it does."""
        assert self.trainer is not None, "saved after training"
        final, trainer, told = session.run.path / "final", self.trainer, dict[str, Any]()
        for owner in trainer.names:
            trainer.take_in(owner)
            self.loaded.model.save_adapter(final / folder_of(owner))
            tell_base(final / folder_of(owner), self.base, owner)
            of_owner = [share for round_ in trainer.rounds for share in round_ if share.owner == owner]
            told[owner] = {
                "folder": folder_of(owner),
                "rows": sum(len(share.new) for share in of_owner),
                "rounds": len(of_owner),
                "updates": self.learner.updates,
                "measured": trainer.measured.get(owner, {}),
            }
        index = {"schema": 1, "base": self.base, "by": self.config.by, "adapters": told}
        write_atomic(final / ADAPTERS, (json.dumps(index, ensure_ascii=False, indent=1) + "\n").encode())
        last = [share.owner for share in trainer.rounds[-1]]
        personal = {"by": self.config.by, "adapters": len(told), "rounds": len(trainer.rounds), "last_round": last}
        return {**self.parts.summary, "personal": personal, **self.parts.told()}

    def close(self) -> None:
        self.parts.close()

    @property
    def loaded(self) -> Loaded:
        return self.parts.loaded

    @property
    def learner(self) -> AnyLearner:
        return self.parts.learner if isinstance(self.parts, OfflineParts) else self.parts.policy


def offline_owners(parts: OfflineParts, by: str) -> Owners:
    """Units by owner and by content; held-out ones by owner."""
    units = {owner: named(rows) for owner, rows in _by_owner(parts.units.train, by).items()}
    held = _by_owner(parts.units.held_out, by)

    def make(share: Share) -> Any:
        own = tuple(units[share.owner][name] for name in share.rows if name in units[share.owner])
        probe = parts.probe.only(lambda prompt: prompt.meta[by] == share.owner) if isinstance(parts.probe, SampleProbe) else None
        sides = Sides(own, tuple(held.get(share.owner, ())))
        trainer = replace(parts, units=sides, probe=probe, training=_training(parts.training, share)).trainer()
        check_plan(trainer)
        return trainer

    return Owners({owner: tuple(rows) for owner, rows in units.items()}, frozenset(held), make)


def sampled_owners(parts: SampledParts, by: str) -> Owners:
    """Prompts by owner and id; each owner's held-out prompts are answered with the own adapter."""
    train, held = (_prompts_by_owner(parts.prompts.get(side, {}), by) for side in ("train", "held_out"))

    def make(share: Share) -> Any:
        own = {name: train[share.owner][name] for name in share.rows if name in train[share.owner]}
        side = held.get(share.owner, {})
        evaluators = parts.evaluators_for({"eval": side}) if side and parts.evaluators_for is not None else {}
        prompts = {"train": own, "held_out": side}
        trainer = replace(parts, prompts=prompts, evaluators=evaluators, training=_training(parts.training, share)).trainer()
        check_plan(trainer)
        return trainer

    return Owners({owner: tuple(rows) for owner, rows in train.items()}, frozenset(held), make)


def _training(training: Training, share: Share) -> Training:
    """An owner's rounds draw other numbers, the first those of a run of its own."""
    return replace(training, seed=training.seed + share.number)


def _by_owner(units: Iterable[Unit], by: str) -> dict[str, list[Unit]]:
    found: dict[str, list[Unit]] = {}
    for unit in units:
        found.setdefault(str(unit.meta[by]), []).append(unit)
    return found


def _prompts_by_owner(prompts: Prompts, by: str) -> dict[str, dict[str, tuple[Prompt, Encoded]]]:
    found: dict[str, dict[str, tuple[Prompt, Encoded]]] = {}
    for name, (prompt, encoded) in prompts.items():
        found.setdefault(str(prompt.meta[by]), {})[name] = (prompt, encoded)
    return found


def named(units: Iterable[Unit]) -> dict[str, Unit]:
    """Units by a hash of what is learnt from them: tokens, images, label. The second of two equal ones is ``hash#2``."""
    seen: Counter[str] = Counter()
    found: dict[str, Unit] = {}
    for unit in units:
        parts = [unit.prompt.tokens_T.tolist(), [ref.digest for ref in unit.prompt.media], repr(unit.target)]
        parts += [[b.tokens_T.tolist(), b.trained_T.tolist()] for b in unit.branches]
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name}#{seen[name]}"] = unit
    return found


Build = Callable[[Session, Any, Any], Any]


def for_owners(build: Build) -> Build:
    """Parts as ``build`` makes them; where the recipe has ``personal``, with an adapter for each owner."""

    def built(session: Session, recipe: Any, splits: Any) -> Any:
        parts = build(session, recipe, splits)
        if recipe.personal is None:
            return parts
        if parts.loaded.model.start_rows:
            what = f"the tokenizer of {recipe.model} has tokens that the model has no rows for: they would be trained beside the adapters"
            raise ConfigError(f"personal: {what}", "train the model by keel sft without personal first, and give its final/ as model")
        return PersonalParts(parts, recipe.personal, standing_name(recipe.model, recipe.seed))

    return built
