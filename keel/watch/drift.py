"""Is the data of a few steps like all of it? A first suspect when a run goes wrong, looked at before the recipe is blamed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

FAR = 4.0  # standard errors: a few steps of the same data are this far off about once in 16000 times


def drift(part: Sequence[Tensor], whole: Sequence[Tensor]) -> dict[str, float]:
    """How far the texts of ``part`` are from those of ``whole``, in standard errors of a mean over so many texts: ``length_z`` of the
    number of tokens, ``surprise_z`` of the mean of ``-log p(token)``, p the share of a token in all texts (other words, another language).

    Args:
        part: token ids of a few steps' texts, int64 [T] each, all of them also in ``whole``.
        whole: token ids of all texts.

    Returns:
        The two numbers and ``texts``, how many were looked at; 0 where all texts of ``whole`` are alike, nothing without texts.
    """
    if not part or not whole:
        return {}
    counts_V = torch.bincount(torch.cat(list(whole)))
    surprise_V = -(counts_V.double() / counts_V.sum()).log()  # infinite where a token never occurs, which no text then has
    measures = {
        "length_z": lambda text_T: float(len(text_T)),
        "surprise_z": lambda text_T: float(surprise_V[text_T].mean()) if len(text_T) else 0.0,
    }
    found = {"texts": float(len(part))}
    for name, measure in measures.items():
        all_U, some_U = (torch.tensor([measure(t) for t in texts], dtype=torch.float64) for texts in (whole, part))
        spread = float(all_U.std(correction=0))
        # rounding makes equal texts differ in the last bits
        found[name] = float(some_U.mean() - all_U.mean()) / spread * len(part) ** 0.5 if spread > 1e-9 else 0.0
    return found


class PromptMeasures:
    """What tells at every step whether its prompts are like those at the beginning: ``prompts/mean_length`` in tokens, and
    ``prompts/surprise``, the mean of ``-log p(token)`` over their tokens, p the share of a token among all prompts of the run (with one
    more of each, so that a new one has a finite value)."""

    def __init__(self, whole: Iterable[Tensor]) -> None:
        counts_V = torch.zeros(0, dtype=torch.int64)
        for text_T in whole:
            own_V = torch.bincount(text_T, minlength=len(counts_V))
            own_V[: len(counts_V)] += counts_V
            counts_V = own_V
        total = int(counts_V.sum()) + len(counts_V) + 1
        self._surprise_V = -((counts_V + 1).double() / total).log()
        self._new = math.log(total)  # of a token beyond those that were counted

    def __call__(self, texts: Sequence[Tensor]) -> dict[str, float]:
        tokens_N = torch.cat(list(texts)) if texts else torch.zeros(0, dtype=torch.int64)
        if not len(tokens_N):
            return {}
        known_K = tokens_N[tokens_N < len(self._surprise_V)]
        surprise = float(self._surprise_V[known_K].sum()) + self._new * (len(tokens_N) - len(known_K))
        return {"prompts/mean_length": len(tokens_N) / len(texts), "prompts/surprise": surprise / len(tokens_N)}


def in_words(found: Mapping[str, float]) -> str:
    """What a person is told of ``drift``."""
    if not found:
        return "data: nothing to compare"
    far = [f"{what} {found[name]:+.1f}" for name, what in (("length_z", "length"), ("surprise_z", "tokens")) if abs(found[name]) > FAR]
    if far:
        return f"data: the {found['texts']:.0f} texts of these steps are unlike the rest, in standard errors: {', '.join(far)}"
    return f"data: the {found['texts']:.0f} texts of these steps are like the rest"
