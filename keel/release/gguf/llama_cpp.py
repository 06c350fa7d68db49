"""llama.cpp itself, by the bindings of the package xllamacpp: what it makes of a GGUF file. It listens on 127.0.0.1 while it is open."""

from __future__ import annotations

import importlib
import importlib.util
import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from keel.core.errors import ModelError

_SECONDS = 600
_SURE = 1e4  # is added to a logit


def is_installed() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCpp:
    """One model, one request at a time. Raises ModelError where the package is missing or the file cannot be loaded."""

    def __init__(self, file: str | Path, context: int = 2048, *, exact: bool = False) -> None:
        """``exact``: attention in 32 bits (16 are usual, which moves log-probabilities by about 0.01 nats)."""
        if not is_installed():
            raise ModelError("reading a GGUF file as llama.cpp does needs the package xllamacpp", "pip install 'keel-align[llamacpp]'")
        xllamacpp: Any = importlib.import_module("xllamacpp")
        parameters: Any = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.port = context, 1, False, 0
        parameters.verbosity = -1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
        if exact:
            parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except Exception as error:  # the binding's own kind of error is a plain one
            raise ModelError(f"llama.cpp cannot load {file}: {error}") from error
        self._plain = self.ids("a", special=False)[0]

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        url = f"{self._server.listening_address}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.loads(answer.read())

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text as it stands, with the model's own beginning where ``special``; special tokens written in it become themselves."""
        return [int(i) for i in self._ask("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]]

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages as the file's own template writes them, with the beginning of the answer."""
        return str(self._ask("/apply-template", {"messages": list(messages)})["prompt"])

    def next_logprobs(self, ids: Sequence[int], most: int) -> dict[int, float]:
        """Log-probabilities of the ``most`` likeliest next tokens by id. What llama.cpp leaves out of its list is not there.

        There is no list beside a token that ends the answer or is half a character. So a plain one is drawn whatever its chance; the list
        is of the chances before that.
        """
        body = {"prompt": list(ids), "n_predict": 1, "n_probs": most, "temperature": 0.0, "cache_prompt": False}
        body["logit_bias"] = [[self._plain, _SURE]]
        found = self._ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return {int(row["id"]): float(row["logprob"]) for row in found}

    def answer(self, ids: Sequence[int], tokens: int) -> int:
        """Answer greedily with this many tokens, ends or not; how many there were."""
        body = {"prompt": list(ids), "n_predict": tokens, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        return int(self._ask("/completion", body)["tokens_predicted"])
