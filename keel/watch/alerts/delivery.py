"""The way of an alarm to people: a queue and a thread for each receiver, so that one that hangs delays neither a step nor the others."""

from __future__ import annotations

import json
import logging
import queue
import smtplib
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from keel.core.events import Event, Sink
from keel.runs import logs
from keel.watch.alerts.config import Alert, AlertsConfig, FileAlert, MailAlert, WebhookAlert, secret_of
from keel.watch.alerts.payloads import FORMATS, Alarm, alarm_of, mail, reaches, refused

log = logging.getLogger("keel")

MOST_WAITING = 100  # alarms that wait for a receiver; further ones are not sent, and counted
MOST_ANSWER = 65536  # bytes that are read of an answer


class Receiver(Protocol):
    """Sends one alarm, or raises."""

    @property
    def name(self) -> str: ...

    def send(self, alarm: Alarm) -> None: ...


class FileReceiver:
    """Adds lines to a file."""

    def __init__(self, config: FileAlert) -> None:
        self._path, self.name = Path(config.path), f"file {config.path}"

    def send(self, alarm: Alarm) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        logs.append(self._path, [asdict(alarm)])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib follows a redirect of a POST with a GET that has no message in it, and takes the page that it finds for success."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class WebhookReceiver:
    """Posts JSON. Raises OSError where the answer is not 2xx or says that the message was refused."""

    def __init__(self, config: WebhookAlert, timeout_s: float) -> None:
        self._url, self._secret, self._timeout = secret_of(config.url), secret_of(config.secret), timeout_s
        self._form, self._bot, self.name = FORMATS[config.format], config.format != "json", f"{config.format} webhook"

    def send(self, alarm: Alarm) -> None:
        request = self._form(alarm, self._url, self._secret, time.time())
        body = json.dumps(request.body, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        try:
            post = urllib.request.Request(request.url, data=body, headers=headers, method="POST")
            with _OPENER.open(post, timeout=self._timeout) as answer:
                why = refused(answer.read(MOST_ANSWER), self._bot)
        except urllib.error.HTTPError as error:
            error.close()
            more = ": the address has moved, and an alarm is sent nowhere else; set the new one" if 300 <= error.code < 400 else ""
            raise OSError(f"HTTP {error.code}{more}") from None  # the address holds a secret: it is not repeated
        except ValueError:
            raise OSError("the address cannot be read") from None
        if why:
            raise OSError(why)


class MailReceiver:
    """Sends an e-mail."""

    def __init__(self, config: MailAlert, timeout_s: float) -> None:
        self._config, self._password, self._timeout = config, secret_of(config.password), timeout_s
        self.name = f"mail to {', '.join(config.to)}"

    def send(self, alarm: Alarm) -> None:
        c = self._config
        context = ssl.create_default_context()
        if c.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(c.host, c.port, timeout=self._timeout, context=context)
        else:
            server = smtplib.SMTP(c.host, c.port, timeout=self._timeout)
        with server:
            if c.security == "starttls":
                server.starttls(context=context)
            if c.user:
                server.login(c.user, self._password)
            if lost := server.send_message(mail(alarm, c.sender, c.to)):  # the others have it: it is not tried again
                log.warning("alerts: %s refuses mail to %s", c.host, ", ".join(sorted(lost)))


class _Line:
    """A receiver's queue and thread."""

    def __init__(self, receiver: Receiver, level: str, config: AlertsConfig, pause: Callable[[float], object] | None) -> None:
        self.receiver, self.level, self._config = receiver, level, config
        self._queue: queue.SimpleQueue[tuple[Alarm, float, str] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of what both threads write: the four maps below
        self._ending = threading.Event()
        self._pause = pause or self._ending.wait  # a run that ends does not wait for the next try
        self._sent_at: dict[tuple[str, ...], float] = {}  # of alarms that got there or are on their way
        self._left_out: dict[tuple[str, ...], int] = {}
        self._state: dict[tuple[str, str], str] = {}  # by rule and series: what was sent last, firing or resolved
        self._held: dict[tuple[str, str], Alarm] = {}  # left out for now, and at odds with that
        self._taken, self._sent, self.last = 0, 0, ""  # alarms for this receiver, those that got there, why the last one did not
        self._thread = threading.Thread(target=self._work, name=f"alert {receiver.name}", daemon=True)
        self._thread.start()

    def take(self, alarm: Alarm, at: float) -> None:
        """Never waits. ``at``: when it happened, in seconds, which the cool-down goes by."""
        key, series = alarm.same, (alarm.rule, alarm.series)
        if not reaches(alarm, self.level):
            return
        with self._lock:
            self._held.pop(series, None)
            if self._warm(key, at):
                self._left_out[key] = self._left_out.get(key, 0) + 1
                if alarm.rule and self._state.get(series) != alarm.state:
                    self._held[series] = alarm
                return
            self._put(alarm, at)

    def tick(self, at: float) -> None:
        """What was left out and still stands is told once the cool-down is over: nobody shall believe what is no longer so."""
        with self._lock:
            for alarm in [a for a in self._held.values() if not self._warm(a.same, at)]:
                self._put_held(alarm, at)

    def _warm(self, key: tuple[str, ...], at: float) -> bool:
        return at - self._sent_at.get(key, float("-inf")) < self._config.cool_down_s

    def _put_held(self, alarm: Alarm, at: float) -> None:
        del self._held[alarm.rule, alarm.series]
        self._left_out[alarm.same] = max(0, self._left_out.get(alarm.same, 0) - 1)  # it is sent after all
        self._put(alarm, at)

    def _put(self, alarm: Alarm, at: float) -> None:
        self._taken += 1
        if self._queue.qsize() >= MOST_WAITING:  # it is not sent, so that no cool-down begins with it
            return
        series = (alarm.rule, alarm.series)
        before = self._state.get(series, "")
        self._state[series], self._sent_at[alarm.same] = alarm.state, at
        self._queue.put((replace(alarm, left_out=self._left_out.pop(alarm.same, 0)), at, before))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            alarm, at, before = item
            if self._send(alarm):
                self._sent += 1
            else:
                self._missed(alarm, at, before)

    def _missed(self, alarm: Alarm, at: float, before: str) -> None:
        """It never got there: whoever should have it believes what they believed before, and the next one of its kind is sent at once."""
        with self._lock:
            if self._sent_at.get(alarm.same) == at:
                del self._sent_at[alarm.same]
            if self._state.get((alarm.rule, alarm.series)) == alarm.state:
                self._state[alarm.rule, alarm.series] = before
            self._left_out[alarm.same] = self._left_out.get(alarm.same, 0) + alarm.left_out

    def _send(self, alarm: Alarm) -> bool:
        for attempt in range(self._config.tries):
            try:
                self.receiver.send(alarm)
                return True
            except Exception as error:  # whatever a receiver does, the run goes on
                self.last = f"{type(error).__name__}: {error}"
            if self._ending.is_set() or attempt + 1 == self._config.tries:
                break
            self._pause(2.0**attempt)
        return False

    def end(self, until: float) -> None:
        """Send what waits, at the latest until the clock (``time.monotonic``) shows ``until``; then say what never got there."""
        with self._lock:
            for alarm in list(self._held.values()):
                self._put_held(alarm, self._sent_at.get(alarm.same, 0.0))
        self._queue.put(None)
        self._thread.join(max(0.0, until - time.monotonic()))
        self._ending.set()
        missed = self._taken - self._sent
        if missed:
            why = f"; the last reason: {self.last}" if self.last else " in time"
            log.warning("alerts: %d did not get to %s%s", missed, self.receiver.name, why)
        left_out = sum(self._left_out.values())
        if left_out:
            log.info("alerts: %d more of the same kind were not sent to %s (cool_down_s)", left_out, self.receiver.name)


class AlertSink:
    """Hands alarms to receivers. A sink that takes no time."""

    def __init__(
        self, receivers: Sequence[tuple[Receiver, str]], config: AlertsConfig, run: str, pause: Callable[[float], object] | None = None
    ) -> None:
        """``receivers``: each with the level from which on it is told; ``pause``: waits between two tries (for tests)."""
        self._run, self._flush = run, config.flush_s
        self._lines = [_Line(receiver, level, config, pause) for receiver, level in receivers]

    def handle(self, event: Event) -> None:
        alarm = alarm_of(event, self._run)
        for line in self._lines:
            if alarm is not None:
                line.take(alarm, event.at)
            line.tick(event.at)

    def close(self) -> None:
        until = time.monotonic() + self._flush  # for all of them together
        for line in self._lines:
            line.end(until)


def receiver_of(alert: Alert, timeout_s: float) -> Receiver:
    """What sends to ``alert``. Raises ConfigError where a variable that it names is not set."""
    if isinstance(alert, FileAlert):
        return FileReceiver(alert)
    return WebhookReceiver(alert, timeout_s) if isinstance(alert, WebhookAlert) else MailReceiver(alert, timeout_s)


def alert_sinks(config: AlertsConfig, run: str) -> list[Sink]:
    """The sink that a run's settings ask for; none where nobody is to be told."""
    receivers = [(receiver_of(alert, config.timeout_s), alert.level) for alert in config.to]
    return [AlertSink(receivers, config, run)] if receivers else []
