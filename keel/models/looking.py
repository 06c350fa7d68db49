"""What a vision-language model does with its images, measured on a few answers: where its attention goes, and whether what it makes of an
image is like what it makes of the text about it. Numbers to follow in the course of a run; the verdict is ``evaluate.blindness``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from keel.kernels.plain import padded_rows
from keel.models.model import Model
from keel.models.placing import image_token
from keel.models.prove_images import as_batch
from keel.types import Unit

MOST = 8  # units
_NOTHING = 1e-9  # attention below it has no shape


class _Seen(NamedTuple):
    mass: float
    entropy: float | None  # None: one token, or nothing on images
    image_H: Tensor
    answer_H: Tensor


def looking(model: Model, units: Sequence[Unit]) -> dict[str, float]:
    """Of the first units that show images and have a trained token, their first answer each. Empty without such.

    ``attention/image_mass``: the share of attention that lies on the image's tokens where the trained tokens are predicted, a mean over
    layers, heads and tokens; ``attention/image_entropy``: the entropy of that attention among the image's tokens, as a share of its largest
    value, the log of their number: 1 looks everywhere alike, 0 at one place. ``alignment/cosine``: between the mean of the last hidden
    states (after the final norm) at the image's tokens and the mean of those at the answer's tokens; ``alignment/lead``: the same less the
    mean cosine with the other units' answers, which is 0 where any answer would do (two units or more)."""
    pictured = [u for u in units if u.prompt.media and u.branches and bool(u.branches[0].trained_T.any())][:MOST]
    seen = [_seen(model, replace(u, branches=u.branches[:1])) for u in pictured]
    if not seen:
        return {}
    found = {"attention/image_mass": fmean(s.mass for s in seen)}
    entropies = [s.entropy for s in seen if s.entropy is not None]
    if entropies:
        found["attention/image_entropy"] = fmean(entropies)
    own = [float(cosine_similarity(s.image_H, s.answer_H, 0)) for s in seen]
    others = [float(cosine_similarity(a.image_H, b.answer_H, 0)) for a in seen for b in seen if a is not b]
    return found | {"alignment/cosine": fmean(own)} | ({"alignment/lead": fmean(own) - fmean(others)} if others else {})


@torch.no_grad()
def _seen(model: Model, unit: Unit) -> _Seen:
    """One pass with the model's own attention, which is the one that can be looked at."""
    out = model.plain_rows(padded_rows(as_batch([unit])), output_attentions=True)
    n, branch = len(unit.prompt), unit.branches[0]
    shown_P = (unit.prompt.tokens_T == image_token(model.module)).nonzero()[:, 0].to(model.device)
    at_S = n - 1 + branch.trained_T.nonzero()[:, 0].to(model.device)
    weights = [layer_HLL[0][:, at_S][:, :, shown_P].float().reshape(-1, len(shown_P)) for layer_HLL in out.attentions]
    weights_NP = torch.cat(weights)  # N: layers, heads, tokens
    mass_N = weights_NP.sum(1)
    hidden_LH = out.last_hidden_state[0].float()
    return _Seen(float(mass_N.mean()), _entropy(weights_NP[mass_N > _NOTHING]), hidden_LH[shown_P].mean(0), hidden_LH[n:].mean(0))


def _entropy(weights_NP: Tensor) -> float | None:
    """Mean entropy of the rows, each scaled to a sum of 1, over the log of their length."""
    if not len(weights_NP) or weights_NP.shape[1] < 2:
        return None
    p_NP = weights_NP / weights_NP.sum(1, keepdim=True)
    return float(torch.special.entr(p_NP).sum(1).mean()) / math.log(weights_NP.shape[1])
