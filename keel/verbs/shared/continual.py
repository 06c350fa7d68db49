"""Training on after earlier data: some of it again (replay), weights that mattered for it held (EWC), and what was forgotten."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError, DataError
from keel.core.hashing import stable_hash
from keel.data.config import ConversionConfig, DataConfig
from keel.data.conversion import to_demonstrations
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.data.identity import Item
from keel.evaluate.retained import report, text_loss
from keel.learner.anchor import anchored
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.config import PersonalConfig
from keel.render.renderer import Renderer
from keel.types import Learner, Prompt, Unit
from keel.verbs.shared.account import Account
from keel.verbs.shared.owned import owned_datasets, refuse_what_is_shared
from keel.verbs.shared.recipes import TrainRecipe
from keel.verbs.shared.units import Earlier, Splits, datasets

log = logging.getLogger("keel")


class EarlierData(Section):
    """Data that the model was trained on before."""

    name: str = Field(min_length=1, description="What it is called in the results.")
    data: DataConfig = Field(description="The data.")
    replay: float = Field(default=0.0, ge=0, description="Records of it beside the new ones, as a share of these; 0 = none.")
    held_out: float = Field(default=0.2, gt=0, lt=1, description="Share of its prompts that is only measured, before and after.")


class EwcConfig(Section):
    """Elastic weight consolidation (Kirkpatrick et al. 2017)."""

    weight: float = Field(gt=0, description="Lambda: 1 counts a token of the earlier data as much as one of the new.")
    records: int = Field(default=200, ge=1, description="Records of each earlier data set that the Fisher information is taken of.")


class ContinualConfig(Section):
    """Training on after earlier data."""

    earlier: list[EarlierData] = Field(min_length=1, description="What the model learnt before and should not forget.")
    ewc: EwcConfig | None = Field(default=None, description="Hold weights that mattered for the earlier data; empty = do not.")
    tolerance: float = Field(default=0.02, ge=0, description="Loss that is none, in nats a token.")

    @field_validator("earlier")
    @classmethod
    def _names_differ(cls, value: list[EarlierData]) -> list[EarlierData]:
        names = [e.name for e in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two earlier data sets are called {twice[0]!r}")
        return value


class ContinualRecipe(TrainRecipe):
    """A training that may come after another."""

    continual: ContinualConfig | None = Field(default=None, description="What was learnt before: replay, EWC, and what was forgotten.")
    personal: PersonalConfig | None = Field(
        default=None, description="An adapter for each user or group, by a column of the data; empty = one model for all rows."
    )

    @model_validator(mode="after")
    def _in_one_process(self) -> Self:
        if self.continual is not None and self.cluster.several:
            raise ConfigError("continual looks at a model in this process, and cluster.ranks shares it out", "set cluster.ranks=1")
        return self

    @model_validator(mode="after")
    def _owners_are_apart(self) -> Self:
        if self.personal is not None:
            refuse_what_is_shared(
                self, [("continual", self.continual is not None, "has replay of its own: leave continual out"), *self.shared()]
            )
        return self

    def shared(self) -> list[tuple[str, bool, str]]:
        """What of the verb's own settings adapters of several owners cannot have: (setting, is it set, why not)."""
        return []


def datasets_after_earlier(recipe: ContinualRecipe) -> Splits:
    """A recipe's data by side, with what it replays of earlier data among ``train``. No prompt that is measured, of the earlier or of the
    new data, is trained on. Of ``personal`` ones each owner's apart."""
    if recipe.personal is not None:
        return owned_datasets(recipe, recipe.personal)
    splits, config, seed = datasets(recipe), recipe.continual, recipe.seed
    if config is None:
        return splits
    train, kept = splits.train, list[Earlier]()
    new, added = len(train), list[Item]()
    for one in config.earlier:
        rest, held = load_data(one.data, seed).split_by_prompt(one.held_out, seed, f"earlier {one.name}")
        for other in (splits.held_out, splits.test):
            rest = rest.without_prompts(other) if other is not None else rest
        train = train.without_prompts(held)
        n = min(len(rest), round(one.replay * new))
        order = sorted(range(len(rest)), key=lambda i: stable_hash("replay", one.name, seed, i))[:n]
        added += [_named(rest.records[i], one.name) for i in sorted(order)]
        text = "%s: %d of %d earlier records are replayed beside %d new ones; %d are only measured"
        log.info(text, one.name, n, len(rest), new, len(held))
        kept.append(Earlier(one.name, rest, held, n))
    counts = {**train.counts, "records": len(train) + len(added), "replayed": len(added)}
    return replace(splits, train=replace(train, records=(*train.records, *added), counts=counts), earlier=tuple(kept))


