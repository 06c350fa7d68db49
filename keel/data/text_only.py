"""Text-only negatives: the question of a row without its image, and an answer that says that there is none.

A model that learns from images with questions alone may answer from the question. These rows make the image count. What is chosen, and
what is answered, is a hash of the seed and the record: the same after a resume, whatever the order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keel.core.errors import DataError
from keel.core.hashing import stable_hash
from keel.data.config import WithoutImageConfig
from keel.data.fields import prompt_key
from keel.data.identity import TRUTHS, Item, prompt_of
from keel.data.text import language
from keel.types import Demonstration, ImagePart, Message, Pair, Prompt

ANSWERS = (
    "There is no image here, so I cannot see what you are asking about. Please send the image.",
    "I do not see an image with your question. If you add it, I can answer.",
    "No image came with this message, so I cannot answer that.",
    "这里没有图片，我看不到你问的内容。请把图片发给我。",
    "你的问题没有附上图片。补上图片后我再回答。",
    "这条消息里没有图片，所以我无法回答。",
)


def with_questions_alone(records: Sequence[Item], config: WithoutImageConfig, seed: int, source: str) -> tuple[list[Item], int]:
    """Records with such rows behind those that they were made of, and how many were added: ``share`` of the records with images, or fewer
    where fewer different questions have words besides the image. A demonstration's answer is replaced. Of a pair, the answer that was
    better with the image becomes the worse one: it cannot have been seen.

    Raises DataError for other records, which have no answer to replace, and where there are no images.
    """
    shown = [record for record in records if _has_image(prompt_of(record))]
    odd = next((record for record in shown if not isinstance(record, Demonstration | Pair)), None)
    if odd is not None or not shown:
        found = f"{source} holds {type(odd).__name__.lower()} records" if odd is not None else f"{source} shows no images"
        raise DataError(
            f"data.without_image.share={config.share:g}: {found}", "it works on demonstrations and pairs with images; set it to 0"
        )
    first: dict[str, tuple[int, Item]] = {}  # question -> the record with it whose hash is the least
    for record in shown:
        alone = _question_alone(prompt_of(record))
        if alone is None:
            continue
        drawn = (stable_hash("without_image", seed, alone.prompt_id, _name(record)), record)
        if alone.prompt_id not in first or drawn[0] < first[alone.prompt_id][0]:
            first[alone.prompt_id] = drawn
    n = min(round(config.share * len(shown)), len(first))
    chosen = {id(record): mark for mark, record in sorted(first.values(), key=lambda drawn: drawn[0])[:n]}
    result: list[Item] = []
    for record in records:
        result.append(record)
        if id(record) in chosen:
            result.append(_alone(record, config.answers or ANSWERS, chosen[id(record)]))
    return result, n


def _has_image(prompt: Prompt) -> bool:
    return any(isinstance(p, ImagePart) for m in prompt.messages if not isinstance(m.content, str) for p in m.content)


def _name(record: Item) -> str:
    return "" if isinstance(record, Prompt) else record.record_id


def _question_alone(prompt: Prompt) -> Prompt | None:
    """The prompt without its images and without what its meta says of right answers; None where a user turn would be empty."""
    turns = tuple(replace(m, content=_text(m)) for m in prompt.messages)
    if any(m.role == "user" and not m.text.strip() for m in turns):
        return None
    meta = {k: v for k, v in prompt.meta.items() if k not in TRUTHS} | {"without_image": True}
    return replace(prompt, prompt_id=prompt_key(turns, None, prompt.tools), messages=turns, meta=meta)


def _text(message: Message) -> str:
    return message.text.strip() if not isinstance(message.content, str) else message.content


def _alone(record: Item, answers: Sequence[str], drawn: int) -> Item:
    prompt = _question_alone(prompt_of(record))
    assert prompt is not None, "only records whose question has words are chosen"
    assert isinstance(record, Demonstration | Pair), "with_questions_alone has refused the others"
    asked = language(prompt.last_user_text)
    fitting = [a for a in answers if (language(a) == "zh") == (asked == "zh")] or list(answers)
    answer, name = (Message("assistant", fitting[drawn % len(fitting)]),), f"{record.record_id}~no_image"
    if isinstance(record, Demonstration):
        return Demonstration(name, prompt, answer)
    return Pair(name, prompt, answer, record.chosen, weight=record.weight)
