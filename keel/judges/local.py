"""A model in this process as judge: the distribution of one label token, exactly; rankings from a sampled JSON reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from keel.core.config import checked
from keel.core.errors import ConfigError, DataError
from keel.judges import read
from keel.judges.ask import Question, Said, digest, failed
from keel.judges.config import LocalConfig
from keel.judges.parse import UnreadableError
from keel.judges.showing import controls_of, encoded, sees_images
from keel.judges.templates import Template, Written, load_template, write
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.pictured import reading_of
from keel.render.config import RenderConfig
from keel.render.limits import context_length
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.types import Branch, Encoded, Sampler, SampleRequest, SamplingParams, Unit


class LocalJudge:
    """A `Judge`. ``sampler`` draws what is no single label; the model's own unless one is given."""

    def __init__(self, name: str, config: LocalConfig, loaded: Loaded, renderer: Renderer, sampler: Sampler | None = None) -> None:
        self.name, self.config, self.renderer = name, config, renderer
        self._inference = LocalInference(loaded.model.freeze(), BatchConfig())
        self._sampler = sampler or LocalSampler(loaded.model, renderer.decode)
        self._templates: dict[str, Template] = {}
        self._digest = loaded.model.digest()
        self._controls = controls_of(renderer.tokenizer)

    @property
    def identity(self) -> str:
        templates = {kind: self._template(kind).hash for kind in ("pairwise", "pointwise", "ranking", "rubric")}
        chat = self.renderer.template_hash
        return digest(
            {
                "weights": self._digest,
                "templates": templates,
                "chat": chat,
                "temperature": self.config.temperature,
                "seed": self.config.seed,
            }
        )

    @property
    def family(self) -> str:
        return self.config.family

    @property
    def sees_images(self) -> bool:
        return sees_images(self.renderer)

    def price(self, questions: Sequence[Question]) -> float | None:
        return 0.0

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        found: list[Said | None] = [None] * len(questions)
        labelled: list[tuple[int, Written, Unit]] = []
        drawn: list[tuple[int, SampleRequest]] = []
        for i, question in enumerate(questions):
            template = self._template(question.kind)
            mode = "label" if template.reply_label else "json"
            written = write(template, question, mode, self._controls, self.sees_images)
            reserve = 1 if mode == "label" else self.config.max_tokens
            try:
                prompt = encoded(self.renderer, written.messages, reserve)
            except DataError as error:
                found[i] = failed(f"call: {error.message}", made=False)
                continue
            if mode == "label":
                labelled.append((i, written, self._unit(i, prompt, written.labels)))
            else:
                drawn.append((i, self._request(i, question, prompt)))
        for (i, written, unit), row in zip(
            labelled, self._inference.logprobs([u for _, _, u in labelled]) if labelled else [], strict=True
        ):
            found[i] = self._of_labels(questions[i], written, unit, [float(b[0]) for b in row])
        if drawn:
            self._draw(questions, drawn, found)
        return [said if said is not None else failed("call: no reply", made=False) for said in found]

    def _of_labels(self, question: Question, written: Written, unit: Unit, logprobs: Sequence[float]) -> Said:
        p_K = torch.softmax(torch.tensor(logprobs, dtype=torch.float64), 0).tolist()  # only labels may be said: the rest is masked
        said = read.of_labels(self._template(question.kind), question, dict(zip(written.labels, p_K, strict=True)))
        best = written.labels[max(range(len(p_K)), key=p_K.__getitem__)]
        return Said(**said, text=best, tokens=(len(unit.prompt), 1))

    def _draw(self, questions: Sequence[Question], drawn: Sequence[tuple[int, SampleRequest]], found: list[Said | None]) -> None:
        self._sampler.submit([request for _, request in drawn])
        place = {request.prompt_id: (i, request) for i, request in drawn}
        for rollout in self._sampler.collect():
            i, request = place[rollout.prompt_id]
            more = {"text": rollout.text, "tokens": (len(request.prompt), len(rollout))}
            if rollout.finish_reason != "stop":
                found[i] = failed(f"reply: it has no end ({rollout.error or rollout.finish_reason})", **more)
                continue
            try:
                found[i] = Said(**read.of_json(self._template(questions[i].kind), questions[i], rollout.text), **more)
            except UnreadableError as error:
                found[i] = failed(str(error), **more)

    def _template(self, kind: str) -> Template:
        if kind not in self._templates:
            self._templates[kind] = load_template(self.config.templates.of(kind))  # type: ignore[arg-type]
        return self._templates[kind]

    def _unit(self, i: int, prompt: Encoded, labels: Sequence[str]) -> Unit:
        ids = [tuple(self.renderer.codec.encode(label)) for label in labels]
        if any(len(x) != 1 for x in ids) or len(set(ids)) < len(ids):
            raise ConfigError(
                f"judge {self.name}: this tokenizer has no token of its own for each of {', '.join(labels)}", "take another model"
            )
        branches = tuple(Branch(torch.tensor(x, dtype=torch.int64), torch.ones(1, dtype=torch.bool)) for x in ids)
        return Unit(f"judge-{i}", prompt, branches)

    def _request(self, i: int, question: Question, prompt: Encoded) -> SampleRequest:
        params = SamplingParams(
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            stop_tokens=self.renderer.stop_tokens,
            banned_tokens=self.renderer.banned_tokens,
        )
        name = digest([question.content(), list(question.order), question.sample, i])
        return SampleRequest(name, prompt, 1, params, self.config.seed, first_sample=question.sample)


def load_local(name: str, config: LocalConfig) -> LocalJudge:
    """Load the judge's model. Raises ModelError, ConfigError."""
    loaded = load_model(config.model, checked(ModelOptions, config.model_options))
    model = loaded.model
    reading = reading_of(model.module, model.no_images)
    context = context_length(model.config)
    renderer = Renderer(loaded.tokenizer, loaded.processor, RenderConfig(), model.media, model.module.generation_config, context, reading)
    model.transform = replace(model.transform, banned=renderer.banned_tokens)
    model.stop_tokens = renderer.stop_tokens
    return LocalJudge(name, config, loaded, renderer)
