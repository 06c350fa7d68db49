"""From data sections to units: read, split by prompt, render, and account for every row that is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.errors import DataError
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import pairs_to_units
from keel.stages.account import Account
from keel.types import Pair, Unit


@dataclass(frozen=True, slots=True)
class Prepared:
    """Units to train on and held-out ones, and what became of the rows that are not among them."""

    train: tuple[Unit, ...]
    held_out: tuple[Unit, ...]
    account: Account


def datasets(data: DataConfig, held_out: DataConfig | float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Training and held-out data. No prompt is on both sides: held-out prompts that also stand in the training data leave the latter."""
    whole = load_data(data, seed)
    if not isinstance(held_out, DataConfig):
        return whole.split_by_prompt(held_out, seed) if held_out > 0 else (whole, None)
    other = load_data(held_out, seed)
    return whole.without_prompts(other), other


def fingerprints(train: Dataset, held_out: Dataset | None) -> dict[str, str]:
    """sha256 of each data set's content, for the manifest."""
    return {train.source: train.fingerprint} | ({held_out.source: held_out.fingerprint} if held_out else {})


def prepare(
    train: Dataset, held_out: Dataset | None, renderer: Renderer, out: Path, render: Callable[[Dataset], tuple[list[Unit], list[Refusal]]]
) -> Prepared:
    """Render both sides. Bad rows and refused records of both are written to ``out`` and counted. Raises DataError when nothing is left of
    a side."""
    account = Account(out, train=train, held_out=held_out)
    sides: dict[str, tuple[Unit, ...]] = {"held_out": ()}
    for side, dataset in account.sides.items():
        units, refused = render(dataset)
        account.refuse(side, refused)
        if not units:
            first = f"; the first: {refused[0].source_id}: {refused[0].reason}" if refused else ""
            raise DataError(
                f"{dataset.source}: none of {len(dataset)} {side} records can be rendered{first}",
                "see the limits in render.*, or look at the rows with keel data show",
            )
        sides[side] = tuple(units)
    return Prepared(sides["train"], sides["held_out"], account)


def plain_units(renderer: Renderer) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """One unit a record."""
    return lambda dataset: renderer.units(dataset.records)  # type: ignore[arg-type]


def preference_units(renderer: Renderer) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """Pairs of one prompt become one unit, its answers computed once; other labels stand as they are."""

    def render(dataset: Dataset) -> tuple[list[Unit], list[Refusal]]:
        pairs: Iterable[Pair] = dataset.of(Pair)
        return pairs_to_units(renderer, pairs)

    return render
