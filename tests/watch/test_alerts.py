"""Alarms on their way to people: what is sent, to servers of this process; retry, cool-down, a receiver that hangs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from keel.core.errors import ConfigError
from keel.core.events import Event, EventBus
from keel.watch.alerts.config import AlertsConfig, MailAlert, WebhookAlert
from keel.watch.alerts.delivery import MOST_WAITING, AlertSink, alert_sinks, receiver_of
from keel.watch.alerts.payloads import Alarm, alarm_of, dingtalk, lark, mail, plain_json, refused, wecom

ALARM = Alarm(
    "run-1",
    "warning",
    "critical",
    "firing",
    "kl",
    7,
    "kl = 3 (> 2): 策略跑远了",
    "docs/alarms.md#kl",
    "2026-01-02T03:04:05+00:00",
    9,
    "ab12",
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def event(kind: str = "warning", step: int = 7, at: float = 0.0, number: int = 1, **data: Any) -> Event:
    return Event(kind, step, {"rule": "kl", "level": "warning", **data}, "kl = 3", at, number, f"id{number}")


# What is sent ----------------------------------------------------------------------------------------------------------------------------


def test_an_event_becomes_an_alarm():
    found = alarm_of(event(at=1767323045.0, page="docs/alarms.md#kl"), "run-1")
    assert found == Alarm(
        "run-1", "warning", "warning", "firing", "kl", 7, "kl = 3", "docs/alarms.md#kl", "2026-01-02T03:04:05+00:00", 1, "id1"
    )
    over = alarm_of(event("resolved", began="id0"), "r")
    assert over is not None
    assert (over.state, over.began, over.title) == ("resolved", "id0", "[warning] r: kl is over at step 7")
    for kind in ("verdict", "emergency", "adjusted", "paused"):
        assert getattr(alarm_of(event(kind), "r"), "level", "") == "critical"
    assert alarm_of(event("step"), "r") is None
    assert alarm_of(event("checkpoint"), "r") is None


def test_plain_json_has_all_that_is_known():
    request = plain_json(ALARM, "http://x", "", 0.0)
    assert request.url == "http://x"
    assert request.body["message"] == ALARM.message
    assert {"run", "kind", "level", "state", "rule", "step", "page", "at", "number", "id"} <= request.body.keys()
    assert "left_out" not in request.body


TEXT = "[critical] run-1: kl at step 7\nkl = 3 (> 2): 策略跑远了\ndocs/alarms.md#kl\n2026-01-02T03:04:05+00:00  ab12"


def test_a_lark_message_and_its_signature():
    assert lark(ALARM, "u", "", 0.0).body == {"msg_type": "text", "content": {"text": TEXT}}
    signed = lark(ALARM, "u", "key", 1700000000.9).body
    digest = hmac.new(b"1700000000\nkey", b"", hashlib.sha256).digest()
    assert (signed["timestamp"], signed["sign"]) == ("1700000000", base64.b64encode(digest).decode())


def test_a_dingtalk_message_and_its_signature():
    request = dingtalk(ALARM, "https://h/robot/send?access_token=t", "key", 1700000000.5)
    asked = parse_qs(urlsplit(request.url).query)
    digest = hmac.new(b"key", b"1700000000500\nkey", hashlib.sha256).digest()
    assert asked == {"access_token": ["t"], "timestamp": ["1700000000500"], "sign": [base64.b64encode(digest).decode()]}
    assert request.body["msgtype"] == "markdown"
    assert request.body["markdown"]["title"] == "[critical] run-1: kl at step 7"
    assert request.body["markdown"]["text"].startswith("#### [critical] run-1: kl at step 7\n\nkl = 3 (> 2): 策略跑远了")
    assert dingtalk(ALARM, "https://h", "", 0.0).url == "https://h"


def test_a_wecom_message_is_cut_to_what_it_takes():
    body = wecom(ALARM, "u", "", 0.0).body
    assert body["markdown"]["content"].startswith("**[critical] run-1: kl at step 7**\n> kl = 3")
    long = Alarm(**{**{f: getattr(ALARM, f) for f in Alarm.__dataclass_fields__}, "message": "跑" * 3000})
    content = wecom(long, "u", "", 0.0).body["markdown"]["content"]
    assert 4090 < len(content.encode()) <= 4096
    assert content.endswith("跑 ...")


def test_a_bot_that_refuses_says_so_with_http_200():
    assert refused(b'{"errcode": 0, "errmsg": "ok"}') == ""
    assert refused(b'{"errcode": 310000, "errmsg": "sign not match"}') == "errcode 310000: sign not match"
    assert refused(b'{"code": 19021, "msg": "sign match fail"}') == "code 19021: sign match fail"
    assert refused(b'{"code": 0}') == refused(b"ok") == refused(b"[]") == refused(b"") == ""


def test_an_e_mail_has_no_line_break_in_its_subject():
    broken = Alarm("a\nBcc: x@y", "warning", "critical", "firing", "kl", 7, "m", "", "t", 1, "id")
    message = mail(broken, "a@b.c", ("d@e.f", "g@h.i"))
    assert message["Subject"] == "keel [critical] a Bcc: x@y: kl at step 7"
    assert message["To"] == "d@e.f, g@h.i"
    assert "Bcc" not in message


# How it gets there -----------------------------------------------------------------------------------------------------------------------


class Server(HTTPServer):
    """Answers as it is told to: (status, body) in order, then 200; holds each answer until ``gate`` is open."""

    def __init__(self, *answers: tuple[int, bytes], open_gate: bool = True) -> None:
        self.answers, self.got = list(answers), list[dict[str, Any]]()
        self.gate, self.asked = threading.Event(), threading.Event()
        self.moved_to, self.seen = "", 0
        if open_gate:
            self.gate.set()
        super().__init__(("127.0.0.1", 0), _Answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen += 1
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.set()
        self.server.gate.wait(60)
        self.server.got.append(json.loads(body))
        status, answer = self.server.answers.pop(0) if self.server.answers else (200, b"{}")
        with contextlib.suppress(OSError):  # who asked may be gone
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            if self.server.moved_to:
                self.send_header("Location", self.server.moved_to)
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if isinstance(server, Server):
            server.gate.set()
        server.shutdown()
        server.server_close()


def sink_to(url: str, pauses: list[float] | None = None, **config: Any) -> AlertSink:
    alerts = AlertsConfig.model_validate({"to": [{"kind": "webhook", "url": url}], "flush_s": 60, **config})
    receivers = [(receiver_of(alert, alerts.timeout_s), alert.level) for alert in alerts.to]
    return AlertSink(receivers, alerts, "run-1", (pauses if pauses is not None else []).append)


def test_an_alarm_gets_there():
    server = Server()
    with serving(server):
        sink = sink_to(server.url)
        sink.handle(event())
        sink.handle(event("step"))
        sink.close()
    assert [(body["rule"], body["step"], body["run"]) for body in server.got] == [("kl", 7, "run-1")]


def test_what_fails_is_tried_again_after_1_2_4_seconds(caplog: pytest.LogCaptureFixture):
    server, pauses = Server((500, b""), (200, b'{"errcode": 45009, "errmsg": "too many"}'), (302, b"")), list[float]()
    with serving(server), caplog.at_level(logging.WARNING):
        sink = sink_to(server.url, pauses)
        sink.handle(event())
        sink.close()
    assert len(server.got) == 4
    assert pauses == [1.0, 2.0, 4.0]
    assert caplog.text == ""


def test_what_never_gets_there_is_counted_without_the_address(caplog: pytest.LogCaptureFixture):
    server, pauses = Server(*[(403, b"")] * 3), list[float]()
    with serving(server), caplog.at_level(logging.WARNING):
        sink = sink_to(f"{server.url}?token=hidden", pauses, tries=3)
        sink.handle(event())
        sink.close()
    assert len(server.got) == 3
    assert "alerts: 1 did not get to json webhook; the last reason: OSError: HTTP 403" in caplog.text
    assert "hidden" not in caplog.text


def test_a_server_that_hangs_delays_neither_a_step_nor_the_end(caplog: pytest.LogCaptureFixture):
    """``handle`` and ``close`` come back while the server still holds the first message."""
    server = Server(open_gate=False)
    with serving(server), caplog.at_level(logging.WARNING):
        sink = sink_to(server.url, flush_s=0, cool_down_s=0, timeout_s=60)
        sink.handle(event())
        assert server.asked.wait(60)
        for number in range(2, MOST_WAITING + 60):
            sink.handle(event(number=number))
        sink.close()
        assert server.got == [], "nothing was answered so far"
    assert f"alerts: {MOST_WAITING + 59} did not get to json webhook in time" in caplog.text


def test_one_that_hangs_does_not_hold_up_another(tmp_path: Path):
    server, file = Server(open_gate=False), tmp_path / "alarms" / "all.jsonl"
    with serving(server):
        to = [{"kind": "webhook", "url": server.url}, {"kind": "file", "path": str(file)}]
        (sink,) = alert_sinks(AlertsConfig.model_validate({"to": to, "flush_s": 0, "timeout_s": 60}), "run-1")
        sink.handle(event())
        assert server.asked.wait(60)
        lines = sink._lines  # pyright: ignore[reportAttributeAccessIssue]
        lines[1].end(time.monotonic() + 60)
        assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["id1"]
        assert server.got == []


def test_the_same_alarm_waits_for_the_cool_down_and_is_counted(tmp_path: Path):
    file = tmp_path / "alarms.jsonl"
    to = [{"kind": "file", "path": str(file)}]
    (sink,) = alert_sinks(AlertsConfig.model_validate({"to": to, "cool_down_s": 100}), "run-1")
    for number, (at, data) in enumerate([(0.0, {}), (50.0, {}), (99.0, {}), (99.0, {"rule": "other"}), (100.0, {}), (150.0, {})], 1):
        sink.handle(event(at=at, number=number, **data))
    sink.handle(event("resolved", at=151.0, number=7))
    sink.close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["number"], row["left_out"]) for row in rows] == [(1, 0), (4, 0), (5, 2), (7, 0)]


def waited(sink: AlertSink, got: Callable[[], bool]) -> None:
    """Until the receiver's thread has done what ``got`` asks for."""
    for _ in range(6000):
        if got():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_what_never_got_there_begins_no_cool_down():
    """The first one is refused to the end; the next of its kind, a second later, is sent, with the number of those in between."""
    server = Server(*[(500, b"")] * 2)
    with serving(server):
        sink = sink_to(server.url, tries=2, cool_down_s=100)
        (line,) = sink._lines  # pyright: ignore[reportPrivateUsage]
        sink.handle(event(at=0.0, number=1))
        waited(sink, lambda: len(server.got) == 2 and not line._sent_at)  # pyright: ignore[reportPrivateUsage]
        sink.handle(event(at=1.0, number=2))
        waited(sink, lambda: len(server.got) == 3)
        sink.handle(event(at=2.0, number=3))
        sink.close()
    assert [body["number"] for body in server.got] == [1, 1, 2], "the third waits: the second got there"


