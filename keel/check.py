"""`keel check RECIPE_OR_RUN`: the lists of what to have looked at before, during and after a training, with what the program found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from keel.core.config import dump, load, read_recipe
from keel.core.errors import ConfigError, RunError
from keel.evaluate.checklists.facts import Facts, facts_of
from keel.evaluate.checklists.lists import STATUSES, WHENS, Checked, When, check_items
from keel.evaluate.report_data import collect

Lang = Literal["en", "zh"]
VERBS = ("rl", "reward", "prefer", "sft", "offline")
_HEADS = {
    "en": {
        "before": "Before",
        "during": "During",
        "after": "After",
        "item": "item",
        "status": "result",
        "evidence": "evidence",
        "page": "page",
    },
    "zh": {"before": "训练前", "during": "训练中", "after": "训练后", "item": "项目", "status": "结果", "evidence": "依据", "page": "说明"},
}
_SAID = {
    "en": {s: s for s in STATUSES},
    "zh": {"pass": "通过", "fail": "未通过", "cannot tell": "无法判断", "for a person": "由人判断"},
}
_STYLES = {"pass": "green", "fail": "red", "cannot tell": "yellow", "for a person": "cyan"}


def run_check(
    target: str, overrides: Sequence[str] = (), verb: str = "", lang: Lang = "en", console: Console | None = None
) -> dict[str, Any]:
    """Look, print the lists, return what was found. A recipe has the first list only.

    Raises RunError for a directory without a stage that trains, ConfigError for a recipe that is none of a training.
    """
    path, out = Path(target), console or Console()
    if path.is_dir():
        if overrides or verb:
            raise ConfigError("overrides and --verb belong to a recipe; a run has its own", "leave them out")
        facts = facts_of(collect(path))
        if facts is None:
            raise RunError(f"{path}: no stage of it trains", "give the directory of a run of sft, reward, prefer, offline, rl or run")
        found = check_items(facts)
    else:
        found = check_items(facts_of_recipe(path, overrides, verb), ("before",))
    for when in WHENS:
        if of_it := [c for c in found if c.item.when == when]:
            _print(of_it, when, lang, out)
    counts = Counter(c.status for c in found)
    out.print(", ".join(f"{_SAID[lang][s]} {counts[s]}" for s in STATUSES if counts[s]), markup=False, highlight=False)
    said: dict[str, Any] = {"target": target, "counts": dict(counts), "items": [c.to_json() for c in found]}
    return said | ({"model_fingerprint": made} if (made := fingerprint_of(path)) else {})


def fingerprint_of(run: Path) -> str:
    """That of the model that a run left, by which `keel release` knows whose list it is; empty where there is none."""
    final = run / "final"
    if not final.is_dir():
        return ""
    from keel.runs.fingerprints import model_fingerprint

    return model_fingerprint(final)


def facts_of_recipe(path: Path, overrides: Sequence[str], verb: str) -> Facts:
    """What a recipe says. Without ``verb`` it is taken for one of the first verb that reads it: RL, if it can be."""
    from keel.methods import resolve
    from keel.verbs.rl.recipe import RLRecipe
    from keel.verbs.rl.resolved import resolved_numbers
    from keel.verbs.run import RECIPES

    if "stages" in read_recipe(path):
        raise ConfigError(f"{path} is the recipe of a pipeline", f"keel check looks at its run, or at a stage's recipe: keel run {path}")
    problem: ConfigError | None = None
    for name in (verb,) if verb else VERBS:
        try:
            recipe = load(RECIPES[name], path, overrides)
        except ConfigError as error:
            problem = problem or error
            continue
        algorithm = resolved_numbers(resolve(recipe.algorithm, recipe.samples)) if isinstance(recipe, RLRecipe) else {}
        return Facts(name, dump(recipe), algorithm=algorithm)
    assert problem is not None
    raise problem


def _print(found: Sequence[Checked], when: When, lang: Lang, console: Console) -> None:
    heads = _HEADS[lang]
    table = Table(heads["status"], heads["item"], heads["evidence"], heads["page"], title=heads[when], title_justify="left")
    for c in found:
        text = c.item.en if lang == "en" else c.item.zh
        cells = (text, c.evidence, c.item.page)
        table.add_row(
            _SAID[lang][c.status], *(cell.replace("[", r"\[") for cell in cells), style=_STYLES[c.status] if c.status == "fail" else ""
        )
    console.print(table)
