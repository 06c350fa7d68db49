"""Servers that fail, lie or are late, as whoever runs the command meets them: what is printed, what is counted, what is paid."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from asking import Reply, Server, completion

from keel.cli import main
from keel.judges.journal import Journal

pytest.importorskip("httpx")
CALL = 101e-6  # 100 tokens read, 1 written, at one a million
GOOD = completion("A", {"A": -0.01})


def always(status: int, found: Any) -> Reply:
    return lambda body: (status, {}, found)


@pytest.fixture
def job(server: Server, tmp_path: Path) -> Any:
    rows = [{"prompt": f"Question {k}?", "answers": [f"good {k}", "bad"]} for k in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    def run(**settings: Any) -> int:
        far = {"type": "endpoint", "url": server.url, "model": "m", "journal": str(tmp_path / "calls.sqlite"), "attempts": 2}
        far |= {"price": {"read": 1.0, "written": 1.0}, "longest_pause_s": 0.001, **settings}
        (tmp_path / "judges.yaml").write_text(json.dumps({"judges": {"far": far}}), encoding="utf-8")
        use = ["--judges", str(tmp_path / "judges.yaml"), "--judge", "far", "--override", "far", "--out", str(tmp_path / "out.jsonl")]
        return main(["judge", str(tmp_path / "rows.jsonl"), *use])

    return run


def verdicts_in(path: Path) -> int:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sum(r["judgement"]["purpose"] == "work" for r in rows if "judgement" in r)


FAILING = [
    (always(503, {"error": "full"}), {}, "call: the server answers 503", 12, 0.0),
    (always(401, {"error": "no such key"}), {}, "no such key", 6, 0.0),
    (always(200, b"<html>"), {}, "call: the reply is not of the chat protocol", 6, None),
    (always(200, completion("A")), {}, "log-probabilities: the server gives none (verdict=label or json needs none)", 6, 6 * CALL),
    (
        always(200, completion("The", {"The": -0.01, "A": -6.0})),
        {},
        "log-probabilities: only 0.002 of the probability lies on A, B, C",
        6,
        6 * CALL,
    ),
    (always(200, completion("A", {"A": 0.7})), {}, "log-probabilities: 0.7 of 'A' is none", 6, 6 * CALL),
    (always(200, completion("It is A.")), {"verdict": "label"}, "reply: 'It is A.' is none of A, B, C", 6, 6 * CALL),
]


@pytest.mark.parametrize(("reply", "settings", "told", "sent", "spent"), FAILING, ids=lambda x: str(x)[:24])
def test_no_verdict_is_told_with_its_reason_and_goes_when_the_server_is_well(
    server: Server, job: Any, tmp_path: Path, capsys: Any, reply: Reply, settings: Any, told: str, sent: int, spent: Any
) -> None:
    server.reply = reply
    assert job(**settings) == 2
    said = capsys.readouterr()
    assert "failed 6x: " in said.out
    assert told in said.out
    assert "judge far gave no verdict at all" in said.err
    assert len(server.bodies) == sent
    if spent is not None:
        assert Journal(tmp_path / "calls.sqlite").spent() == pytest.approx(spent)
    assert verdicts_in(tmp_path / "out.jsonl") == 0
    server.reply = always(200, GOOD)
    server.bodies.clear()
    assert job() == 0
    assert len(server.bodies) == 6, "no failure is an answer"
    assert verdicts_in(tmp_path / "out.jsonl") == 3


@pytest.mark.parametrize("usage", [None, (0, 0), (0, 1), (100, 0), (-5, 1), (True, 1)])
def test_a_server_that_counts_no_tokens_costs_what_nobody_knows(server: Server, job: Any, tmp_path: Path, capsys: Any, usage: Any) -> None:
    """Never 0: the budget counts such calls at their highest, and ends."""
    server.reply = always(200, completion("A", {"A": -0.01}, usage=usage))
    assert job() == 0
    assert "cost unknown" in capsys.readouterr().out
    most = Journal(tmp_path / "calls.sqlite").spent()
    assert most > 6 * CALL
    (tmp_path / "calls.sqlite").unlink()
    server.bodies.clear()
    assert job(budget=most / 3, concurrency=1) == 0
    assert len(server.bodies) == 2
    assert "budget: " in capsys.readouterr().out


def test_a_slow_server_may_have_charged_what_it_did_not_answer(server: Server, job: Any, tmp_path: Path, capsys: Any) -> None:
    late = threading.Event()

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        late.wait(20)
        return 200, {}, GOOD

    server.reply = reply
    assert job(timeout_s=0.5) == 2
    out = capsys.readouterr().out
    assert "failed 6x: call: " in out
    most = float(out.split("price at most ")[1].split()[0])
    spent = Journal(
        tmp_path / "calls.sqlite"
    ).spent()  # what was sent counts at its highest, each attempt; what found no connection is free
    assert 0 < spent <= 2 * most * 1.001
    late.set()
    server.reply = always(200, GOOD)
    assert job() == 0


def test_one_call_in_two_fails_and_all_have_a_verdict(server: Server, job: Any, tmp_path: Path, capsys: Any) -> None:
    turn = [0]

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        turn[0] += 1
        return (503, {"Retry-After": "0"}, {}) if turn[0] % 2 else (200, {}, GOOD)

    server.reply = reply
    assert job(concurrency=1) == 0
    assert f"3 verdicts, 6 calls made, cost {6 * CALL:.4g}" in capsys.readouterr().out
    assert len(server.bodies) == 12
