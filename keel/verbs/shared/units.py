"""From data sections to units: read, split by prompt, render, and account for every row that is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.loops.offline import Sides
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import pairs_to_units
from keel.types import Demonstration, Pair, Prompt, Unit
from keel.verbs.shared.account import Account
from keel.verbs.shared.recipes import TrainRecipe


@dataclass(frozen=True, slots=True)
class Earlier:
    """A data set of an earlier training: ``rest`` may be trained on, and ``replayed`` of it are; ``held`` is only measured."""

    name: str
    rest: Dataset
    held: Dataset
    replayed: int


@dataclass(frozen=True, slots=True)
class Splits:
    """Data to train on, to look at while training (``held_out``: the best checkpoint is chosen by it) and to report on once, at the end
    (``test``: it chooses nothing). ``earlier``: data of earlier trainings, some of them among ``train``."""

    train: Dataset
    held_out: Dataset | None
    test: Dataset | None
    earlier: tuple[Earlier, ...] = ()
    growing: bool = False  # a run that goes on may find more of them

    @property
    def sides(self) -> dict[str, Dataset]:
        """Those of the training that are there, by name."""
        sides = {"train": self.train, "held_out": self.held_out, "test": self.test}
        return {name: data for name, data in sides.items() if data is not None}

    def prompts(self) -> list[Prompt]:
        """The prompts of all sides."""
        return [p for data in self.sides.values() for p in data.prompts()]

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of each data set's content, for the manifest."""
        return {data.source: data.fingerprint for data in (*self.sides.values(), *(e.held for e in self.earlier))}


def datasets(recipe: TrainRecipe) -> Splits:
    """A recipe's data by side. No prompt is on two sides: test prompts leave the held-out data, both leave the training data."""
    train, test = _split(load_data(recipe.data, recipe.seed), recipe.test, recipe.seed, "test")
    held_out = load_data(recipe.held_out, recipe.seed) if isinstance(recipe.held_out, DataConfig) else recipe.held_out
    if test is not None and isinstance(held_out, Dataset):
        held_out = held_out.without_prompts(test)
    train, held_out = _split(train, held_out, recipe.seed, "split")
    return Splits(train, held_out, test)


def _split(whole: Dataset, out: DataConfig | Dataset | float, seed: int, name: str) -> tuple[Dataset, Dataset | None]:
    """(what is left of ``whole``, what is taken out): a share of its prompts, or data of its own."""
    if isinstance(out, float | int):
        return whole.split_by_prompt(out, seed, name) if out > 0 else (whole, None)
    other = load_data(out, seed) if isinstance(out, DataConfig) else out
    return whole.without_prompts(other), other


def prepare(account: Account, renderer: Renderer, render: Callable[[Dataset], tuple[list[Unit], list[Refusal]]]) -> Sides:
    """Units of all sides of ``account``, which is told of the other rows: of refused ones, and of what ``renderer`` shortened. Raises
    DataError when nothing is left of a side."""
    sides: dict[str, tuple[Unit, ...]] = {}
    for side, dataset in account.sides.items():
        before = Counter(renderer.shortened)
        units, refused = render(dataset)
        account.shorten(side, renderer.shortened - before)
        account.refuse(side, refused)
        account.split(side, units)
        if not units:
            first = f"; the first: {refused[0].source_id}: {refused[0].reason}" if refused else ""
            raise DataError(
                f"{dataset.source}: none of {len(dataset)} {side} records can be rendered{first}",
                "see the limits in render.*, or look at the rows with keel data show",
            )
        account.check_refused(side, len(dataset))
        sides[side] = tuple(units)
    return Sides(**sides)


def plain_units(renderer: Renderer) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """Units of demonstrations: one each, or several (``Renderer.units_of``). Other records are refused: of a pair, say, the rejected answer
    would be imitated too."""
    return lambda dataset: renderer.units(dataset.of(Demonstration))


def preference_units(renderer: Renderer, contrast: bool = False) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """Pairs of one prompt become one unit, its answers computed once; other labels stand as they are. ``contrast`` as in
    ``pairs_to_units``."""

    def render(dataset: Dataset) -> tuple[list[Unit], list[Refusal]]:
        pairs: Iterable[Pair] = dataset.of(Pair)
        return pairs_to_units(renderer, pairs, contrast)

    return render
