"""Data of several owners (users, groups): each owner's rows apart, under the owner's name, and a split that growing data do not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from keel.core.errors import ConfigError, DataError
from keel.core.hashing import stable_hash
from keel.data.config import ConversionConfig, DataConfig
from keel.data.dataset import Dataset, convert
from keel.data.dataset import load as load_data
from keel.data.identity import Item, prompt_of, side_key
from keel.loops.config import PersonalConfig
from keel.render.renderer import Refusal
from keel.types import Comparison, Prompt, Unit
from keel.verbs.shared.recipes import TrainRecipe
from keel.verbs.shared.units import Splits

ANNOTATOR = "annotator_id"  # of judgements, which owner they are by is no column of the prompt


def owned_datasets(recipe: TrainRecipe, personal: PersonalConfig) -> Splits:
    """A recipe's data by side. A prompt is held out by its own hash: rows that come later move no other to another side. Raises DataError
    for a row that names no owner, and where no row is left to train on."""
    train = _owned(recipe.data, personal.by, recipe.seed)
    if isinstance(recipe.held_out, DataConfig):
        held_out = _owned(recipe.held_out, personal.by, recipe.seed)
        return Splits(train.without_prompts(held_out), held_out, None, growing=True)
    if recipe.held_out == 0:
        return Splits(train, None, None, growing=True)
    limit = int(recipe.held_out * 2**64)
    held = {key for key in map(side_key, train.records) if stable_hash("held out", recipe.seed, key) < limit}
    kept, out = _only(train, held, False), _only(train, held, True)
    if not kept.records:
        raise DataError(f"{train.source}: every prompt is held out", "lower held_out, or give more rows")
    return Splits(kept, out if out.records else None, None, growing=True)


def _only(data: Dataset, keys: set[str], inside: bool) -> Dataset:
    records = tuple(r for r in data.records if (side_key(r) in keys) == inside)
    note, counts = "held out" if inside else "rest", {**data.counts, "records": len(records)}
    return replace(
        data, records=records, counts=counts, source=f"{data.source} ({note})", **({"bad": (), "left_out": ()} if inside else {})
    )


def _owned(config: DataConfig, by: str, seed: int) -> Dataset:
    """The rows of a section, converted owner by owner: nobody's votes are added to another's."""
    whole = load_data(config.model_copy(update={"convert": ConversionConfig()}), seed)
    groups: dict[str, list[Item]] = {}
    for record in whole.records:
        groups.setdefault(owner_of(record, by, whole.source), []).append(record)
    parts = [(owner, convert(replace(whole, records=tuple(rows)), config.convert)) for owner, rows in groups.items()]
    records = tuple(_marked(record, by, owner) for owner, part in parts for record in part.records)
    left_out = tuple(row for _, part in parts for row in part.left_out)
    return replace(whole, records=records, counts={**whole.counts, "records": len(records)}, left_out=left_out)


def owner_of(record: Item, by: str, source: str) -> str:
    """Whose row this is. Raises DataError where it does not say."""
    prompt = prompt_of(record)
    said: Any = record.annotator_id if by == ANNOTATOR and isinstance(record, Comparison) else prompt.meta.get(by)
    if said is None or isinstance(said, dict | list) or not str(said).strip():
        there = ", ".join(sorted(prompt.meta)) or "none"
        raise DataError(
            f"{source}: {prompt.source_id}: the row names no '{by}' (its other columns: {there})",
            "give every row one, or set personal.by to the column that says whose it is",
        )
    return str(said)


def _marked(record: Item, by: str, owner: str) -> Item:
    """A record whose prompt is the owner's alone: others may have the same one."""
    prompt = prompt_of(record)
    prompt = replace(prompt, prompt_id=f"{owner}/{prompt.prompt_id}", meta={**prompt.meta, by: owner})
    return prompt if isinstance(record, Prompt) else cast(Item, replace(record, prompt=prompt))


def each_alone(
    render: Callable[[Dataset], tuple[list[Unit], list[Refusal]]],
) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """Render each record by itself: judgements of one prompt make a unit each, so that a later one changes none of before."""

    def rendered(dataset: Dataset) -> tuple[list[Unit], list[Refusal]]:
        units: list[Unit] = []
        refused: list[Refusal] = []
        for record in dataset.records:
            made, not_made = render(replace(dataset, records=(record,)))
            units += made
            refused += not_made
        return units, refused

    return rendered


def refuse_what_is_shared(recipe: TrainRecipe, reads: Sequence[tuple[str, bool, str]]) -> None:
    """Raise ConfigError for what adapters of several owners cannot have. ``reads``: of the verb's own, (setting, is it set, why not)."""
    loop, optim = recipe.loop, recipe.optim
    wrong = (
        ("lora", recipe.lora is None, "trains an adapter for each owner: give lora its shape, e.g. lora={r: 8}"),
        ("model_options.train", bool(recipe.model_options.train), "would be shared by all owners: leave it out"),
        ("cluster.ranks", recipe.cluster.ranks > 1, "keeps adapters in this process: set cluster.ranks=1"),
        ("optim.schedule", optim.schedule != "constant", "has no last step, as more data may come: set optim.schedule=constant"),
        ("optim.warmup_steps", optim.warmup_steps is None, "cannot take a share of all steps: set optim.warmup_steps, e.g. 0"),
        ("loop.best", loop.best is not None, "has no one evaluation that is the best for all: leave loop.best out"),
        ("loop.phases", bool(loop.phases), "has no phases that all owners are in: leave loop.phases out"),
        ("test", recipe.test != 0, "measures on held_out alone: leave test out"),
        *reads,
    )
    for setting, is_wrong, why in wrong:
        if is_wrong:
            raise ConfigError(f"{setting}: personal {why}")
