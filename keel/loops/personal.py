"""An adapter for each owner (a user, a group) on one shared base: a trainer of trainers.

There is one place for an adapter in the model. Whoever's turn it is has its whole state there (weights, moments, counters), the others' lie
in memory. So an owner's step is the step of a run with that owner's rows alone, and nobody else's adapter moves by a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from torch import Tensor

from keel.core.errors import RunError
from keel.loops.config import LoopConfig, PersonalConfig
from keel.loops.harness import TensorFiles, Trainer
from keel.loops.offline import total_steps
from keel.loops.rounds import Round, Share, next_round, of_json, to_json, turns

Make = Callable[[Share], Trainer]
_TOLD = ("loss", "reward", "kl", "rewards/accuracies", "rewards/margins", "grad_norm")  # of an owner's step, under the owner's name


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose rows there are. ``rows``: names by owner, in the order of the data; ``measured``: owners with held-out rows; ``make``: the
    trainer of a share, in the learner that all share."""

    rows: Mapping[str, Sequence[str]]
    measured: frozenset[str]
    make: Make


@dataclass(frozen=True, slots=True)
class Kept:
    """An owner's state beside the model: tensors on the CPU by file and name, and numbers as JSON."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]

    @classmethod
    def of(cls, trainer: Trainer) -> Kept:
        files, state = trainer.state()
        return cls({stem: {name: t.detach().to("cpu", copy=True) for name, t in named.items()} for stem, named in files.items()}, state)


class PersonalTrainer:
    """Steps owners in turn. When a round is done and there are rows that none had, the next one begins. Raises RunError where rows of a
    round that is under way are gone."""

    may_run_away = False

    def __init__(self, owners: Owners, config: LoopConfig, personal: PersonalConfig, seed: int, may_run_away: bool = False) -> None:
        self.owners, self.config, self.personal, self.seed = owners, config, personal, seed
        self.may_run_away = may_run_away
        self.rounds: list[Round] = []
        self.measured: dict[str, dict[str, float]] = {}  # the last evaluation of each owner
        self.done = 0  # steps
        self._kept: dict[str, Kept] = {}
        self._inside: tuple[Share, Trainer] | None = None  # who is in the model
        self._changed = False  # since it came in
        self._trainers: dict[str, Trainer] = {}  # of this round
        self._scales = (1.0, 1.0)
        self._plan()
        if not self.rounds:
            raise RunError("there is no row to train an adapter on", "look at the data with keel data show")
        self._fresh = Kept.of(self._trainer(self.rounds[0][0]))  # the starting adapter, the same for all

    @property
    def total_steps(self) -> int:
        return sum(share.steps for round_ in self.rounds for share in round_)

    @property
    def names(self) -> list[str]:
        """Owners that have an adapter."""
        return sorted({share.owner for round_ in self.rounds for share in round_})

    def step(self, step: int) -> Mapping[str, float]:
        """One step of the owner whose turn it is."""
        share, own = self._turn(step)
        metrics = dict(self._enter(share).step(own))
        self._changed, self.done = True, step + 1
        if self._shown(share.owner):
            metrics |= {f"adapters/{folder_of(share.owner)}/{name}": metrics[name] for name in _TOLD if name in metrics}
        metrics |= {"adapters/number": float(len(self.names)), "adapters/round": float(len(self.rounds))}
        if self.done == self.total_steps:
            self._plan()
        return metrics

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Held-out rows of the owners of this round, each with the own adapter: means over owners, and each one's own."""
        found: dict[str, list[float]] = {}
        told: dict[str, float] = {}
        for share in self._now():
            if share.owner not in self.owners.measured:
                continue
            metrics = dict(self._enter(share).evaluate(step))
            self.measured[share.owner] = metrics
            for name, value in metrics.items():
                found.setdefault(name, []).append(value)
                if self._shown(share.owner):
                    told[f"eval/{folder_of(share.owner)}/{name.removeprefix('eval/')}"] = value
        return {**{name: sum(values) / len(values) for name, values in found.items()}, **told}

    def test(self) -> Mapping[str, float]:
        return {}

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        """Of all owners."""
        self._scales = lr_scale, kl_scale
        inside = self._inside[1] if self._inside is not None else self._enter(self._turn(min(self.done, self.total_steps - 1))[0])
        return inside.adjust(lr_scale, kl_scale)

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        """Of the owner of the last step: whether its rows are like all of its rows."""
        share, own = self._turn(last)
        return self._trainer(share).drift(own, own)

    def take_in(self, owner: str) -> None:
        """Put an owner's adapter into the model."""
        last = next(share for round_ in reversed(self.rounds) for share in round_ if share.owner == owner)
        self._leave()
        self._trainers.pop(owner, None)
        self._enter(last)

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        self._leave()
        order = sorted(self._kept)
        tensors = {
            f"{i}/{stem}/{name}": tensor
            for i, owner in enumerate(order)
            for stem, named in self._kept[owner].tensors.items()
            for name, tensor in named.items()
        }
        states = [{"owner": owner, "state": self._kept[owner].state} for owner in order]
        return {"adapters": tensors}, {
            "owners": states,
            "rounds": to_json(self.rounds),
            "done": self.done,
            "measured": {owner: dict(found) for owner, found in self.measured.items()},
        }

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self._inside, self._changed, self._trainers = None, False, {}
        self.rounds, self.done = of_json(state["rounds"]), int(state["done"])
        self.measured = {owner: dict(found) for owner, found in state["measured"].items()}
        files: list[dict[str, dict[str, Tensor]]] = [{} for _ in state["owners"]]
        for key, tensor in tensors["adapters"].items():
            number, stem, name = key.split("/", 2)
            files[int(number)].setdefault(stem, {})[name] = tensor
        self._kept = {of["owner"]: Kept(files[i], of["state"]) for i, of in enumerate(state["owners"])}
        if self.done == self.total_steps:
            self._plan()
        self._refuse_missing()

    # ------------------------------------------------------------------------------------------------------------------ inside

    def _plan(self) -> None:
        """The round of what is new, if anything is."""
        found = next_round(self.owners.rows, self.rounds, self.personal.replay, self.seed, lambda n: total_steps(self.config, n))
        if found:
            self._leave()
            self._trainers = {}
            self.rounds.append(found)

    def _now(self) -> Round:
        return self.rounds[-1]

    def _refuse_missing(self) -> None:
        for share in self._now():
            missing = set(share.rows) - set(self.owners.rows.get(share.owner, ()))
            if missing and self.done < self.total_steps:
                raise RunError(
                    f"{len(missing)} rows of '{share.owner}' that this run is learning from are gone or changed",
                    "put them back until the run is finished (rows may be added, and later be taken out), or choose another run_dir",
                )

    def _turn(self, step: int) -> tuple[Share, int]:
        """Whose step it is. Steps of earlier rounds are not asked for."""
        before = self.total_steps - sum(share.steps for share in self._now())
        return turns(self._now())[max(0, step - before)]

    def _shown(self, owner: str) -> bool:
        return owner in self.names[: self.personal.shown]

    def _trainer(self, share: Share) -> Trainer:
        if share.owner not in self._trainers:
            self._trainers[share.owner] = self.owners.make(share)
        return self._trainers[share.owner]

    def _enter(self, share: Share) -> Trainer:
        """The trainer of this owner, with the owner's state in the model."""
        if self._inside is not None and self._inside[0] == share:
            return self._inside[1]
        self._leave()
        trainer, kept = self._trainer(share), self._kept.get(share.owner, self._fresh)
        trainer.load_state(kept.tensors, kept.state)
        trainer.adjust(*self._scales)
        self._inside = share, trainer
        return trainer

    def _leave(self) -> None:
        """Keep the state of who is in the model, if it has changed."""
        if self._inside is not None and self._changed:
            self._kept[self._inside[0].owner] = Kept.of(self._inside[1])
        self._inside, self._changed = None, False


def folder_of(owner: str) -> str:
    """An owner's name as the name of a folder: what is no letter, digit or one of ``_-~.@`` is written %XX, and so is a dot in front."""
    name = quote(owner, safe="@")
    return f"%2E{name[1:]}" if name.startswith(".") else name
