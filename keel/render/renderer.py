"""Records -> units: which tokens of an answer are trained, behind which prompt."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.render.branches import (
    Turns,
    all_turns,
    branch_of,
    different,
    ids_of,
    marked_ids,
    next_turns,
    text_only,
    trained_turns,
)
from keel.render.codec import Codec
from keel.render.config import RenderConfig
from keel.render.images import Images, Media, Reading
from keel.render.limits import Limits
from keel.render.prompts import Prompts
from keel.render.raw import raw_text
from keel.render.said import refuse_lost
from keel.render.spans import Turn
from keel.render.template import ChatTemplate, RefusedError
from keel.render.template_source import dated, follows_calendar, tell_about, template_source
from keel.types import (
    Branch,
    Demonstration,
    Edge,
    Encoded,
    Message,
    Pair,
    PairTarget,
    Prompt,
    Ranking,
    RankingTarget,
    Rating,
    RatingTarget,
    Record,
    Steps,
    StepsTarget,
    Target,
    Twin,
    Unit,
    Unpaired,
    UnpairedTarget,
)

Part = tuple[Encoded, tuple[Branch, ...], Target]
STEP_END = "\n"  # what separates the steps of a stepwise answer


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that cannot be trained on as asked, and why. Counted, never dropped silently.

    ``answers``: keys of the answers (``conversion.answer_key``) that could not be rendered, where it is them and not the prompt.
    """

    record_id: str
    source_id: str
    reason: str
    answers: tuple[str, ...] = ()


