"""One converter for each layout: the columns of one row -> one record. They raise FieldError with the field and the reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keel.data.dialogue import dialogue
from keel.data.errors import FieldError
from keel.data.fields import SYSTEM, Fields, as_flag, as_number, make_prompt, place_images, tidy_marks
from keel.data.rows import json_type
from keel.data.turn_flags import flag_row
from keel.data.turns import as_list, as_message, as_messages
from keel.types import Demonstration, Message, Pair, Prompt, Ranking, Rating, Steps, Unpaired

Meta = Mapping[str, Any]
Turns = tuple[Message, ...]
HELPSTEER = ("correctness", "coherence", "complexity", "verbosity")
_TRUTHS = ("ground_truth", "solution", "label", "answer")


# --- shared parts ---------------------------------------------------------------------------------------------------------------


def identity(fields: Fields, prompt: Prompt, content: Any) -> str:
    """The row's own id, or a hash of prompt and content."""
    given = fields.get("record_id", fields.get("id"))
    if given is not None:
        return str(given)
    marks = [getattr(m, "trained", True) for m in content] if isinstance(content, tuple) else []
    untrained = () if all(marks) else marks
    canonical = json.dumps([prompt.prompt_id, content, *untrained], sort_keys=True, default=repr)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_prompt(fields: Fields, meta: Meta, name: str = "prompt") -> Prompt:
    """A prompt column: text, messages, or a prompt as Keel writes it."""
    value = fields.need(name)
    if isinstance(value, str):
        return make_prompt(fields, (), fields.text(name), meta)
    if isinstance(value, dict):
        inner = Fields(fields.raw, {})
        inner.values = {k: v for k, v in value.items() if v is not None} | {
            k: v for k, v in fields.values.items() if k in ("image", "images", *SYSTEM)
        }
        messages = as_messages(f"{name}.messages", inner.get("messages") or ())
        text = inner.optional_text("text") if "text" in inner and not messages else None
        return make_prompt(inner, messages, text, {**inner.mapping("meta"), **meta})
    if not isinstance(as_list(name, value), list):
        raise FieldError(name, f"must be text, messages or a prompt object, is {json_type(value)}")
    messages = fields.messages(name)
    if messages[-1].role == "assistant":
        raise FieldError(name, "ends with an assistant turn; a prompt ends before the answer")
    return make_prompt(fields, messages, None, meta)


def _answer(name: str, value: Any) -> Turns:
    """An answer: text, one message, or a list of messages."""
    if isinstance(value, str):
        return _checked(name, (Message("assistant", value),))
    if not isinstance(value, dict | list | tuple):
        raise FieldError(name, f"must be text or messages, is {json_type(value)}")
    return _checked(name, (as_message(name, value),) if isinstance(value, dict) else as_messages(name, value))


def _checked(name: str, turns: Turns) -> Turns:
    """Turns of an answer: an assistant's first and last, none of the assistant's empty."""
    if not turns:
        raise FieldError(name, "is empty")
    if turns[0].role != "assistant" or turns[-1].role != "assistant":
        raise FieldError(name, "must start and end with an assistant turn")
    for i, turn in enumerate(turns):
        if turn.role == "assistant" and not turn.text.strip() and "tool_calls" not in turn.extra:
            raise FieldError(name if len(turns) == 1 else f"{name}.{i}", "the answer is empty")
    return turns


def make_demonstration(fields: Fields, messages: Sequence[Message], meta: Meta, name: str) -> Demonstration:
    """Split a conversation; images are put in place over the whole of it, since a later user turn may hold one."""
    placed = place_images(flag_row(fields.values, messages), fields.images(), fields.raw.folder)
    if placed[-1].role != "assistant":
        raise FieldError(name, f"ends with a {placed[-1].role} turn; a demonstration ends with the assistant's")
    first = next(i for i, m in enumerate(placed) if m.role == "assistant")
    if all(m.role == "system" for m in placed[:first]):
        what = "begins with the assistant's turn, so nothing asks for it: take it out, or put it into a system turn"
        raise FieldError(name, what)
    prompt = make_prompt(_without_images(fields), placed[:first], None, meta)
    answer = _checked(name, placed[first:])
    return Demonstration(identity(fields, prompt, answer), prompt, answer)


