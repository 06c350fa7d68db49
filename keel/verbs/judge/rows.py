"""What is to be judged: rows of a file as tasks."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.image_digest import image_digest
from keel.core.json_lines import lines_of
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.data.errors import FieldError
from keel.data.fields import place_images
from keel.data.identity import PromptIds
from keel.data.turns import as_image, as_messages
from keel.evaluate.judge_labels import labelled
from keel.feedback.rows import digest, named
from keel.judges.pictures import holds_image
from keel.types import Candidate, Comparison, Demonstration, ImagePart, Message, Pair, Prompt, Ranking, Rating, Task, Unpaired

log = logging.getLogger("keel")


def tasks_of(path: str, campaign: str) -> list[Task]:
    """One task a row, in order; rows with the same content are one task, and counted. Raises DataError naming file, line and field."""
    found = _own_rows(Path(path)) if _has_answers(Path(path)) else _records(path)
    tasks = [named(Task("", prompt, candidates, kind, f"{kind}-v1", campaign=campaign)) for prompt, candidates, kind in found]
    first: dict[str, Task] = {}
    for task in tasks:
        first.setdefault(task.task_id, task)
    kept = list(first.values())
    if len(kept) < len(tasks):
        log.info("%s: %d rows stand there before with the same content, and are judged once", path, len(tasks) - len(kept))
    return kept


def stored_tasks(store: str, campaign: str) -> list[Task]:
    """The items of work of a campaign, in their order. Raises DataError where there are none, or none that judges are asked about."""
    from sqlalchemy import select  # the database is an extra

    from keel.feedback import schema
    from keel.feedback.db import Store

    t = schema.task
    with Store(store) as opened:
        found = opened.campaign(campaign)
        if found.kind == "spans":
            raise DataError(f"campaign {campaign} marks spans, which no judge is asked about", "judges compare, order and score")
        query = select(t.c.task_id).where(t.c.campaign == campaign, t.c.role == "work").order_by(t.c.position)
        tasks = opened.tasks(opened.read(lambda c: list(c.execute(query).scalars())))
    if not tasks:
        raise DataError(f"campaign {campaign} has no items of work", "`keel feedback status` says what the store holds")
    return tasks


Found = tuple[Prompt, tuple[Candidate, ...], Any]


def _kind(n: int) -> str:
    return "rating" if n == 1 else "pairwise" if n == 2 else "ranking"


def _has_answers(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and "answers" in row


def _own_rows(path: Path) -> list[Found]:
    """Rows ``{prompt, answers}``; an answer is a text or ``{text, origin}``. Other columns go to the prompt. Raises DataError,
    also where one prompt_id stands for two prompts."""
    found: list[Found] = []
    ids = PromptIds()
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8")), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken JSON: {error}", "correct the line or delete it") from None
        answers = row.get("answers") if isinstance(row, dict) else None
        if not isinstance(answers, list) or not answers:
            raise DataError(f"{path}:{number}: answers must be a list of texts", 'a row is {"prompt": ..., "answers": ["...", "..."]}')
        candidates = tuple(_candidate(a, f"{path}:{number}", i) for i, a in enumerate(answers))
        meta = {k: v for k, v in row.items() if k not in ("prompt", "answers", "prompt_id", "image", "images")}
        prompt = _prompt(row, f"{path}:{number}", meta, str(path.parent))
        ids.check(prompt, f"{path}:{number}")
        found.append((prompt, candidates, _kind(len(candidates))))
    return found


def _prompt(row: dict[str, Any], where: str, meta: dict[str, Any], folder: str) -> Prompt:
    """A prompt as data files write it: a text or turns, images in ``images`` (or ``image``) or inside the turns."""
    said = row.get("prompt")
    if not said or not isinstance(said, str | list):
        raise DataError(f"{where}: prompt must be a text or a list of {{role, content}}", "correct the row")
    given = row.get("images", row.get("image"))
    try:
        images = [as_image(f"images.{k}", x, folder) for k, x in enumerate(given if isinstance(given, list) else [given]) if x is not None]
        turns = (Message("user", said),) if isinstance(said, str) else as_messages("prompt", said)
        messages = place_images(turns, images, folder)
    except FieldError as error:
        raise DataError(f"{where}: {error.field}: {error.reason}", "correct the row") from None
    seen = [image_digest(p.source) for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]
    return Prompt(str(row.get("prompt_id") or digest([said, *seen] if seen else said)), messages, source_id=where, meta=meta)


def _candidate(value: Any, where: str, i: int) -> Candidate:
    text, origin = (
        (value, {}) if isinstance(value, str) else (value.get("text"), value.get("origin", {})) if isinstance(value, dict) else (0, {})
    )
    if not isinstance(text, str) or not isinstance(origin, dict):
        raise DataError(f"{where}: answers.{i} must be a text, or {{text, origin}}", "correct the row")
    return Candidate(f"{i}-{digest(text)[:12]}", text, origin)


def _records(path: str) -> list[Found]:
    """Pairs, comparisons, rankings and single answers of any layout. Labels that rows have are not shown to anybody."""
    data = load_data(DataConfig(path=path))
    found: list[Found] = []
    pairs = [r for r in data.records if isinstance(r, Comparison | Pair)]
    if pairs:
        found += [(x.question.prompt, x.question.answers, "pairwise") for x in labelled(pairs, data.source)]
    for record in data.records:
        if isinstance(record, Comparison | Pair):
            continue
        if isinstance(record, Ranking):
            answers = tuple(_of_turns(a, i) for i, a in enumerate(record.answers))
        elif isinstance(record, Rating | Unpaired):
            answers = (_of_turns(record.answer, 0),)
        elif isinstance(record, Demonstration):
            answers = (_of_turns(record.completion, 0),)
        else:
            raise DataError(f"{data.source}: layout {data.layout} holds no answers to judge", 'give rows {"prompt": ..., "answers": [...]}')
        found.append((record.prompt, answers, _kind(len(answers))))
    return found


def _of_turns(turns: Sequence[Message], i: int) -> Candidate:
    text = "\n\n".join(m.text for m in turns if m.role == "assistant")
    return Candidate(f"{i}-{digest(text)[:12]}", text, turns=tuple(turns) if holds_image(turns) else ())
