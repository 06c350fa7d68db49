"""What calls cost, told and kept: attempts without a reply, budgets that jobs share, replies that are asked for again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from asking import Server, completion, question

from keel.core.errors import ConfigError, RunError, UserError
from keel.judges.budget import most_tokens
from keel.judges.journal import Call, Journal

httpx = pytest.importorskip("httpx")
from far import A, judge, line  # noqa: E402  needs httpx


@pytest.mark.parametrize("late", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.DecodingError])
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_call_that_was_sent_and_not_answered_may_have_been_paid(tmp_path: Path, late: Any, attempts: int):
    """Each attempt, at its highest: in what is said, in the journal and in the budget."""
    asked = judge(None, tmp_path, transport=line(late), attempts=attempts)
    most = asked.price([question()])
    assert most is not None
    (said,) = asked.ask([question()])
    assert said.error == f"call: no reply ({late.__name__})"
    assert said.cost == pytest.approx(attempts * most)
    assert asked.journal.counts() == {"answers": 0, "failures": attempts, "cost_unknown": 0}
    assert asked.budget.spent == pytest.approx(attempts * most) == asked.journal.spent()


@pytest.mark.parametrize("early", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError])
def test_what_was_never_sent_costs_nothing(tmp_path: Path, early: Any):
    asked = judge(None, tmp_path, transport=line(early), attempts=3)
    (said,) = asked.ask([question()])
    assert "does not answer" in said.error
    assert (said.cost, asked.budget.spent) == (0.0, 0.0)
    assert asked.journal.counts() == {"answers": 0, "failures": 0, "cost_unknown": 0}


def test_attempts_without_a_reply_are_on_the_bill_of_the_verdict(tmp_path: Path):
    """Two that may be charged, one that was not sent, one that the server refused, the reply."""
    happens = (httpx.ReadTimeout, httpx.ConnectTimeout, httpx.Response(503), httpx.Response(504), A)
    asked = judge(None, tmp_path, transport=line(*happens), attempts=5)
    most = asked.price([question()])
    (said,) = asked.ask([question()])
    assert said.chosen == "first"
    assert said.cost == pytest.approx(2 * most + 0.00103) == asked.journal.spent()
    assert asked.journal.counts() == {"answers": 1, "failures": 2, "cost_unknown": 0}
    unknown = judge(None, tmp_path, transport=line(httpx.ReadTimeout, A), price={}, model="unpriced")
    assert unknown.ask([question()])[0].cost is None


def test_the_budget_is_asked_before_each_attempt(tmp_path: Path):
    asked = judge(None, tmp_path, transport=line(httpx.ReadTimeout), attempts=20, budget=1e-6)
    (said,) = asked.ask([question()])
    assert said.error.startswith("budget:")
    assert "no reply (ReadTimeout)" in said.error
    assert said.made
    assert asked.journal.counts()["failures"] == 1
    assert said.cost == pytest.approx(asked.journal.spent())
    (said,) = asked.ask([question(prompt="another")])
    assert (said.cost, said.made) == (0.0, False)


def test_two_jobs_share_the_budget_of_one_journal(server: Server, tmp_path: Path):
    """Each sees what the other spends, and what was spent before: 10 calls in all, whoever makes them."""
    one, two = (judge(server, tmp_path, budget=10 * 0.00103, concurrency=1) for _ in range(2))
    made = [asked.ask([question(prompt=f"{k} {n}")])[0].made for k in range(10) for n, asked in enumerate((one, two))]
    assert sum(made) == len(server.bodies) == 10
    assert made == [True] * 10 + [False] * 10


def test_a_job_that_began_before_there_was_a_journal_sees_what_others_pay(server: Server, tmp_path: Path):
    """Neither has written yet when both begin; one spends everything."""
    one, two = (judge(server, tmp_path, budget=2 * 0.00103, concurrency=1) for _ in range(2))
    assert all(said.made for said in one.ask([question(prompt=str(k)) for k in range(2)]))
    assert two.journal.spent() == pytest.approx(2 * 0.00103)
    assert two.journal.counts()["answers"] == 2
    assert two.ask([question(prompt="0")])[0].cost == 0.0  # it was paid
    assert two.ask([question(prompt="2")])[0].error.startswith("budget:")
    assert len(server.bodies) == 2


def test_a_reply_without_counted_tokens_spends_the_budget_at_its_highest(server: Server, tmp_path: Path):
    """Its cost is unknown, and a budget that took unknown for nothing would have no end."""
    server.reply = lambda body: (200, {}, completion("A", {"A": 0.0}, usage=None))
    for _ in range(2):
        said = judge(server, tmp_path, budget=0.001, concurrency=1).ask([question(prompt=str(k)) for k in range(20)])
    assert 1 <= len(server.bodies) < 20
    assert sum(s.error.startswith("budget:") for s in said) == 20 - len(server.bodies)
    assert all(s.cost in (0.0, None) for s in said)


def test_a_call_that_is_made_again_costs_again(server: Server, tmp_path: Path):
    """A reply that is no verdict any more: asked again, the new one is the answer, and both were paid."""
    asked = judge(server, tmp_path)
    asked.ask([question()])
    call = asked.journal.get(asked._ready(question()).key)
    assert call is not None
    spoilt = Journal(tmp_path / "other.sqlite")
    spoilt.keep(asked._ready(question()).key, Call({"text": "no verdict", "top": None}, (100, 1), 0.00103))
    again = judge(server, tmp_path, journal=str(tmp_path / "other.sqlite"))
    assert again.price([question()]) > 0, "it will be asked for"  # type: ignore[operator]
    assert again.ask([question()])[0].made
    assert again.journal.counts() == {"answers": 1, "failures": 0, "cost_unknown": 0}
    assert again.journal.spent() == pytest.approx(2 * 0.00103)
    assert judge(server, tmp_path, journal=str(tmp_path / "other.sqlite")).ask([question()])[0].cost == 0.0
    assert len(server.bodies) == 2


def test_a_journal_that_cannot_be_written_stops_with_a_message(server: Server, tmp_path: Path):
    asked = judge(server, tmp_path, concurrency=2)
    asked.ask([question()])
    other = sqlite3.connect(tmp_path / "calls.sqlite")
    other.execute("DROP TABLE calls")
    with pytest.raises(RunError, match="cannot be used: no such table"):
        asked.ask([question(prompt=str(k)) for k in range(40)])
    before = len(server.bodies)
    assert before <= 3, "once nothing can be kept, nothing is begun"
    for act in (asked.journal.spent, asked.journal.counts, lambda: asked.journal.keep_failure("k", "e", Call(None, None, 1.0))):
        with pytest.raises(RunError, match=r"calls\.sqlite"):
            act()


def test_signs_that_no_file_takes_are_kept(server: Server, tmp_path: Path):
    """Half of a surrogate pair, in a question and in a reply; tokens that no database counts."""
    text = json.dumps({"reason": "\ud83d", "verdict": "A"}, ensure_ascii=False)
    server.reply = lambda body: (200, {}, completion(text, usage=(10**20, 1)))
    (said,) = judge(server, tmp_path, verdict="json").ask([question(prompt="half \ud83d")])
    assert (said.chosen, said.tokens) == ("first", None)
    (kept,) = judge(server, tmp_path, verdict="json").ask([question(prompt="half \ud83d")])
    assert (kept.chosen, kept.made, kept.text) == ("first", False, said.text)
    journal = Journal(tmp_path / "j.sqlite")
    journal.keep_failure("k", "half \ud83d", Call(None, None, 1.0))
    assert journal.counts()["failures"] == 1


def test_a_journal_of_earlier_tables_is_taken_over(tmp_path: Path):
    old = sqlite3.connect(tmp_path / "old.sqlite")
    columns = "read INTEGER, written INTEGER, cost REAL, at REAL NOT NULL"
    old.execute(f"CREATE TABLE answers (key TEXT PRIMARY KEY, reply TEXT NOT NULL, {columns})")
    old.execute(f"CREATE TABLE failures (key TEXT NOT NULL, error TEXT NOT NULL, {columns})")
    old.execute("INSERT INTO answers VALUES ('k', '{\"text\": \"A\"}', 1, 2, 0.5, 0.0)")
    old.execute("INSERT INTO failures VALUES ('k', 'call: none', NULL, NULL, 0.25, 0.0)")
    old.commit()
    old.close()
    for _ in range(2):
        journal = Journal(tmp_path / "old.sqlite")
        assert journal.get("k") == Call({"text": "A"}, (1, 2), 0.5)
        assert journal.spent() == 0.75
        assert journal.counts() == {"answers": 1, "failures": 1, "cost_unknown": 0}


@pytest.mark.parametrize("url", ["http://:8000/v1", "http://host:99999999/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str):
    with pytest.raises(ConfigError, match="url:"):
        judge(None, tmp_path, url=url)


def test_a_key_that_no_header_can_have_is_refused_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for bad in ("密s3cret", "s3cret\nX: y"):
        monkeypatch.setenv("SOME_KEY", bad)
        with pytest.raises(UserError, match="SOME_KEY holds is no key") as error:
            judge(None, tmp_path, key_env="SOME_KEY")
        assert "s3cret" not in str(error.value)
    monkeypatch.setenv("SOME_KEY", "s3cret\n")  # as files end
    judge(None, tmp_path, key_env="SOME_KEY")


def test_the_highest_number_of_tokens_by_hand():
    assert most_tokens(["abcd", "ef"], 7) == (3 + 32, 7)
    assert most_tokens(["哪个回答更好？"], 1) == (14 + 32, 1), "a token or two each"
    assert most_tokens(["ab哪"], 1) == (1 + 2 + 32, 1)
