"""`keel tune RECIPE`: successive halving over real runs, then the best against the recipe as it stands, on new seeds.

What a halt found is a row of `trials.jsonl`, written once it is known; runs halt at checkpoints of their own. So a search that was killed
and is started again goes on where it was, and finds what it would have found.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from keel.core.config import dump
from keel.core.errors import RunError
from keel.core.hashing import digest_bytes
from keel.core.recipe_files import as_override
from keel.runs import logs
from keel.runs.durable import write_atomic
from keel.runs.lock import Lock
from keel.tune.compare import Comparison, compare
from keel.tune.page import write_pages
from keel.tune.plan import Plan, make_plan
from keel.tune.recipe import Search, read_search, with_point
from keel.tune.space import points
from keel.tune.trial import InterruptedTrialError, Trainer, Trial

log = logging.getLogger("keel")

JOURNAL, PLAN, RESULT, BEST, RECIPE = "trials.jsonl", "plan.json", "tune.json", "best.yaml", "recipe.yaml"
Row = Mapping[str, Any]


def run_tune(recipe_path: Path, overrides: Sequence[str], *, dry_run: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Search, or go on with a search. Returns the result; `dry_run` says what would be done and stops."""
    search = read_search(recipe_path, overrides)
    own = [search.own] if any(value is not None for value in search.own.values()) else []
    steps, config = search.recipe.loop.steps, search.config
    assert steps is not None
    most = len(points(search.ranges, 1000, search.recipe.seed, own)) + 1
    plan = make_plan(steps, config.keep, config.first, config.seeds, config.budget, most)
    folder = Path(search.recipe.run_dir or Path("runs") / f"tune_{recipe_path.stem.removeprefix('tune_')}")
    out = console or Console(stderr=True, emoji=False)
    for line in plan_lines(search, plan):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        return {"run_dir": str(folder), "dry_run": True, "plan": plan.to_json(), "measure": search.measure}
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        _begin(folder, search, plan)
        result = Tuning(folder, search, plan).run()
    except InterruptedTrialError:
        return {"run_dir": str(folder), "verb": "tune", "interrupted": True}
    finally:
        lock.release()
    print_result(result, out)
    return {"run_dir": str(folder), "verb": "tune", **result}


def plan_lines(search: Search, plan: Plan) -> list[str]:
    """What will be done, in words."""
    ranges = [f"{key} {_where(where)} (the recipe's: {search.own[key]})" for key, where in search.ranges.items()]
    halts = ", ".join(f"{h.runs} to step {h.steps}" for h in plan.halts)
    whole = plan.search_cost + plan.compare_cost
    lines = [
        f"searched: {'; '.join(ranges)}",
        f"measure: {search.measure}, {'higher' if search.higher else 'lower'} is better",
        f"runs: {halts}: {plan.search_cost} steps; then the best against the recipe's own settings on {plan.seeds} new seeds: "
        f"{plan.compare_cost} steps; {whole} of {plan.budget} steps in all",
    ]
    if search.gamed:
        lines.append(
            f"warning: {search.measure} is the reward that runs are trained on: settings that game it look good. Add a reward of weight 0"
        )
    return lines


def _where(where: Any) -> str:
    return f"one of {list(where.values)}" if where.values else f"{where.low:g} to {where.high:g} ({where.scale})"


def _begin(folder: Path, search: Search, plan: Plan) -> None:
    """Write what every run starts from. Raises RunError where the folder holds another search."""
    wanted = {
        "plan": plan.to_json(),
        "measure": search.measure,
        "higher": search.higher,
        "search": {key: dump(where) for key, where in search.ranges.items()},
        "recipe": digest_bytes(json.dumps(logs.plain(dump(search.recipe) | {"run_dir": ""}), sort_keys=True).encode()),
    }
    file = folder / PLAN
    if file.is_file():
        before = json.loads(file.read_bytes())
        differ = sorted(k for k in wanted if before.get(k) != logs.plain(wanted[k]))
        if differ:
            raise RunError(f"{folder} holds another search: {', '.join(differ)} differ", "choose another run_dir")
    elif any((folder / name).exists() for name in (JOURNAL, "manifest.json")):
        raise RunError(f"{folder} holds something else than a search", "choose another run_dir")
    write_atomic(folder / RECIPE, with_point(search.raw, {}).encode())
    write_atomic(file, (json.dumps(logs.plain(wanted), ensure_ascii=False, indent=1) + "\n").encode())


