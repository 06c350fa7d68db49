"""Heads that are the input embedding, inside vLLM."""

from __future__ import annotations

from typing import Any


def tie_again(module: Any) -> None:
    """A head that is the input embedding gets the embedding's new weights: vLLM updates layers by the names in files, where the head has
    none, and on a CPU it computes with a packed copy of its own."""
    kinds = {type(m).__name__: m for m in reversed(list(module.modules()))}
    head, embedding = kinds.get("ParallelLMHead"), kinds.get("VocabParallelEmbedding")
    if module.config.get_text_config().tie_word_embeddings and head is not None and embedding is not None:
        head.tie_weights(embedding)
        head.quant_method.process_weights_after_loading(head)
