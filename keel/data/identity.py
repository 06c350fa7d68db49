"""Which prompts are the same: exactly, so that one id means one content, and nearly, so that nothing of a question is on both sides of a
split. Ids come from files and are not to be trusted: two files may both number their prompts from 1."""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keel.core.errors import DataError
from keel.core.image_digest import image_digest
from keel.types import Comparison, Demonstration, ImagePart, Prompt, Record

log = logging.getLogger("keel")
Item = Record | Comparison
R = TypeVar("R", bound=Item)

# Marks of sentences; what may be arithmetic or code (brackets, signs, slashes) stays. Full-width ones are folded to these before.
_MARKS = str.maketrans(dict.fromkeys(".,;:!?\"'`´“”‘’«»¿¡。、「」『』", " "))


def prompt_of(record: Item) -> Prompt:
    """The prompt of any record."""
    return record if isinstance(record, Prompt) else record.prompt


def content_key(prompt: Prompt) -> str:
    """Equal for prompts of exactly one content: turns, images by their bytes, tools. A bare string equals the same string as the only user
    turn."""
    turns: list[Any] = [[m.role, _plain(m.content), dict(m.extra)] for m in prompt.messages]
    if prompt.text is not None:
        turns = [["user", prompt.text, {}]]
    canonical = json.dumps([turns, [dict(t) for t in prompt.tools]], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cluster_key(prompt: Prompt) -> str:
    """Equal for prompts that say and show the same, whatever their id, case, white space, width of characters and sentence marks."""
    said = " ".join(_folded(t) for t in (*(m.text for m in prompt.messages), prompt.text or "") if t)
    shown = (p.source for m in prompt.messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart))
    return "\n".join([said, *(image_digest(source) for source in shown)])


# Columns that say what a right answer to a prompt is, or how it is checked
TRUTHS = (
    "ground_truth",
    "answer",
    "solution",
    "label",
    "target",
    "expected",
    "expected_output",
    "reference_answer",
    "tests",
    "test",
    "test_cases",
    "test_list",
    "unit_tests",
)


def truth_of(prompt: Prompt) -> dict[str, Any]:
    """What the prompt's ``meta`` says of right answers, by column."""
    return {k: prompt.meta[k] for k in TRUTHS if prompt.meta.get(k) is not None}


def claim_key(record: Item) -> str:
    """Equal for records whose prompts ask for the same: a prompt's whole ``meta`` counts; of other records, whose rows say more than the
    prompt, only ``truth_of`` it."""
    prompt = prompt_of(record)
    said = dict(prompt.meta) if isinstance(record, Prompt) else truth_of(prompt)
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def side_key(record: Item) -> str:
    """What decides on which side of a split a record is: its prompt's ``cluster_key``; of text without a prompt, the text."""
    prompt = prompt_of(record)
    if isinstance(record, Demonstration) and not prompt.messages and not prompt.text:
        return _folded(" ".join(m.text for m in record.completion))
    return cluster_key(prompt).strip() or content_key(prompt)


def settle_ids(records: Sequence[R], source: str) -> list[R]:
    """One id, one content. An id that different files give to different prompts becomes several: ``id~content``.

    Raises DataError when one file gives the same id to two prompts.
    """
    keys = [content_key(prompt_of(r)) for r in records]
    found: dict[str, dict[str, dict[str, Prompt]]] = {}  # id -> content -> file -> the first such prompt
    for record, key in zip(records, keys):
        prompt = prompt_of(record)
        found.setdefault(prompt.prompt_id, {}).setdefault(key, {}).setdefault(_file(prompt), prompt)
    clashes = {name: contents for name, contents in found.items() if len(contents) > 1}
    if not clashes:
        return list(records)
    for name, contents in clashes.items():
        _refuse_clash_within_a_file(name, contents, source)
    first, second = [next(iter(files.values())) for files in next(iter(clashes.values())).values()][:2]
    log.warning(
        "%s: %d prompt ids stand for different prompts in different files (first: %r at %s and at %s); they are told apart by content",
        source,
        len(clashes),
        first.prompt_id,
        first.source_id,
        second.source_id,
    )
    return [_renamed(r, f"{prompt_of(r).prompt_id}~{k[:8]}") if prompt_of(r).prompt_id in clashes else r for r, k in zip(records, keys)]


class PromptIds:
    """One id, one content, asked row by row: for files that are no records."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str, Prompt]] = {}  # id -> content, place, prompt

    def check(self, prompt: Prompt, where: str) -> None:
        """Raises DataError naming both rows where the id stood for another prompt before: what is kept by prompt would be of both."""
        key = content_key(prompt)
        before, place, other = self._first.setdefault(prompt.prompt_id, (key, where, prompt))
        if before != key:
            raise DataError(
                f"{where}: prompt_id {prompt.prompt_id!r} stands for another prompt ({_excerpt(prompt)})"
                f" than at {place} ({_excerpt(other)})",
                "give every prompt an id of its own",
            )


def _refuse_clash_within_a_file(name: str, contents: Mapping[str, Mapping[str, Prompt]], source: str) -> None:
    seen: dict[str, Prompt] = {}
    for files in contents.values():
        for file, prompt in files.items():
            other = seen.setdefault(file, prompt)
            if other is not prompt:
                raise DataError(
                    f"{source}: prompt_id {name!r} stands for two prompts: {other.source_id} ({_excerpt(other)})"
                    f" and {prompt.source_id} ({_excerpt(prompt)})",
                    "give every prompt an id of its own; data.keys={their_id: prompt_id} makes ids from the content instead",
                )


def _renamed(record: R, prompt_id: str) -> R:
    prompt = replace(prompt_of(record), prompt_id=prompt_id)
    return prompt if isinstance(record, Prompt) else replace(record, prompt=prompt)  # type: ignore[return-value,type-var]


def _file(prompt: Prompt) -> str:
    return prompt.source_id.rpartition(":")[0]


def _excerpt(prompt: Prompt) -> str:
    text = " ".join(prompt.last_user_text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [["image", image_digest(p.source)] if isinstance(p, ImagePart) else ["text", p.text] for p in content]


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_MARKS).split())
