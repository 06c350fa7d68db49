"""`keel merge`: one model whose weights lie between those of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.verbs.shared.session import renderer_of


def run_merge(models: Sequence[str], out: str, weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Write the weighted sum of several models' weights, in float32, to ``out``; tokenizer and template are the first model's. Models that
    were trained from one start stay good in between (model soups, Wortsman et al. 2022, arXiv:2203.05482; policy and reference: WARP,
    Rame et al. 2024, arXiv:2406.16768).

    Args:
        models: two or more specs, as `model` in a recipe; of one architecture and size.
        out: a folder that is not there yet, or empty.
        weights: one a model, adding up to 1; one below 0 goes beyond the others. None = all the same.

    Raises:
        UserError: too few models, weights that do not fit, other architectures, a folder that holds something.
    """
    shares = [1.0 / len(models)] * len(models) if weights is None and models else list(weights or ())
    folder = Path(out)
    _check(models, shares, folder)
    first = load_model(models[0], ModelOptions(precision="fp32", device="cpu"))
    own = first.model.weights()
    start = {name: p.detach().clone() for name, p in own.items()}
    total = {name: shares[0] * p for name, p in start.items()}
    distances = [0.0]
    for spec, share in zip(models[1:], shares[1:], strict=True):
        other = load_model(spec, ModelOptions(precision="fp32", device="cpu")).model.weights()
        wrong = sorted(own.keys() ^ other.keys()) or sorted(name for name in own if own[name].shape != other[name].shape)
        if wrong:
            raise UserError(f"{spec} and {models[0]} are not of one architecture: {', '.join(wrong[:5])}", "merge models of one start")
        for name, p in other.items():
            total[name].add_(p, alpha=share)
        distances.append(math.sqrt(sum(float((p - start[name]).double().square().sum()) for name, p in other.items())))
    first.model.set_weights(total)
    renderer_of(first, RenderConfig())  # what ends an answer is saved too
    first.model.save(folder, first.tokenizer, first.processor)
    parts = [{"model": m, "weight": w, "distance": d} for m, w, d in zip(models, shares, distances, strict=True)]
    moved = math.sqrt(sum(float((total[name] - p).double().square().sum()) for name, p in start.items()))
    return {"merged": str(folder), "models": parts, "distance_to_first": moved}


def _check(models: Sequence[str], shares: Sequence[float], folder: Path) -> None:
    if len(models) < 2:
        raise UserError(f"{len(models)} model to merge", "name two or more")
    if len(shares) != len(models):
        raise UserError(f"{len(shares)} weights for {len(models)} models", "give one weight a model, or none for equal ones")
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise UserError(f"the weights add up to {sum(shares):g}", "they must add up to 1, or all activations change their size")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something already", "choose another folder with --out")
