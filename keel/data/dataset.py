"""Reading data: path -> rows -> one layout -> records, with every bad row accounted for."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from keel.core.errors import DataError, EmptyFileError
from keel.core.hashing import stable_hash
from keel.data import conversion
from keel.data.config import ConversionConfig, DataConfig
from keel.data.errors import FieldError
from keel.data.fields import Fields
from keel.data.findings import find
from keel.data.identity import Item, claim_key, prompt_of, settle_ids, side_key
from keel.data.layouts import Layout, detect, named
from keel.data.left_out import LeftOut, left_out
from keel.data.rows import without_pictures
from keel.data.sources import BadRow, RawRow, Source, read_source
from keel.data.text_only import with_questions_alone
from keel.data.unread import judged_columns, told, unheard, unread_columns
from keel.types import ImagePart, Pair, Prompt

log = logging.getLogger("keel")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Records and where they came from. ``counts`` has ``rows`` (in the file), ``records``, ``bad`` and the records by kind."""

    records: tuple[Item, ...]
    layout: str
    counts: Mapping[str, int]
    bad: tuple[BadRow, ...]
    fingerprint: str  # sha256 of the content of what was read
    source: str
    left_out: tuple[LeftOut, ...] = ()  # records that data.convert made nothing of
    in_held_out: int = 0  # records that were taken out because their prompts are held out

    def __len__(self) -> int:
        return len(self.records)

    def summary(self) -> str:
        """One line for people: what was found, how much of it, how much is bad."""
        text = f"{self.source}: {self.counts['rows']} rows, layout {self.layout}"
        if self.bad:
            text += f"; {len(self.bad)} bad rows set aside, the first: {self.bad[0]}"
        return text

    def of(self, kind: type[K]) -> tuple[K, ...]:
        """The records, all of one kind. Raises DataError when they are of another, naming what would help."""
        other = next((r for r in self.records if not isinstance(r, kind)), None)
        if other is not None:
            unread = ", ".join(sorted({name for prompt in self.prompts() for name in prompt.meta} - {"ground_truth"}))
            raise DataError(
                f"{self.source}: {kind.__name__.lower()} records are needed, layout {self.layout!r} holds {type(other).__name__.lower()}",
                "give another file, or convert with data.convert.to=pairs | unpaired | demonstrations | prompts"
                + (f"; columns that were not read: {unread} (data.keys={{completion: THE_ANSWER}} names one)" if unread else ""),
            )
        return tuple(r for r in self.records if isinstance(r, kind))

    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts of all records, each once, in order of first appearance. What a row says of the right answer belongs to its prompt:
        the same question with another one is a prompt of its own, ``id~claim``."""
        first: dict[str, dict[str, Prompt]] = {}
        found: list[Prompt] = []
        for record in self.records:
            prompt, claim = prompt_of(record), claim_key(record)
            known = first.setdefault(prompt.prompt_id, {})
            if claim not in known:
                known[claim] = replace(prompt, prompt_id=f"{prompt.prompt_id}~{claim[:8]}") if known else prompt
                found.append(known[claim])
        return tuple(found)

    def split_by_prompt(self, share: float, seed: int = 0, salt: str = "split") -> tuple[Dataset, Dataset]:
        """Split into (rest, held out) by hash of the prompt: nothing of one prompt is on both sides, whatever its ids. ``share`` is held
        out's, in (0, 1); splits of other ``salt`` are other ones.

        The number of prompts held out is exactly round(share * prompts), at least 1. Bad rows and those left out stay with the
        rest. Raises DataError when a side would be empty.
        """
        names: dict[str, str] = {}  # content -> the least of its prompts' ids, which is what is hashed
        for record in self.records:
            key, prompt = side_key(record), prompt_of(record)
            name = prompt.prompt_id if prompt.messages or prompt.text else key  # plain texts share one empty prompt
            names[key] = min(names.get(key, name), name)
        n = max(1, round(share * len(names)))
        if not 0.0 < share < 1.0 or n >= len(names):
            raise DataError(
                f"{self.source}: cannot hold out {share:g} of {len(names)} prompts", "a share between 0 and 1 needs at least two prompts"
            )
        held = set(sorted(names, key=lambda key: (stable_hash(salt, seed, names[key]), key))[:n])
        rest, held_out = self._only(lambda key: key not in held, "rest"), self._only(lambda key: key in held, "held out")
        return rest, replace(held_out, bad=(), left_out=(), counts={**held_out.counts, "bad": 0})

    def without_prompts(self, other: Dataset) -> Dataset:
        """Leave out every record whose prompt stands in ``other``, under whatever id, and count them as ``in_held_out``."""
        theirs = {side_key(r) for r in other.records}
        kept = self._only(lambda key: key not in theirs, "not held out")
        gone = len(self) - len(kept)
        if gone:
            log.warning("%s: %d of %d records left out: their prompts stand in %s", self.source, gone, len(self), other.source)
        if not kept.records:
            raise DataError(
                f"{self.source}: every prompt stands in {other.source} too: nothing is left to train on", "hold out other prompts"
            )
        return replace(kept, in_held_out=gone)

    def _only(self, keep: Callable[[str], bool], note: str) -> Dataset:
        records = tuple(r for r in self.records if keep(side_key(r)))
        counts = {**self.counts, **dict.fromkeys(_count(self.records), 0), **_count(records)}
        return replace(self, records=records, counts=counts, source=f"{self.source} ({note})")


def read(path: str, config: DataConfig | None = None) -> Dataset:
    """Read one path: detect the layout (or take ``config.layout``), convert every row, set bad rows aside.

    Raises DataError when nothing can be used, when layouts are mixed or unknown, or at the first bad rows when ``config.strict``.
    """
    dataset = _read(path, config or DataConfig(path=path))
    return replace(dataset, records=tuple(settle_ids(dataset.records, dataset.source)))


def _read(path: str, config: DataConfig) -> Dataset:
    source = read_source(path, config.split)
    rows = [Fields(row, _keys(config.keys)) for row in _placed(source.rows[: config.limit], config.images)]
    layout = _layout(rows, source, config)
    records, bad = _convert(rows, layout, config)
    bad = sorted([*source.bad, *bad], key=lambda b: (b.file, b.line))
    bad = [replace(b, values=without_pictures(b.values)) for b in bad]
    if bad and (config.strict or not records):
        shown = "\n".join(f"  {row}" for row in bad[:10]) + (f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else "")
        what = f"{len(bad)} bad rows" if records else "no usable row"
        raise DataError(f"{source.name}: {what}, read as layout {layout.name!r}:\n{shown}", _bad_hint(records))
    counts = {"rows": len(source.rows) + len(source.bad), "bad": len(bad), **_count(records)}
    dataset = Dataset(tuple(_distinct(records)), layout.name, counts, tuple(bad), source.fingerprint, source.name)
    log.info("%s", dataset.summary())
    return dataset


def read_rows(path: str, config: DataConfig) -> tuple[list[tuple[RawRow, Item]], list[BadRow], str]:
    """Each row of a path with the record that it becomes, those that become none, and the layout's name. For who writes rows again as they
    stood. Raises DataError where no row could be read."""
    source = read_source(path, config.split)
    fields = [Fields(row, _keys(config.keys)) for row in _placed(source.rows[: config.limit], config.images)]
    layout = _layout(fields, source, config)
    found: list[tuple[RawRow, Item]] = []
    bad = list(source.bad)
    for row in fields:
        records, spoilt = _convert([row], layout, config)
        found += [(row.raw, record) for record in records]
        bad += spoilt
    return found, bad, layout.name


def _placed(rows: Sequence[RawRow], images: str) -> Sequence[RawRow]:
    """Rows whose images lie in the folder ``images``. Raises DataError where there is none."""
    if not images:
        return rows
    folder = Path(images).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"data.images={images}: no such folder", "name the folder that the paths of images start in")
    return [replace(row, folder=str(folder)) for row in rows]


def load(config: DataConfig, seed: int = 0) -> Dataset:
    """Read all of a section's paths, mix them by weight, convert them. A single path gives what ``read`` gives, converted. Of several a
    file may be empty (an earlier stage found nothing to write), which is told; not where it was given a weight."""
    parts = _parts(config)
    settled = iter(settle_ids([r for p in parts for r in p.records], " + ".join(p.source for p in parts)))
    sizes = mixture_sizes([len(p) for p in parts], config.weights)
    records = [r for part, size in zip(parts, sizes) for r in _sample(tuple(islice(settled, len(part))), size, seed)]
    if len(parts) == 1:
        whole = replace(parts[0], records=tuple(records))
    else:
        counts = {"rows": sum(p.counts["rows"] for p in parts), "bad": sum(p.counts["bad"] for p in parts), **_count(records)}
        fingerprint = hashlib.sha256("".join(p.fingerprint for p in parts).encode()).hexdigest()
        layouts = " + ".join(dict.fromkeys(p.layout for p in parts))
        bad = tuple(b for p in parts for b in p.bad)
        whole = Dataset(tuple(_distinct(records)), layouts, counts, bad, fingerprint, " + ".join(p.source for p in parts))
    unread, judged = told(unread_columns(whole.records), whole.layout), unheard(judged_columns(whole.records), whole.layout)
    for found in (str(find(whole.records)), unread, judged):
        if found:
            log.warning("%s: %s", whole.source, found)
    return _with_questions_alone(convert(whole, config.convert), config, seed)


def _parts(config: DataConfig) -> list[Dataset]:
    parts: list[Dataset] = []
    for i, path in enumerate(config.paths):
        try:
            parts.append(_read(path, config))
        except EmptyFileError:
            if config.weights or (i + 1 == len(config.paths) and not parts):
                raise
            log.warning("%s: 0 rows: the file is empty, and the others are read", path)
    return parts


def _with_questions_alone(dataset: Dataset, config: DataConfig, seed: int) -> Dataset:
    """The data set with ``data.without_image`` followed."""
    if config.without_image.share == 0:
        return dataset
    records, n = with_questions_alone(dataset.records, config.without_image, seed, dataset.source)
    log.info("%s: %d rows added that ask without the image", dataset.source, n)
    return replace(dataset, records=tuple(_distinct(records)), counts={**dataset.counts, **_count(records)})


def convert(dataset: Dataset, config: ConversionConfig) -> Dataset:
    """Turn labels of one kind into another. Raises DataError when the records cannot become what is asked."""
    if config.to == "none":
        return dataset
    if config.to == "prompts":
        records: Sequence[Item] = dataset.prompts()
    elif config.to == "demonstrations":
        records = conversion.to_demonstrations(dataset.records, config, dataset.source)
    else:
        pairs = conversion.to_pairs(dataset.records, config, dataset.source)
        records = pairs if config.to == "pairs" else conversion.pairs_to_unpaired(pairs)
    if not records:
        raise DataError(f"{dataset.source}: nothing is left after conversion to {config.to}", "see data.convert: ties, min_gap, dimension")
    log.info("%s: %d records became %d %s", dataset.source, len(dataset), len(records), config.to)
    lost = left_out(dataset.records, records, config)
    if lost:
        text = "%s: %d records left out by the conversion (first: %s: %s)"
        log.warning(text, dataset.source, len(lost), lost[0].source_id, lost[0].reason)
    return replace(dataset, records=tuple(records), counts={**dataset.counts, **_count(records)}, left_out=lost)


def mixture_sizes(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows to take of each source so that shares are as ``weights`` say and no row is used twice; everything without weights."""
    if not weights:
        return list(sizes)
    total = min(n * sum(weights) / w for n, w in zip(sizes, weights))
    return [min(n, round(total * w / sum(weights))) for n, w in zip(sizes, weights)]


