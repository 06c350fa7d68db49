"""Simulated people: what they say hangs on what is shown alone, each fault does what its name says, mistakes are corrected once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.simulate.client import Client, RefusedError
from keel.simulate.people import OTHER, Person, Work, make_people, prompt_of
from keel.simulate.people_config import FAULTS, PeopleConfig
from keel.types import Prompt

GOOD, POOR = "Of course. Please send me your order number and I will check it for you today.", "no"
PROMPT = Prompt("", text="Where is my parcel?")


def worth(_: Prompt, text: str) -> Mapping[str, float]:
    """Longer is better, up to twelve words; the numbers at the end of a text make it another text."""
    return {"words": min(12, len(text.split())) / 12}


def one(fault: str | None = None, **settings: Any) -> Person:
    config = PeopleConfig(count=1, faulty={fault: 1} if fault else {}, **settings)  # type: ignore[dict-item]
    return make_people(config, 3, worth)[0]


def answers(person: Person, n: int = 200, start: int = 0) -> list[Any]:
    """What they say of ``n`` pairs, the good one by turns on the left and on the right."""
    return [
        person.says(PROMPT, *((f"{GOOD} {i}", f"{POOR} {i}") if i % 2 == 0 else (f"{POOR} {i}", f"{GOOD} {i}")), nth=start + i)
        for i in range(n)
    ]


def right(said: list[Any], start: int = 0) -> float:
    return sum(s.chosen == ("first" if i % 2 == 0 else "second") for i, s in enumerate(said, start)) / len(said)


def test_no_torch_is_loaded() -> None:
    found = subprocess.run([sys.executable, "-c", "import keel.simulate.people, sys; print('torch' in sys.modules)"], capture_output=True)
    assert found.stdout.split() == [b"False"]


def test_an_honest_person_sees_which_answer_is_better_and_says_the_same_again() -> None:
    said = answers(one())
    assert right(said) == 1.0
    assert said == answers(one())
    assert said != answers(make_people(PeopleConfig(count=1), 4, worth)[0])  # another seed
    assert all(0 < s.strength <= 1 for s in said)


def test_the_slow_words_take_time_and_time_differs() -> None:
    slow, quick = (answers(one(seconds_a_word=s)) for s in (0.5, 0.05))
    assert all(a.active_ms > b.active_ms for a, b in zip(slow, quick, strict=True))
    assert len({s.active_ms for s in slow}) > 150


def test_ties_and_both_bad() -> None:
    same = one(noise=0.0, position_bias=0.0, tie_threshold=0.05)
    assert {s.chosen for s in (same.says(PROMPT, f"a b {i}", f"c d {i}", i) for i in range(20))} == {"tie"}
    poor = one(noise=0.0, both_bad=0.5)
    assert poor.says(PROMPT, "no", "yes", 0).chosen == "both_bad"
    assert poor.says(PROMPT, "no", GOOD, 0).chosen == "second"
    assert one(noise=0.0, both_bad=0.0, tie_threshold=0.0).says(PROMPT, "no", "yes", 0).chosen != "both_bad"


def test_position_bias_moves_close_calls_to_the_left() -> None:
    left = Counter(s.chosen for s in (one(position_bias=0.3).says(PROMPT, f"a b {i}", f"c d {i}", i) for i in range(100)))
    assert left["first"] > 90


def test_each_fault_does_what_it_says() -> None:
    assert {s.chosen for s in answers(one("always_left"))} == {"first"}
    random, fast = answers(one("random")), answers(one("fast"))
    assert 0.3 < right(random) < 0.6
    assert 0.3 < right(fast) < 0.6
    assert sum(s.active_ms for s in fast) < 0.15 * sum(s.active_ms for s in random)
    drifting = answers(one("drifting"), 300)
    assert right(drifting[:20]) > 0.8 > 0.65 > right(drifting[100:], 100)
    sold = answers(one("sold"), 300)
    assert right(sold[:40]) == 1.0
    assert right(sold[40:], 40) < 0.6


def test_the_faulty_ones_are_the_last_and_settings_are_checked() -> None:
    config = PeopleConfig(count=5, faulty={"sold": 1, "always_left": 2})
    assert config.faults() == [None, None, "always_left", "always_left", "sold"]
    assert [p.fault for p in make_people(config, 0)] == config.faults()
    assert {p.name for p in make_people(config, 0)} == {f"sim-{i}" for i in range(1, 6)}
    assert set(FAULTS) == {"always_left", "random", "fast", "drifting", "sold"}
    with pytest.raises(ConfigError, match="names 6 people"):
        load(PeopleConfig, None, ["count=5", "faulty={random: 6}"])
    with pytest.raises(ConfigError, match="0 or more"):
        load(PeopleConfig, None, ["faulty={random: -1}"])


def test_a_prompt_is_read_as_the_page_shows_it() -> None:
    said = [{"role": "user", "content": [{"type": "image", "url": "/media/x"}, {"type": "text", "text": "Which?"}]}]
    assert prompt_of({"prompt": said}).last_user_text == "Which?"
    assert prompt_of({"prompt": "raw"}).text == "raw"


class Scripted:
    """A server in memory: items of one person, what arrives, and what breaks."""

    def __init__(self, items: int) -> None:
        self.left = [self.item(i) for i in range(items)]
        self.stored: dict[str, dict[str, Any]] = {}
        self.standing: dict[str, str] = {}
        self.calls: list[str] = []
        self.dies_at = -1
        self.answered = 0

    @staticmethod
    def item(i: int) -> dict[str, Any]:
        return {"handle": f"h{i}", "prompt": "Where?", "answers": [{"text": f"{GOOD} {i}"}, {"text": f"{POOR} {i}"}]}

    def enter(self, token: str, name: str, password: str) -> None:
        self.calls.append(f"enter {token} {name} {len(password)}")

    def close(self) -> None:
        self.calls.append("close")

    def items(self, campaign: str, n: int) -> dict[str, Any]:
        shown = [i for i in self.left if i["handle"] not in self.standing][:n]
        end = {} if shown else {"end": {"why": "done"}}
        return {"items": shown, "answered": len(self.standing), "protocol": {"kind": "pairwise"}, **end}

    def judge(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if len(self.stored) == self.dies_at:
            raise KeyboardInterrupt
        known = self.stored.setdefault(body["event_id"], dict(body))
        assert known == dict(body), "one event, one content"
        before = self.standing.get(body["handle"])
        assert before in (None, body.get("replaces"), body["event_id"]) or known is not None
        if before is None or body.get("replaces") == before:
            self.standing[body["handle"]] = body["event_id"]
        return {"stored": True, "late": False}

    def undo(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.judge(body) if "answer" in body else {"item": {}}


def work(server: Scripted, slips: Path, **settings: Any) -> Work:
    people = make_people(PeopleConfig(count=1, noise=0.0, **settings), 0, worth)
    return Work(people, "http://127.0.0.1:1", "token", "c", b"secret", slips, "c.", make_client=lambda _: server)  # type: ignore[arg-type, return-value]


def test_mistakes_are_corrected_and_counted(tmp_path: Path) -> None:
    server = Scripted(60)
    done = work(server, tmp_path / "slips", undo=0.3)
    done.until_done(1000)
    assert done.counts["answers"] == 60
    assert 8 < done.counts["undone"] < 30
    assert len(server.stored) == 60 + done.counts["undone"]
    standing = [server.stored[e]["answer"]["chosen"] for e in server.standing.values()]
    assert standing == ["first"] * 60  # no mistake stands
    wrong = [b for b in server.stored.values() if b["event_id"] not in server.standing.values()]
    assert {b["answer"]["chosen"] for b in wrong} == {OTHER["first"]}
    assert server.calls[0] == "enter token c.sim-1 32"
    assert done.ended == {"sim-1": "done"}


def test_a_mistake_does_not_stay_where_the_power_went_in_between(tmp_path: Path) -> None:
    whole = Scripted(60)
    work(whole, tmp_path / "whole", undo=0.3).until_done(1000)
    events = list(whole.stored)
    after_a_slip = next(i for i, e in enumerate(events) if whole.stored[e].get("replaces"))
    server = Scripted(60)
    server.dies_at = after_a_slip  # the mistake is stored, its correction is not
    with pytest.raises(KeyboardInterrupt):
        work(server, tmp_path / "slips", undo=0.3).until_done(1000)
    server.dies_at = -1
    again = work(server, tmp_path / "slips", undo=0.3)
    again.until_done(1000)
    assert [server.stored[e]["answer"]["chosen"] for e in server.standing.values()] == ["first"] * 60
    assert set(server.stored) == set(whole.stored)


def test_a_campaign_that_grows_for_ever_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gave 10 answers"):
        work(Scripted(60), tmp_path / "slips").until_done(10)


class Line:
    """What the network does, call by call: a status with a body, or an error."""

    def __init__(self, *said: Any) -> None:
        self.said, self.waited = list(said), list[float]()

    def ask(self, method: str, path: str, body: Any) -> Any:
        found = self.said.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def client(line: Line) -> Client:
    made = Client("http://127.0.0.1:9", wait=line.waited.append)
    made._ask = line.ask  # type: ignore[method-assign]
    return made


def test_the_client_waits_where_the_server_says_so_and_tries_again_where_the_line_broke() -> None:
    busy = (429, {"error": {"code": "often", "message": "too many"}}, {"Retry-After": "3"})
    line = Line(busy, ConnectionResetError("gone"), (200, {"ok": 1}, {}))
    assert client(line).call("POST", "/x", {}) == {"ok": 1}
    assert line.waited[0] == 3.0
    assert len(line.waited) == 2


def test_a_refusal_is_said_at_once_and_a_dead_server_after_some_tries() -> None:
    line = Line((409, {"error": {"code": "conflict", "message": "other content"}}, {}))
    with pytest.raises(RefusedError, match="409 conflict") as found:
        client(line).call("POST", "/x")
    assert (found.value.status, found.value.code) == (409, "conflict")
    line = Line(*[ConnectionRefusedError("nobody")] * 8)
    with pytest.raises(UserError, match="does not answer: nobody"):
        client(line).call("GET", "/x")
    with pytest.raises(UserError, match="no address"):
        Client("ftp://x")


def test_slips_are_plain_lines(tmp_path: Path) -> None:
    work(Scripted(30), tmp_path / "slips", undo=0.4).until_done(1000)
    rows = [json.loads(line) for line in (tmp_path / "slips").read_text(encoding="utf-8").splitlines()]
    assert rows
    assert all(r["right"]["replaces"] == r["wrong"]["event_id"] for r in rows)
