"""The measures of a campaign, in a process of their own: votes are never kept waiting by statistics.

``python -m keel.web.measure`` reads {"store", "campaign", "cores"} from standard input and writes the measures as JSON.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from keel.feedback import overview
from keel.feedback.beside_judges import beside_judges
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.intervals import agreement_intervals
from keel.feedback.quality.report import people
from keel.feedback.reliability.votes import from_judgements
from keel.feedback.tally import MACHINES
from keel.types import Choice, Judgement, Task
from keel.web.blind import masked
from keel.web.cores import use

NICE = 10
_SHOWN = 400  # characters of a text
_DRAWS = 300


def measures(store: Store, name: str) -> dict[str, Any]:
    """What the manager's page shows beside the counts."""
    campaign, judgements = store.campaign(name), store.judgements(name)
    standing = overview.still_standing(judgements, store.standing(name))
    ids = list(dict.fromkeys(j.task_id for j in standing))
    tasks = dict(zip(ids, store.tasks(ids), strict=True))
    work, scale = [j for j in standing if j.purpose == "work"], campaign.settings.scale
    machines = frozenset(a.annotator_id for a in store.annotators() if a.kind in MACHINES)
    by_people = [j for j in work if j.by not in machines] or work  # judges alone: they are beside each other
    progress = store.progress(name)
    missing = progress["missing"]
    now = store.clock()
    times = [datetime.fromisoformat(j.at).timestamp() for j in judgements if j.by not in machines]
    blind = sum(j.meta.get("blind") is False for j in standing)
    return {
        "votes": len(judgements),
        "forecast": asdict(overview.forecast(times, missing, now)),
        "hours": _hours(times, now),
        "agreement": _agreement(by_people, campaign),
        "judges": [asdict(x) for x in beside_judges(standing, machines, campaign.settings.judge_sure, scale)],
        "people": _people(standing, tasks, campaign),
        "disputes": [{**asdict(d), **_item(tasks[d.task_id])} for d in overview.disputes(by_people, scale)],
        "cycles": [{"prompt": d.prompt_id, "texts": [_short(t) for t in d.texts]} for d in overview.cycles(work, tasks)],
        "answers": _answers(work),
        "not_blind": blind,
    }


def _agreement(work: Sequence[Judgement], campaign: Campaign) -> list[dict[str, Any]]:
    alike = overview.mean_likeness(work, campaign.settings.scale)
    rows = [{"name": "likeness", **asdict(alike), "verdict": "", "sure": False}]
    if campaign.kind == "pairwise" and work:
        votes = from_judgements(work, purposes=("work",))
        rows += [{"name": c, **asdict(e)} for c, e in agreement_intervals(votes, draws=_DRAWS).items()]
    return rows


def _people(standing: Sequence[Judgement], tasks: dict[str, Task], campaign: Campaign) -> list[dict[str, Any]]:
    rows = {w.annotator: {**asdict(w), "alarm": 0, "why": ""} for w in overview.workers(standing, tasks, campaign)}
    if campaign.kind == "pairwise" and standing:
        votes = from_judgements(standing)
        gold = {t: task.expected.chosen for t, task in tasks.items() if isinstance(task.expected, Choice)}
        lengths = [float(sum(len(c.text) for c in tasks[t].candidates)) for t in votes.tasks]
        for person in people(votes, gold, lengths) if len(votes) else ():
            rows[person.annotator] |= {"alarm": person.alarm, "why": person.why}
    return list(rows.values())


def _answers(work: Sequence[Judgement]) -> dict[str, int]:
    found: dict[str, int] = {}
    for j in work:
        name = j.answer.chosen if isinstance(j.answer, Choice) else type(j.answer).__name__.lower()
        found[name] = found.get(name, 0) + 1
    return found


def _hours(times: Sequence[float], now: float) -> list[list[float]]:
    """[start of the hour, votes in it] of the last 48 hours with votes, for the plot."""
    found: dict[int, int] = {}
    for t in times:
        if now - 48 * overview.HOUR < t <= now:
            found[int(t // overview.HOUR)] = found.get(int(t // overview.HOUR), 0) + 1
    return [[hour * overview.HOUR, n] for hour, n in sorted(found.items())]


def _item(task: Task) -> dict[str, Any]:
    return {"prompt": _short(task.prompt.last_user_text), "texts": [_short(c.text) for c in task.candidates]}


def _short(text: str) -> str:
    hidden = masked(text)
    return hidden if len(hidden) <= _SHOWN else hidden[: _SHOWN - 1] + "…"


def plain(value: Any) -> Any:
    """A value that JSON can hold: NaN and infinity are null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Measure one campaign."""
    os.nice(NICE)
    asked = json.load(sys.stdin)
    use(asked["cores"])
    with Store(asked["store"]) as store:
        found = measures(store, asked["campaign"])
    json.dump(plain(found), sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
