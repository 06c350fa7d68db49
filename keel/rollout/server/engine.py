"""A sampler with a model of its own, whose weights come from a folder and are proven by a digest of what is in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
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
SETTINGS, UPDATE = "engine.json", "update.safetensors"


class StaleError(Exception):
    """Rollouts were asked of weights that are not here."""


class Engine:
    """Draws from the weights that it was last given. Not for two threads at once."""

    def __init__(self) -> None:
        self.digest, self.drawn = "", 0
        self._folder: Path | None = None
        self._loaded: Loaded | None = None
        self._sampler: LocalSampler | None = None
        self._names: tuple[str, ...] = ()

    def load(self, folder: Path) -> str:
        """Take over the weights in ``folder``: a saved model with ``engine.json`` at first, then its ``update.safetensors``. Returns the
        digest of the weights that are now computed with."""
        self.digest = ""
        if folder != self._folder or not (folder / UPDATE).is_file():
            self._start(folder)
        elif not self._set(read_tensors(folder / UPDATE)):
            raise RuntimeError("the update has other tensors than the model")
        assert self._loaded is not None
        self.digest = digest_of(as_saved(self._loaded.model, self._names).items())
        return self.digest

    def _start(self, folder: Path) -> None:
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
        self._folder, self._loaded, self._names = folder, loaded, saved_names(folder)
        if (folder / UPDATE).is_file() and not self._set(read_tensors(folder / UPDATE)):
            raise RuntimeError("the update has other tensors than the model")

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

    def draw(self, requests: Sequence[SampleRequest], digest: str, version: int) -> list[Rollout]:
        """Rollouts of these weights. Raises StaleError where others are loaded, ValueError for a request that cannot be drawn."""
        if self._sampler is None or digest != self.digest:
            raise StaleError(f"the weights here are {self.digest[:12] or 'none'}, asked for are {digest[:12]}")
        self._sampler.submit(requests)
        found = [replace(r, version_T=torch.full((len(r),), version)) for r in self._sampler.collect()]
        self.drawn += len(found)
        return found

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Of a fixed sequence, but its first token."""
        assert self._loaded is not None, "nothing is loaded yet"
        return ModelWeights(self._loaded.model).probe(torch.tensor(tokens)).tolist()

    def about(self) -> dict[str, Any]:
        return {"digest": self.digest, "drawn": self.drawn}