def _without_images(fields: Fields) -> Fields:
    inner = Fields(fields.raw, {})
    inner.values = {k: v for k, v in fields.values.items() if k not in ("image", "images")}
    return inner


def make_pair(fields: Fields, prompt: Prompt, chosen: Turns, rejected: Turns) -> Pair:
    """A pair with its optional columns: margin (or strength), label or tie, confidence or weight."""
    if chosen == rejected:
        raise FieldError("chosen", "is the same as rejected")
    label = as_number("label", fields.get("label", 1.0)) if not isinstance(fields.get("label"), bool) else float(fields.flag("label"))
    if not 0.0 <= label <= 1.0:
        raise FieldError("label", f"must be between 0 and 1 (P(chosen is better)), is {label}")
    tie = _tie(fields)
    label = 0.5 if tie == 1.0 else label
    if not tie / 2 - 1e-9 <= label <= 1 - tie / 2 + 1e-9:
        raise FieldError("tie", f"{tie:g} of the votes, each counted half for both sides, do not fit a label of {label:g}")
    name = "margin" if "margin" in fields else "strength"
    margin = fields.number(name, 0.0)
    if margin < 0:
        raise FieldError(name, f"must not be below 0 (by how much chosen is better), is {margin:g}: swap the answers if rejected is better")
    weight = fields.number("weight", fields.number("confidence", 1.0))
    if weight <= 0:
        raise FieldError("weight", f"must be above 0, is {weight}")
    return Pair(identity(fields, prompt, (chosen, rejected)), prompt, chosen, rejected, margin, label, weight, tie)


def _tie(fields: Fields) -> float:
    """Share of ties among the votes: a flag, or a number between 0 and 1."""
    found = fields.get("tie", False)
    share = isinstance(found, float) and 0.0 < found < 1.0
    return float(found) if share else float("tie" in fields and fields.flag("tie"))


def _truth(fields: Fields, meta: Meta) -> Meta:
    """Name the expected answer ``ground_truth``, whatever the column was called."""
    found = next((meta[k] for k in _TRUTHS if meta.get(k) is not None), None)
    fields.no_empty_cell(next((k for k in _TRUTHS if meta.get(k) is not None), ""), found)
    if isinstance(found, float) and not math.isfinite(found):
        raise FieldError(next(k for k in _TRUTHS if meta.get(k) is not None), f"the right answer is {found}: an empty cell?")
    return meta if found is None else {**meta, "ground_truth": found}


# --- TRL ------------------------------------------------------------------------------------------------------------------------


def prompt_only(fields: Fields, meta: Meta) -> Prompt:
    return read_prompt(fields, _truth(fields, meta))


def plain_text(fields: Fields, meta: Meta) -> Demonstration:
    """Plain text to continue: an empty raw prompt, everything is the answer."""
    answer = flag_row(fields.values, (Message("assistant", fields.text("text")),))
    prompt = make_prompt(fields, (), "", meta)
    return Demonstration(identity(fields, prompt, answer), prompt, answer)


def prompt_completion(fields: Fields, meta: Meta) -> Demonstration:
    prompt, answer = read_prompt(fields, meta), flag_row(fields.values, _answer("completion", fields.need("completion")))
    return Demonstration(identity(fields, prompt, answer), prompt, answer)


def messages(fields: Fields, meta: Meta) -> Demonstration:
    return make_demonstration(fields, fields.messages("messages"), meta, "messages")


def messages_prompt(fields: Fields, meta: Meta) -> Prompt:
    found = fields.messages("messages")
    if found[-1].role == "assistant":
        raise FieldError("messages", "ends with an assistant turn; a prompt ends before the answer")
    return make_prompt(fields, found, None, _truth(fields, meta))


def preference(fields: Fields, meta: Meta) -> Pair:
    prompt = read_prompt(fields, meta)
    chosen, rejected = (_after_prompt(fields, k, prompt) for k in ("chosen", "rejected"))
    return make_pair(fields, prompt, chosen, rejected)