def _sample(records: tuple[Item, ...], size: int, seed: int) -> list[Item]:
    """``size`` of the records, chosen by hash, in their order."""
    if size == len(records):
        return list(records)
    chosen = np.argsort([stable_hash("mixture", seed, i) for i in range(len(records))], kind="stable")[:size]
    return [records[i] for i in sorted(chosen.tolist())]


def _layout(rows: list[Fields], source: Source, config: DataConfig) -> Layout:
    if config.layout != "auto":
        return named(config.layout)
    if not rows:
        shown = "\n".join(f"  {row}" for row in source.bad[:10])
        raise DataError(f"{source.name}: no row could be read:\n{shown}", "mend the rows, or check that the file is what its name says")
    return detect(rows, source.name)


def _convert(rows: list[Fields], layout: Layout, config: DataConfig) -> tuple[list[Item], list[BadRow]]:
    records: list[Item] = []
    bad: list[BadRow] = []
    for row in rows:
        try:
            record = layout(row)
            if isinstance(record, Pair) and record.label == 0.5 and not config.ties:
                raise FieldError("tie", "ties are not accepted here (data.ties=false)")
            records.append(record)
        except FieldError as error:
            bad.append(_bad(row.raw, error))
    return records, bad


def _bad(row: RawRow, error: FieldError) -> BadRow:
    return BadRow(row.file, row.line, error.field, error.reason, row.values)


