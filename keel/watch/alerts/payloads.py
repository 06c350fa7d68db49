"""What is sent: an alarm as JSON, as the messages of Lark (Feishu), DingTalk and WeCom bots, as an e-mail. Pure functions."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote_plus

from keel.core.events import Event

ORDER = ("info", "warning", "critical")
_ACTIONS = frozenset({"verdict", "emergency", "adjusted", "paused"})  # critical, whatever else they say
_TOLD = _ACTIONS | {"warning", "resolved", "recovery"}
WECOM_BYTES = 4096  # of markdown; more is refused
_CUT = " ..."


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a person is told."""

    run: str
    kind: str
    level: str
    state: str  # firing or resolved
    rule: str
    step: int
    message: str
    page: str
    at: str  # UTC, ISO 8601
    number: int
    id: str
    began: str = ""  # id of the alarm that is over
    left_out: int = 0  # the same alarm, not sent since the last one
    series: str = ""  # the metric, where the rule has a pattern and is one rule for each that matches

    @property
    def title(self) -> str:
        """In a line: level, run, rule, step."""
        what = self.rule or self.kind
        of = f" ({self.series})" if self.series else ""
        return f"[{self.level}] {self.run}: {what}{of}{' is over' if self.state == 'resolved' else ''} at step {self.step}"

    @property
    def same(self) -> tuple[str, ...]:
        """What makes two alarms the same one: rule, series and state; of what no rule says its kind and its words."""
        return (self.rule, self.series, self.state) if self.rule else (self.kind, self.message)

    @property
    def text(self) -> str:
        """The title and all that is known, in lines."""
        more = f"{self.left_out} more of these were not sent" if self.left_out else ""
        return "\n".join(line for line in (self.title, self.message, more, self.page, f"{self.at}  {self.id}") if line)


def alarm_of(event: Event, run: str) -> Alarm | None:
    """What of an event is told to people; None for one that is not for them."""
    if event.kind not in _TOLD:
        return None
    data: Mapping[str, Any] = event.data
    level = "critical" if event.kind in _ACTIONS else str(data.get("level", "info" if event.kind == "recovery" else "warning"))
    at = datetime.datetime.fromtimestamp(event.at, datetime.UTC).isoformat(timespec="seconds")
    state = "resolved" if event.kind in ("resolved", "recovery") else "firing"
    return Alarm(
        run,
        event.kind,
        level,
        state,
        str(data.get("rule", "")),
        event.step,
        event.message,
        str(data.get("page", "")),
        at,
        event.number,
        event.id,
        str(data.get("began", "")),
        series=str(data.get("series", "")),
    )


def reaches(alarm: Alarm, level: str) -> bool:
    """Is the alarm of ``level`` or above?"""
    return ORDER.index(alarm.level) >= ORDER.index(level)


@dataclass(frozen=True, slots=True)
class Request:
    """A POST."""

    url: str
    body: Mapping[str, Any]


def plain_json(alarm: Alarm, url: str, secret: str, now: float) -> Request:
    """All fields as they are."""
    return Request(url, {name: value for name, value in asdict(alarm).items() if value not in ("", 0) or name == "step"})


def lark(alarm: Alarm, url: str, secret: str, now: float) -> Request:
    """A text message of a Lark or Feishu bot. Signed with HMAC-SHA256 of nothing, keyed by ``"<seconds>\\n<secret>"``."""
    body: dict[str, Any] = {"msg_type": "text", "content": {"text": alarm.text}}
    if secret:
        stamp = str(int(now))
        body = {"timestamp": stamp, "sign": _hmac(f"{stamp}\n{secret}", ""), **body}
    return Request(url, body)


def dingtalk(alarm: Alarm, url: str, secret: str, now: float) -> Request:
    """A Markdown message of a DingTalk bot. The signature, HMAC-SHA256 of ``"<milliseconds>\\n<secret>"`` keyed by the secret, is part of
    the address."""
    text = "\n\n".join([f"#### {alarm.title}", *alarm.text.split("\n")[1:]])
    if secret:
        stamp = str(int(now * 1000))
        sign = quote_plus(_hmac(secret, f"{stamp}\n{secret}"))
        url += f"{'&' if '?' in url else '?'}timestamp={stamp}&sign={sign}"
    return Request(url, {"msgtype": "markdown", "markdown": {"title": alarm.title, "text": text}})


def wecom(alarm: Alarm, url: str, secret: str, now: float) -> Request:
    """A Markdown message of a WeCom bot, cut to what it takes."""
    text = "\n".join([f"**{alarm.title}**", *(f"> {line}" for line in alarm.text.split("\n")[1:])])
    return Request(url, {"msgtype": "markdown", "markdown": {"content": _cut(text, WECOM_BYTES)}})


FORMATS: Mapping[str, Callable[[Alarm, str, str, float], Request]] = {
    "json": plain_json,
    "lark": lark,
    "dingtalk": dingtalk,
    "wecom": wecom,
}


def refused(answer: bytes, bot: bool = False) -> str:
    """Why a message was not taken that was answered with HTTP 200: ``errcode`` of DingTalk and WeCom, ``code`` of Lark; empty where it was.
    ``bot``: all of these answer with a JSON object, so that a page (of a login, of a proxy) is no answer of theirs."""
    try:
        said: Any = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return "the answer is none of a bot" if bot else ""
    for key, why in (("errcode", "errmsg"), ("code", "msg")):
        if said.get(key, 0) not in (0, "0", None):
            return f"{key} {said[key]}: {said.get(why, '')}"
    return ""


def mail(alarm: Alarm, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """An e-mail in plain text."""
    message = EmailMessage()
    message["Subject"] = " ".join(f"keel {alarm.title}".split())
    message["From"], message["To"] = sender, ", ".join(to)
    message["X-Keel-Alarm"] = alarm.began or alarm.id or "0"
    message.set_content(alarm.text + "\n")
    return message


def _hmac(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()


def _cut(text: str, most: int) -> str:
    """At most so many bytes of UTF-8, no sign cut in two."""
    data = text.encode()
    return text if len(data) <= most else data[: most - len(_CUT)].decode(errors="ignore") + _CUT
