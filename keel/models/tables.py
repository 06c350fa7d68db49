"""The two tables of a language model, with the types they have in every decoder."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel


def input_table(module: PreTrainedModel) -> Tensor:
    """The input embedding's weight [V, H]."""
    return cast(nn.Embedding, module.get_input_embeddings()).weight


def output_layer(module: PreTrainedModel) -> nn.Linear:
    """The head that makes logits of hidden states."""
    return cast(nn.Linear, module.get_output_embeddings())


def tied(module: PreTrainedModel) -> bool:
    """Whether the head is the input embedding."""
    return output_layer(module).weight is input_table(module)
