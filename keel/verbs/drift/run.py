"""`keel drift BEFORE NOW model=MODEL`: two files of texts, compared by the model's own tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section, load
from keel.models.config import ModelOptions
from keel.render.codec import Codec
from keel.verbs.shared.text_rows import texts_of
from keel.watch.token_drift import Drift, token_drift


class DriftRecipe(Section):
    """`keel drift BEFORE NOW`: two files of texts."""

    model: str = Field(description="Whose tokenizer cuts the texts: the model that is served.")
    alpha: float = Field(default=0.01, gt=0, lt=1, description="Share of comparisons that alarm although nothing has changed.")
    deals: int = Field(default=999, ge=99, description="Times that the texts are dealt out anew to see what chance does.")
    seed: int = Field(default=0, ge=0, description="Seed of these deals.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is read.")


def run_drift(before: str, now: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Print whether the texts of ``now`` are like those of ``before``; return the numbers. Raises UserError."""
    recipe = load(DriftRecipe, None, list(overrides))
    files = [texts_of(Path(path)) for path in (before, now)]
    tokenizer = _tokenizer(recipe)
    codec = Codec(tokenizer)
    ids = [[codec.encode(text) for text in texts] for texts in files]
    found = token_drift(ids[0], ids[1], recipe.deals, recipe.seed)
    drifted = found.p <= recipe.alpha
    moved = [{"token": tokenizer.decode([i]), "before": b, "now": n} for i, b, n in found.moved]
    for line in _lines(found, drifted, moved, recipe.alpha):
        print(line)
    return {"drifted": drifted, "distance": found.distance, "p": found.p, "before": found.before, "now": found.now, "moved": moved}


def _tokenizer(recipe: DriftRecipe) -> Any:
    """The model's, without its weights where it is a folder."""
    if Path(recipe.model).expanduser().is_dir():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(Path(recipe.model).expanduser(), trust_remote_code=recipe.model_options.trust_remote_code)
    from keel.models.loading import load_model

    return load_model(recipe.model, recipe.model_options).tokenizer


def _lines(found: Drift, drifted: bool, moved: Sequence[dict[str, Any]], alpha: float) -> list[str]:
    said = "unlike" if drifted else "like"
    lines = [
        f"the {found.now} texts of now are {said} the {found.before} of before: {found.distance:.4f} nats apart, "
        f"of shuffled texts {found.p:.1%} are as far (alarm at {alpha:.1%} or fewer)"
    ]
    if drifted:
        lines.append("tokens that changed most, share before -> now:")
        lines += [f"  {json.dumps(m['token'], ensure_ascii=False)}: {m['before']:.3%} -> {m['now']:.3%}" for m in moved]
    return lines
