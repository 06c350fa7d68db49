"""A model's weights as a sampler takes them over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from keel.models import save
from keel.models.model import Model


class ModelWeights:
    """``types.Weights`` of a model in this process."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def digest(self) -> str:
        """Over the trained parameters."""
        return self._model.digest()

    def arrive(self) -> None:
        """They are here."""

    def merged(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """The weights under the names of the saved model, adapters merged; each is made when it is taken."""
        return save.as_saved(self._model, names)

    @torch.no_grad()
    def probe(self, tokens_T: Tensor) -> Tensor:
        """Log-probabilities of the tokens but the first: float32 [T - 1]."""
        tokens_1T = tokens_T[None]
        hidden_TH = self._model.run_plain(tokens_1T, torch.ones_like(tokens_1T))[0]
        logprobs_TV = self._model.logits(hidden_TH[:-1]).log_softmax(-1).cpu()
        return logprobs_TV.gather(1, tokens_T[1:, None].cpu())[:, 0]
