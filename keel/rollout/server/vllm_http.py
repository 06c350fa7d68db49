"""vLLM's own server as an engine: ids in, ids and log-probabilities out (``/v1/completions``), weights by its workers (``vllm_worker``)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from keel.rollout.answers import SEEDS, Answer, check_request, rollout_of
from keel.rollout.server.asking import Asking, side_by_side
from keel.rollout.server.protocol import EngineError, Handed, RefusedError
from keel.rollout.server.versions import Ticket, Versions
from keel.rollout.wave import Decode, Row
from keel.types import Rollout, SampleRequest, SamplingParams

_QUICK_S = 30.0  # for what needs no computing
_AT_ONCE = 32  # rollouts that are looked over together
_BANNED = -100.0  # JSON has no infinity, and vLLM cuts what is less
START = (
    "start it with VLLM_SERVER_DEV_MODE=1 in its environment, --worker-extension-cls keel.rollout.server.vllm_worker.Weights and "
    "--logprobs-mode processed_logprobs (docs/rollouts_beside.md)"
)


class VllmClient:
    """A ``RolloutEngine`` by vLLM."""

    def __init__(self, url: str, timeout_s: float, width: int, decode: Decode) -> None:
        """``width``: requests that are open at a time; ``decode`` turns ids [T] into text without special tokens."""
        self.url, self._width, self._decode = url, width, decode
        self._asking, self._versions = Asking(url, timeout_s), Versions()

    def health(self) -> dict[str, Any]:
        return self._about(self._call("keel_about", _QUICK_S))

    def load(self, handed: Handed) -> str:
        """See ``RolloutEngine``. Raises RefusedError where vLLM was started without what a training needs."""
        self.health()

        return self._versions.load(handed.version, lambda: self._loaded(self._call("keel_load", None, handed.folder)))

    def draw(self, requests: Sequence[SampleRequest], handed: Handed, in_flight: bool) -> Iterator[Sequence[Rollout]]:
        """See ``RolloutEngine``. Whether the weights are still those that were put there is asked before rollouts are handed on: a server
        that was started again in between has others."""
        for request in requests:
            check_request(request, "vLLM")
        if not self._versions.renumber(handed.digest, handed.version) and not (in_flight and self._versions.digest):
            raise EngineError(f"{self.url}: it has other weights than those asked for")
        rows = [Row(r, r.first_sample + i) for r in requests for i in range(r.n)]
        found = side_by_side([partial(self._one, row) for row in rows], self._width)
        while some := list(itertools.islice(found, _AT_ONCE)):
            if not self._versions.still(lambda: self.health()["digest"]):
                raise EngineError(f"{self.url}: its weights are not those put there: it was started again, or another training uses it")
            yield some

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        body = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "ignore_eos": True}
        (choice,) = self._completed(body)
        try:
            pairs = zip(tokens[1:], choice["prompt_logprobs"][1:], strict=True)
            return [float(at[str(token)]["logprob"]) for token, at in pairs]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.url}: no log-probabilities of a prompt: {type(error).__name__}: {error}") from None

    def _one(self, row: Row) -> Rollout:
        with self._versions.begun() as ticket:
            (choice,) = self._completed(self._body(row, ticket))
            answer = _answer(choice, self.url)
            return rollout_of(row, answer, self._versions.told(ticket, len(answer.tokens)), self._decode)

    def _body(self, row: Row, ticket: Ticket) -> dict[str, Any]:
        """One completion. Its salt names the weights that it begins with: prompts that others have read are not taken from the cache."""
        return {
            "prompt": row.request.prompt.tokens_T.tolist(),
            "request_id": ticket.name,
            "cache_salt": f"keel-{ticket.version}-{ticket.digest[:16]}",
            "seed": row.key % SEEDS,
            "return_token_ids": True,
            "logprobs": 0,  # of the drawn token alone
            **_sampling(row.request.params),
        }

    def _completed(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return list(self._asking.ask("/v1/completions", body)["choices"])
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self.url}: no completion: {type(error).__name__}: {error}") from None

    def _about(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        if found[0]["logprobs_mode"] != "processed_logprobs":
            raise RefusedError(f"{self.url}: its log-probabilities are not of the distribution that it draws from; {START}")
        return found[0]

    def _loaded(self, found: list[dict[str, Any]]) -> tuple[str, Mapping[str, int], Sequence[str]]:
        """What all workers say of what they have loaded: its digest, tokens by request, requests that are over."""
        try:
            digests = {str(worker["digest"]) for worker in found}
            drawn = {name: int(n) for worker in found for name, n in worker["drawn"].items()}
            ended = [str(name) for worker in found for name in worker["ended"]]
        except (KeyError, TypeError, AttributeError, ValueError):
            raise RefusedError(f"{self.url}: its workers are of another version of Keel than this run") from None
        if len(digests) != 1:
            raise EngineError(f"{self.url}: its workers have read different weights")
        return digests.pop(), drawn, ended

    def _call(self, method: str, timeout_s: float | None, *args: str) -> list[dict[str, Any]]:
        """What each worker answers."""
        try:
            found = self._asking.ask("/collective_rpc", {"method": method, "args": args}, timeout_s)
        except RefusedError as error:
            raise RefusedError(f"{error}; {START}") from None
        except EngineError as error:
            if f"has no attribute '{method}'" in str(error):
                raise RefusedError(f"{self.url}: its workers do not know {method}; {START}") from None
            raise
        if not isinstance(found, dict) or not found.get("results") or not all(isinstance(one, dict) for one in found["results"]):
            raise EngineError(f"{self.url}: its workers do not answer {method}")
        return list(found["results"])


def _sampling(p: SamplingParams) -> dict[str, Any]:
    found = {
        "max_tokens": p.max_tokens,
        "min_tokens": p.min_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "top_k": p.top_k or -1,
        "stop_token_ids": list(p.stop_tokens),
        "ignore_eos": True,  # what ends a completion is the renderer's to say
    }
    return found | ({"logit_bias": {str(token): _BANNED for token in p.banned_tokens}} if p.banned_tokens else {})


def _answer(choice: Mapping[str, Any], url: str) -> Answer:
    try:
        tokens = [int(token) for token in choice["token_ids"]]
        logprobs = [float(x) for x in choice["logprobs"]["token_logprobs"]]
        reason = str(choice["finish_reason"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{url}: no completion with token ids and log-probabilities: {type(error).__name__}: {error}") from None
    if len(tokens) != len(logprobs):
        raise EngineError(f"{url}: {len(tokens)} tokens came with {len(logprobs)} log-probabilities")
    failed = "" if reason in ("stop", "length") else f"vLLM ended the completion by '{reason}'"
    return Answer(tokens, logprobs, reason == "stop", failed)