def _after_prompt(fields: Fields, name: str, prompt: Prompt) -> Turns:
    """Some files repeat the prompt's messages in front of the answer (UltraFeedback): leave them out."""
    value = fields.need(name)
    if not isinstance(value, list) or not value:
        return _answer(name, value)
    found = as_messages(name, value)
    if found[0].role == "assistant":
        return _checked(name, found)
    asked = prompt.messages or (Message("user", prompt.text or ""),)
    if found[0].role != "system" and asked[0].role == "system":
        asked = asked[1:]  # the row's own system prompt, in a column
    if found[: len(asked)] != asked:
        raise FieldError(name, "its first turns are not those of the prompt")
    return _checked(name, found[len(asked) :])


def preference_implicit(fields: Fields, meta: Meta) -> Pair:
    """The prompt is what ``chosen`` and ``rejected`` have in common."""
    if isinstance(fields.need("chosen"), str) and isinstance(fields.need("rejected"), str):
        chosen_text, rejected_text = fields.text("chosen"), fields.text("rejected")
        n = next((i for i, (a, b) in enumerate(zip(chosen_text, rejected_text)) if a != b), min(len(chosen_text), len(rejected_text)))
        common = chosen_text[:n]
        common = common[: max(common.rfind(" "), common.rfind("\n")) + 1]  # back to the last white space: no word is cut
        if not common.strip():
            raise FieldError("chosen", "has no beginning in common with rejected that could be the prompt")
        joint = common[len(common.rstrip()) :]  # between question and answer in raw text; a chat has turns there
        prompt = make_prompt(fields, (), common.rstrip(), meta, joint)
        chosen, rejected = (_answer(k, t[len(common) :]) for k, t in (("chosen", chosen_text), ("rejected", rejected_text)))
        return make_pair(fields, prompt, chosen, rejected)
    return common_turns(fields, fields.messages("chosen"), fields.messages("rejected"), meta)


def common_turns(fields: Fields, chosen: Turns, rejected: Turns, meta: Meta, names: tuple[str, str] = ("chosen", "rejected")) -> Pair:
    """A pair of two conversations (columns ``names``): what both begin with is the prompt."""
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if n == len(chosen) == len(rejected):
        raise FieldError(names[0], f"is the same as {names[1]}")
    while n and (n >= len(chosen) or n >= len(rejected) or chosen[n].role != "assistant" or rejected[n].role != "assistant"):
        n -= 1  # the turns after the prompt must be answers on both sides
    if n == 0:
        raise FieldError(names[0], f"has no turns in common with {names[1]} that could be the prompt")
    prompt = make_prompt(fields, chosen[:n], None, meta)
    return make_pair(fields, prompt, _checked(names[0], chosen[n:]), _checked(names[1], rejected[n:]))


def unpaired(fields: Fields, meta: Meta) -> Unpaired:
    prompt, answer = read_prompt(fields, meta), _answer("completion", fields.need("completion"))
    weight = fields.number("weight", 1.0)
    if weight <= 0:
        raise FieldError("weight", f"must be above 0, is {weight:g}: take the row out")
    return Unpaired(identity(fields, prompt, answer), prompt, answer, fields.flag("label"), weight)


def stepwise(fields: Fields, meta: Meta) -> Steps:
    prompt = read_prompt(fields, meta)
    steps = tuple(fields.list("completions", str))
    labels = tuple(as_flag(f"labels.{i}", v) for i, v in enumerate(fields.list("labels")))
    if len(steps) != len(labels):
        raise FieldError("labels", f"{len(labels)} labels for {len(steps)} steps")
    empty = next((i for i, s in enumerate(steps) if not s.strip()), None)
    if empty is not None:
        raise FieldError(f"completions.{empty}", "the step is empty")
    return Steps(identity(fields, prompt, steps), prompt, steps, labels)


# --- Alpaca, ShareGPT, ms-swift -------------------------------------------------------------------------------------------------