def test_an_alarm_that_found_no_room_begins_no_cool_down():
    server = Server(open_gate=False)
    with serving(server):
        sink = sink_to(server.url, cool_down_s=100, timeout_s=60)
        (line,) = sink._lines  # pyright: ignore[reportPrivateUsage]
        sink.handle(event(rule="first", number=1))
        assert server.asked.wait(60)
        for number in range(2, MOST_WAITING + 2):
            sink.handle(event(rule=f"r{number}", number=number))
        sink.handle(event(at=1.0, rule="late", number=900))
        assert not any("late" in key for key in line._sent_at)  # pyright: ignore[reportPrivateUsage]
        server.gate.set()
        waited(sink, lambda: len(server.got) > MOST_WAITING)
        sink.handle(event(at=2.0, rule="late", number=901))
        sink.close()
    assert [body["number"] for body in server.got if body["rule"] == "late"] == [901]


def test_different_alarms_do_not_wait_for_each_other(tmp_path: Path):
    """All at once: two metrics of one rule, each of two actions, a run that stopped early and one that never recovered."""
    file = tmp_path / "alarms.jsonl"
    (sink,) = alert_sinks(AlertsConfig.model_validate({"to": [{"kind": "file", "path": str(file)}], "cool_down_s": 100}), "run-1")
    told = [
        event(number=1, series="rewards/a/std"),
        event(number=2, series="rewards/b/std"),
        event("resolved", number=3, series="rewards/b/std"),
        *(Event("adjusted", 7, {}, f"lr is now {lr}", 0.0, number, str(number)) for number, lr in ((4, 0.1), (5, 0.01))),
        *(Event("warning", 9, data, m, 0.0, n, str(n)) for n, m, data in ((6, "stopped early", {}), (7, "lost", {"level": "critical"}))),
    ]
    for e in [*told, *told]:
        sink.handle(e)
    sink.handle(event(at=100.0, number=8, series="rewards/a/std"))
    sink.close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["number"], row["left_out"]) for row in rows] == [(n, 0) for n in range(1, 8)] + [(8, 1)]
    assert rows[1]["series"] == "rewards/b/std"
    assert Alarm(**rows[2]).title == "[warning] run-1: kl (rewards/b/std) is over at step 7"


