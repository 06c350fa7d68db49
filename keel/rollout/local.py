"""The local sampler: draws from the model in this process, which is the very model that is trained. It decodes requests in waves: rows
side by side, all at the same step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from keel.core.errors import SelfTestError
from keel.models.model import Model
from keel.render.conversation import extended
from keel.rollout.config import SamplerConfig
from keel.rollout.decode import MIN_ROWS, Decoder, FastDecoder
from keel.rollout.distribution import draw
from keel.rollout.kept import Beginning, Kept
from keel.rollout.plain import PlainDecoder
from keel.rollout.prove import prove_continued, prove_decode
from keel.rollout.wave import Decode, Row, Wave
from keel.types import Encoded, PolicyVersion, Rollout, SampleRequest, Weights

log = logging.getLogger("keel")


class LocalSampler:
    """A ``types.Sampler``. Requests are cut into waves of at most ``max_rows`` rows, short prompts first. The random numbers of a row
    depend on its own request alone. So do its log-probabilities, up to rounding: ``prove.row_dependence`` measures whether the rows beside
    it change the last bits on this machine."""

    def __init__(self, model: Model, decode: Decode, config: SamplerConfig | None = None, version: PolicyVersion | None = None) -> None:
        """``decode`` turns token ids [T] into text without special tokens. Proves the fast path unless ``config.path`` is plain."""
        self.model = model
        self._decode = decode
        self._config = config or SamplerConfig()
        self.version = version.version if version is not None else 0
        self.between: Callable[[], int] | None = None  # between two steps: the version of the weights that are in the model now
        self._queue: list[Row] = []
        self._decoder = self._choose_decoder([model])[0]
        self._kept = Kept(int(self._config.turns_gib * 2**30))

    @property
    def fast(self) -> bool:
        """Does it decode by the fast path?"""
        return isinstance(self._decoder, FastDecoder)

    def _choose_decoder(self, models: Sequence[Model]) -> list[Decoder]:
        """One a model; the fast ones where all models have proven it, so that all of them drop their rows alike."""
        if self._config.path == "auto" and all(prove_decode(model) for model in models):
            return [FastDecoder(model, self._config.prefill_tokens) for model in models]
        log.info("sampling takes the plain path: every row reads its own prompt")
        return [PlainDecoder(model) for model in models]

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Queue requests. Raises ValueError for one that cannot be sampled."""
        for request in requests:
            _check(request)
            self._queue += [Row(request, request.first_sample + i) for i in range(request.n)]

    def collect(self) -> Iterator[Rollout]:
        """Draw all that is queued, wave by wave; yields each wave when it is done."""
        self._queue.sort(key=lambda row: (len(row.request.prompt), row.request.prompt_id))
        while self._queue:
            rows, self._queue = self._queue[: self._config.max_rows], self._queue[self._config.max_rows :]
            yield from self._sample(rows)

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        """Take over new weights: this process has them, or brings its copy up to date. Then it checks that they are the announced ones."""
        weights.arrive()
        self._kept.clear()
        if self.model.digest() != version.digest:
            raise SelfTestError(
                f"weight sync: the sampler's weights are not those of policy version {version.version}",
                "the policy was changed after it was published, or the sampler holds another model",
            )
        self.version = version.version

    @torch.no_grad()
    def _sample(self, rows: Sequence[Row]) -> list[Rollout]:
        company = [rows[0]] * (MIN_ROWS - len(rows))
        wave = Wave([*rows, *company], self._decode, self.model.device)
        prompts, prompt_B = _distinct([row.request.prompt for row in wave.rows])
        beginnings = self._beginnings(rows, prompts, prompt_B)
        keeps = self._kept.most > 0 and self.fast and any(row.request.goes_on for row in rows) and prove_continued(self.model)
        with self.model.compute():
            logits_BV = self._decoder.start(prompts, prompt_B, max(row.request.params.max_tokens for row in rows), beginnings)
            del beginnings  # they are in the decoder's own cache now
            while True:
                wave.lower_(logits_BV)
                drawn = draw(logits_BV, wave.params, wave.step, wave.uniforms(), wave.keep_support)
                closed = wave.record(drawn, self.version)
                for place, row in closed if keeps else ():
                    self._keep(place, row, wave)
                alive_B = wave.survivors()
                if alive_B is None:
                    self._decoder.finish()
                    return wave.rollouts(len(rows))
                tokens_B = drawn.tokens_B
                if not bool(alive_B.all()):
                    order_B = self._decoder.keep(alive_B.to(tokens_B.device))
                    wave.reorder(order_B)
                    tokens_B = tokens_B[order_B.to(tokens_B.device)]
                self._renew()
                logits_BV = self._decoder.step(tokens_B)

    def _renew(self) -> None:
        """New weights may have come into the model between two steps: what was made of the old ones is made again, but for the keys and
        values of the tokens so far."""
        now = self.version if self.between is None else self.between()
        if now != self.version:
            self.version = now
            torch.clear_autocast_cache()
            self._kept.clear()
            self._decoder.renew()

    def _beginnings(self, rows: Sequence[Row], prompts: Sequence[Encoded], prompt_B: Tensor) -> list[Beginning | None]:
        """What is kept of each prompt's beginning."""
        found: list[Beginning | None] = [None] * len(prompts)
        for row, prompt in zip(rows, prompt_B.tolist()):
            kept = self._kept.take(row.talk)
            if kept is not None and found[prompt] is None and kept.begins(prompts[prompt]):
                found[prompt] = kept
        return found

    def _keep(self, place: int, index: int, wave: Wave) -> None:
        """Row ``index``, at ``place`` of the batch, is done. Where it is the beginning of another prompt, keep what was made of it by
        weights that have not changed meanwhile."""
        row = wave.rows[index]
        if not row.request.goes_on or row.request.prompt.media or wave.versions != {self.version}:
            return  # with images it is not proven
        layers = self._decoder.beginning(place)
        if layers is not None:
            self._kept.put(row.talk, Beginning(extended(row.request.prompt, wave.drawn(index)[:-1]), layers))


def _distinct(prompts: Sequence[Encoded]) -> tuple[list[Encoded], Tensor]:
    """Each different prompt once, and which of them each row has."""
    index: dict[tuple[bytes, tuple[str, ...]], int] = {}
    unique: list[Encoded] = []
    which: list[int] = []
    for prompt in prompts:
        key = (prompt.tokens_T.numpy().tobytes(), tuple(ref.digest for ref in prompt.media))
        if key not in index:
            index[key] = len(unique)
            unique.append(prompt)
        which.append(index[key])
    return unique, torch.tensor(which)


def _check(request: SampleRequest) -> None:
    p = request.params
    problems = [
        (len(request.prompt) == 0, "the prompt has no tokens"),
        (request.n < 1, f"n is {request.n}, but at least one sample must be asked for"),
        (p.max_tokens < 1, f"max_tokens is {p.max_tokens}, but must be at least 1"),
        (p.temperature != 0 and not 1e-3 <= p.temperature < float("inf"), f"temperature is {p.temperature}, but must be 0 or >= 0.001"),
        (not 0 < p.top_p <= 1, f"top_p is {p.top_p}, but must be above 0 and at most 1"),
        (p.top_k < 0, f"top_k is {p.top_k}, but must be 0 (off) or more"),
        ("" in p.stop, "a stop string is empty"),
    ]
    for wrong, what in problems:
        if wrong:
            raise ValueError(f"request for prompt '{request.prompt_id}': {what}")
