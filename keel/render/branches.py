"""Token ids and loss masks of answers: what of a conversation is one training sequence, and which of its tokens count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keel.render.said import ANOTHER
from keel.render.spans import Turn, ids_behind, joins, written_turn
from keel.render.template import ChatTemplate, RefusedError, Tools
from keel.types import Branch, Message

Turns = tuple[Message, ...]


def trained_turns(messages: Sequence[Message], loss_on: str = "all") -> list[int]:
    """Places of the assistant's turns that are trained: all, or the last one; never one that the file marks otherwise.

    Raises RefusedError when there is none.
    """
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    found = [i for i in (answers[-1:] if loss_on == "last" else answers) if messages[i].trained]
    if not found:
        marked = "its last answer" if loss_on == "last" else "each of its answers"
        hint = "render.loss_on=all trains the others" if any(messages[i].trained for i in answers) else "take the row out"
        raise RefusedError(f"nothing is left to train: the file marks {marked} as not to be trained", hint)
    return found


def text_only(message: Message) -> None:
    """Raises RefusedError for a message with images: an answer has none."""
    if not isinstance(message.content, str):
        raise RefusedError("an image stands behind the beginning of an answer", "let the prompt hold it")


def next_turns(template: ChatTemplate, messages: Sequence[Message], places: Sequence[int], tools: Tools) -> list[Turn]:
    """As many of the turns at ``places`` (rising), from the first on, as can be trained in one sequence."""
    turns: list[Turn] = []
    for place, before in zip(places, [places[0], *places]):
        if any(not isinstance(m.content, str) for m in messages[before:place]):
            break  # an image between them: it must belong to a prompt
        turn = written_turn(template, messages[: place + 1], tools)
        if turns and not joins(template.codec, [*turns, turn]):
            break
        turns.append(turn)
    return turns


def all_turns(template: ChatTemplate, messages: Sequence[Message], n_prompt: int, tools: Tools) -> tuple[str, list[Turn]]:
    """(the rendered prompt, the trained turns) of one answer, which may have several turns, behind a prompt of ``n_prompt`` messages.

    Raises RefusedError when they are no single sequence: such an answer can be compared with no other one.
    """
    places = [n_prompt + i for i in trained_turns(messages[n_prompt:])]
    head = template.render(messages[:n_prompt], True, tools)
    turns = next_turns(template, messages, places, tools)
    if len(turns) < len(places) or not turns[-1].text.startswith(head):
        what = "an answer has several turns, and the chat template shows the earlier ones in another way than the model writes them"
        raise RefusedError(what, f"end each answer with its first assistant turn, or {ANOTHER}")
    return head, turns


def marked_ids(
    template: ChatTemplate, messages: Sequence[Message], head: str, turns: Sequence[Turn], tools: Tools
) -> tuple[list[int], list[bool]]:
    """Ids behind ``head``, and which of them are trained: the turns, or of them what the template's own generation marks say."""
    codec = template.codec
    ids, trained = ids_behind(codec, head, turns, codec.tokenizer.eos_token_id)
    if not template.marks_answers:
        return ids, trained
    n = len(codec.encode(head))
    whole, marks = template.marked(messages, tools)
    if whole[:n] != codec.encode(head) or whole[n : n + len(ids)] != ids:
        return ids, trained
    said = _up_to_end(ids, marks[n : n + len(ids)], template.end_token)
    both = [a and b for a, b in zip(trained, said)]
    return ids, both if any(both) else trained


def _up_to_end(ids: list[int], marks: list[bool], end_token: int | None) -> list[bool]:
    """Marks of a template -> what is trained: each marked run to its first end token, which is added when the marks stop before it."""
    trained = list(marks)
    for i in range(1, len(ids)):
        if marks[i - 1] and ids[i - 1] == end_token:
            trained[i] = False
        elif trained[i - 1] and not marks[i] and ids[i - 1] != end_token and ids[i] == end_token:
            trained[i] = True
        elif marks[i - 1] and marks[i] and not trained[i - 1]:
            trained[i] = False  # behind the end token, still inside the marked run
    return trained


def drop_oldest(messages: Turns) -> Turns | None:
    """Without the oldest exchange (a user turn and all up to the next one); None when only the last user turn is left."""
    users = [i for i, m in enumerate(messages) if m.role == "user"]
    if len(users) < 2:
        return None
    return (*(m for m in messages[: users[1]] if m.role == "system"), *messages[users[1] :])


def different(branches: Sequence[Branch], ranks: Sequence[float]) -> None:
    """Answers of different ``ranks`` must be different tokens. Raises RefusedError: nothing can be learned from a preference between two
    equal answers."""
    seen: dict[tuple[int, ...], float] = {}
    for branch, rank in zip(branches, ranks, strict=True):
        if seen.setdefault(tuple(branch.tokens_T.tolist()), rank) != rank:
            what = "two answers that should differ are the same tokens once they are rendered"
            raise RefusedError(what, "if they were cut, give them more room with render.max_completion or render.max_total")


def ids_of(ids: Sequence[int]) -> Tensor:
    """int64 [T]."""
    return torch.tensor(list(ids), dtype=torch.int64)


def branch_of(ids: Sequence[int], trained: Sequence[bool]) -> Branch:
    """A branch of these ids, those trained that ``trained`` says."""
    return Branch(ids_of(ids), torch.tensor(list(trained), dtype=torch.bool))