def _alpaca_prompt(fields: Fields, meta: Meta) -> Prompt:
    turns: list[Message] = []
    history = fields.get("history", [])
    if not isinstance(history, list | tuple):
        raise FieldError("history", f"must be a list of pairs [question, answer], is {json_type(history)}")
    for i, exchange in enumerate(history):
        if not isinstance(exchange, list | tuple) or len(exchange) != 2 or not all(isinstance(t, str) for t in exchange):
            raise FieldError(f"history.{i}", "must be a pair of texts [question, answer]")
        turns += [Message("user", exchange[0]), Message("assistant", exchange[1])]
    extra = fields.optional_text("input")
    question = fields.text("instruction") + (f"\n{extra}" if extra.strip() else "")
    return make_prompt(fields, (*turns, Message("user", question)), None, meta)


def alpaca_prompt(fields: Fields, meta: Meta) -> Prompt:
    return _alpaca_prompt(fields, _truth(fields, meta))


def alpaca(fields: Fields, meta: Meta) -> Demonstration:
    prompt, answer = _alpaca_prompt(fields, meta), flag_row(fields.values, _answer("output", fields.need("output")))
    return Demonstration(identity(fields, prompt, answer), prompt, answer)


def alpaca_preference(fields: Fields, meta: Meta) -> Pair:
    chosen, rejected = (_answer(k, fields.need(k)) for k in ("chosen", "rejected"))
    return make_pair(fields, _alpaca_prompt(fields, meta), chosen, rejected)


def alpaca_unpaired(fields: Fields, meta: Meta) -> Unpaired:
    prompt, answer = _alpaca_prompt(fields, meta), _answer("output", fields.need("output"))
    return Unpaired(identity(fields, prompt, answer), prompt, answer, fields.flag("kto_tag"))


def sharegpt(fields: Fields, meta: Meta) -> Demonstration:
    return make_demonstration(fields, tidy_marks(fields.messages("conversations"), fields.images()), meta, "conversations")


def sharegpt_preference(fields: Fields, meta: Meta) -> Pair:
    return _turns_preference(fields, meta, "conversations")


def messages_preference(fields: Fields, meta: Meta) -> Pair:
    return _turns_preference(fields, meta, "messages")


def _turns_preference(fields: Fields, meta: Meta, name: str) -> Pair:
    asked = fields.messages(name)
    if asked[-1].role == "assistant":
        raise FieldError(name, "ends with an assistant turn; a prompt ends before the answers")
    prompt = make_prompt(fields, asked, None, meta)
    chosen, rejected = (_answer(k, fields.need(k)) for k in ("chosen", "rejected"))
    return make_pair(fields, prompt, chosen, rejected)


def sharegpt_unpaired(fields: Fields, meta: Meta) -> Unpaired:
    return _last_turn(fields, fields.messages("conversations"), meta, "conversations", "kto_tag")


def _last_turn(fields: Fields, found: Turns, meta: Meta, name: str, flag: str) -> Unpaired:
    answer = _checked(f"{name}.{len(found) - 1}", found[-1:])
    prompt = make_prompt(fields, found[:-1], None, meta)
    return Unpaired(identity(fields, prompt, answer), prompt, answer, fields.flag(flag))


def swift_preference(fields: Fields, meta: Meta) -> Pair:
    found = fields.messages("messages")
    chosen = _checked(f"messages.{len(found) - 1}", found[-1:])
    rejected = _answer("rejected_response", fields.need("rejected_response"))
    return make_pair(fields, make_prompt(fields, found[:-1], None, meta), chosen, rejected)


def swift_unpaired(fields: Fields, meta: Meta) -> Unpaired:
    return _last_turn(fields, fields.messages("messages"), meta, "messages", "label")


# --- other tools' files ---------------------------------------------------------------------------------------------------------


def hh_rlhf(fields: Fields, meta: Meta) -> Pair:
    """Whole dialogues as text: ``\\n\\nHuman: ... \\n\\nAssistant: ...``."""
    chosen, rejected = (dialogue(k, fields.text(k)) for k in ("chosen", "rejected"))
    return common_turns(fields, chosen, rejected, meta)


