"""SGLang's own server as an engine: ids in, ids and log-probabilities out (``/generate``), weights by ``/update_weights_from_disk``.

SGLang computes no digest of what it reads. It is told the digest as the name of the weights, says that name with every answer, and has to
give a fixed sequence the trainer's log-probabilities. Written from its source; see docs/rollouts_beside.md for what was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from keel.rollout.answers import SEEDS, Answer, check_request, rollout_of
from keel.rollout.server.asking import Asking, side_by_side
from keel.rollout.server.protocol import EngineError, Handed, RefusedError
from keel.rollout.wave import Decode, Row
from keel.types import Rollout, SampleRequest, SamplingParams

_BANNED = -100.0  # JSON has no infinity


class SglangClient:
    """A ``RolloutEngine`` by SGLang."""

    def __init__(self, url: str, timeout_s: float, width: int, decode: Decode) -> None:
        """``width``: requests that are open at a time; ``decode`` turns ids [T] into text without special tokens."""
        self.url, self._width, self._decode = url, width, decode
        self._asking = Asking(url, timeout_s)

    def health(self) -> dict[str, Any]:
        self._asking.ask("/health")
        return {}

    def load(self, handed: Handed) -> str:
        """See ``RolloutEngine``; what it returns is the name that SGLang gives its weights from then on, which is the digest."""
        body = {"model_path": handed.folder, "weight_version": handed.digest, "flush_cache": True}
        found = self._asking.ask("/update_weights_from_disk", body)
        if not isinstance(found, dict) or not found.get("success"):
            raise EngineError(f"{self.url}: the weights were not taken: {found.get('message') if isinstance(found, dict) else found}")
        meta = self._generated({"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "temperature": 0.0}})
        if "weight_version" not in meta:
            raise RefusedError(f"{self.url}: it does not say which weights it draws by (weight_version): take a newer SGLang")
        return str(meta["weight_version"])

    def draw(self, requests: Sequence[SampleRequest], handed: Handed, in_flight: bool) -> Iterator[Sequence[Rollout]]:
        """See ``RolloutEngine``. Raises EngineError for an answer of other weights than ``handed``."""
        if in_flight:
            raise RefusedError(f"{self.url}: SGLang is given new weights between rollouts only: set rollouts.in_flight=false")
        for request in requests:
            check_request(request, "SGLang")
        rows = [Row(r, r.first_sample + i) for r in requests for i in range(r.n)]
        for rollout in side_by_side([partial(self._one, row, handed) for row in rows], self._width):
            yield [rollout]

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        params = {"max_new_tokens": 1, "temperature": 1.0, "ignore_eos": True}
        meta = self._generated({"input_ids": list(tokens), "sampling_params": params, "return_logprob": True, "logprob_start_len": 0})
        try:
            found = [float(entry[0]) for entry in meta["input_token_logprobs"][1:]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EngineError(f"{self.url}: no log-probabilities of a prompt: {type(error).__name__}: {error}") from None
        if len(found) != len(tokens) - 1:
            raise EngineError(f"{self.url}: {len(tokens)} tokens of a prompt came with {len(found)} log-probabilities")
        return found

    def _one(self, row: Row, handed: Handed) -> Rollout:
        body = {
            "input_ids": row.request.prompt.tokens_T.tolist(),
            "sampling_params": _sampling(row.request.params, row.key % SEEDS),
            "return_logprob": True,
        }
        meta = self._generated(body)
        if meta.get("weight_version") != handed.digest:
            raise EngineError(f"{self.url}: its weights are not those put there: it was started again, or another training uses it")
        answer = _answer(meta, self.url)
        return rollout_of(row, answer, [handed.version] * len(answer.tokens), self._decode)

    def _generated(self, body: Mapping[str, Any]) -> dict[str, Any]:
        found = self._asking.ask("/generate", body)
        if not isinstance(found, dict) or not isinstance(found.get("meta_info"), dict):
            raise EngineError(f"{self.url}: an answer without meta_info")
        return found["meta_info"]


def _sampling(p: SamplingParams, seed: int) -> dict[str, Any]:
    found = {
        "max_new_tokens": p.max_tokens,
        "min_new_tokens": p.min_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "top_k": p.top_k or -1,
        "stop_token_ids": list(p.stop_tokens),
        "ignore_eos": True,  # what ends a completion is the renderer's to say
        "sampling_seed": seed % (1 << 31),  # read with --enable-deterministic-inference
        "no_stop_trim": True,
    }
    return found | ({"logit_bias": {str(token): _BANNED for token in p.banned_tokens}} if p.banned_tokens else {})


def _answer(meta: Mapping[str, Any], url: str) -> Answer:
    try:
        pairs = [(float(entry[0]), int(entry[1])) for entry in meta["output_token_logprobs"]]
        reason = str(meta["finish_reason"]["type"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EngineError(f"{url}: no completion with token ids and log-probabilities: {type(error).__name__}: {error}") from None
    failed = "" if reason in ("stop", "length") else f"SGLang ended the completion by '{reason}'"
    return Answer([token for _, token in pairs], [logprob for logprob, _ in pairs], reason == "stop", failed)
