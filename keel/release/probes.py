"""How far what was written is from what it was made from: exact, over whole distributions, on a few answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.model import Model
from keel.release.candidate import Reader
from keel.rollout.local import LocalSampler
from keel.types import Branch, Encoded, Message, Prompt, SampleRequest, SamplingParams, Unit

QUESTIONS = (
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "How do I cook rice?",
    "12 + 35 = ?",
    "用一句话介绍你自己。",
    "下雨天适合做什么？",
)
_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Probe:
    """One question and an answer that the model which is released drew to it: ids [P + T], the last ``answer`` of them the answer's."""

    question: str
    ids_L: Tensor
    answer: int


@dataclass(frozen=True, slots=True)
class Distance:
    """Over ``tokens`` places: ``kl`` of the original to what was written, nats a token; the largest difference of a drawn token's
    log-probability; how often both find the same token likeliest."""

    kl: float
    logprob_difference: float
    same_likeliest: float
    tokens: int

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def probes_of(reader: Reader, questions: Sequence[str]) -> list[Probe]:
    """An answer to each question, drawn at temperature 1. Raises DataError where none can be rendered."""
    renderer = reader.renderer
    params = SamplingParams(max_tokens=_TOKENS, stop_tokens=renderer.stop_tokens, banned_tokens=renderer.banned_tokens)
    encoded = {}
    for i, question in enumerate(questions):
        prompt = Prompt(str(i), (Message("user", question),)) if renderer.template else Prompt(str(i), text=question)
        try:
            encoded[str(i)] = renderer.prompt(prompt, _TOKENS)
        except DataError:
            continue
    if not encoded:
        raise DataError("none of the questions can be rendered for this model", "give others with --prompts")
    sampler = LocalSampler(reader.loaded.model, renderer.decode)
    sampler.submit([SampleRequest(i, tokens, 1, params, 0, 0) for i, tokens in encoded.items()])
    drawn = sorted((r for r in sampler.collect() if not r.error), key=lambda r: int(r.prompt_id))
    return [Probe(questions[int(r.prompt_id)], torch.cat([encoded[r.prompt_id].tokens_T, r.tokens_T]), len(r)) for r in drawn]


@torch.no_grad()
def logprobs_TV(model: Model, probe: Probe) -> Tensor:
    """Log-probabilities of every token at each place of the answer: float32 [T, V]."""
    ids_1L = probe.ids_L[None]
    hidden_LH = model.run_plain(ids_1L, torch.ones_like(ids_1L))[0]
    return model.logits(hidden_LH[-probe.answer - 1 : -1]).log_softmax(-1).cpu()


def distance(model: Model, other: Model, probes: Sequence[Probe]) -> Distance:
    """How far ``other`` is from ``model``. Both read the same ids."""
    kl = same = 0.0
    worst, tokens = 0.0, 0
    for probe in probes:
        own_TV, theirs_TV = logprobs_TV(model, probe), logprobs_TV(other, probe)
        theirs_TV = theirs_TV[:, : own_TV.shape[1]]
        ids_T1 = probe.ids_L[-probe.answer :, None]
        held = own_TV.isfinite() & theirs_TV.isfinite()
        gap_TV = torch.where(held, own_TV - theirs_TV, torch.zeros(()))
        kl += float((own_TV.exp().double() * gap_TV.double()).sum())
        worst = max(worst, float(gap_TV.gather(1, ids_T1).abs().max()))
        same += float((own_TV.argmax(1) == theirs_TV.argmax(1)).sum())
        tokens += probe.answer
    return Distance(kl / tokens, worst, same / tokens, tokens)


@torch.no_grad()
def score_distance(model: Model, other: Model, probes: Sequence[Probe]) -> dict[str, float]:
    """Of reward models: root mean square of the scores' difference, in standard deviations of the scores; how many were scored."""
    units = [_unit(probe) for probe in probes]
    own, theirs = (torch.cat(LocalInference(m, BatchConfig()).scores(units)) for m in (model, other))
    spread = own.std().clamp_min(1e-6) if len(own) > 1 else torch.ones(())
    return {"score_difference": float((own - theirs).square().mean().sqrt() / spread), "answers": float(len(own))}


def _unit(probe: Probe) -> Unit:
    cut = len(probe.ids_L) - probe.answer
    answer_T = probe.ids_L[cut:]
    return Unit(probe.question, Encoded(probe.ids_L[:cut]), (Branch(answer_T, torch.ones(len(answer_T), dtype=torch.bool)),))