class Tuning:
    """A search in its folder."""

    def __init__(self, folder: Path, search: Search, plan: Plan) -> None:
        self.folder, self.search, self.plan = folder, search, plan
        own = [{}] if all(value is None for value in search.own.values()) else [search.own]
        self.points = [{}, *points(search.ranges, plan.runs - 1, search.recipe.seed, own)]
        self.trainer = Trainer(search.config.verb, folder / RECIPE, (), folder / "runs", search.measure)
        self.rows: dict[tuple[int, int, int], Row] = {
            (row["trial"], row["seed"], row["steps"]): row for row in logs.rows_of(folder / JOURNAL)
        }

    def run(self) -> dict[str, Any]:
        """All of it; what is known already is not trained again."""
        best = self.halve()
        comparison = self.compare(best) if best else None
        result = self.result(best, comparison)
        write_atomic(self.folder / RESULT, (json.dumps(logs.plain(result), ensure_ascii=False, indent=1) + "\n").encode())
        write_atomic(self.folder / BEST, (_comment(result) + with_point(self.search.raw, self.points[best])).encode())
        write_pages(self.folder, result)
        return result

    def halve(self) -> int:
        """The number of the settings that were best at the last halt. Raises RunError where no run got to the first one."""
        left = list(range(len(self.points)))
        for i, halt in enumerate(self.plan.halts):
            rows = [self.take(n, self.search.recipe.seed, halt.steps) for n in left]
            order = sorted(left, key=lambda n: (-self.score(rows[left.index(n)]), n))
            if self.score(rows[left.index(order[0])]) == -math.inf:
                raise RunError(f"no run got to step {halt.steps}: {rows[0]['ended']}", "look at their events, and narrow the ranges")
            after = self.plan.halts[i + 1].runs if i + 1 < len(self.plan.halts) else 1
            log.info("halt at step %d: best %s", halt.steps, ", ".join(f"trial {n}" for n in order[:after]))
            left = order[:after]
        return left[0]

    def score(self, row: Row) -> float:
        """Higher is better; a run that ended early, or whose measure is no finite number, is behind all others."""
        value = logs.number(row["value"])
        if row["ended"] or value is None or not math.isfinite(value):
            return -math.inf
        return value if self.search.higher else -value

    def compare(self, best: int) -> Comparison:
        """On new seeds, to the end."""
        whole, first = self.plan.steps, self.search.recipe.seed + 1
        sides = [[self.take(n, first + k, whole) for k in range(self.plan.seeds)] for n in (0, best)]
        own, other = ([self.trainer.outcome(row) for row in rows] for rows in sides)
        return compare(own, other, self.search.higher)

    def take(self, number: int, seed: int, steps: int) -> Row:
        """What these settings are found to be at ``steps``."""
        key = (number, seed, steps)
        if key not in self.rows:
            row = self.trainer.advance(Trial(number, self.points[number], seed), steps, self.plan.steps)
            logs.append(self.folder / JOURNAL, [row])
            self.rows[key] = row
            said = row["ended"] or f"{self.search.measure} {row['value']}"
            log.info("trial %d, seed %d, step %d: %s", number, seed, steps, said)
        return self.rows[key]

    def result(self, best: int, comparison: Comparison | None) -> dict[str, Any]:
        """Everything, for the file, the pages and the terminal."""
        own = Comparison("own", "nothing that was tried was better in the search", None, 0, 0)
        told = (comparison or own).to_json()
        settings = [{"trial": n, "settings": p or dict(self.search.own)} for n, p in enumerate(self.points)]
        rows = [{**row, **settings[row["trial"]]} for row in sorted(self.rows.values(), key=lambda r: (r["seed"], r["trial"], r["steps"]))]
        return {
            "recipe": str(self.search.path),
            "command": f"keel {self.search.config.verb} {shlex.quote(str(self.folder / BEST))}",
            "verb_of_stage": self.search.config.verb,
            "measure": self.search.measure,
            "higher": self.search.higher,
            "measure_is_trained_on": self.search.gamed,
            "search": {key: dump(where) for key, where in self.search.ranges.items()},
            "own": dict(self.search.own),
            "plan": self.plan.to_json(),
            "seed": self.search.recipe.seed,
            "best": {"trial": best, "settings": dict(self.points[best] or self.search.own)},
            "overrides": [as_override(key, value) for key, value in self.points[best].items()],
            **told,
            "trials": rows,
        }


def _comment(result: Mapping[str, Any]) -> str:
    return f"# {verdict_line(result)}\n"


def verdict_line(result: Mapping[str, Any]) -> str:
    """The outcome in a sentence."""
    settings = ", ".join(f"{key}={value}" for key, value in result["best"]["settings"].items())
    if result["verdict"] == "own":
        return f"nothing that was tried was better than the recipe's own settings ({settings})"
    d = result["difference"]
    told = f": {result['measure']} differs by {d['mean']:.4g} [{d['low']:.4g}, {d['high']:.4g}] (above 0 is better)" if d else ""
    verdict = "cannot tell whether better" if result["verdict"] == "cannot tell" else result["verdict"]
    return f"{settings}: {verdict} than the recipe's own settings{told}; {result['seeds']} seeds, {result['why']}"


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """The last halt of each trial, and the outcome."""
    last: dict[int, Row] = {}
    for row in result["trials"]:
        if row["seed"] == result["seed"]:
            last[row["trial"]] = row
    table = Table(*(Column(head, overflow="fold") for head in ("trial", *result["own"], "steps", result["measure"], "kl", "ended")))
    for row in sorted(last.values(), key=lambda r: (-r["steps"], r["trial"])):
        value, kl = logs.number(row["value"]), row["beside"].get("kl", row["beside"].get("objective/kl"))
        cells = (*map(str, row["settings"].values()), str(row["steps"]), _short(value), _short(kl), row["ended"][:60].replace("[", r"\["))
        table.add_row(str(row["trial"]) + (" (own)" if not row["trial"] else ""), *cells)
    console.print(table)
    console.print(verdict_line(result), markup=False, highlight=False, soft_wrap=True)
    console.print(f"start it: {result['command']}", markup=False, highlight=False, soft_wrap=True)


def _short(value: Any) -> str:
    found = logs.number(value)
    return "" if found is None else f"{found:.4g}"
