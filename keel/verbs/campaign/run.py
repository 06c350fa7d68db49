"""The stage `annotate`: the server as a process of its own, people or simulated ones until all is done, then what their votes say."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select

from keel.core.config import as_override
from keel.core.errors import ConfigError, DataError, UserError
from keel.core.python_file import load_object
from keel.data.dataset import load as load_data
from keel.feedback import schema, snapshots
from keel.feedback.agreement import agreement
from keel.feedback.db import Store
from keel.feedback.interchange import write_campaign
from keel.feedback.soft_pairs import doubt
from keel.feedback.store import pair_row, to_row
from keel.runs.directory import RunDir, read_summary
from keel.runs.durable import write_atomic
from keel.runs.fingerprints import file_fingerprint
from keel.runs.logs import json_line
from keel.runs.memory import peak_mb
from keel.simulate import gold
from keel.simulate.people import Work, make_people
from keel.simulate.people_config import PeopleConfig
from keel.types import Task
from keel.verbs.campaign.known import gold_tasks, write_tasks
from keel.verbs.campaign.quality import labels, measured, person_row, standing_votes, views_of
from keel.verbs.campaign.recipe import LabelRecipe
from keel.verbs.campaign.server import Served, served
from keel.verbs.shared.tasks import read_tasks

log = logging.getLogger("keel")
TASKS, STORE, LOG, SECRET, SLIPS = "tasks.jsonl", "feedback.db", "server.log", "secret", "slips.jsonl"
COMPARISONS, PAIRS, UNWANTED, QUALITY, JUDGEMENTS = "comparisons.jsonl", "pairs.jsonl", "unpaired.jsonl", "people.json", "judgements.jsonl"
_LOOK_S = 1.0


def run_labels(recipe: LabelRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``comparisons.jsonl`` and ``pairs.jsonl``, ``unpaired.jsonl`` (answers that were called bad both), ``people.json`` (every
    measure of everybody), ``judgements.jsonl`` (the whole campaign), and the store. The summary's ``file`` is the folder.

    Started again it goes on: nobody is asked twice. Ctrl-C ends the server and leaves everything.
    """
    started = time.perf_counter()
    tasks = read_tasks(Path(recipe.tasks))
    read = {recipe.tasks: file_fingerprint(Path(recipe.tasks))}
    read |= {file: hashlib.sha256(b"".join(_lines(Path(file)))).hexdigest() for file in recipe.more_pairs}
    data = load_data(recipe.gold.data, recipe.seed) if recipe.gold.data is not None else None
    known = gold_tasks(data, recipe.gold, tasks[0].protocol, recipe.seed) if data is not None else ()
    if data is not None:
        read[data.source] = data.fingerprint
    run = RunDir.open(path, recipe, "annotate", recipe.seed, parent=parent or None, data_fingerprints=read, argv=sys.argv)
    try:
        if (done := read_summary(path)) is not None:
            return done
        write_tasks(path / TASKS, [*tasks, *known])
        stage = _Stage(recipe, path, recipe.campaign or path.name, recipe.store or f"sqlite:///{path / STORE}")
        try:
            found = stage.work(tasks)
        except KeyboardInterrupt:
            log.warning("%s: stopped; everything that people said is in %s, start it again to go on", path, stage.store)
            return {"run_dir": str(path), "verb": "annotate", "interrupted": True}
        summary = {"run_dir": str(path), "verb": "annotate", **found, **stage.write({t.task_id: t for t in (*tasks, *known)}, run)}
        summary |= {"wall_s": round(time.perf_counter() - started, 2), "peak_mb": round(peak_mb(), 1)}
        run.finish(summary)
        return summary
    finally:
        run.close()