def question_answer(fields: Fields, meta: Meta) -> Demonstration:
    """Questions with worked answers; what follows ``####`` is the expected result (GSM8K)."""
    answer = fields.text("answer")
    truth = answer.rsplit("####", 1)[1].strip().replace(",", "") if "####" in answer else answer.strip()
    prompt = make_prompt(fields, (), fields.text("question"), {**meta, "ground_truth": truth})
    turns = flag_row(fields.values, (Message("assistant", answer),))
    return Demonstration(identity(fields, prompt, turns), prompt, turns)


def verl(fields: Fields, meta: Meta) -> Prompt:
    judged = fields.need("reward_model")
    if not isinstance(judged, dict) or "ground_truth" not in judged:
        raise FieldError("reward_model", "must be an object with ground_truth")
    return read_prompt(fields, {**meta, "ground_truth": judged["ground_truth"], "style": judged.get("style", "rule")})


def nemo_ranking(fields: Fields, meta: Meta) -> Ranking:
    prompt = read_prompt(fields, meta, "context")
    entries = fields.list("completions", dict)
    answers = tuple(_answer(f"completions.{i}.completion", e.get("completion", "")) for i, e in enumerate(entries))
    ranks = [as_number(f"completions.{i}.rank", e.get("rank")) for i, e in enumerate(entries)]
    return _ranking(fields, prompt, answers, ranks)


def rewardbench2(fields: Fields, meta: Meta) -> Ranking:
    """Right answers share rank 1, wrong ones rank 2."""
    prompt, right, wrong = read_prompt(fields, meta), fields.list("chosen"), fields.list("rejected")
    if not right or not wrong:
        raise FieldError("rejected" if right else "chosen", "is empty: a right and a wrong answer are needed")
    answers = [_answer(f"chosen.{i}", a) for i, a in enumerate(right)] + [_answer(f"rejected.{i}", a) for i, a in enumerate(wrong)]
    return _ranking(fields, prompt, tuple(answers), [1.0] * len(right) + [2.0] * len(wrong))


def ranking(fields: Fields, meta: Meta) -> Ranking:
    prompt = read_prompt(fields, meta)
    answers = tuple(_answer(f"answers.{i}", a) for i, a in enumerate(fields.list("answers")))
    return _ranking(fields, prompt, answers, [as_number(f"ranks.{i}", r) for i, r in enumerate(fields.list("ranks"))])


def _ranking(fields: Fields, prompt: Prompt, answers: tuple[Turns, ...], ranks: Sequence[float]) -> Ranking:
    """Ranks become 1, 2, ...; equal ones stay ties."""
    if len(ranks) != len(answers):
        raise FieldError("ranks", f"{len(ranks)} ranks for {len(answers)} answers")
    if len(answers) < 2:
        raise FieldError("answers", "a ranking needs at least two answers")
    order = sorted(set(ranks))
    return Ranking(identity(fields, prompt, (answers, list(ranks))), prompt, answers, tuple(order.index(r) + 1 for r in ranks))


def rating(fields: Fields, meta: Meta) -> Rating:
    scores = fields.need("scores")
    if not isinstance(scores, dict) or not any(v is not None for v in scores.values()):
        raise FieldError("scores", "must be an object of numbers by dimension")
    return _rating(fields, meta, "answer", {k: as_number(f"scores.{k}", v) for k, v in scores.items() if v is not None})


def rating_one(fields: Fields, meta: Meta) -> Rating:
    return _rating(fields, meta, "answer", {"rating": fields.number("rating")})


def logged(fields: Fields, meta: Meta) -> Rating:
    return _rating(fields, meta, "completion", {"reward": fields.number("reward")})


def helpsteer(fields: Fields, meta: Meta) -> Rating:
    return _rating(fields, meta, "response", {k: fields.number(k) for k in ("helpfulness", *HELPSTEER) if k in fields})


def _rating(fields: Fields, meta: Meta, name: str, scores: Mapping[str, float]) -> Rating:
    prompt, answer = read_prompt(fields, meta), _answer(name, fields.need(name))
    return Rating(identity(fields, prompt, (answer, scores)), prompt, answer, scores)
