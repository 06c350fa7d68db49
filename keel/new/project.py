"""Write a project: data, recipe, README, .gitignore. All of it stands, or nothing does."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal, cast

from pydantic import Field

from keel.advise.choose import choose
from keel.advise.estimate import Mode
from keel.advise.measure import Measures, measure
from keel.advise.ways import start_own_reward
from keel.core.config import Section, dump, load
from keel.core.errors import DataError, UserError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.models.config import ModelOptions
from keel.new.ask import LABELS, Wanted
from keel.new.examples import write_examples
from keel.new.recipe import MODELS, TINY, collect_pipeline, commented, pipeline_of
from keel.new.target import check_target
from keel.new.words import template, words
from keel.pipeline import load_pipeline
from keel.plan.machine import measure_machine
from keel.plan.size import size_of

log = logging.getLogger("keel")
KINDS: dict[str, frozenset[str]] = {  # records that each answer to "what labels?" speaks of
    "demonstrations": frozenset({"demonstration"}),
    "pairs": frozenset({"pair", "comparison", "ranking"}),
    "ratings": frozenset({"rating", "unpaired"}),
}
REWARD = {"type": "python", "name": "own", "function": "rewards.py:reward"}


class OwnRows(Section):
    """The user's own rows, as settings say that they are read."""

    data: DataConfig = Field(description="The rows, and how they are read.")


@dataclass(frozen=True, slots=True)
class Rows:
    """The data of a project. ``path`` stands in the recipe, ``held_out`` too ("" for none)."""

    data: Dataset
    measures: Measures
    path: str
    held_out: str
    own: bool  # the user's file, not examples
    settings: Mapping[str, Any]  # how they are read: the recipe's data section beside its path


