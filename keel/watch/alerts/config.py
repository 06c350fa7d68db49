"""Who is told of alarms. Addresses and passwords may stand in the environment: `env:NAME`, so that no secret gets into a manifest."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError

ENV = "env:"
Format = Literal["json", "lark", "dingtalk", "wecom"]
AlertLevel = Literal["info", "warning", "critical"]


class FileAlert(Section):
    """Alarms as lines of JSON in a file, of any number of runs."""

    kind: Literal["file"] = Field(default="file", description="A file.")
    path: str = Field(min_length=1, description="Where lines are added.")
    level: AlertLevel = Field(default="warning", description="Alarms of this level and above.")


class WebhookAlert(Section):
    """Alarms by HTTP POST."""

    kind: Literal["webhook"] = Field(default="webhook", description="An address that takes JSON.")
    url: str = Field(min_length=1, description="http(s) address, or `env:NAME` for the variable that holds it.")
    format: Format = Field(default="json", description="What is sent: json (plain), lark (Lark and Feishu), dingtalk or wecom (bots).")
    secret: str = Field(default="", description="Key to sign with, of lark and dingtalk bots that ask for it: `env:NAME`.")
    level: AlertLevel = Field(default="warning", description="Alarms of this level and above.")

    @model_validator(mode="after")
    def _can_be_sent(self) -> WebhookAlert:
        if not self.url.startswith((ENV, "http://", "https://")):
            raise ValueError(f"url must begin with http://, https:// or env:, is {self.url!r}")
        if self.secret and self.format not in ("lark", "dingtalk"):
            raise ValueError(f"secret: only lark and dingtalk are signed, not {self.format}: leave it out")
        return self


class MailAlert(Section):
    """Alarms by e-mail."""

    kind: Literal["mail"] = Field(default="mail", description="An e-mail.")
    host: str = Field(min_length=1, description="SMTP server.")
    port: int = Field(default=587, ge=1, le=65535, description="Its port.")
    security: Literal["starttls", "tls", "none"] = Field(default="starttls", description="How the connection is kept secret.")
    user: str = Field(default="", description="Name to log in with; empty: no login.")
    password: str = Field(default="", description="Password: `env:NAME`.")
    sender: str = Field(min_length=3, description="Address that it comes from.")
    to: tuple[str, ...] = Field(min_length=1, description="Addresses that it goes to.")
    level: AlertLevel = Field(default="critical", description="Alarms of this level and above.")

    @model_validator(mode="after")
    def _no_password_in_the_open(self) -> MailAlert:
        if self.user and self.security == "none":
            raise ValueError("security: none would send the password in the open: use starttls or tls, or leave user out")
        return self


Alert = Annotated[FileAlert | WebhookAlert | MailAlert, Field(discriminator="kind")]


class AlertsConfig(Section):
    """Who is told of alarms. Everything is sent by a thread of its own: a receiver that hangs delays no step."""

    to: tuple[Alert, ...] = Field(
        default=(), description="Receivers: `{kind: webhook, url: ...}`, `{kind: mail, ...}`, `{kind: file, path: ...}`."
    )
    cool_down_s: float = Field(
        default=300.0,
        ge=0,
        description="The same alarm (rule, metric of its pattern, beginning or end) is sent once in so many seconds; the rest is counted.",
    )
    timeout_s: float = Field(default=10.0, gt=0, description="A receiver that does not answer for so long has failed.")
    tries: int = Field(default=4, ge=1, le=20, description="So often a message is tried, 1, 2, 4 ... seconds apart.")
    flush_s: float = Field(default=15.0, ge=0, description="At its end a run waits at most so long for what is still to be sent.")


def secret_of(text: str) -> str:
    """``text``, or what the variable holds that `env:NAME` names. Raises ConfigError where there is no such variable."""
    if not text.startswith(ENV):
        return text
    name = text.removeprefix(ENV)
    if not os.environ.get(name):
        raise ConfigError(f"settings.watch.alerts: the variable {name} is not set", f"set it: export {name}=...")
    return os.environ[name]
