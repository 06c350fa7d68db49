"""A sampler with a model of its own, whose weights come from a folder and are proven by a digest of what is in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.core.config import checked
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.save import as_saved, saved_names
from keel.models.weights import ModelWeights
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.rollout.weight_digest import digest_of
from keel.runs.durable import read_tensors
from keel.types import Rollout, SampleRequest

log = logging.getLogger("keel")
SETTINGS = "engine.json"


class StaleError(Exception):
    """Rollouts were asked of weights that are not here."""


class Engine:
    """Draws from the weights that it was last given. Not for two threads at once."""

    def __init__(self) -> None:
        self.digest, self.drawn, self.version = "", 0, 0
        self.give_way: Callable[[], None] = _stay  # lets weights come in between two steps
        self._settings = ""  # of what is loaded
        self._loaded: Loaded | None = None
        self._sampler: LocalSampler | None = None
        self._names: tuple[str, ...] = ()

    def load(self, folder: Path, version: int = 0) -> str:
        """Take over the weights of version ``version``, which lie in ``folder`` as a saved model beside ``engine.json``. That file names
        the training: of the one that is known, only the weights are read. Returns the digest of what is now computed with."""
        self.digest = ""
        settings = f"{folder} {(folder / SETTINGS).read_text(encoding='utf-8')}"
        if settings != self._settings:
            self._start(folder)
            self._settings = settings
        elif not self._set(_tensors(folder)):
            raise RuntimeError("the new weights have other tensors than the model")
        assert self._loaded is not None
        self.digest, self.version = digest_of(as_saved(self._loaded.model, self._names).items()), version
        return self.digest

    def _start(self, folder: Path) -> None:
        self._settings = ""
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        torch.set_num_threads(settings["threads"] or torch.get_num_threads())
        loaded = load_model(str(folder), checked(ModelOptions, settings["model_options"]))
        model = loaded.model  # not frozen: its weights stay in float32 as the trainer's do, or the digest would be of rounded ones
        model.transform = replace(model.transform, banned=tuple(settings["banned"]))
        stops = frozenset(settings["stop_tokens"])

        def decode(tokens_T: Tensor) -> str:
            kept = [t for t in tokens_T.tolist() if t not in stops]
            return loaded.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

        self._sampler = LocalSampler(model, decode, checked(SamplerConfig, settings["sampler"]))
        self._loaded, self._names = loaded, saved_names(folder)

    @torch.no_grad()
    def _set(self, tensors: dict[str, Tensor]) -> bool:
        """Copy the tensors into the model, whose own names are those of its files, or are made anew from them."""
        assert self._loaded is not None
        own = self._loaded.model.module.state_dict()
        if set(tensors) != set(self._names):
            return False
        if tensors.keys() <= own.keys() and all(own[k].shape == t.shape for k, t in tensors.items()):
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
            return True
        return False

    def draw(self, requests: Sequence[SampleRequest], digest: str, version: int, in_flight: bool = False) -> list[Rollout]:
        """Rollouts of these weights; ``in_flight``: or of newer ones, which may come between two steps: keys and values of the tokens
        before them stay. Raises StaleError where others are loaded, ValueError for a request that cannot be drawn."""
        if self._sampler is None or not (digest == self.digest or (in_flight and self.digest)):
            raise StaleError(f"the weights here are {self.digest[:12] or 'none'}, asked for are {digest[:12]}")
        if digest == self.digest:
            self.version = version
        sampler = self._sampler
        sampler.version, sampler.between = self.version, self._between if in_flight else None
        sampler.submit(requests)
        found = list(sampler.collect())
        self.drawn += len(found)
        return found

    def _between(self) -> int:
        """Between two steps: the version of the weights that the next one is drawn by."""
        self.give_way()
        return self.version

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Of a fixed sequence, but its first token."""
        assert self._loaded is not None, "nothing is loaded yet"
        return ModelWeights(self._loaded.model).probe(torch.tensor(tokens)).tolist()

    def about(self) -> dict[str, Any]:
        return {"digest": self.digest, "drawn": self.drawn, "version": self.version}


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in read_tensors(file).items()}


def _stay() -> None:
    """Nobody waits."""