def write_project(name: str, wanted: Wanted) -> dict[str, Any]:
    """Write the project ``name``; returns what was done. Raises UserError, and leaves nothing, where that cannot be."""
    folder = check_target(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".keel-new-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder.parent}: nothing can be written there: {error.strerror}", "give another place") from None
    try:
        told = _write(work, folder, wanted)
        os.chmod(work, 0o777 & ~_umask())
        os.rename(work, check_target(name))  # over an empty folder at most
    finally:
        shutil.rmtree(work, ignore_errors=True)
    said = words(wanted.language)
    print("\n".join([*told.pop("lines"), said["told.made"].format(folder=folder), *(f"  {c}" for c in told["next"])]))
    return told


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(work: Path, folder: Path, wanted: Wanted) -> dict[str, Any]:
    said = words(wanted.language)
    rows = _rows(work, wanted)
    labels = wanted.labels or _found(rows)
    _check(labels, rows)
    images = bool(rows.measures.other["with_images"])
    if wanted.images is not None and wanted.images != images:
        raise UserError(
            f"--images {'yes' if wanted.images else 'no'}, but {rows.path} has {'' if images else 'no '}pictures", "leave it out"
        )
    model = wanted.model or MODELS[wanted.machine, wanted.language, images]
    recipe, why = _recipe(rows, labels, model, wanted, said)
    head = said["recipe.head"].format(labels=labels, images=said["images.yes" if images else "images.no"], machine=wanted.machine)
    target = work / "recipe.yaml"
    target.write_text(commented(recipe, [head, *why, said["recipe.settings"]], said), encoding="utf-8")
    if labels == "reward":
        (work / "rewards.py").write_text(template("rewards.py"), encoding="utf-8")
    (work / ".gitignore").write_text(template("gitignore"), encoding="utf-8")
    load_pipeline(target, [])  # what is written can be run
    commands = _commands(recipe["stages"], images)
    (work / "README.md").write_text(_readme(folder.name, labels, rows, commands, said, wanted.language), encoding="utf-8")
    lines = [_told(rows, said), *([said["told.model"].format(model=model)] if not wanted.model else [])]
    return {
        "folder": str(folder),
        "labels": labels,
        "images": images,
        "model": model,
        "layout": rows.data.layout,
        "rows": rows.measures.rows,
        "bad_rows": rows.measures.bad,
        "stages": list(recipe["stages"]),
        "next": [f"cd {shlex.quote(str(folder))}", *commands],
        "lines": lines,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What is found is told in the project's language; warnings still come through."""
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def _rows(work: Path, wanted: Wanted) -> Rows:
    """The user's file as it is, or examples."""
    if wanted.data:
        there = Path(wanted.data).expanduser()
        path = str(there.absolute()) if there.exists() else wanted.data
        config = load(OwnRows, None, [f"data={{path: {json.dumps(path)}}}", *wanted.settings])
        given = dump(config)["data"]
        with _quiet():
            data = load_data(config.data)
        return Rows(data, measure(data), path, "", True, {k: given[k] for k in sorted(config.data.model_fields_set - {"path"})})
    folder = work / "data"
    folder.mkdir()
    language = cast("Literal['en', 'zh']", wanted.language)
    train, held_out = write_examples(folder, wanted.labels, bool(wanted.images), language)
    with _quiet():
        data = load_data(DataConfig(path=str(folder / train)))
    return Rows(data, measure(data), f"data/{train}", f"data/{held_out}", False, {})


def _found(rows: Rows) -> str:
    """What labels the rows have. Raises DataError for those that no question names."""
    kinds = rows.measures.kinds.keys()
    for labels, of_them in KINDS.items():
        if labels != "demonstrations" and kinds & of_them:
            return labels
    if rows.measures.checkable is not None:
        return "verifiable"
    if kinds & KINDS["demonstrations"]:
        return "demonstrations"
    if "prompt" in kinds:
        return "none"
    raise DataError(f"{rows.path}: {', '.join(kinds)} records are nothing that keel new starts from", f"keel advise {rows.path}")


def _check(labels: str, rows: Rows) -> None:
    """Do the rows have the labels that were said? Raises DataError with what they have."""
    m = rows.measures
    missing = labels in KINDS and not m.kinds.keys() & KINDS[labels]
    if missing or (labels == "verifiable" and m.checkable is None):
        have = ", ".join(f"{n} of kind {kind}" for kind, n in m.kinds.items()) or "no record"
        more = "; no column says what is right (ground_truth)" if labels == "verifiable" else ""
        raise DataError(f"{rows.path} holds no {labels}: {have}{more}", f"leave --labels out, or one of {', '.join(LABELS)}")


def _recipe(rows: Rows, labels: str, model: str, wanted: Wanted, said: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The recipe and the lines that say why it is this one."""
    options = ModelOptions(device="cpu") if wanted.machine == "cpu" else ModelOptions()
    local = model.startswith(("tiny:", "package:")) or Path(model).expanduser().exists()
    size = size_of(model, options) if local else None
    mode: Mode | None = "lora" if size is None else None  # of a model that is not here nothing is known: adapters need least
    if labels == "none":
        return collect_pipeline(rows.path, model, rows.settings), [said["recipe.collecting"]]
    if labels == "reward":
        begin = start_own_reward(rows.path, model, mode or "full", REWARD, rows.settings)
        return pipeline_of(begin, model, rows.held_out), [said["recipe.own"].format(title="GRPO")]
    choice = choose(rows.data, rows.measures, model, size, measure_machine(options), rows.path, rows.settings, mode)
    if choice is None:
        raise DataError(f"{rows.path}: no way can be taken with these labels", f"keel advise {rows.path} says what they lack")
    reasons = [f"  {r.why} [{r.source}]" for r in choice.ranked.reasons if r.points > 0]
    why = [said["recipe.why"].format(title=choice.ranked.way.title), *reasons]
    return pipeline_of(choice.start, model, rows.held_out), why


def _commands(stages: Mapping[str, Any], images: bool) -> list[str]:
    """The next three commands, in the project's folder."""
    first = f"keel run recipe.yaml model={shlex.quote(TINY[images])} run_dir=runs/try"
    policy = next((name for name in ("rl", "prefer", "sft") if name in stages), "")
    third = f"keel chat runs/recipe/stages/{policy}/final" if policy and not images else "keel dash"
    return [first, "keel run recipe.yaml", "keel annotate --tasks runs/recipe/stages/collect/tasks.jsonl" if "collect" in stages else third]


def _readme(name: str, labels: str, rows: Rows, commands: list[str], said: dict[str, str], language: str) -> str:
    files = [said["readme.own" if rows.own else "readme.data"].format(path=rows.path)]
    if rows.held_out:
        files.append(said["readme.held_out"].format(path=rows.held_out))
    if labels == "reward":
        files.append(said["readme.reward"])
    after = said["readme.after.none" if labels == "none" else "readme.after"].format(path=shlex.quote(rows.path))
    first, second, third = commands
    return Template(template(f"readme.{language}.md")).substitute(
        name=name, files="\n".join(f"- {line}" for line in files), first=first, second=second, third=third, after=f"\n{after}"
    )


def _told(rows: Rows, said: dict[str, str]) -> str:
    m = rows.measures
    if not rows.own:
        return said["told.examples"].format(rows=m.rows, path=rows.path)
    kinds = ", ".join(f"{n} {kind}" for kind, n in m.kinds.items())
    found = said["told.found"].format(path=rows.path, rows=m.rows, layout=rows.data.layout, kinds=kinds)
    return found if not m.bad else f"{found}\n{said['told.bad'].format(bad=m.bad, path=rows.path)}"
