"""One core while the server runs, all of them afterwards; items for a crowd that began together."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from keel.web import annotate
from keel.web.cores import allowed, one_core, use

chooses = pytest.mark.skipif(len(allowed()) < 2, reason="this process may use one core only, or cannot choose")


@chooses
def test_all_threads_stay_on_one_core_and_come_back() -> None:
    before, seen, go, stop = allowed(), list[list[int]](), threading.Event(), threading.Event()

    def work() -> None:
        go.wait(30)
        seen.append(allowed())
        stop.wait(30)
        seen.append(allowed())

    older = threading.Thread(target=work)
    older.start()
    with one_core():
        assert len(allowed()) == 1
        younger = threading.Thread(target=lambda: seen.append(allowed()))
        younger.start()
        younger.join()
        go.set()
        while len(seen) < 2:
            stop.wait(0.01)
        assert seen == [allowed()] * 2
    stop.set()
    older.join()
    assert seen[-1] == before == allowed()


@chooses
def test_a_thread_may_use_all_again() -> None:
    with one_core():
        use(sorted(range(os.cpu_count() or 1)))
        assert len(allowed()) > 1


def test_a_crowd_does_not_ask_in_step(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(60)
    ann = site.person()
    assert len(ann.items()["items"]) == 5
    monkeypatch.setattr(annotate, "MANY", 1)
    assert {len(site.person(f"p{i}").items()["items"]) for i in range(12)} <= {3, 4, 5}
    monkeypatch.setattr(annotate.random, "randrange", lambda n: n - 1)
    assert len(site.person("last").items()["items"]) == 3
    assert len(site.person("more").items(n=2)["items"]) == 2  # who asks for few gets them
