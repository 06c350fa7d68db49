"""The model card: what a model is, where it comes from, what was measured, what nobody knows. Made without network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from keel.core.version import VERSION
from keel.release.config import CardConfig
from keel.release.gates.verdict import Verdict
from keel.release.lineage import UNKNOWN, Lineage
from keel.release.page import limit_text, value_text, why_text

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/name


def card(config: CardConfig, name: str, record: Mapping[str, Any], lineage: Lineage, gates: Mapping[str, tuple[str, Verdict]]) -> str:
    """README.md of the model: front matter as the Hub reads it, then the text. ``gates``: (kind, verdict) by name; {} where none was
    asked."""
    data = ModelCardData(
        license=_licence(config, lineage),
        language=config.languages or None,
        base_model=lineage.base if _on_the_hub(lineage.base) else None,
        library_name={"merged": "transformers", "adapter": "peft"}.get(record["to"]),
        pipeline_tag="text-generation",
        tags=["keel", *(stage.verb for stage in lineage.stages)],
        model_name=config.name or name,
        eval_results=[
            EvalResult("text-generation", kind, title, kind, round(v.value.mean, 6), metric_name=title)
            for title, (kind, v) in gates.items()
            if v.value is not None
        ]
        or None,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(config, name, record, lineage, gates)}"))


def _licence(config: CardConfig, lineage: Lineage) -> str | None:
    known = config.licence or lineage.licence
    return known.lower() if known and known != UNKNOWN and " " not in known else None


def _on_the_hub(base: str) -> bool:
    return _HUB_NAME.fullmatch(base) is not None and not Path(base).exists()


def _body(config: CardConfig, name: str, record: Mapping[str, Any], lineage: Lineage, gates: Mapping[str, tuple[str, Verdict]]) -> str:
    data = sorted({(source, mark) for stage in lineage.stages for source, mark in stage.data.items()})
    parts = [
        f"# {_cell(config.name or name)}",
        "## What it is for\n\n" + (config.intended or f"Intended use: {UNKNOWN}."),
        "## Where it comes from\n\n" + _origin(lineage),
        "## Data\n\n" + (_table(("read", "fingerprint"), data) if data else f"Training data: {UNKNOWN}."),
        "## Evaluation\n\n" + _evaluation(gates),
        "## Limits\n\n" + ("\n".join(f"- {line}" for line in config.limits) or f"Known limits: {UNKNOWN}. Nobody wrote any down."),
        f"## Licence\n\n{config.licence or UNKNOWN}. Base model: {lineage.licence}.",
        f"## Contact\n\n{config.contact or UNKNOWN}",
        "## Identity\n\n" + _identity(record),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(lineage: Lineage) -> str:
    rows = [(s.run, s.verb, s.step if s.step is not None else UNKNOWN, s.seed, s.began, s.commit) for s in lineage.stages]
    text = f"Base model: `{_cell(lineage.base)}`.\n\n"
    text += _table(("run", "stage", "step", "seed", "began", "commit"), rows) if rows else f"Stages: {UNKNOWN}."
    for c in lineage.clicks:
        counts = f"{c.judgements} judgements of {c.annotators} annotators" if c.judgements is not None else f"judgements: {UNKNOWN}"
        text += f"\n\nSnapshot `{_cell(c.snapshot)}`: {counts}."
    return text + (f"\n\nThe record ends there: {lineage.lost}." if lineage.lost else "")


def _evaluation(gates: Mapping[str, tuple[str, Verdict]]) -> str:
    if not gates:
        return f"Not gated: {UNKNOWN} whether it is good for anything."
    rows = [
        (name, v.state.replace("_", " "), value_text("en", kind, v) or "none", limit_text("en", kind, v), why_text("en", v))
        for name, (kind, v) in gates.items()
    ]
    return _table(("gate", "result", "measured (95% interval)", "limit", "note"), rows)


def _identity(record: Mapping[str, Any]) -> str:
    keys = ("fingerprint", "source_fingerprint", "weights_digest", "template_sha256", "precision", "kl", "logprob_difference", "tokens")
    rows = [
        (key.replace("_", " "), f"{record[key]:.3g}" if isinstance(record[key], float) else record[key]) for key in keys if key in record
    ]
    return _table(("what", "value"), [*rows, ("written by", f"Keel {VERSION}")])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in lines)


def _cell(value: Any) -> str:
    """Text from outside, so that it stays in its cell and is no markup."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
