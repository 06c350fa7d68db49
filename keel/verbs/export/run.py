"""`keel export RUN --to merged|adapter|gguf`: a model in the form that others load, read again and compared."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from keel.core.config import load
from keel.core.errors import UserError
from keel.release.card import card
from keel.release.config import CardConfig, ExportConfig
from keel.release.export import Exported, export
from keel.release.lineage import lineage_of
from keel.release.source import Source, find_source
from keel.runs.durable import publish_folder
from keel.verbs.shared.released import open_adapter, opener, questions_of

log = logging.getLogger("keel")
RECORD = "export.yaml"  # beside the model's files; no part of its fingerprint


def run_export(run: str, out: str = "", prompts: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Write the model that a run left behind (or that lies in a folder) to ``out``; ``overrides``: ``to``, ``dtype``, ``quant``.

    Returns what is known of what was written: its fingerprint, the digest of the weights, how far it is from the original. Raises
    UserError for what cannot be exported so, before anything is left on disk.
    """
    config = load(ExportConfig, None, overrides)
    source = find_source(run)
    target = Path(out).expanduser() if out else default_target(source, config)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} holds something already", "choose another folder with --out")
    made: list[Exported] = []

    def fill(folder: Path) -> None:
        folder.rmdir()  # made again by what fills it
        made.append(export(source, folder, config, opener(source), open_adapter, questions_of(source, prompts)))
        text = card(CardConfig(), source.name, made[0].record, lineage_of(source, None), {})
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / RECORD).write_text(yaml.safe_dump(made[0].record, sort_keys=False, allow_unicode=True), encoding="utf-8")

    target.parent.mkdir(parents=True, exist_ok=True)
    publish_folder(target, fill)
    record = made[0].record
    for line in headline(record):
        print(line)
    return {"export": str(target), **record}


def default_target(source: Source, config: ExportConfig) -> Path:
    """``RUN/export/FORM-PRECISION``; beside a folder that no run made."""
    precision = {"merged": f"-{config.dtype}", "gguf": f"-{config.quant}", "adapter": ""}[config.to]
    return (source.run or source.folder.parent / f"{source.folder.name}-export") / "export" / f"{config.to}{precision}"


def headline(record: dict[str, Any]) -> list[str]:
    """What was written, in a few lines."""
    lines = [f"{record['to']} ({record['precision']}), read again: the weights are those of {record['source']}"]
    if record["precision"] in ("bf16", "f16", "q8_0"):
        lines = [f"{record['to']}, rounded to {record['precision']}, read again"]
    if record["to"] == "adapter":
        lines = [f"adapter, put on {record['base']} by PEFT"]
    if "kl" in record:
        lines.append(
            f"KL to the original {record['kl']:.3g} nats a token, largest difference of a log-probability "
            f"{record['logprob_difference']:.3g} nats, same likeliest token at {record['same_likeliest']:.1%} of "
            f"{record['tokens']:.0f} places ({record['questions']} questions)"
        )
    else:
        lines.append(f"scores differ by {record['score_difference']:.3g} standard deviations ({record['answers']:.0f} answers)")
    if record["to"] == "gguf":
        found = record.get("llama_cpp")
        lines.append(
            "llama.cpp was not asked: its bindings are not installed (pip install 'keel-align[llamacpp]')"
            if found is None
            else f"llama.cpp: same ids and template, log-probabilities within {found['logprob_difference']:.3g} nats "
            f"({found['compared']} compared)"
        )
    return [*lines, f"fingerprint {record['fingerprint']}"]
