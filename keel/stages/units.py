"""From data sections to units: read, split by prompt, render, and account for every row that is left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.errors import DataError
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import pairs_to_units
from keel.types import Pair, Unit

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Units to train on and held-out ones, with the fingerprints of the data they came from."""

    train: tuple[Unit, ...]
    held_out: tuple[Unit, ...]
    fingerprints: dict[str, str]


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
    """Render both sides. Bad rows and refused records are written to ``bad_rows.jsonl`` / ``refused.jsonl`` in ``out`` and counted."""
    sides: list[tuple[Unit, ...]] = []
    refused: list[Refusal] = []
    for side in (train, held_out):
        if side is None:
            sides.append(())
            continue
        if side.bad:
            side.write_bad(out / "bad_rows.jsonl")
            log.warning("%s: %d bad rows set aside in %s", side.source, len(side.bad), out / "bad_rows.jsonl")
        units, refusals = render(side)
        refused += refusals
        sides.append(tuple(units))
    write_refused(refused, out / "refused.jsonl")
    if not sides[0]:
        reason = refused[0].reason if refused else "no rows"
        raise DataError(f"{train.source}: nothing to train on; {len(refused)} records were refused, the first because {reason}")
    return Prepared(sides[0], sides[1], fingerprints(train, held_out))


def write_refused(refused: Sequence[Refusal], path: Path) -> None:
    """Name every record that could not be rendered, and why."""
    if not refused:
        return
    lines = [json.dumps({"record_id": r.record_id, "source_id": r.source_id, "reason": r.reason}, ensure_ascii=False) for r in refused]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log.warning("%d records refused (first: %s), all of them in %s", len(refused), refused[0].reason, path)


def plain_units(renderer: Renderer) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """One unit a record."""
    return lambda dataset: renderer.units(dataset.records)  # type: ignore[arg-type]


def preference_units(renderer: Renderer) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """Pairs of one prompt become one unit, its answers computed once; other labels stand as they are."""

    def render(dataset: Dataset) -> tuple[list[Unit], list[Refusal]]:
        pairs: Iterable[Pair] = dataset.of(Pair)
        return pairs_to_units(renderer, pairs)

    return render
