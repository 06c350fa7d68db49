"""Writing files for other tools, each whole or not at all, and what such a file needs of a record."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.left_out import LeftOut
from keel.feedback.exchange.imported import NO_TIME, Imported, digest
from keel.runs.durable import write_atomic
from keel.types.judgements import Judgement, Scores, TakenBack, Task
from keel.types.records import Candidate, ImagePart, Message, Prompt

_OURS = "keel"


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old content or the new one. Raises DataError where it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}", "give a file in a folder that you may write to") from None


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> None:
    """A table whose columns are ``first``, then the others in the order in which rows bring them."""
    names = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    write_text(path, out.getvalue())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def foreign(annotator_id: str) -> str:
    """An annotator's name without the format that it was read from; of records that went through `apart` no two have one name."""
    kind, colon, name = annotator_id.partition(":")
    return name if colon else kind


def apart(imported: Imported, formats: Container[str]) -> Imported:
    """The records with ids of annotators that `foreign` keeps apart: only a format's name is taken off, and only where nobody else has the
    rest of it. Others keep their whole id there: ``argilla:7`` beside ``label_studio:7``."""
    ids = list(dict.fromkeys([*(a.annotator_id for a in imported.annotators), *(j.by for j in imported.judgements)]))
    names = Counter(foreign(i) for i in ids)
    whole = {i for i in ids if names[foreign(i)] > 1 or (":" in i and i.partition(":")[0] not in formats)}
    new = {i: f"{_OURS}:{i}" if i in whole else i for i in ids}

    def moved(j: Judgement) -> Judgement:
        bare = f"/{foreign(j.by)}"  # the end of an id that Keel made of task and annotator
        place = f"{j.source_id.removesuffix(bare)}/{j.by}" if j.by in whole and j.source_id.endswith(bare) else j.source_id
        return replace(j, by=new[j.by], source_id=place)

    people = tuple(replace(a, annotator_id=new[a.annotator_id]) for a in imported.annotators)
    return replace(imported, annotators=people, judgements=tuple(map(moved, imported.judgements)))


def alone(imported: Imported) -> Imported:
    """The records with a task for each answer that a rating is about, ``id/answerK``, as readers make them: a score in a row of several
    answers would be read as that of the first, or as a choice."""
    several = {t.task_id: t for t in imported.tasks if t.kind == "rating" and len(t.candidates) > 1}
    made: dict[tuple[str, int], Task] = {}
    judgements: list[Judgement] = []
    for j in imported.judgements:
        task, answer = several.get(j.task_id), j.answer
        if task is not None and isinstance(answer, Scores):
            k, place = answer.candidate, f"{task.source_id}/answer{answer.candidate + 1}"
            single = replace(task, task_id=f"{task.task_id}/{k}", candidates=(task.candidates[k],), source_id=place, expected=None)
            made[task.task_id, k] = single
            j = replace(j, task_id=single.task_id, answer=replace(answer, candidate=0), display_order=(0,))
        judgements.append(j)
    asked = {name for name, _ in made}
    tasks = [t for t in imported.tasks if t.task_id not in asked]
    return replace(imported, tasks=(*tasks, *made.values()), judgements=tuple(judgements))


def told_apart(imported: Imported) -> Imported:
    """The records with a source id for each item: other tools take one id for one item, and a prompt whose answers were asked about in
    several pairs has one source id for all of them. Where several items have one id each gets ``#`` and a hash of what it asks, so that an
    item's id does not hang on the order of the others. An item without any has the hash alone."""
    keys = [(t.source_id, t.prompt.prompt_id, *sorted(c.candidate_id for c in t.candidates)) for t in imported.tasks]
    sharing = Counter(key[0] for key in dict.fromkeys(keys))
    names = {key: key[0] if key[0] and sharing[key[0]] == 1 else f"{key[0]}#{digest(*key)}".removeprefix("#") for key in keys}
    return replace(imported, tasks=tuple(replace(t, source_id=names[key]) for t, key in zip(imported.tasks, keys)))


