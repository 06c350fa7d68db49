"""The data of a race: one training side and one held-out side for all ways, as files that the stages read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keel.advise.config import AdviseRecipe
from keel.advise.measure import Measures
from keel.advise.ways import Way
from keel.core.errors import DataError
from keel.core.hashing import permutation
from keel.data.config import ConversionConfig
from keel.data.dataset import Dataset, convert
from keel.data.dataset import load as load_data
from keel.data.identity import Item
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Demonstration, ImagePart, Message, Pair, Prompt, Unpaired


@dataclass(frozen=True, slots=True)
class Sides:
    """``train`` and ``held_out`` are of one kind: pairs, answers with labels, or prompts."""

    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    whole: tuple[Dataset, Dataset]

    @property
    def fingerprint(self) -> str:
        """Changes with anything that is written."""
        digest = hashlib.sha256()
        for rows in (self.train, self.held_out):
            for record in rows:
                digest.update(json_line(row_of(record)))
        return digest.hexdigest()

    def file(self, way: Way, side: str) -> str:
        """The file that a way reads: SFT takes the good answers alone."""
        return f"{side}_demonstrations.jsonl" if way.kind == "sft" else f"{side}.jsonl"

    def write(self, folder: Path) -> None:
        """Write all files."""
        folder.mkdir(parents=True, exist_ok=True)
        for side, data, rows in zip(("train", "held_out"), self.whole, (self.train, self.held_out), strict=True):
            write_atomic(folder / f"{side}.jsonl", b"".join(json_line(row_of(r)) for r in rows))
            if not isinstance(rows[0], Prompt):
                good = convert(replace(data, records=rows), ConversionConfig(to="demonstrations")).records
                write_atomic(folder / f"{side}_demonstrations.jsonl", b"".join(json_line(row_of(r)) for r in good))


def sides(config: AdviseRecipe, m: Measures, family: str) -> Sides:
    """Read, convert to what the family compares, take a part, split by prompt. Raises DataError when too little is left."""
    data = load_data(config.data, config.seed)
    if family == "verifier":
        data = convert(data, ConversionConfig(to="prompts"))
    elif "unpaired" not in m.kinds:
        data = convert(data, ConversionConfig(to="pairs"))
    chosen = sorted(permutation(len(data.records), "race", config.seed)[: config.race.limit])
    train, held_out = replace(data, records=tuple(data.records[i] for i in chosen)).split_by_prompt(
        config.race.held_out, config.seed, "race"
    )
    found = Sides(train.records, held_out.records, (train, held_out))
    if family == "labels" and "unpaired" in m.kinds and len({r.desirable for r in found.held_out if isinstance(r, Unpaired)}) < 2:
        raise DataError(f"{data.source}: all held-out answers of the race have the same label", "give more data, or another race.held_out")
    return found


def row_of(record: Item) -> dict[str, Any]:
    """A record as a row that Keel reads back. Only kinds that a race uses."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    row: dict[str, Any] = {"prompt": prompt.text if prompt.text is not None else turns(prompt.messages), "prompt_id": prompt.prompt_id}
    row |= {"tools": [dict(t) for t in prompt.tools]} if prompt.tools else {}
    row |= {"meta": dict(prompt.meta)} if prompt.meta else {}
    match record:
        case Pair():
            row |= {"chosen": turns(record.chosen), "rejected": turns(record.rejected)}
            row |= dict(_given(record))
        case Unpaired():
            row |= {"completion": turns(record.answer), "label": record.desirable, "weight": record.weight}
        case Demonstration():
            row |= {"completion": turns(record.completion)}
        case _:
            assert isinstance(record, Prompt)
            row |= {"ground_truth": prompt.meta["ground_truth"]} if "ground_truth" in prompt.meta else {}
    return row


def _given(pair: Pair) -> Iterator[tuple[str, float]]:
    """The optional columns that say something."""
    if pair.margin:
        yield "margin", pair.margin
    if pair.label != 1.0:
        yield "label", pair.label
    if pair.weight != 1.0:
        yield "weight", pair.weight


def turns(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """Messages as they stand in files; images by their absolute paths."""
    return [{"role": m.role, "content": _content(m), **m.extra, **({} if m.trained else {"weight": 0})} for m in messages]


def _content(message: Message) -> Any:
    if isinstance(message.content, str):
        return message.content
    return [
        {"type": "image", "image": p.source if p.source.startswith("data:") else str(Path(p.source).absolute())}
        if isinstance(p, ImagePart)
        else {"type": "text", "text": p.text}
        for p in message.content
    ]
