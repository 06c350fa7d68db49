"""A model in this process as critic or reviser: replies are sampled; the same seed draws the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keel.core.errors import DataError
from keel.critique.ask import Ask, Writing, Wrote, check
from keel.critique.templates import Shown, WritingTemplate, show
from keel.judges.ask import digest
from keel.judges.parse import UnreadableError
from keel.render.renderer import Renderer
from keel.types import Encoded, Message, Prompt, Sampler, SampleRequest, SamplingParams


class LocalWriter:
    """A `Writer`."""

    def __init__(
        self,
        name: str,
        renderer: Renderer,
        sampler: Sampler,
        templates: Mapping[Writing, WritingTemplate],
        max_tokens: int,
        temperature: float,
        seed: int = 0,
    ) -> None:
        self.name, self._renderer, self._sampler, self._templates, self._seed = name, renderer, sampler, templates, seed
        self._params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            stop_tokens=renderer.stop_tokens,
            banned_tokens=renderer.banned_tokens,
        )
        special = {t.content for t in renderer.tokenizer.added_tokens_decoder.values()} | set(renderer.tokenizer.all_special_tokens)
        self._controls = tuple(sorted(special, key=len, reverse=True))

    def price(self, asks: Sequence[Ask]) -> float | None:
        return 0.0

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        found: dict[int, Wrote] = {}
        shown = [show(self._templates[a.kind], a, self._controls) for a in asks]
        requests: dict[str, tuple[list[int], SampleRequest]] = {}
        for i, (ask, one) in enumerate(zip(asks, shown, strict=True)):
            name = digest([ask.kind, list(one.messages), ask.sample])
            if name in requests:  # the same call twice is made once
                requests[name][0].append(i)
                continue
            try:
                encoded = self._encoded(one)
            except DataError as error:
                found[i] = Wrote(error=f"call: {error.message}")
                continue
            requests[name] = [i], SampleRequest(name, encoded, 1, self._params, self._seed, first_sample=ask.sample)
        self._sampler.submit([request for _, request in requests.values()])
        for rollout in self._sampler.collect() if requests else ():
            places, request = requests[rollout.prompt_id]
            tokens = (len(request.prompt), len(rollout))
            for i in places:
                found[i] = Wrote(rollout.text, _fault(asks[i].kind, rollout.text, shown[i].mark, rollout.finish_reason), tokens=tokens)
        return [found.get(i, Wrote(error="call: no reply")) for i in range(len(asks))]

    def _encoded(self, shown: Shown) -> Encoded:
        """Raises DataError for what the model cannot be shown."""
        whole = "\n\n".join(text for _, text in shown.messages)
        name, reserve = digest(list(shown.messages)), self._params.max_tokens
        if self._renderer.template is None:
            return self._renderer.prompt(Prompt(name, text=whole + "\n"), reserve)
        try:
            return self._renderer.prompt(Prompt(name, tuple(Message(role, text) for role, text in shown.messages)), reserve)
        except DataError:  # some templates know no system turn
            return self._renderer.prompt(Prompt(name, (Message("user", whole),)), reserve)


def _fault(kind: Writing, text: str, mark: str, finish: str) -> str:
    """Why a reply is none; "" where it is one."""
    if finish != "stop":
        return f"reply: it has no end ({finish})"
    try:
        check(kind, text, mark)
    except UnreadableError as error:
        return str(error)
    return ""
