"""A model in memory as lm-evaluation-harness sees one. It asks in strings; a string that came out of the chat template is read as the
messages that went in, so that the ids are those of every other answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from keel.core.errors import DataError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.loading import Loaded
from keel.render.renderer import Renderer
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.types import Branch, Encoded, Message, Prompt, SampleRequest, SamplingParams, Unit
from keel.verbs.evaluate.lm_tasks import ids_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

try:
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
except ImportError:  # an extra: `lm_tasks` asks for it before this module
    LM: Any = object

_COLD = 1e-4  # a temperature at which the likeliest token has all of the probability
_LONGEST = 256  # tokens of a generated answer where the task does not say


class KeelLM(LM):
    """``seen``: sha256 of the ids of every request, in order."""

    def __init__(self, loaded: Loaded, renderer: Renderer, sampler: SamplerConfig) -> None:
        super().__init__()
        self.loaded, self.renderer, self.sampling = loaded, renderer, sampler
        self.inference = LocalInference(loaded.model, BatchConfig())
        self.cold = LocalInference(loaded.model, BatchConfig(), _COLD)
        self.longest = renderer.limits.context or 1 << 31  # tokens
        self.cut = 0  # requests that lost their beginning to the model's context
        self.chats: dict[str, tuple[Message, ...]] = {}
        self.seen = hashlib.sha256()

    # ----------------------------------------------------------------------------------------------------------------- templates

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in keys of caches, none of which is used."""
        return str(self.loaded.source.get("model", "keel")).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's text, for the harness's own record."""
        return self.renderer.template.source if chat_template and self.renderer.template is not None else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation before the answer. Raises DataError for an answer that is begun for the model."""
        if not add_generation_prompt:
            what = "a task begins the model's answer, which a chat template cannot show"
            raise DataError(what, "set evaluate.lm_eval.chat_template=false")
        assert self.renderer.template is not None, "asked for without a template"
        turns = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)
        text = self.renderer.template.render(turns, True)
        self.chats[text] = turns
        return text

    # ----------------------------------------------------------------------------------------------------------------------- ids

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of what follows it. In a chat: those of Keel's prompt and of an answer as it would be sampled. Plain text:
        the tokenizer's beginning, then the whole, cut where the continuation begins."""
        codec = self.renderer.codec
        if (turns := self.chats.get(context)) is not None:
            return self.renderer.prompt(Prompt("chat", turns)).tokens_T.tolist(), codec.continuation(continuation)
        if not context:
            start = list(codec.bos) or [self.renderer.stop_tokens[0]]
            return start, codec.continuation(continuation)
        first, second = codec.split(context + continuation, [len(context)])
        own = list(codec.bos)
        return (first if first[: len(own)] == own else own + first), second

    def context(self, text: str) -> list[int]:
        """Ids of a text that something is generated after."""
        turns = self.chats.get(text)
        return self.renderer.codec.start(text) if turns is None else self.renderer.prompt(Prompt("chat", turns)).tokens_T.tolist()

    def _unit(self, number: int, before: Sequence[int], after: Sequence[int]) -> Unit:
        if len(before) + len(after) > self.longest:  # the harness's own rule: what is too long loses its beginning
            before = before[-max(1, self.longest - len(after)) :]
            self.cut += 1
        if not after:
            raise DataError("a task asks for the log-probability of no token", "its continuation is empty: mend the task")
        self.seen.update(ids_of(before))
        self.seen.update(ids_of(after))
        tokens_T = torch.tensor(list(after), dtype=torch.int64)
        branch = Branch(tokens_T, torch.ones_like(tokens_T).bool())
        return Unit(f"lm-{number}", Encoded(torch.tensor(list(before), dtype=torch.int64)), (branch,))

    # ------------------------------------------------------------------------------------------------------------------- requests

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability of each continuation in nats, and whether it is what greedy decoding would write."""
        units = [self._unit(i, *self.pair(*request.args)) for i, request in enumerate(requests)]
        sums = [float(row[0].double().sum()) for row in self.inference.logprobs(units)]
        greedy = [bool((row[0] > math.log(0.5)).all()) for row in self.cold.logprobs(units)]
        return list(zip(sums, greedy, strict=True))

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        """Log-probability of each whole text in nats, in windows of the model's context without overlap."""
        out: list[float] = []
        for request in requests:
            ids = self.renderer.codec.encode(request.args[0])
            start = list(self.renderer.codec.bos) or [self.renderer.stop_tokens[0]]
            step = min(self.longest - len(start), max(1, len(ids)))
            parts = [ids[i : i + step] for i in range(0, len(ids), step)]
            before = [start, *([part[-1]] for part in parts)]
            units = [self._unit(i, b, part) for i, (b, part) in enumerate(zip(before, parts))]
            out.append(sum(float(row[0].double().sum()) for row in self.inference.logprobs(units)))
        return out

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        """Texts up to the first of a task's stop strings."""
        asked: list[SampleRequest] = []
        prompts: dict[str, Prompt] = {}
        stops: list[tuple[str, ...]] = []
        for i, request in enumerate(requests):
            text, how = request.args[0], dict(request.args[1])
            until = how.get("until") or ()
            stop = (until,) if isinstance(until, str) else tuple(until)
            heat = float(how.get("temperature", 1.0)) if how.get("do_sample") else 0.0
            longest = int(how.get("max_gen_toks") or how.get("max_tokens") or _LONGEST)
            top_p, stopping = float(how.get("top_p") or 1.0), tuple(s for s in stop if s)
            params = SamplingParams(longest, 0, heat, top_p, 0, stopping, self.renderer.stop_tokens)
            whole = self.context(text)
            ids = whole[-max(1, self.longest - longest) :]
            self.cut += len(ids) < len(whole)
            self.seen.update(ids_of(ids))
            name = f"lm-{i}"
            prompts[name] = Prompt(name, text=text)
            stops.append(params.stop)
            asked.append(SampleRequest(name, Encoded(torch.tensor(ids, dtype=torch.int64)), 1, params, 0))
        sampler = LocalSampler(self.loaded.model, self.renderer.decode, self.sampling)
        sampler.submit(asked)
        texts = {r.prompt_id: r for r in sampler.collect()}
        failed = [name for name in prompts if name not in texts or texts[name].error]
        if failed:
            why = texts[failed[0]].error if failed[0] in texts else "no answer came"
            raise DataError(f"{len(failed)} of {len(prompts)} answers to a task failed: {why}")
        return [_before(texts[f"lm-{i}"].text, stop) for i, stop in enumerate(stops)]


def _before(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first of the stop strings."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