def at(judgement: Judgement) -> str:
    """When it was given; "" where that is not known."""
    return "" if judgement.at == NO_TIME else judgement.at


def scheme_of(task: Task, default: str) -> str:
    """The last part of ``imported:FORMAT:SCHEME``."""
    parts = task.protocol.split(":", 2)
    return parts[2] if parts[0] == "imported" and len(parts) == 3 else default


def said(prompt: Prompt) -> Any:
    """What a prompt says, without the images that `images_of` names: text, or turns where there are several."""
    if prompt.text is not None:
        return prompt.text
    if not _in_front(prompt):
        return [turn(m) for m in prompt.messages]
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user" and not prompt.messages[0].extra:
        return prompt.messages[0].text
    return [{"role": m.role, "content": m.text, **m.extra} for m in prompt.messages]


def images_of(prompt: Prompt) -> list[str]:
    """Sources of a prompt's images, in order, where they stand in front of its last question, as readers of a column of images put them;
    elsewhere they stay in the turns."""
    if not _in_front(prompt):
        return []
    return [p.source for m in prompt.messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]


def _in_front(prompt: Prompt) -> bool:
    last = max((i for i, m in enumerate(prompt.messages) if m.role == "user"), default=0)
    with_images = [i for i, m in enumerate(prompt.messages) if not isinstance(m.content, str) and _pictures(m.content)]
    if not with_images:
        return True
    content = prompt.messages[last].content
    kinds = [isinstance(p, ImagePart) for p in content if not isinstance(p, str)]
    return with_images == [last] and kinds == sorted(kinds, reverse=True) and kinds.count(False) < 2


def _pictures(content: Sequence[Any]) -> bool:
    return any(isinstance(p, ImagePart) for p in content)


def spoken(candidate: Candidate) -> Any:
    """An answer's text, or its turns where there are more of them."""
    return [turn(m) for m in candidate.turns] if candidate.turns else candidate.text


def turn(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        content = [{"type": "image", "image": p.source} if isinstance(p, ImagePart) else {"type": "text", "text": p.text} for p in content]
    return {"role": message.role, "content": content, **message.extra}


def unfit(
    imported: Imported, kinds: Sequence[str], why: str, purposes: Sequence[str] = ("work", "adjudication")
) -> tuple[list[tuple[Task, Judgement | None]], list[LeftOut]]:
    """Each judgement with its task (a task without any, with None), of ``kinds`` alone; the others are left out with ``why``. So are those
    made for another purpose: another tool's file would mix gold items, repeats and audits with work."""
    kept: list[tuple[Task, Judgement | None]] = []
    left: list[LeftOut] = []
    tasks = {t.task_id: t for t in imported.tasks}
    for judgement in imported.judgements:
        task = tasks.get(judgement.task_id)
        if task is None:
            left.append(LeftOut(judgement.event_id, judgement.source_id, "task_id: no such task in these records"))
        elif isinstance(judgement.answer, TakenBack):
            left.append(LeftOut(judgement.event_id, judgement.source_id, "answer: was taken back"))
        elif judgement.purpose not in purposes and not (judgement.purpose == "repeat" and judgement.protocol.startswith("imported:")):
            why_not = f"purpose: {judgement.purpose}: the format cannot tell it from work"
            left.append(LeftOut(judgement.event_id, judgement.source_id, why_not))
        elif task.kind not in kinds:
            left.append(LeftOut(judgement.event_id, judgement.source_id, f"kind: {task.kind}: {why}"))
        else:
            kept.append((task, judgement))
    judged = {j.task_id for j in imported.judgements}
    bare = [t for t in imported.tasks if t.task_id not in judged]
    left += [LeftOut(t.task_id, t.source_id, f"kind: {t.kind}: {why}") for t in bare if t.kind not in kinds]
    return [*kept, *((t, None) for t in bare if t.kind in kinds)], left
