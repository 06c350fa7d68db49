"""Votes a second of the feedback store: closed-loop annotators that ask for an item, answer it, and ask again.

    python -m labs.bench.store sqlite:///bench.db --clients 32 --votes 6000

Clients are threads of one process. Every vote is two calls: the item (leased), then the answer, each acknowledged after its commit.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.types import Annotator, Candidate, Choice, Message, Prompt, Task


@dataclass(frozen=True, slots=True)
class Speed:
    """What came out. Times in milliseconds, of the whole call as the client sees it."""

    database: str
    clients: int
    votes: int
    seconds: float
    votes_per_s: float
    transactions: int
    next_p50: float
    next_p99: float
    vote_p50: float
    vote_p99: float


def measure(url: str, clients: int, votes: int, items: int) -> Speed:
    """Fill a new campaign with ``items`` items for two people each, and let ``clients`` people give ``votes`` votes."""
    with Store(url) as store:
        name = f"bench-{len(store.campaigns())}"
        store.add_campaign(Campaign(name, 2, "pairwise", "pairwise-v1", gold_share=0.05, repeat_share=0.05))
        store.add_tasks(name, [_task(f"{name}-{i}") for i in range(items)])
        store.add_tasks(name, [_task(f"{name}-gold-{i}", Choice("first")) for i in range(50)], role="gold")
        people = [f"{name}-{i}" for i in range(clients)]
        for person in people:
            store.add_annotator(Annotator(person, "simulated"))
        times: dict[str, list[float]] = {"next": [], "vote": []}
        threads = [threading.Thread(target=_person, args=(store, name, p, votes // clients, times)) for p in people]
        before, start = store.writer.transactions, time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, transactions = time.perf_counter() - start, store.writer.transactions - before
        database = store.url.drivername
    given = len(times["vote"])
    found = {f"{kind}_p{q}": _percentile(times[kind], q) for kind in ("next", "vote") for q in (50, 99)}
    return Speed(database, clients, given, round(seconds, 2), round(given / seconds, 1), transactions, **found)


def _person(store: Store, campaign: str, name: str, votes: int, times: dict[str, list[float]]) -> None:
    for _ in range(votes):
        start = time.perf_counter()
        items = store.next_items(name, campaign, 1)
        asked = time.perf_counter()
        if not items:
            return
        store.answer(name, items[0].handle, f"{name}:{items[0].handle}", Choice("first", 0.7), active_ms=1500)
        times["next"].append(asked - start)
        times["vote"].append(time.perf_counter() - asked)


def _task(name: str, expected: Choice | None = None) -> Task:
    prompt = Prompt(f"p-{name}", (Message("user", f"Which answer is better? {name}"),))
    pair = (Candidate("a", f"One answer of usual length, number {name}. " * 6), Candidate("b", f"Another answer, number {name}. " * 6))
    return Task(f"t-{name}", prompt, pair, "pairwise", "pairwise-v1", expected=expected)


def _percentile(seconds: Sequence[float], q: int) -> float:
    found = sorted(seconds)
    return round(1000.0 * found[min(len(found) - 1, len(found) * q // 100)], 1) if found else 0.0


def main() -> None:
    """The command line: one JSON line a database."""
    top = argparse.ArgumentParser(description="Votes a second of the feedback store.")
    top.add_argument("urls", nargs="+", help="new databases: sqlite:///FILE, postgresql://user@host/name")
    top.add_argument("--clients", type=int, default=32)
    top.add_argument("--votes", type=int, default=6000, help="in all: what ends the measurement")
    top.add_argument("--items", type=int, default=20_000)
    args = top.parse_args()
    for url in args.urls:
        print(json.dumps(asdict(measure(url, args.clients, args.votes, args.items))), flush=True)


if __name__ == "__main__":
    main()
