"""A model in this process as critic or reviser: replies are sampled; the same seed draws the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keel.core.errors import DataError
from keel.critique.ask import Ask, Writing, Wrote, check
from keel.critique.templates import Shown, WritingTemplate, show
from keel.judges.ask import digest
from keel.judges.parse import UnreadableError
from keel.judges.showing import controls_of, encoded, name_of, sees_images
from keel.render.renderer import Renderer
from keel.types import Sampler, SampleRequest, SamplingParams


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
        self._controls = controls_of(renderer.tokenizer)

    @property
    def sees_images(self) -> bool:
        return sees_images(self._renderer)

    def price(self, asks: Sequence[Ask]) -> float | None:
        return 0.0

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        found: dict[int, Wrote] = {}
        shown = [show(self._templates[a.kind], a, self._controls, self.sees_images) for a in asks]
        requests: dict[str, tuple[list[int], SampleRequest]] = {}
        for i, (ask, one) in enumerate(zip(asks, shown, strict=True)):
            name = digest([ask.kind, name_of(one.messages), ask.sample])
            if name in requests:  # the same call twice is made once
                requests[name][0].append(i)
                continue
            try:
                prompt = encoded(self._renderer, one.messages, self._params.max_tokens)
            except DataError as error:
                found[i] = Wrote(error=f"call: {error.message}", made=False)
                continue
            requests[name] = [i], SampleRequest(name, prompt, 1, self._params, self._seed, first_sample=ask.sample)
        self._sampler.submit([request for _, request in requests.values()])
        for rollout in self._sampler.collect() if requests else ():
            places, request = requests[rollout.prompt_id]
            tokens = (len(request.prompt), len(rollout))
            for i in places:
                fault = _fault(asks[i], rollout.text, shown[i], rollout.finish_reason)
                found[i] = Wrote(rollout.text, fault, tokens=tokens, made=i == places[0])
        return [found.get(i, Wrote(error="call: no reply", made=False)) for i in range(len(asks))]


def _fault(ask: Ask, text: str, shown: Shown, finish: str) -> str:
    """Why a reply is none; "" where it is one."""
    if finish != "stop":
        return f"reply: it has no end ({finish})"
    try:
        check(ask, text, shown.mark, shown.request)
    except UnreadableError as error:
        return str(error)
    return ""