class _Stage:
    def __init__(self, recipe: LabelRecipe, path: Path, campaign: str, store: str) -> None:
        self.recipe, self.path, self.campaign, self.store = recipe, path, campaign, store

    def work(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Rounds of work, each after the server has ended followed by a look at the people, until nobody is found faulty."""
        told: dict[str, Any] = {"people": "browser" if self.recipe.people == "browser" else self.recipe.people.count}
        counts: dict[str, int] = {}
        for number in range(1, self.recipe.quality.rounds + 1):
            with served(self.store, self.campaign, self.path / TASKS, self._overrides(), self.path / LOG, self.recipe.port) as server:
                if self.recipe.people == "browser":
                    self._wait(server)
                else:
                    try:
                        said = self._simulate(self.recipe.people, server, len(tasks))
                    except UserError as error:  # nobody answers: its own words say why
                        raise (_gone(words) if (words := server.ended()) is not None else error) from None
                    for name, n in said.items():
                        counts[name] = counts.get(name, 0) + n
            gone = self._retract()
            told["rounds"] = number
            if not gone:
                break
        return told | ({"simulated": counts} if counts else {})

    def _overrides(self) -> list[str]:
        recipe = self.recipe
        known = recipe.gold.share if recipe.gold.data is not None else 0.0
        ours = {"wanted": recipe.per_item, "gold_share": known, "repeat_share": recipe.repeat_share, "seed": recipe.seed}
        return [as_override(k, v) for k, v in {**ours, **recipe.app}.items()]

    def _simulate(self, config: PeopleConfig, server: Served, tasks: int) -> Mapping[str, int]:
        worth = load_object(config.utility, "people.utility") if config.utility else gold.worth
        people = make_people(config, self.recipe.seed, worth)
        work = Work(people, server.base, server.invitation, self.campaign, self._secret(), self.path / SLIPS, f"{self.campaign}.")
        work.until_done(most=20 * (tasks * self.recipe.per_item + 100 * config.count))
        stopped = {name: why for name, why in work.ended.items() if why != "done"}
        if stopped:
            log.info("%s: not everybody worked to the end: %s", self.campaign, ", ".join(f"{k} {v}" for k, v in stopped.items()))
        return work.counts

    def _secret(self) -> bytes:
        """What the passwords of simulated people are made of: drawn once, for this user alone."""
        file = self.path / SECRET
        if not file.is_file():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(secrets.token_hex(32))
        return file.read_text(encoding="utf-8").encode()

    def _wait(self, server: Served) -> None:
        """Until persons have done all. Raises UserError when the server ends before."""
        print(f"people can begin: {server.annotators}\nmanager: {server.manager}\nCtrl-C stops; started again it goes on", flush=True)
        with Store(self.store) as store:
            before = -1
            while (now := store.progress(self.campaign))["done"] < now["items"]:
                if now["votes"] != before:
                    log.info("%s: %d of %d items done, %d votes", self.campaign, now["done"], now["items"], now["votes"])
                    before = now["votes"]
                if (words := server.ended()) is not None:
                    raise _gone(words)
                time.sleep(_LOOK_S)

    def _retract(self) -> dict[str, str]:
        """Take back the work of people who are found faulty; {who: why}. Only once each: who was taken back has no votes left."""
        quality = self.recipe.quality
        if not quality.retract:
            return {}
        with Store(self.store) as store:
            judgements = standing_votes(store, self.campaign)
            found = measured(judgements, _tasks(store, judgements), quality.alpha)
            gone = {
                p.annotator: f"{p.why}: evidence against chance passed 1 / {quality.alpha:g} after {p.alarm} answers"
                for p in found
                if p.alarm
            }
            for who, why in gone.items():
                log.warning("%s: the work of %s is taken back: %s", self.campaign, who, why)
                store.retract(annotator=who, why=why, who="keel run: annotate")
        return gone

    def write(self, tasks: Mapping[str, Task], run: RunDir) -> dict[str, Any]:
        """The files of the stage, and what the summary says of them."""
        recipe, path = self.recipe, self.path
        with Store(self.store) as store:
            everything = store.judgements(self.campaign)
            people = [person_row(p) for p in measured(standing_votes(store, self.campaign), tasks, recipe.quality.alpha)]
            retracted = self._retracted(store)
            work, known = views_of(store, self.campaign)
            if not work.comparisons:
                raise ConfigError(f"nobody's vote is left in campaign {self.campaign}: left out {dict(work.left_out)}", "ask other people")
            made = labels(work.comparisons, known.comparisons, tasks, recipe.aggregate, fit=recipe.gold.fit)
            snapshot = snapshots.take(store, self.campaign)
            unwanted = snapshots.rows_of(store, snapshot)[1]
            write_campaign(store, self.campaign, path / JUDGEMENTS)
            progress = store.progress(self.campaign)
        run.record(snapshot=snapshot.id, data={**run.manifest["data"], f"store:{self.store}#{snapshot.id}": snapshot.id})
        write_atomic(path / COMPARISONS, b"".join(json_line(to_row(c)) for c in work.comparisons))
        more = [line for file in recipe.more_pairs for line in _lines(Path(file))]
        write_atomic(path / PAIRS, b"".join([*(json_line(pair_row(p)) for p in made.pairs), *more]))
        write_atomic(path / UNWANTED, b"".join(map(json_line, unwanted)))
        told = {"people": people, "retracted": retracted}
        write_atomic(path / QUALITY, (json.dumps(told, ensure_ascii=False, indent=1) + "\n").encode())
        if progress["done"] < progress["items"]:
            log.warning(
                "%s: %d of %d items lack votes: too few people are left",
                self.campaign,
                progress["items"] - progress["done"],
                progress["items"],
            )
        found = agreement(work.comparisons)
        near_half, sure, mean = doubt(made.pairs)
        right, asked = (sum(p["gold"][k] for p in people) for k in ("hits", "n"))
        return {
            "items": progress["items"],
            "done": progress["done"],
            "votes": progress["votes"],
            "judgements": len(everything),
            "retracted": retracted,
            "gold": {"items": sum(t.expected is not None for t in tasks.values()), "asked": asked, "right": right},
            "agreement": {**asdict(found), "krippendorff_alpha": found.alpha_ordinal},
            "comparisons": len(work.comparisons),
            "both_bad": len(unwanted) // 2,
            "left_out": dict(work.left_out),
            "pairs": len(made.pairs),
            "more_pairs": len(more),
            "labels": {"near_half": near_half, "sure": sure, "mean": mean if made.pairs else None, "fitted_on": made.gold},
            "snapshot": snapshot.id,
            "store": self.store,
            "file": str(path),
        }

    def _retracted(self, store: Store) -> dict[str, str]:
        r, j = schema.retraction, schema.judgement
        here = select(j.c.annotator).where(j.c.campaign == self.campaign)
        rows = store.read(lambda c: c.execute(select(r.c.annotator, r.c.why).where(r.c.annotator.in_(here)).order_by(r.c.seq)).all())
        return {row.annotator: row.why for row in rows}


def _gone(words: str) -> UserError:
    return UserError(f"keel annotate ended before all was done ({words})", "every acknowledged vote is stored; start this stage again")


def _lines(path: Path) -> list[bytes]:
    """The lines of a file of pairs, each with its end. Raises DataError for one that cannot be read."""
    try:
        return [line + b"\n" for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError as error:
        raise DataError(f"more_pairs: {path}: {error.strerror}", "name a file of pairs that an earlier stage wrote") from None


def _tasks(store: Store, judgements: Sequence[Any]) -> dict[str, Task]:
    ids = list(dict.fromkeys(j.task_id for j in judgements))
    return dict(zip(ids, store.tasks(ids), strict=True))