def test_what_was_left_out_and_stands_is_told_after_the_cool_down(tmp_path: Path):
    """It speaks, is over, speaks again within the cool-down and goes on: whoever was told that it is over must hear of it."""
    file = tmp_path / "alarms.jsonl"
    (sink,) = alert_sinks(AlertsConfig.model_validate({"to": [{"kind": "file", "path": str(file)}], "cool_down_s": 100}), "run-1")
    flaps = ((0.0, "warning"), (10.0, "resolved"), (20.0, "warning"), (30.0, "resolved"), (40.0, "warning"))
    for number, (at, kind) in enumerate(flaps, 1):
        sink.handle(event(kind, at=at, number=number))
    sink.handle(event("step", at=99.0))
    sink.handle(event("step", at=100.0))
    sink.handle(event("step", at=300.0))
    for number, (at, kind) in enumerate(((301.0, "resolved"), (302.0, "warning"), (303.0, "resolved")), 6):
        sink.handle(event(kind, at=at, number=number, rule="other"))
    # the last one stands until the end of the run
    sink.close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["number"], row["left_out"]) for row in rows] == [(1, 0), (2, 0), (5, 1), (6, 0), (7, 0), (8, 0)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_nothing_was_sent(status: int, caplog: pytest.LogCaptureFixture):
    """Followed with a GET, as is usual, the message would be lost and the page behind it taken for success."""
    aim, server = Server(), Server()
    server.answers, server.moved_to = [(status, b"")] * 2, aim.url
    with serving(aim), serving(server), caplog.at_level(logging.WARNING):
        sink = sink_to(server.url, tries=2)
        sink.handle(event())
        sink.close()
    assert (len(server.got), aim.got, aim.seen) == (2, [], 0)
    assert f"alerts: 1 did not get to json webhook; the last reason: OSError: HTTP {status}: the address has moved" in caplog.text
    assert aim.url not in caplog.text


@pytest.mark.parametrize(("form", "taken"), [("json", True), ("lark", False), ("dingtalk", False), ("wecom", False)])
def test_a_page_is_no_answer_of_a_bot(form: str, taken: bool, caplog: pytest.LogCaptureFixture):
    server = Server((200, b"<html>log in first</html>"))
    alerts = AlertsConfig.model_validate({"to": [{"kind": "webhook", "url": server.url, "format": form}], "flush_s": 60, "tries": 1})
    with serving(server), caplog.at_level(logging.WARNING):
        (sink,) = alert_sinks(alerts, "run-1")
        sink.handle(event())
        sink.close()
    assert len(server.got) == 1
    assert ("the answer is none of a bot" in caplog.text) == (not taken)


def test_each_receiver_has_its_level(tmp_path: Path):
    to = [{"kind": "file", "path": str(tmp_path / level), "level": level} for level in ("info", "warning", "critical")]
    (sink,) = alert_sinks(AlertsConfig.model_validate({"to": to, "cool_down_s": 0}), "r")
    for number, level in enumerate(("info", "warning", "critical"), 1):
        sink.handle(event(level=level, number=number))
    sink.close()
    assert [len((tmp_path / level).read_text().splitlines()) for level in ("info", "warning", "critical")] == [3, 2, 1]


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    server = Server()
    monkeypatch.setenv("HOOK", server.url)
    with serving(server):
        sink = sink_to("env:HOOK")
        sink.handle(event())
        sink.close()
    assert len(server.got) == 1
    monkeypatch.delenv("HOOK")
    with pytest.raises(ConfigError, match="the variable HOOK is not set"):
        sink_to("env:HOOK")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "webhook", "url": "ftp://x"}, "url must begin with"),
        ({"kind": "webhook", "url": "http://x", "secret": "s"}, "only lark and dingtalk are signed"),
        ({"kind": "mail", "host": "h", "sender": "a@b", "to": ["c@d"], "user": "u", "security": "none"}, "in the open"),
        ({"kind": "pigeon"}, "pigeon"),
    ],
)
def test_what_cannot_be_sent_is_refused(config: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        AlertsConfig.model_validate({"to": [config]})


class Post(socketserver.TCPServer):
    """As much of an SMTP server as takes one message at a time."""

    allow_reuse_address = True

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.said: list[str] = []
        super().__init__(("127.0.0.1", 0), _Letters)


class _Letters(socketserver.StreamRequestHandler):
    server: Post

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            word = line.decode().strip()
            self.server.said.append(word)
            if word.upper().startswith("DATA"):
                self.wfile.write(b"354 go on\r\n")
                body = []
                for part in self.rfile:
                    if part == b".\r\n":
                        break
                    body.append(part.decode())
                self.server.messages.append("".join(body))
            elif word.upper().startswith("QUIT"):
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 fine\r\n")


def test_an_e_mail_gets_there():
    server = Post()
    with serving(server):
        config = MailAlert(host="127.0.0.1", port=server.server_address[1], security="none", sender="a@b.c", to=("d@e.f", "g@h.i"))
        receiver_of(config, 60.0).send(ALARM)
    (message,) = server.messages
    assert "Subject: keel [critical] run-1: kl at step 7" in message
    assert [w[5:] for w in server.said if w.upper().startswith("RCPT")] == ["TO:<d@e.f>", "TO:<g@h.i>"]
    assert "X-Keel-Alarm: ab12" in message


def test_a_server_without_tls_gets_no_password():
    """Asked for STARTTLS, the stand-in has none: nothing is sent."""
    server = Post()
    with serving(server):
        config = MailAlert(host="127.0.0.1", port=server.server_address[1], sender="a@b.c", to=("d@e.f",), user="u", password="p")
        with pytest.raises(Exception, match="STARTTLS"):
            receiver_of(config, 60.0).send(ALARM)
    assert server.messages == []


def test_the_bus_numbers_what_is_sent(tmp_path: Path):
    (sink,) = alert_sinks(AlertsConfig.model_validate({"to": [{"kind": "file", "path": str(tmp_path / "a")}]}), "r")
    bus = EventBus([sink], "run", last=4)
    first = bus.emit("warning", 1, "one", rule="a")
    bus.emit("step", 1)
    second = bus.emit("warning", 2, "two", rule="b")
    bus.close()
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [(row["number"], row["id"]) for row in rows] == [(5, first.id), (6, second.id)]
    assert EventBus([], "run", last=4).emit("warning", 1).id == first.id
    assert EventBus([], "other", last=4).emit("warning", 1).id != first.id


def test_webhooks_take_plain_addresses():
    assert WebhookAlert(url="http://127.0.0.1/x").format == "json"


def test_an_address_that_a_mail_server_refuses_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """The others have the mail: it is not sent to them again."""
    sent: list[Any] = []

    class Post:
        def __init__(self, *args: Any, **more: Any) -> None: ...
        def __enter__(self) -> Post:
            return self

        def __exit__(self, *args: Any) -> None: ...
        def send_message(self, message: Any) -> dict[str, Any]:
            sent.append(message)
            return {"gone@x.y": (550, b"no such mailbox")}

    monkeypatch.setattr("smtplib.SMTP", Post)
    config = MailAlert.model_validate({"host": "h", "security": "none", "sender": "a@x.y", "to": ["here@x.y", "gone@x.y"]})
    with caplog.at_level(logging.WARNING):
        receiver_of(config, 1.0).send(ALARM)
    assert len(sent) == 1
    assert "alerts: h refuses mail to gone@x.y" in caplog.text