class Renderer:
    """Renders for one model. ``generation_config`` is the model's own: only its end tokens are taken from it. ``context``: the model's, in
    tokens; what is longer is refused. ``reading``: how it reads images."""

    def __init__(
        self,
        tokenizer: Any,
        processor: Any = None,
        config: RenderConfig | None = None,
        media: Media | None = None,
        generation_config: Any = None,
        context: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        assert processor is None or media is not None, "a processor needs a media store for its pixels"
        self.config = config or RenderConfig()
        self.limits = Limits(self.config, context)
        self.tokenizer = tokenizer
        self.codec = Codec(tokenizer)
        self.images = Images(processor, self.codec, media, reading) if processor is not None and media is not None else None
        source = template_source(tokenizer, processor, self.config)
        self._read(source)
        self.stop_tokens = self._stop_tokens(generation_config)
        self.banned_tokens: tuple[int, ...] = self.images.banned if self.images else ()
        self.pad_token = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_tokens[0])
        if self.template is not None:
            tell_about(self.template.source, self.codec, self.template.shown([Message("user", "a")], True) or "", self.config)
        self.shortened: Counter[str] = Counter()  # prompts that lost turns, answers that were cut, since this renderer was made

    def _read(self, source: str | None) -> None:
        """What follows from the chat template, as the settings have it."""
        placeholder = self.images.placeholder if self.images else ""
        self.template = ChatTemplate(self.codec, source, self.config, placeholder) if source else None
        self.prompts = Prompts(self.config, self.codec, self.limits, self.template, self.images)
        self.template_hash = self.template.hash if self.template else ""
        self.injected_system = self.template.injected_system if self.template and self.config.system is None else ""

    @property
    def follows_calendar(self) -> bool:
        """Do prompts change from day to day?"""
        return self.template is not None and follows_calendar(self.template.source, self.config)

    def hold_day(self, day: datetime.date) -> None:
        """Tell the template from now on that today is ``day``, where it ``follows_calendar``. Raises DataError, and changes nothing, where
        it asks for the date in a way that cannot be followed."""
        if self.template is not None and self.follows_calendar:
            config = self.config.model_copy(update={"date": day})
            dated(self.template.source, config)
            self.config = config
            self._read(self.template.source)

    # --- prompts ----------------------------------------------------------------------------------------------------------------

    def prompt(self, prompt: Prompt, reserve: int = 0) -> Encoded:
        """Token ids of a prompt with the beginning of the answer, of which ``reserve`` tokens are to be sampled.

        Raises RefusedError (a DataError) when that fails, or when it is too long or empty.
        """
        encoded = self._encode(prompt, self.prompts.messages(prompt), reserve)[0]
        if not len(encoded):
            raise RefusedError("the prompt is empty and this tokenizer has no token to begin with")
        return encoded

    def _encode(self, prompt: Prompt, messages: Turns | None, reserve: int = 0) -> tuple[Encoded, Turns | None]:
        encoded, kept = self.prompts.encode(prompt, messages, reserve)
        self.shortened["prompts_shortened"] += kept is not messages
        return encoded, kept

    @property
    def twins(self) -> Mapping[str, Twin]:
        """``Images.twins``; empty for a model that reads text alone."""
        return {} if self.images is None else self.images.twins

    # --- records ----------------------------------------------------------------------------------------------------------------

    def unit(self, record: Record) -> Unit | Refusal:
        """The training unit of a record that makes one, or the reason why there is none. A Prompt makes a unit without branches; a
        demonstration of several turns may make several (``units_of``), which is a Refusal here.

        Raises DataError for what concerns the whole run (chat data and no chat template).
        """
        found = self.units_of(record)
        if isinstance(found, Refusal) or len(found) == 1:
            return found if isinstance(found, Refusal) else found[0]
        prompt, name = _named(record)
        return Refusal(name, prompt.source_id, f"its turns make {len(found)} units, not one")

    def units_of(self, record: Record) -> tuple[Unit, ...] | Refusal:
        """All training units of a record, or the reason why there is none.

        A conversation is one unit, as long as each trained turn stands there behind exactly what the model is given before it writes the
        turn. Where the chat template shows earlier turns in another way later on (without their thoughts), it becomes several: each has
        its own prompt, ``meta`` then holds ``record_id`` and ``turn`` (from 1). Raises as ``unit``.
        """
        prompt, name = _named(record)
        try:
            parts = self._conversation(record) if isinstance(record, Demonstration) else [self._part(record)]
        except RefusedError as refused:
            return Refusal(name, prompt.source_id, refused.reason)
        meta = {**prompt.meta, "prompt_id": prompt.prompt_id, "source_id": prompt.source_id}
        if len(parts) == 1:
            return (Unit(name, *parts[0], meta),)
        return tuple(Unit(f"{name}:{k}", *part, {**meta, "record_id": name, "turn": k}) for k, part in enumerate(parts, 1))

    def units(self, records: Iterable[Record]) -> tuple[list[Unit], list[Refusal]]:
        """Units of many records, and the refusals."""
        found = [self.units_of(r) for r in records]
        return [u for x in found if not isinstance(x, Refusal) for u in x], [x for x in found if isinstance(x, Refusal)]

    def branches(self, prompt: Prompt, completions: Sequence[Turns]) -> tuple[Encoded, tuple[Branch, ...]]:
        """A prompt and its continuations. Raises RefusedError when one cannot be rendered within the limits."""
        encoded, found = self.each_branch(prompt, completions)
        branches: list[Branch] = []
        for branch in found:
            if isinstance(branch, RefusedError):
                raise branch
            branches.append(branch)
        return self._with_start(encoded, branches)

    def each_branch(self, prompt: Prompt, completions: Sequence[Turns]) -> tuple[Encoded, list[Branch | RefusedError]]:
        """A prompt and its continuations, or why one of them cannot be rendered. Raises RefusedError when it is the prompt."""
        encoded, messages = self._encode(prompt, self.prompts.messages(prompt))
        found: list[Branch | RefusedError] = []
        for completion in completions:
            try:
                found.append(self._branch(prompt, messages, encoded, completion))
            except RefusedError as refused:
                found.append(refused)
        return encoded, found

    def answers(self, prompt: Prompt, encoded: Encoded, texts: Sequence[str]) -> tuple[Branch, ...]:
        """Sampled texts -> branches as the sampler would have drawn them: the text unchanged, then the end of the turn."""
        chat = self.prompts.messages(prompt) is not None
        return tuple(branch_of(ids, [True] * len(ids)) for ids in (self._as_sampled(text, chat) for text in texts))

    def end_of_answer(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids that end a finished answer to ``prompt``."""
        return tuple(self._closing(self.prompts.messages(prompt) is not None))

    def closed(self, prompt: Prompt, tokens_T: Tensor) -> Tensor:
        """An answer to ``prompt`` as a reward model has learnt to read it, ended like the finished answers of training: what was cut off or
        stopped at a text gets the end of an answer, another end token (the model's own beside the template's) gives way to it. int64 [T].
        """
        end_T = ids_of(self.end_of_answer(prompt))
        if len(tokens_T) and tokens_T[-1] == end_T[-1]:
            return tokens_T
        n = len(tokens_T)
        while n and int(tokens_T[n - 1]) in self.stop_tokens:
            n -= 1
        return torch.cat([tokens_T[:n], end_T])

    def decode(self, tokens_T: Tensor | Sequence[int]) -> str:
        """Text for people and rewards: special and end tokens left out. ``tokens_T`` int64 [T]."""
        stops = set(self.stop_tokens)
        kept = [int(t) for t in tokens_T if int(t) not in stops]
        return self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _part(self, record: Record) -> Part:
        match record:
            case Prompt():
                return self.prompt(record), (), None
            case Pair():
                edge = Edge(0, 1, record.label, record.margin, record.weight, record.tie)
                encoded, branches = self.branches(record.prompt, (record.chosen, record.rejected))
                different(branches, (0, 1))
                return encoded, branches, PairTarget((edge,))
            case Ranking():
                encoded, branches = self.branches(record.prompt, record.answers)
                different(branches, record.ranks)
                return encoded, branches, RankingTarget(record.ranks)
            case Rating():
                return *self.branches(record.prompt, (record.answer,)), RatingTarget((record.scores,))
            case Unpaired():
                return *self.branches(record.prompt, (record.answer,)), UnpairedTarget((record.desirable,), (record.weight,))
            case Steps():
                return self._steps(record)
            case _:
                kind = type(record).__name__.lower()
                raise DataError(f"{kind} records are not trained on as they are", "make pairs of them with data.convert.to=pairs")

    def _conversation(self, record: Demonstration) -> list[Part]:
        """One part for as many turns as can be trained in one sequence, then the next."""
        prompt, completion = record.prompt, record.completion
        before = self.prompts.messages(prompt)
        left = trained_turns(completion, self.config.loss_on)
        if before is None:
            if len(completion) > 1:
                raise RefusedError("a raw prompt cannot hold turns", "set render.as_chat=auto and use a model with a chat template")
            encoded = self._encode(prompt, None)[0]
            return [(*self._with_start(encoded, [self._branch(prompt, None, encoded, completion, judged=False)]), None)]
        for message in completion:
            self.prompts.no_controls(message)
        messages, left = (*before, *completion), [len(before) + i for i in left]
        parts: list[Part] = []
        while left:
            encoded, branch, done = self._run(prompt, messages, left)
            parts.append((*self._with_start(encoded, [branch]), None))
            left = left[done:]
        return parts

    def _run(self, prompt: Prompt, messages: Turns, places: list[int]) -> tuple[Encoded, Branch, int]:
        """The first of the trained turns at ``places`` and those that can be trained in one sequence with it: (what the model is given,
        the sequence, how many turns)."""
        first = places[0]
        encoded, kept = self._encode(prompt, messages[:first])
        assert kept is not None
        text_only(messages[first])
        if self.config.answers == "raw":
            return encoded, self._raw(prompt, kept, encoded, messages[first], judged=False), 1
        gone = first - len(kept)
        messages = (*kept, *messages[first:])
        turns = next_turns(self.prompts.need_template(), messages, [p - gone for p in places], prompt.tools)
        last = places[len(turns) - 1] - gone
        return encoded, self._templated(prompt, messages[: last + 1], encoded, turns[0].head, turns, judged=False), len(turns)

    def _steps(self, record: Steps) -> tuple[Encoded, tuple[Branch, ...], Target]:
        messages = self.prompts.messages(record.prompt)
        chat = messages is not None
        encoded = self._encode(record.prompt, messages)[0]
        texts = [step.rstrip(STEP_END) + STEP_END for step in record.steps[:-1]] + [record.steps[-1].rstrip(STEP_END)]
        ids: list[int] = []
        ends: list[int] = []
        for text in texts:
            refuse_lost(self.codec, text)
            ids += self.codec.continuation(text)
            ends.append(len(ids) - 1)
        ids += self._closing(chat)
        ends[-1] = len(ids) - 1  # the last step is read where every other answer is: at its end
        encoded, branches = self._with_start(encoded, [self._limited(encoded, branch_of(ids, [True] * len(ids)))])
        if len(branches[0]) <= ends[-1]:
            raise RefusedError("the completion would be cut before its last step")
        return encoded, branches, StepsTarget((tuple(ends),), (record.labels,))

    # --- branches ---------------------------------------------------------------------------------------------------------------

    def _branch(self, prompt: Prompt, messages: Turns | None, encoded: Encoded, completion: Turns, judged: bool = True) -> Branch:
        for message in completion:
            if messages is not None:
                self.prompts.no_controls(message)
            text_only(message)
        if messages is None or self.config.answers == "raw":
            trained_turns(completion)
            if len(completion) != 1:
                raise RefusedError("a raw answer must be a single turn", "use render.answers=template with a chat template")
            return self._raw(prompt, messages, encoded, completion[0], judged)
        whole = (*messages, *completion)
        head, turns = all_turns(self.prompts.need_template(), whole, len(messages), prompt.tools)
        return self._templated(prompt, whole, encoded, head, turns, judged)

    def _raw(self, prompt: Prompt, messages: Turns | None, encoded: Encoded, answer: Message, judged: bool = True) -> Branch:
        chat = messages is not None
        head = self.prompts.need_template().render(messages, True, prompt.tools) if messages is not None else ""
        text = ("" if chat else prompt.joint) + raw_text(answer, head)
        refuse_lost(self.codec, text)
        ids = self._as_sampled(text, chat)
        return self._limited(encoded, branch_of(ids, [True] * len(ids)), judged)

    def _templated(
        self, prompt: Prompt, messages: Turns, encoded: Encoded, head: str, turns: Sequence[Turn], judged: bool = True
    ) -> Branch:
        """What stands behind ``head``, rendered by the template; trained are the turns up to and with their end tokens, nothing else."""
        template = self.prompts.need_template()
        if len(turns) > 1 or not turns[0].text.startswith(head) or turns[0].start != len(head):
            self.prompts.prove_shown(messages, False, prompt, template.render(messages, False, prompt.tools))
        for turn in turns:
            refuse_lost(self.codec, turn.text[turn.start :])
        ids, trained = marked_ids(template, messages, head, turns, prompt.tools)
        if set(ids) & set(self.banned_tokens):
            raise RefusedError("an answer holds an image placeholder token")
        return self._limited(encoded, branch_of(ids, trained), judged)

    def _as_sampled(self, text: str, chat: bool) -> list[int]:
        """The text and the end of an answer, which is not doubled where the text has it already (files that end their texts by hand)."""
        ids, closing = self.codec.continuation(text), self._closing(chat)
        return ids if ids[-len(closing) :] == closing else ids + closing

    def _closing(self, chat: bool) -> list[int]:
        """What ends an answer: the template's end of turn in a chat, the tokenizer's end token after raw text."""
        if chat and self.template is not None and self.template.end_token is not None:
            return self.codec.continuation(self.template.closing)
        return [self.tokenizer.eos_token_id]

    def _limited(self, encoded: Encoded, branch: Branch, judged: bool = True) -> Branch:
        """Hold a branch to the limits: refused, or cut by name. No end token is trained in a cut answer. One that may be ``judged`` keeps
        its own as the last token all the same: a reward model gives its score there and nowhere else."""
        room, why = self.limits.completion(len(encoded))
        if room is None or len(branch) <= room:
            return branch
        if self.config.over_long != "cut_completion" or room < 1 + judged:
            raise RefusedError(
                f"prompt and completion have {len(encoded)} + {len(branch)} tokens, {max(room, 0)} fit behind the prompt ({why})"
            )
        self.shortened["answers_cut"] += 1
        if not judged:
            return Branch(branch.tokens_T[:room], branch.trained_T[:room])
        trained_T = branch.trained_T[:room].clone()
        trained_T[-1] = False
        return Branch(torch.cat([branch.tokens_T[: room - 1], branch.tokens_T[-1:]]), trained_T)

    def _with_start(self, encoded: Encoded, branches: Sequence[Branch]) -> tuple[Encoded, tuple[Branch, ...]]:
        """A unit's prompt has at least one token: without any, the answer's first one is it (nothing predicts it)."""
        if len(encoded):
            return encoded, tuple(branches)
        if len(branches) != 1 or len(branches[0]) < 2:
            raise RefusedError("the prompt is empty and this tokenizer has no token to begin with")
        only = branches[0]
        return Encoded(only.tokens_T[:1]), (Branch(only.tokens_T[1:], only.trained_T[1:]),)

    # --- the model's side -------------------------------------------------------------------------------------------------------

    def _stop_tokens(self, generation_config: Any) -> tuple[int, ...]:
        given = getattr(generation_config, "eos_token_id", None)
        found = {given} if isinstance(given, int) else set(given or ())
        found |= {self.tokenizer.eos_token_id, self.template.end_token if self.template else None}
        stops = tuple(sorted(int(t) for t in found if t is not None))
        if not stops:
            raise DataError("this tokenizer has no end token, so no answer could ever end", "set eos_token in tokenizer_config.json")
        return stops


def _named(record: Record) -> tuple[Prompt, str]:
    """A record's prompt and its own name."""
    return (record, record.prompt_id) if isinstance(record, Prompt) else (record.prompt, record.record_id)