def _bad_hint(records: list[Item]) -> str:
    return (
        "mend these rows, or drop data.strict to set them aside"
        if records
        else "mend the rows, or name another layout with data.layout; docs/data.md has all of them"
    )


def _keys(keys: Mapping[str, str]) -> dict[str, str]:
    """Keel's name -> the file's; OpenRLHF's flags (prompt_key, input_key, output_key ...) are understood too."""
    flags = {"input_key": "prompt", "output_key": "completion"}
    return {flags.get(k, k.removesuffix("_key")): v for k, v in keys.items()}


def _count(records: Sequence[Item]) -> dict[str, int]:
    """Records, those of each kind, the images that they show, each once, and the questions without theirs (no entry without any)."""
    turns = [m.content for r in records for m in prompt_of(r).messages if not isinstance(m.content, str)]
    images = len({p.source for content in turns for p in content if isinstance(p, ImagePart)})
    alone = sum(prompt_of(r).meta.get("without_image") is True for r in records)
    extra = {name: n for name, n in (("images", images), ("without_image", alone)) if n}
    return {"records": len(records), **Counter(type(r).__name__.lower() for r in records), **extra}


def _distinct(records: Sequence[Item]) -> list[Item]:
    """Give repeated rows ids of their own: the second is ``id#2``."""
    seen: Counter[str] = Counter()
    result: list[Item] = []
    for record in records:
        if isinstance(record, Prompt):
            result.append(record)
            continue
        seen[record.record_id] += 1
        n = seen[record.record_id]
        result.append(record if n == 1 else replace(record, record_id=f"{record.record_id}#{n}"))
    return result
