"""BLEU and CIDEr of the answers against their references, beside what a scorer or people say of the same answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keel.evaluate.overlap import bleu, cider, sentence_bleu
from keel.evaluate.statistics import LEVEL, correlation_interval, kendall, spearman


def wording(
    texts: Mapping[str, Mapping[str, str]],
    references: Mapping[str, Sequence[str]],
    human: Mapping[str, Mapping[str, float]],
    *,
    draws: int = 1_000,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Any]:
    """``texts[model][prompt]`` an answer, ``references[prompt]`` what it should say, ``human[model][prompt]`` how it was judged (higher is
    better). Each model's corpus BLEU and mean CIDEr, and the rank correlations of sentence BLEU and CIDEr with the judgement over all
    answers, with intervals over prompts. Raises ValueError where no answer has a reference."""
    out: dict[str, Any] = {"models": {}}
    rows: list[tuple[str, float, float, float]] = []  # prompt, BLEU, CIDEr, judgement
    for name, by_prompt in texts.items():
        prompts = [p for p in sorted(by_prompt) if references.get(p)]
        if not prompts:
            continue
        said, truth = [by_prompt[p] for p in prompts], [references[p] for p in prompts]
        scores = cider(said, truth)
        out["models"][name] = {"bleu": bleu(said, truth), "cider": math.fsum(scores) / len(scores), "n": len(prompts)}
        judged = human.get(name, {})
        rows += [(p, sentence_bleu(s, t), c, judged[p]) for p, s, t, c in zip(prompts, said, truth, scores, strict=True) if p in judged]
    if not out["models"]:
        raise ValueError("no answer has a reference")
    correlations: dict[str, Any] = {}
    if len(rows) > 2:
        prompts, judgement = [r[0] for r in rows], [r[3] for r in rows]
        for measure, column in (("bleu", 1), ("cider", 2)):
            for kind, of in (("spearman", spearman), ("kendall", kendall)):
                values = [float(r[column]) for r in rows]  # type: ignore[arg-type]
                found = correlation_interval(of, values, judgement, prompts, draws=min(draws, 300), level=level, seed=seed)
                correlations.setdefault(measure, {})[kind] = None if found is None else found.to_json()
    return out | {"correlations": correlations, "judged": len(rows)}