def _named(record: Item, name: str) -> Item:
    """A record under an id that no new one has, its prompt marked as of earlier data."""
    if isinstance(record, Prompt):
        return replace(record, prompt_id=f"{name}/{record.prompt_id}", meta={**record.meta, "earlier": name})
    prompt = replace(record.prompt, meta={**record.prompt.meta, "earlier": name})
    return cast(Item, replace(record, record_id=f"{name}/{record.record_id}", prompt=prompt))


@dataclass(frozen=True, slots=True)
class Memory:
    """Earlier answers that are only measured, and their negative log-likelihood before the training, by name and unit."""

    inference: LocalInference | None  # None: nothing was learnt before
    units: Mapping[str, Sequence[Unit]]
    before: Mapping[str, Mapping[str, float]]
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    tolerance: float = 0.0

    def told(self) -> dict[str, Any]:
        """``continual``: what was replayed and anchored, by name; ``forgetting``: what the training lost of each with answers, in
        nats a token, with a verdict. {} where nothing was learnt before."""
        found: dict[str, dict[str, Any]] = {}
        for name, units in self.units.items():
            assert self.inference is not None, "who measures"
            tokens = {u.unit_id: sum(int(b.trained_T.sum()) for b in u.branches) for u in units}
            loss = text_loss(self.before[name], losses(self.inference, units), tokens, tolerance=self.tolerance)
            found[name] = loss | dict(self.facts[name])
        facts = {name: dict(of) for name, of in self.facts.items()}
        return ({"continual": facts} if facts else {}) | ({"forgetting": report(found)} if found else {})


def losses(inference: LocalInference, units: Sequence[Unit]) -> dict[str, float]:
    """Negative log-likelihood of each unit's trained tokens, in nats."""
    rows = inference.logprobs(units)
    return {u.unit_id: -sum(float(b.double().sum()) for b in row) for u, row in zip(units, rows, strict=True)}


def remember(recipe: ContinualRecipe, learner: Learner, renderer: Renderer, splits: Splits, account: Account) -> Memory:
    """Measure what was learnt before, at the starting weights, and anchor the learner there where the recipe says so. Raises ConfigError
    for EWC over data without answers."""
    config = recipe.continual
    if config is None:
        return Memory(None, {}, {})
    assert isinstance(learner, LocalLearner), "the recipe refuses ranks"
    inference = LocalInference(learner.model, BatchConfig())
    units: dict[str, Sequence[Unit]] = {}
    facts: dict[str, dict[str, Any]] = {}
    anchor: list[Unit] = []
    for one in splits.earlier:
        facts[one.name] = {"replayed": one.replayed, "of": len(one.rest)}
        held, rest = _answers(one.held, renderer, account, f"{one.name}: measured"), one.rest
        if held:
            units[one.name] = held
        if config.ewc is not None:
            taken = _answers(replace(rest, records=rest.records[: config.ewc.records]), renderer, account, f"{one.name}: EWC")
            if not taken:
                what = f"continual.ewc: {one.name} holds no answers to take the Fisher information of"
                raise ConfigError(what, "give demonstrations or pairs")
            facts[one.name]["fisher_records"] = len(taken)
            anchor += taken
    if config.ewc is not None:
        learner.anchor = anchored(learner, anchor, config.ewc.weight)
    return Memory(inference, units, {n: losses(inference, u) for n, u in units.items()}, facts, config.tolerance)


def _answers(data: Dataset, renderer: Renderer, account: Account, side: str) -> tuple[Unit, ...]:
    """Units of the answers that were to be imitated or preferred; () of prompts alone."""
    try:
        wanted = to_demonstrations(data.records, ConversionConfig(to="demonstrations"), data.source)
    except DataError:
        return ()
    units, refused = renderer.units(wanted)
    account.refuse(side, refused)
    return tuple(replace(u, unit_id=f"{i}/{u.unit_id}") for i, u in enumerate(units))
