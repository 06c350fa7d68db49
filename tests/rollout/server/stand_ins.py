"""Servers that speak as vLLM 0.32.0 does (as recorded from the real one) and as SGLang's source says; a tiny model of Keel draws."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.weights import ModelWeights
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.rollout.server.vllm_worker import saved
from keel.rollout.weight_digest import Tally
from keel.types import Encoded, Rollout, SampleRequest, SamplingParams

Answer = tuple[int, Any]
SPEC = "tiny:llama?seed=1&hidden=128&std=0.2"  # with heads that such engines take


class Twin:
    """A model that starts with weights of its own, and takes those in a folder."""

    def __init__(self) -> None:
        self.loaded = load_model(SPEC.replace("seed=1", "seed=2"), ModelOptions(precision="fp32", device="cpu"))
        self.sampler, self.turn = LocalSampler(self.loaded.model, str, SamplerConfig(path="plain")), threading.Lock()

    def take(self, folder: Path) -> str:
        tally = Tally()
        with self.turn:
            self.loaded.model.module.load_state_dict(dict(tally.over(saved(folder))), strict=False)
        return tally.digest()

    def draw(self, prompt: list[int], params: SamplingParams, seed: int) -> Rollout:
        with self.turn:
            self.sampler.submit([SampleRequest("x", Encoded(torch.tensor(prompt)), 1, params, seed)])
            return next(self.sampler.collect())

    def logprobs(self, tokens: list[int]) -> list[float]:
        return ModelWeights(self.loaded.model).probe(torch.tensor(tokens)).tolist()


class StandIn:
    """Answers what ``routes`` say; notes the bodies that were asked."""

    def __init__(self) -> None:
        self.twin, self.asked, self.dead = Twin(), list[tuple[str, Any]](), False
        self.routes: dict[str, Callable[[Any], Answer]] = {"/health": lambda body: (200, None)}

    def bodies(self, path: str) -> list[Any]:
        return [body for where, body in self.asked if where == path]

    @contextmanager
    def served(self) -> Iterator[str]:
        """Its address, within this context."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._do(None)

            def do_POST(self) -> None:
                self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _do(self, body: Any) -> None:
                stand_in.asked.append((self.path, body))
                if stand_in.dead:
                    return  # as a process that was killed: the connection ends
                route = stand_in.routes.get(self.path)
                status, answer = route(body) if route is not None else (404, {"detail": "Not Found"})
                raw = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is printed."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


class VllmStandIn(StandIn):
    """``/v1/completions`` and ``/collective_rpc``."""

    def __init__(self) -> None:
        super().__init__()
        self.mode, self.digest, self.under_way = "processed_logprobs", "", list[str]()
        self.drawn = 0  # tokens that a request under way has by the time that weights come
        self.held: threading.Event | None = None  # completions wait for it
        self.begun = threading.Event()
        self.routes |= {"/v1/completions": self._complete, "/collective_rpc": self._call}

    def _call(self, body: Any) -> Answer:
        if body["method"] == "keel_about":
            return 200, {"results": [{"digest": self.digest, "logprobs_mode": self.mode}]}
        self.digest = self.twin.take(Path(body["args"][0]))
        return 200, {"results": [{"digest": self.digest, "drawn": dict.fromkeys(self.under_way, self.drawn), "ended": []}]}

    def _complete(self, body: Any) -> Answer:
        choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None, "stop_reason": None, "prompt_logprobs": None}
        if "prompt_logprobs" in body:
            told = self.twin.logprobs(body["prompt"])
            entries = [{str(t): {"logprob": x, "rank": 1, "decoded_token": "?"}} for t, x in zip(body["prompt"][1:], told, strict=True)]
            choice |= {"prompt_logprobs": [None, *entries], "finish_reason": "length", "token_ids": None}
            return 200, {"id": "cmpl-1", "object": "text_completion", "model": "policy", "choices": [choice]}
        name = f"cmpl-{body['request_id']}-0-a00c9d12"
        self.under_way.append(name)
        self.begun.set()
        params = SamplingParams(body["max_tokens"], temperature=body["temperature"], stop_tokens=tuple(body["stop_token_ids"]))
        found = self.twin.draw(body["prompt"], params, body["seed"])
        if self.held is not None:
            self.held.wait(30)
        self.under_way.remove(name)
        ids, logprobs = found.tokens_T.tolist(), found.logprobs_T.tolist()
        choice |= {"token_ids": ids, "finish_reason": found.finish_reason, "prompt_token_ids": body["prompt"]}
        choice["logprobs"] = {"text_offset": [0] * len(ids), "token_logprobs": logprobs, "tokens": [""] * len(ids), "top_logprobs": []}
        return 200, {"id": f"cmpl-{body['request_id']}", "object": "text_completion", "model": "policy", "choices": [choice]}


class SglangStandIn(StandIn):
    """``/generate`` and ``/update_weights_from_disk``."""

    def __init__(self) -> None:
        super().__init__()
        self.version = "default"
        self.routes |= {"/generate": self._generate, "/update_weights_from_disk": self._update}

    def _update(self, body: Any) -> Answer:
        self.twin.take(Path(body["model_path"]))
        self.version = body["weight_version"]
        return 200, {"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0}

    def _generate(self, body: Any) -> Answer:
        asked = body["sampling_params"]
        stops = tuple(asked.get("stop_token_ids", ()))
        params = SamplingParams(asked["max_new_tokens"], temperature=asked["temperature"], stop_tokens=stops)
        found = self.twin.draw(body["input_ids"], params, asked.get("sampling_seed", 0))
        meta: dict[str, Any] = {"id": "0", "finish_reason": {"type": found.finish_reason}, "weight_version": self.version}
        if body.get("return_logprob"):
            pairs = zip(found.logprobs_T.tolist(), found.tokens_T.tolist(), strict=True)
            meta["output_token_logprobs"] = [[logprob, token, None] for logprob, token in pairs]
        if body.get("logprob_start_len") == 0:
            told = [None, *self.twin.logprobs(body["input_ids"])]
            meta["input_token_logprobs"] = [[x, token, None] for x, token in zip(told, body["input_ids"], strict=True)]
        return 200, {"text": "", "output_ids": found.tokens_T.tolist(), "meta_info": meta}
