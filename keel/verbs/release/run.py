"""`keel release RUN --gates FILE`: what goes out is written, read again and measured; it goes out where every gate passes."""

from __future__ import annotations

import datetime
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.config import dump, load
from keel.core.errors import UserError
from keel.release.candidate import Candidate
from keel.release.card import card
from keel.release.config import GatesConfig
from keel.release.export import Exported, export
from keel.release.gates.table import GATES
from keel.release.gates.verdict import Verdict, whole
from keel.release.gguf.llama_cpp import is_installed
from keel.release.lineage import UNKNOWN, Lineage, lineage_of
from keel.release.page import PAGES, limit_text, page, value_text, why_text
from keel.release.say import say
from keel.release.source import Source, find_source
from keel.runs.durable import sync_tree, write_atomic
from keel.runs.environment import environment
from keel.runs.logs import plain
from keel.verbs.shared.released import judged, open_adapter, opener, questions_of

log = logging.getLogger("keel")
GATES_FILE, MODEL, CARD = "gates.json", "model", "README.md"
_TRIED = ".model-"  # what goes out lies under such a name until all gates have passed

Said = dict[str, tuple[str, Verdict]]  # (kind, verdict) by the gate's name


def run_release(run: str, gates_file: str, out: str = "", root: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Write the release folder ``out`` (``RUN/release``): ``gates.json``, the pages, the card, and the model where every gate passed.

    ``released`` in what is returned is False where a gate failed or could not tell. Raises UserError for a run, gates or files that cannot
    be used, and for a folder that holds a release already.
    """
    config = load(GatesConfig, Path(gates_file), overrides)
    source = find_source(run)
    folder = Path(out).expanduser() if out else (source.run or source.folder.parent) / "release"
    _refuse_occupied(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tried = folder / f"{_TRIED}{config.export.to}"
    shutil.rmtree(tried, ignore_errors=True)  # of a release that was cut short
    try:
        exported = export(source, tried, config.export, opener(source), open_adapter, questions_of(source, ""))
        lineage = lineage_of(source, Path(root).expanduser() if root else None)
        said = judge_all(config, candidate_of(source, exported, lineage))
        state = whole([v.state for _, v in said.values()])
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = _record(config, exported, lineage, said, now)
        text = card(config.card, source.name, exported.record, lineage, said)
        if state == "pass":
            (tried / CARD).write_text(text, encoding="utf-8")
            sync_tree(tried)
            tried.rename(folder / MODEL)
        _write(folder, config.card.name or source.name, exported, lineage, said, record, text)
    finally:
        shutil.rmtree(tried, ignore_errors=True)
    for line in headline(state, said, folder):
        print(line)
    return {"release": str(folder), "released": state == "pass", "verdict": state, "fingerprint": exported.record["fingerprint"]} | {
        "gates": {name: v.state for name, (_, v) in said.items()}
    }


def _refuse_occupied(folder: Path) -> None:
    """A release that went out is never written over; one that was refused is judged again."""
    if (folder / MODEL).exists():
        raise UserError(f"{folder} holds a released model already", "choose another folder with --out")
    known = {GATES_FILE, CARD, *PAGES.values()}
    strange = sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith(_TRIED)) if folder.is_dir() else []
    if strange or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} holds something already: {', '.join(strange[:3]) or 'it is a file'}", "choose another folder with --out")


def candidate_of(source: Source, exported: Exported, lineage: Lineage) -> Candidate:
    """What the gates read. An adapter is measured as what it was made from: alone it is no model."""
    record = exported.record
    in_llama_cpp = record["to"] == "gguf" and is_installed()
    return Candidate(
        spec=str(source.folder) if record["to"] == "adapter" else exported.spec,
        source=source.folder,
        fingerprints={"released": record["fingerprint"], "source": record["source_fingerprint"]},
        open=opener(source),
        judge=judged,
        baseline="" if lineage.base == UNKNOWN else lineage.base,
        engine="llama_cpp" if in_llama_cpp else "keel",
    )


def judge_all(config: GatesConfig, candidate: Candidate) -> Said:
    """Every gate's verdict, in the order of the file."""
    said: Said = {}
    for gate in config.gates:
        log.info("gate %s", gate.title)
        said[gate.title] = (gate.kind, GATES[gate.kind](gate, candidate))
    return said


def _record(config: GatesConfig, exported: Exported, lineage: Lineage, said: Said, now: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "at": now,
        "verdict": whole([v.state for _, v in said.values()]),
        "export": exported.record,
        "gates": {name: {"kind": kind, **v.to_json(), "said": why_text("en", v)} for name, (kind, v) in said.items()},
        "settings": dump(config),
        "lineage": lineage.to_json(),
        "environment": environment(),
    }


def _write(folder: Path, name: str, exported: Exported, lineage: Lineage, said: Said, record: Mapping[str, Any], card_text: str) -> None:
    """Everything but the model. What was said before, of a release that was refused, stays in ``before``."""
    earlier = _earlier(folder / GATES_FILE)
    whole_record = {**record, "before": earlier}
    write_atomic(folder / GATES_FILE, (json.dumps(plain(whole_record), ensure_ascii=False, indent=1) + "\n").encode())
    made = {"machine": str(record["environment"]["processor"]["model"]), "date": str(record["at"])[:10]}
    for language, file in PAGES.items():
        write_atomic(folder / file, page(language, name, exported.record, lineage, said, made).encode())
    write_atomic(folder / CARD, card_text.encode())


def _earlier(file: Path) -> list[dict[str, Any]]:
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    told = {"at": old.get("at"), "verdict": old.get("verdict"), "fingerprint": old.get("export", {}).get("fingerprint")}
    return [*old.get("before", []), told | {"gates": {name: g.get("state") for name, g in old.get("gates", {}).items()}}]


def headline(state: str, said: Said, folder: Path) -> list[str]:
    """The verdict and each gate's, in a line each."""
    states = [v.state for _, v in said.values()]
    counts = {"gates": len(states), "failed": states.count("fail"), "open": states.count("cannot_tell")}
    lines = [f"{say('en', 'may_go_out')} {say('en', f'state.{state}')}. {say('en', f'sentence.{state}', counts)}"]
    for name, (kind, v) in said.items():
        parts = [value_text("en", kind, v), limit_text("en", kind, v), why_text("en", v)]
        lines.append(f"{say('en', f'gate.{v.state}')}: {name}: {'; '.join(filter(None, parts))}")
    return [*lines, f"{folder / PAGES['en']}"]
